"""Splits: no leak, balanced centres, the predecessor's exact lists, the cap on pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrict_core.data import splits
from mrict_core.data.splits import SETS, Split, make_split
from mrict_core.errors import MrictError

# Slices of each patient of centre A that the predecessor used, as number:slices.
COUNTED = """
103:210 185:196 131:207 085:207 058:197 105:201 075:207 206:186 001:204 022:211 175:189 100:189 116:198 032:177 082:219
005:206 151:217 012:197 201:224 014:174 189:209 143:214 164:207 076:197 141:190 111:220 158:229 040:189 125:200 054:224
097:202 172:202 220:194 091:209 159:196 184:204
"""
SLICES = {f"1BA{number}": int(count) for number, count in (pair.split(":") for pair in COUNTED.split())}


def cohort(**sizes: int) -> dict[str, str]:
    return {f"1B{c}{k:03d}": c for c, count in sizes.items() for k in range(count)}


def sizes(split: Split) -> list[int]:
    return [len(getattr(split, name)) for name in SETS]


cohorts = st.dictionaries(st.sampled_from("ABCD?"), st.integers(1, 25), min_size=1).map(lambda d: cohort(**d))


@given(
    centres=cohorts,
    seed=st.integers(0, 2**33),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)]),
)
def test_stratified_splits_are_whole_balanced_and_even(
    centres: dict[str, str], seed: int, fractions: tuple[float, float, float]
) -> None:
    if len(centres) < 3:
        with pytest.raises(MrictError, match="cannot fill 3 sets"):
            make_split(centres, seed, fractions=fractions)
        return
    split = make_split(centres, seed, fractions=fractions)
    sets = [getattr(split, name) for name in SETS]
    assert sorted(p for members in sets for p in members) == sorted(centres)
    assert min(sizes(split)) >= 1
    for members, fraction in zip(sets, fractions, strict=True):
        assert abs(len(members) - fraction * len(centres)) < 1 or len(members) == 1 or min(sizes(split)) == 1
        for centre in set(centres.values()):
            share = len(members) * sum(c == centre for c in centres.values()) / len(centres)
            assert abs(sum(centres[p] == centre for p in members) - share) < 1


@pytest.mark.parametrize(
    ("centres", "expected"),
    [
        (cohort(A=48, B=48, C=48), [86, 29, 29]),
        (cohort(A=5, B=5, C=5), [9, 3, 3]),
        (cohort(A=2, B=2, C=2), [4, 1, 1]),
        (cohort(A=1, B=1, C=1), [1, 1, 1]),
        (cohort(A=1, B=3), [2, 1, 1]),
        (cohort(A=36), [22, 7, 7]),
    ],
)
def test_set_sizes(centres: dict[str, str], expected: list[int]) -> None:
    assert sizes(make_split(centres, seed=7)) == expected


def test_small_centres_are_spread() -> None:
    split = make_split(cohort(A=5, B=5, C=5), seed=1)
    for name, each in (("train", 3), ("val", 1), ("test", 1)):
        members = getattr(split, name)
        assert [sum(p[2] == c for p in members) for c in "ABC"] == [each] * 3


def test_splits_depend_on_seed_and_ids_alone() -> None:
    centres = cohort(A=9, B=8, C=7)
    backwards = dict(reversed(centres.items()))
    assert make_split(centres, 3) == make_split(backwards, 3)
    assert make_split(centres, 3).hash != make_split(centres, 4).hash
    pinned = Split(("1BA001", "1BA002", "1BB000", "1BB002"), ("1BA000",), ("1BB001",), "stratified", 0)
    assert make_split(cohort(A=3, B=3), 0) == pinned


@pytest.mark.parametrize("centre", "ABC")
def test_leave_one_centre_out(centre: str) -> None:
    centres = cohort(A=4, B=5, C=6)
    split = make_split(centres, 0, f"leave_out_{centre}")
    assert set(split.test) == {p for p, c in centres.items() if c == centre}
    assert sorted(split.train + split.val) == sorted(p for p, c in centres.items() if c != centre)
    rest = len(split.train) + len(split.val)
    assert abs(len(split.val) - rest / 4) < 1


@pytest.mark.parametrize(
    ("centres", "kind", "message"),
    [
        ({}, "stratified", "0 patients cannot fill 3 sets; expected at least 3"),
        (cohort(A=1), "stratified", "1 patient cannot fill 3 sets; expected at least 3"),
        (cohort(A=2), "stratified", "2 patients cannot fill 3 sets"),
        (cohort(A=5), "leave_out_A", "0 patients cannot fill 2 sets"),
        (cohort(A=5, B=1), "leave_out_A", "1 patient cannot fill 2 sets"),
        (cohort(A=5, B=5), "leave_out_C", r"unknown split 'leave_out_C': did you mean 'leave_out_B'"),
        (cohort(A=5), "random", "allowed: leave_out_A, stratified"),
    ],
)
def test_impossible_splits(centres: dict[str, str], kind: str, message: str) -> None:
    with pytest.raises(MrictError, match=message):
        make_split(centres, 0, kind)


@pytest.mark.parametrize("fractions", [(0.6, 0.4, 0.0), (0.5, 0.5, 0.5), (0.8, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(MrictError, match="expected three positive numbers"):
        make_split(cohort(A=9), 0, fractions=fractions)


def test_saved_split_comes_back(tmp_path: Path) -> None:
    split = make_split(cohort(A=4, B=4), 5)
    path = splits.save_split(tmp_path / "split.json", split)
    assert splits.load_split(path) == split
    assert json.loads(path.read_text())["hash"] == split.hash


def edited(path: Path, **changes: object) -> Path:
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": ["1BA000"], "train": ["1BA000", "1BA001"]}, "patient 1BA000 is in train and in val"),
        ({"test": ["1ba000"], "train": ["1BA000"]}, "patient 1ba000 is in train and in test"),
        ({"train": ["1BA000", "1BA000"], "val": ["x"], "test": ["y"]}, "listed twice in train"),
        ({"train": ["1BA000", "new"]}, "its sets do not match its hash"),
        ({"test": None}, "not a split; expected train, val, test, kind, seed"),
        ({"seed": "many"}, "not a split"),
    ],
)
def test_edited_files_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = splits.save_split(tmp_path / "split.json", make_split(cohort(A=4, B=4), 5))
    with pytest.raises(MrictError, match=message) as caught:
        splits.load_split(edited(path, **changes))
    assert str(caught.value).startswith(str(path))


def test_a_split_of_ones_own_has_no_hash(tmp_path: Path) -> None:
    path = splits.save_split(tmp_path / "split.json", make_split(cohort(A=4, B=4), 5))
    own = splits.load_split(edited(path, hash=None, train=["1BA000"], val=["1BA001"], test=["1BB000"]))
    assert own.test == ("1BB000",)


def test_a_leaking_split_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(MrictError, match="patient a is in train and in test"):
        splits.save_split(tmp_path / "split.json", Split(("a",), ("b",), ("a",), "stratified", 0))
    assert not list(tmp_path.iterdir())


def test_predecessors_36() -> None:
    split = splits.predecessor_split(SLICES, "36")
    assert len(SLICES) == 36
    assert split.test == ("1BA220", "1BA091", "1BA159", "1BA184")
    assert sum(SLICES[p] for p in split.test) == 803
    listed = [f"1BA{pair[:3]}" for pair in COUNTED.split()][:32]
    assert list(split.learning) == listed  # the notebooks print the learning patients in this order
    assert (len(split.train_slices), len(split.val_slices)) == (5849, 650)
    every = np.concatenate([split.train_slices, split.val_slices])
    np.testing.assert_array_equal(np.sort(every), np.arange(6499))
    np.testing.assert_array_equal(every, np.roll(np.random.RandomState(42).permutation(6499), -650))


def test_predecessors_10() -> None:
    split = splits.predecessor_split(SLICES, "10")
    assert split.test == ("1BA058",)
    assert SLICES["1BA058"] == 197
    assert [p[3:] for p in split.learning] == ["005", "032", "001", "054", "012", "075", "022", "014", "040"]
    assert (len(split.train_slices), len(split.val_slices)) == (1610, 179)


def test_predecessors_slices_by_patient() -> None:
    split = splits.predecessor_split({"a": 7, "b": 9, "c": 20, "d": 4}, "any")
    train, val = split.by_patient("train"), split.by_patient("val")
    for patient in split.learning:
        both = np.concatenate([train.get(patient, []), val.get(patient, [])])
        np.testing.assert_array_equal(np.sort(both), np.arange(split.counts[patient]))
    start = sum(split.counts[p] for p in split.learning[:1])
    second = split.learning[1]
    in_second = split.train_slices[(split.train_slices >= start) & (split.train_slices < start + split.counts[second])]
    np.testing.assert_array_equal(train[second], np.sort(in_second) - start)
    with pytest.raises(MrictError, match="unknown set 'test'"):
        split.by_patient("test")


@pytest.mark.parametrize(
    ("counts", "which", "message"),
    [
        ({"1BA001": 3}, "10", "needs patients 1BA005, 1BA012"),
        ({"1BA001": 3}, "any", "expected at least 2"),
        (SLICES, "360", "did you mean '36'"),
    ],
)
def test_impossible_predecessor_splits(counts: dict[str, int], which: str, message: str) -> None:
    with pytest.raises(MrictError, match=message):
        splits.predecessor_split(counts, which)


@given(counts=st.lists(st.integers(1, 300), min_size=1, max_size=9), cap=st.none() | st.integers(1, 1500))
def test_cap_keeps_whole_patients_then_thins_the_last(counts: list[int], cap: int | None) -> None:
    named = {f"p{k}": count for k, count in enumerate(counts)}
    kept = splits.limit_pairs(named, list(named), cap)
    assert sum(map(len, kept.values())) == min(sum(counts), cap or sum(counts))
    assert list(kept) == list(named)[: len(kept)]
    for patient in list(kept)[:-1]:
        np.testing.assert_array_equal(kept[patient], np.arange(named[patient]))
    last = kept[list(kept)[-1]]
    assert last.min() >= 0
    assert last.max() < named[list(kept)[-1]]
    assert (np.diff(last) > 0).all()
    if len(last) > 2:
        assert np.ptp(np.diff(last)) <= 1  # evenly


def test_cap_follows_the_order_given() -> None:
    kept = splits.limit_pairs({"a": 4, "b": 10, "c": 5}, ["c", "b", "a"], 8)
    assert {p: v.tolist() for p, v in kept.items()} == {"c": [0, 1, 2, 3, 4], "b": [1, 5, 8]}
    with pytest.raises(MrictError, match="expected at least 1"):
        splits.limit_pairs({"a": 4}, ["a"], 0)
