"""Splits by subject, stratified or leaving a centre out, saved with a hash; and the predecessor's own split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np

from mrict_core.errors import MrictError, unknown_name
from mrict_core.files import hash_of, read_json, write_json
from mrict_core.paths import shown

SETS = ("train", "val", "test")
LEAVE_OUT = "leave_out_"
PREDECESSOR_KIND = "predecessor_"  # start of the kind of a split by slices
PREDECESSOR_SEED = 42
PREDECESSOR_NUMBERS = """
001 005 012 014 022 032 040 054 058 075 076 082 085 091 097 100 103 105
111 116 125 131 141 143 151 158 159 164 172 175 184 185 189 201 206 220
"""
PREDECESSOR_36 = tuple(f"1BA{number}" for number in PREDECESSOR_NUMBERS.split())
PREDECESSOR_SETS = {"36": PREDECESSOR_36, "10": PREDECESSOR_36[:10]}


@dataclass(frozen=True)
class Split:
    """The patients of each set, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    kind: str
    seed: int
    subjects: Mapping[str, str] = field(default_factory=dict, compare=False)  # where it is not the patient's id

    @property
    def hash(self) -> str:
        """Hash of the sets alone: the name of a subject changes no training."""
        return hash_of([list(self.train), list(self.val), list(self.test), self.kind, self.seed])


def check_leak(split: Split) -> None:
    """Raise `MrictError` for a subject in two sets or a patient listed twice (case-insensitive)."""
    seen: dict[str, tuple[str, str]] = {}
    for name in SETS:
        for patient in getattr(split, name):
            subject = split.subjects.get(patient, patient)
            other, first = seen.setdefault(subject.lower(), (name, patient))
            if other != name:
                same = first.lower() == patient.lower()
                who = f"patient {patient}" if same else f"subject {subject} ({first}, {patient})"
                raise MrictError(f"split: {who} is in {other} and in {name}; expected one set; split again")
        if len({p.lower() for p in getattr(split, name)}) < len(getattr(split, name)):
            raise MrictError(f"split: a patient is listed twice in {name}; expected once; split again")


