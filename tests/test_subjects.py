"""One person twice: sessions, the user's own rule, equal images under other names; never in two sets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_patient
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.splits import SETS, Split, check_leak, load_split, make_split, save_split
from mrict_core.data.subjects import likely_visits, merged, subjects_of
from mrict_core.errors import MrictError
from mrict_core.evaluation.cohort_table import cohort_table
from mrict_core.paths import workspace
from mrict_core.pipeline import open_data, prepare_data

RULES = {
    "BIDS sessions": (
        "",
        {"sub-01_ses-1": "sub-01", "sub-01_ses-02": "sub-01", "sub-02": "sub-02", "1BA001": "1BA001"},
    ),
    "BIDS runs": ("", {"sub-A7_acq-x_run-1": "sub-A7", "sub-A7": "sub-A7", "sub-A70": "sub-A70"}),
    "letters": (r"(.+)_[ab]$", {"01_a": "01", "01_b": "01", "02_a": "02"}),
    "one of two groups": (r"^(\d+)_[ab]$|^(P\d+)", {"01_a": "01", "P7x": "P7", "P7y": "P7"}),
    "everyone alone": ("(.+)", {"sub-01_ses-1": "sub-01_ses-1", "sub-01_ses-2": "sub-01_ses-2"}),
}
TABLES = {
    "plain": "patient,subject\n01_a,01\n01_b,01\n",
    "semicolons, capitals, spaces, BOM": "\ufeff Subject ; Patient ;age\n 01 ; 01_A ;3\n01;01_b;4\n",
    "tabs and empty lines": "patient\tsubject\r\n\r\n01_a\t01\r\n01_b\t01\r\n",
    "more patients than there are": "patient,subject\n01_a,01\n01_b,01\n02_a,02\n",
}


@pytest.mark.parametrize("case", RULES)
def test_rules(case: str) -> None:
    rule, expected = RULES[case]
    assert subjects_of(expected, rule) == expected


@pytest.mark.parametrize("case", TABLES)
def test_tables(case: str, tmp_path: Path) -> None:
    path = tmp_path / "groups.CSV"
    path.write_text(TABLES[case], encoding="utf-8")
    assert subjects_of(["01_a", "01_b"], str(path)) == {"01_a": "01", "01_b": "01"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("(.+", "not a regular expression"),
        (".+_[ab]", "has no group"),
        (r"^(\d+)_", r"gives no subject for p1, p2; expected one for every patient"),
        ("no/such.csv", r"no/such\.csv: cannot be read \(No such file"),
        ("patient,name\n01_a,x\n", "holds patient, name; expected the columns patient, subject"),
        ("", "holds nothing; expected the columns patient, subject"),
        ("patient,subject\n01_a,x\np1,y\n", "gives no subject for 02_a, p2"),
        ("patient,subject\n01_a,x\n01_A,y\n02_a,1\np1,2\np2,3\n", "patient 01_A has two subjects"),
    ],
)
def test_rules_that_cannot_be_used(rule: str, message: str, tmp_path: Path) -> None:
    if "," in rule or not rule:
        (tmp_path / "groups.csv").write_text(rule)
        rule = str(tmp_path / "groups.csv")
    with pytest.raises(MrictError, match=message) as caught:
        subjects_of(["01_a", "02_a", "p1", "p2"], rule)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("patients", "remark"),
    [
        (["01_a", "01_b", "02_a"], "01_a and 01_b are split as different people"),
        (["P7-1", "P7-2", "P8-1", "P8-2"], "P7-1 and P7-2 (and 1 more such groups)"),
        (["x1_baseline", "x1_followup"], "x1_baseline and x1_followup"),
        (["p3_20200101", "p3_20210101"], "p3_20200101 and p3_20210101"),
        (["1BA001", "1BA002", "1BB001", "BW04"], ""),
        (["patient_01", "patient_02", "site1_0001", "site1_0002"], ""),
        (["sub-01_ses-1", "sub-01_ses-2"], ""),  # grouped already
    ],
)
def test_ids_that_look_like_visits_are_remarked(patients: list[str], remark: str) -> None:
    found = likely_visits(subjects_of(patients))
    assert found.startswith(remark) if remark else found == ""


@given(
    members=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ABC")), min_size=1, max_size=40),
    seed=st.integers(0, 99),
    leave_out=st.booleans(),
)
def test_no_split_divides_a_subject(members: list[tuple[int, str]], seed: int, leave_out: bool) -> None:
    centres = {f"p{k:02d}": centre for k, (_, centre) in enumerate(members)}
    subjects = {f"p{k:02d}": f"s{subject}" for k, (subject, _) in enumerate(members)}
    kind = f"leave_out_{members[0][1]}" if leave_out else "stratified"
    elsewhere = set(subjects.values()) - {subjects[p] for p, c in centres.items() if leave_out and c == members[0][1]}
    if len(elsewhere) < 3 - leave_out:
        with pytest.raises(MrictError, match="cannot fill"):
            make_split(centres, seed, kind, subjects=subjects)
        return
    split = make_split(centres, seed, kind, subjects=subjects)
    where = {patient: name for name in SETS for patient in getattr(split, name)}
    assert where.keys() == centres.keys()
    for subject in set(subjects.values()):
        assert len({where[p] for p, s in subjects.items() if s == subject}) == 1
    if leave_out:
        assert {where[p] for p, centre in centres.items() if centre == members[0][1]} == {"test"}


def test_a_cohort_without_sessions_is_split_as_before() -> None:
    centres = {f"1B{c}{k:03d}": c for c in "ABC" for k in range(7)}
    assert make_split(centres, 5, subjects={p: p for p in centres}) == make_split(centres, 5)


def test_a_subject_in_two_sets_is_refused(tmp_path: Path) -> None:
    subjects = {f"{k}_{v}": f"{k}" for k in range(5) for v in "ab"}
    split = make_split(dict.fromkeys(subjects, "A"), 0, subjects=subjects)
    path = save_split(tmp_path / "split.json", split)
    assert load_split(path) == split
    assert load_split(path).subjects == split.subjects
    data = json.loads(path.read_text())
    data.pop("hash")
    data["train"], data["val"] = data["train"][1:], [*data["val"], data["train"][0]]
    path.write_text(json.dumps(data))
    with pytest.raises(MrictError, match=r"split\.json: split: subject . \(._b, ._a\) is in train and in val"):
        load_split(path)
    with pytest.raises(MrictError, match=r"subject S \(a, c\) is in train and in test"):
        check_leak(Split(("a",), ("b",), ("c",), "stratified", 0, {"a": "s", "c": "S"}))


def test_merged_follows_chains() -> None:
    alone = {p: p for p in "abcd"}
    assert merged(alone, [("b", "a"), ("c", "b")]) == {"a": "a", "b": "a", "c": "a", "d": "d"}


# --- equal images ---------------------------------------------------------------------------------------------------


def resaved(
    folder: Path,
    suffix: str = ".nii.gz",
    code: str = "",
    dtype: type | None = None,
    scale: float = 1,
    shift_mm: float = 0,
) -> None:
    """Write every file of a patient anew in another format, axis order, type, voxel size or place."""
    import SimpleITK as sitk

    for file in sorted(folder.iterdir()):
        image = nib.load(file)
        if code:
            target = nib.orientations.axcodes2ornt(code)
            image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), target))
        affine = image.affine * [scale, scale, scale, 1]
        affine[:3, 3] += shift_mm
        array = np.asanyarray(image.dataobj)
        moved = nib.Nifti1Image(array.astype(dtype or array.dtype), affine)
        path = folder / (file.name.removesuffix(".nii.gz") + suffix)
        file.unlink()
        if suffix in (".mha", ".nrrd"):
            nib.save(moved, folder / "x.nii")
            sitk.WriteImage(sitk.ReadImage(str(folder / "x.nii")), str(path), useCompression=True)
            (folder / "x.nii").unlink()
        else:
            nib.save(moved, path)


def other_mask(folder: Path) -> None:
    image = nib.load(folder / "mask.nii.gz")
    array = np.asanyarray(image.dataobj).copy()
    array[:, ::7] = 0
    nib.save(nib.Nifti1Image(array, image.affine), folder / "mask.nii.gz")


COPIES: dict[str, Callable[[Path], object]] = {
    "byte for byte": lambda folder: None,
    "uncompressed": lambda folder: resaved(folder, ".nii"),
    "MHA": lambda folder: resaved(folder, ".mha"),
    "NRRD": lambda folder: resaved(folder, ".nrrd"),
    "other axis order": lambda folder: resaved(folder, code="PSL"),
    "other number type": lambda folder: resaved(folder, dtype=np.float64),
    "other place in space": lambda folder: resaved(folder, shift_mm=31.5),
    "other voxel size": lambda folder: resaved(folder, scale=1.1),
    "other mask": other_mask,
}


@pytest.mark.parametrize("case", COPIES)
def test_a_copy_under_another_name_is_skipped(case: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_patient(tmp_path / "in" / f"p{seed}", seed)
    shutil.copytree(tmp_path / "in" / "p1", tmp_path / "in" / "a_copy")
    COPIES[case](tmp_path / "in" / "a_copy")
    for _ in range(2):  # the second call finds everything prepared
        store = preprocess(tmp_path / "in", tmp_path / "store", region="brain", size=64)
        assert store.patients == ["a_copy", "p2"]  # the first by name is kept
        (skip,) = store.skipped
        assert skip["patient"] == "p1"
        assert "p1: its MR and CT are those of a_copy" in skip["reason"]
    with pytest.raises(MrictError, match="are those of a_copy"):
        preprocess(tmp_path / "in", tmp_path / "store", region="brain", size=64, strict=True)
    shutil.rmtree(tmp_path / "in" / "a_copy")
    assert preprocess(tmp_path / "in", tmp_path / "store", region="brain", size=64).patients == ["p1", "p2"]


@pytest.mark.parametrize("role", ["mr", "ct"])
def test_who_shares_one_image_is_one_subject(role: str, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_patient(tmp_path / "in" / f"p{seed}", seed)
    shutil.copy(tmp_path / "in" / "p1" / f"{role}.nii.gz", tmp_path / "in" / "p3" / f"{role}.nii.gz")
    store = preprocess(tmp_path / "in", tmp_path / "store", region="brain", size=64)
    assert store.skipped == []
    assert store.subjects() == {"p1": "p1", "p2": "p2", "p3": "p1"}
    assert store.remarks == [f"p3 has the {role.upper()} of p1: one subject"]


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four subjects of two sessions each, with images of their own."""
    for name in ("DATA", "CHECKPOINTS", "REPORTS"):
        monkeypatch.setenv(f"MRICT_{name}", str(tmp_path / name.lower()))
    for k in range(8):
        write_patient(tmp_path / "in" / f"sub-0{k // 2 + 1}_ses-{k % 2 + 1}", k)
    return tmp_path / "in"