def _set_sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Return the set sizes nearest to the fractions (largest remainder), none of them 0."""
    exact = [Fraction(f).limit_denominator(10**6) for f in fractions]
    exact = [f * count / sum(exact) for f in exact]
    sizes = [max(1, int(e)) for e in exact]
    while sum(sizes) != count:
        gaps = [e - s for e, s in zip(exact, sizes, strict=True)]
        if sum(sizes) < count:
            sizes[gaps.index(max(gaps))] += 1
        else:
            sizes[gaps.index(min(g for g, s in zip(gaps, sizes, strict=True) if s > 1))] -= 1
    return sizes


def _allocate(centres: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Return how many patients of each centre go to each set, given the sizes of centres and sets.

    Every number is the proportional share rounded down or up (a controlled rounding, which always exists); of all
    such roundings the one closest to the shares.
    """
    total = sum(centres)
    base = [[n * size // total for size in sizes] for n in centres]
    rest = [[n * size % total for size in sizes] for n in centres]
    spare_row = [n - sum(row) for n, row in zip(centres, base, strict=True)]
    spare_set = tuple(size - sum(row[k] for row in base) for k, size in enumerate(sizes))

    @cache
    def best(row: int, spare: tuple[int, ...]) -> tuple[int, tuple[tuple[int, ...], ...]]:
        if row == len(centres):
            return (0 if not any(spare) else -(10**9)), ()
        options = []
        for chosen in combinations(range(len(sizes)), spare_row[row]):
            if all(spare[k] > 0 for k in chosen):
                left = tuple(s - (k in chosen) for k, s in enumerate(spare))
                gain, later = best(row + 1, left)
                options.append((gain + sum(rest[row][k] for k in chosen), (chosen, *later)))
        return max(options, key=lambda option: option[0], default=(-(10**9), ()))

    for row, chosen in enumerate(best(0, spare_set)[1]):
        for k in chosen:
            base[row][k] += 1
    return base


def _stratified(centres: dict[str, str], seed: int, fractions: Sequence[float], what: str) -> list[tuple[str, ...]]:
    if len(centres) < len(fractions):
        raise MrictError(
            f"{len(centres)} {what}{'s' * (len(centres) != 1)} cannot fill {len(fractions)} sets; "
            f"expected at least {len(fractions)}; add patients"
        )
    random = np.random.RandomState(seed % 2**32)
    groups = {c: sorted(p for p, centre in centres.items() if centre == c) for c in sorted(set(centres.values()))}
    shares = _allocate([len(g) for g in groups.values()], _set_sizes(len(centres), fractions))
    sets: list[list[str]] = [[] for _ in fractions]
    for group, share in zip(groups.values(), shares, strict=True):
        shuffled = iter([group[i] for i in random.permutation(len(group))])
        for members, count in zip(sets, share, strict=True):
            members += [next(shuffled) for _ in range(count)]
    return [tuple(sorted(members)) for members in sets]


def make_split(
    centres: dict[str, str],
    seed: int,
    kind: str = "stratified",
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    subjects: Mapping[str, str] | None = None,
) -> Split:
    """Return a split of `{patient: centre}`; `subjects` ({patient: subject}) keeps all patients of a subject together.

    `stratified`: sizes as close to `fractions` (train, val, test) as whole subjects allow, no set empty, every centre
    spread proportionally. `leave_out_A`: the subjects with a patient of centre A are the test set, the others are
    split into train and val. The result depends only on ids, centres, subjects and seed.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise MrictError(f"fractions {fractions}: expected three positive numbers (train, val, test) that add up to 1")
    shared = {patient: subject for patient, subject in (subjects or {}).items() if subject != patient}
    members: dict[str, list[str]] = {}
    for patient in sorted(centres):
        members.setdefault(shared.get(patient, patient).lower(), []).append(patient)
    units = {group[0]: group for group in members.values()}  # by their first patient
    what = "patient" if len(units) == len(centres) else "subject"
    homes = {first: centres[first] for first in units}
    if kind == "stratified":
        sets = _stratified(homes, seed, fractions, what)
    else:
        kinds = ["stratified", *(LEAVE_OUT + c for c in sorted(set(centres.values())))]
        if kind not in kinds:
            raise unknown_name("split", kind, kinds)
        test = tuple(first for first, group in units.items() if any(LEAVE_OUT + centres[p] == kind for p in group))
        rest = {first: centre for first, centre in homes.items() if first not in test}
        sets = [*_stratified(rest, seed, fractions[:2], what), test]
    split = Split(*(tuple(sorted(p for first in chosen for p in units[first])) for chosen in sets), kind, seed, shared)
    check_leak(split)
    return split


def save_split(path: Path, split: Split) -> Path:
    """Write a split as json with its hash."""
    check_leak(split)
    sets = {name: list(getattr(split, name)) for name in SETS}
    groups = {"subjects": dict(sorted(split.subjects.items()))} if split.subjects else {}
    return write_json(path, {"kind": split.kind, "seed": split.seed, "hash": split.hash, **sets, **groups})


def load_split(path: Path) -> Split:
    """Read a split; raise `MrictError` for a leak, a missing field or sets that do not match the hash.

    A split written by hand has no `hash` line.
    """
    data = read_json(path)
    try:
        sets = (tuple(sorted(map(str, data[name]))) for name in SETS)
        subjects = {patient: str(subject) for patient, subject in data.get("subjects", {}).items()}
        split = Split(*sets, str(data["kind"]), int(data["seed"]), subjects)
    except (KeyError, TypeError, ValueError, AttributeError):
        fields = ", ".join((*SETS, "kind", "seed"))
        raise MrictError(f"{shown(path)}: not a split; expected {fields}; delete it and split again") from None
    try:
        check_leak(split)
    except MrictError as error:
        raise MrictError(f"{shown(path)}: {error}") from None
    if data.get("hash", split.hash) != split.hash:
        raise MrictError(
            f"{shown(path)}: its sets do not match its hash: it was edited; delete it and split again, "
            "or remove its hash line to use it as your own split"
        )
    return split


def is_own(path: Path) -> bool:
    """True for a user's own split: it has no hash line."""
    return "hash" not in read_json(path)


@dataclass(frozen=True)
class PredecessorSplit:
    """The predecessor's split: test patients, then train and val by single slices over all learning patients."""

    test: tuple[str, ...]
    learning: tuple[str, ...]  # in the order in which their slices are concatenated
    train_slices: np.ndarray  # indices into the concatenated slices, in the shuffled order
    val_slices: np.ndarray
    counts: dict[str, int]  # slices of each learning patient

    def by_patient(self, which: str) -> dict[str, np.ndarray]:
        """Return {patient: its slice positions, ascending} of "train" or "val"."""
        if which not in ("train", "val"):
            raise unknown_name("set", which, ("train", "val"))
        chosen = np.sort(self.train_slices if which == "train" else self.val_slices)
        starts = np.cumsum([0, *(self.counts[p] for p in self.learning)])
        edges = np.searchsorted(chosen, starts)
        parts = {p: chosen[edges[k] : edges[k + 1]] - starts[k] for k, p in enumerate(self.learning)}
        return {p: part for p, part in parts.items() if part.size}


def _shuffled_tenth(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nine tenths and one tenth of range(count), as scikit-learn's train_test_split(test_size=0.1) does."""
    order = np.random.RandomState(PREDECESSOR_SEED).permutation(count)
    tenth = -(-count // 10)
    return order[tenth:], order[:tenth]


def predecessor_split(counts: dict[str, int], which: str) -> PredecessorSplit:
    """Return the predecessor's split of `{patient: number of slices}`.

    `which`: "36" or "10", its two lists of patients; "any" applies its rule to all given patients. Train and val slices
    come from the same patients: only to reproduce its numbers, never the default.
    """
    if which not in (*PREDECESSOR_SETS, "any"):
        raise unknown_name("predecessor split", which, (*PREDECESSOR_SETS, "any"))
    patients = PREDECESSOR_SETS.get(which, tuple(sorted(counts)))
    missing = [p for p in patients if p not in counts]
    if missing:
        raise MrictError(f"predecessor split '{which}' needs patients {', '.join(missing)}; add them, or use 'any'")
    if len(patients) < 2:
        raise MrictError(f"{len(patients)} patient cannot fill a learning and a test set; expected at least 2")
    learning, test = _shuffled_tenth(len(patients))
    ordered = tuple(patients[i] for i in learning)
    train, val = _shuffled_tenth(sum(counts[p] for p in ordered))
    return PredecessorSplit(tuple(patients[i] for i in test), ordered, train, val, {p: counts[p] for p in ordered})


def limit_pairs(counts: dict[str, int], patients: Sequence[str], cap: int | None) -> dict[str, np.ndarray]:
    """Return {patient: slice positions}, at most `cap` pairs: whole patients in order, the last thinned evenly."""
    if cap is not None and cap < 1:
        raise MrictError(f"cap of {cap} training pairs: expected at least 1, or no cap")
    kept, left = {}, cap
    for patient in patients:
        count = counts[patient]
        take = count if left is None else min(count, left)
        if take:
            kept[patient] = (np.arange(take) * 2 + 1) * count // (2 * take)
        left = None if left is None else left - take
    return kept