def divided(split: Split) -> set[str]:
    """Return the letters or numbers of subjects that stand in two sets."""
    where: dict[str, set[str]] = {}
    for name in SETS:
        for patient in getattr(split, name):
            where.setdefault(patient[:6], set()).add(name)
    return {subject for subject, sets in where.items() if len(sets) > 1}


def test_sessions_stay_together_and_rules_are_kept(sessions: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    prepared = prepare_data("smoke", str(sessions), report=lines.append)
    assert lines == ["8 patients are 4 subjects; a subject stays in one set"]
    assert not divided(prepared.split)
    assert list(cohort_table(prepared.store)["subject"][:3]) == ["sub-01", "sub-01", "sub-02"]
    alone = prepare_data("smoke", str(sessions), group_by="(.+)", report=lambda line: None)
    assert divided(alone.split)
    assert "subject" not in cohort_table(alone.store)
    (tmp_path / "groups.csv").write_text(
        "patient,subject\n" + "".join(f"{p},{p[4:6]}\n" for p in alone.store.patients), encoding="utf-8"
    )
    words = ["preprocess", "--profile", "smoke", "--data", str(sessions)]
    done = CliRunner().invoke(app, [*words, "--group-by", str(tmp_path / "groups.csv")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "8 found: 8 used, 0 skipped, 0 not recognised"
    for again in (words, [*words, "--split", "stratified"]):  # the rule is kept where none is given
        assert CliRunner().invoke(app, again).exit_code == 0
        space = workspace("smoke", str(sessions))
        store, split = open_data(space)
        assert store.subjects()["sub-03_ses-2"] == "03"
        assert not divided(split)
        assert json.loads(space.split_file.read_text())["subjects"]["sub-03_ses-2"] == "03"
    fold = make_split({p: "AB"[p < "sub-03"] for p in store.patients}, 1, "leave_out_A", subjects=store.subjects())
    assert not divided(fold)


def test_a_split_of_ones_own_may_not_divide_a_subject(sessions: Path) -> None:
    prepared = prepare_data("smoke", str(sessions), report=lambda line: None)
    path = prepared.workspace.split_file
    data = {name: [f"sub-0{k + 1}_ses-1", f"sub-0{k + 1}_ses-2"] for k, name in enumerate(SETS)}
    path.write_text(json.dumps(data | {"kind": "own", "seed": 0}))
    assert prepare_data("smoke", str(sessions), report=lambda line: None).split.test == ("sub-03_ses-1", "sub-03_ses-2")
    data["test"], data["val"] = ["sub-03_ses-1", "sub-02_ses-1"], ["sub-02_ses-2"]
    path.write_text(json.dumps(data | {"kind": "own", "seed": 0}))
    for call in (prepare_data, lambda *_, **__: open_data(prepared.workspace)):
        with pytest.raises(MrictError, match=r"split\.json: split: subject sub-02 .* is in val and in test"):
            call("smoke", str(sessions), report=lambda line: None)


def test_the_predecessors_rule_is_refused_where_it_would_divide_a_subject(sessions: Path) -> None:
    with pytest.raises(MrictError, match=r"subject sub-0. .* in train and in test.*protocol predecessor knows no subj"):
        prepare_data("smoke", str(sessions), protocol="predecessor", report=lambda line: None)


def test_two_subjects_are_too_few(sessions: Path) -> None:
    for folder in sorted(sessions.iterdir())[4:]:
        shutil.rmtree(folder)
    prepared = prepare_data("smoke", str(sessions), report=lambda line: None)
    assert prepared.split is None
    assert prepared.problem.startswith("2 usable subject(s); training, validation and test need at least 3")


def test_an_index_of_an_earlier_version_has_subjects_too(sessions: Path) -> None:
    prepared = prepare_data("smoke", str(sessions), report=lambda line: None)
    path = prepared.store.folder / "index.json"
    index = json.loads(path.read_text())
    old = [{k: v for k, v in entry.items() if k not in ("subject", "content")} for entry in index["patients"].values()]
    patients = dict(zip(index["patients"], old, strict=True))
    older = {k: v for k, v in index.items() if k not in ("group_by", "remarks")} | {"patients": patients}
    path.write_text(json.dumps(older))
    store = SliceStore(prepared.store.folder)
    assert store.subjects()["sub-01_ses-2"] == "sub-01_ses-2"
    assert store.slices("sub-01_ses-2").mr.shape[0] == load_volume(sessions / "sub-01_ses-2" / "mr.nii.gz").shape[2]
    prepare_data("smoke", str(sessions), report=lambda line: None)
    assert json.loads(path.read_text()) == index
