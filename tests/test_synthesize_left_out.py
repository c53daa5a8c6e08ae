"""Everything below a folder of cases is used or listed with its reason, and the counts add up."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_files import write_mr_series
from test_cli import invoke, ok
from tiny_models import files_in, head_array, write_head

from mrict_core.errors import MrictError
from mrict_core.pipeline.cases import find_cases
from mrict_core.pipeline.survey import survey
from mrict_core.pipeline.synthesis import synthesize_case

SHAPE = (24, 28, 4)
NAMES = {
    "cases": lambda found: sorted(found.sources),
    "failed": lambda found: sorted(found.problems),
    "left out": lambda found: sorted(path.name for path in found.left_out),
    "aside": lambda found: sorted(path.name for path in found.aside),
}


def dicom(folder: Path, seed: int = 0, **tags: object) -> None:
    affine = np.diag([-5.0, -5.0, 6.0, 1.0])
    write_mr_series(folder, np.rint(head_array(SHAPE)).astype(np.uint16) + seed, affine, **tags)


def make(root: Path, *names: str) -> Path:
    """Make what the names say: a name with a slash at its end is a folder of DICOM, an image is a small MR."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            dicom(path)
        elif ".nii" in name:
            write_head(path, SHAPE)
        else:
            path.write_text("no image")
    return root


FOLDERS = {
    "mixed": (["p1_mr.nii.gz", "p2/", "p3/mr.nii.gz"], {"cases": ["p1", "p2", "p3"]}),
    "nested series": (["p1/", "p2/series1/", "p3/study/series1/"], {"cases": ["p1", "p2", "p3"]}),
    "names": (
        ["p1/mr.nii.gz", "p2/T1w.nii.gz", "p3/anat/mr.nii.gz"],
        {"cases": ["p1"], "left out": ["T1w.nii.gz", "mr.nii.gz"]},
    ),
    "beside a taken file": (
        ["p1/mr.nii.gz", "p1/T2.nii.gz", "p1/ct.nii.gz", "p1/p1_mask.nii.gz", "p1/dicom/", "p1/notes.txt"],
        {
            "cases": ["p1"],
            "left out": ["IM0000.dcm", "T2.nii.gz"],
            "aside": ["ct.nii.gz", "notes.txt", "p1_mask.nii.gz"],
        },
    ),
    "beside taken DICOM": (["p1/", "p1/T2.nii.gz"], {"cases": ["p1"], "left out": ["T2.nii.gz"]}),
    "a patient without an MR": (
        ["p1/mr.nii.gz", "p2/ct.nii.gz", "p2/mask.nii.gz"],
        {"cases": ["p1"], "left out": ["p2"], "aside": ["ct.nii.gz", "mask.nii.gz"]},
    ),
    "CTs of their own": (["p1_mr.nii.gz", "cts/p1_ct.nii.gz"], {"cases": ["p1"], "aside": ["p1_ct.nii.gz"]}),
    "SynthRAD": (
        ["Task1/brain/1BA001/mr.nii.gz", "Task1/brain/1BA001/ct.nii.gz", "Task1/pelvis/1PA001/mr.nii.gz"],
        {"cases": ["1BA001", "1PA001"], "aside": ["ct.nii.gz"]},
    ),
    "one patient's folder": (
        ["mr.nii.gz", "mask.nii.gz", "other/mr.nii.gz"],
        {"cases": ["root"], "aside": ["mask.nii.gz"], "left out": ["mr.nii.gz"]},
    ),
    "two for one": (["p1.nii", "p1_mr.nii.gz", "p2.nii"], {"cases": ["p2"], "failed": ["p1"]}),
    "a file and a folder": (["p1_mr.nii.gz", "p1/", "p2.nii"], {"cases": ["p2"], "failed": ["p1"]}),
    "three for one": (["p1.nii", "p1_mr.nii.gz", "p1_mri.nii"], {"failed": ["p1"]}),
    "types not read": (
        ["p1.nii", "p2.mgz", "p3.img", "p3.hdr", "old.zip", "readme.txt", ".hidden", "p4/p4.mnc"],
        {
            "cases": ["p1"],
            "left out": ["old.zip", "p2.mgz", "p3.hdr", "p3.img", "p4.mnc"],
            "aside": [".hidden", "readme.txt"],
        },
    ),
    "macOS": (
        ["p1.nii", "._p1.nii.gz", "p2/mr.nii.gz", "p2/._mr.nii.gz"],
        {"cases": ["p1", "p2"], "aside": ["._mr.nii.gz", "._p1.nii.gz"]},
    ),
    "empty": (["p1.nii", "p2/x"], {"cases": ["p1"], "aside": ["x"]}),
    "control characters": (["p\x1b[31m1\n.nii"], {"cases": ["p\x1b[31m1\n"]}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_is_used_or_listed(name, tmp_path):
    names, expected = FOLDERS[name]
    root = make(tmp_path / "root", *names)
    found = survey(root)
    assert {key: value for key, get in NAMES.items() if (value := get(found))} == expected
    assert all(found.left_out.values())
    assert all(found.aside.values())


def test_several_series_of_one_folder_are_cases_and_others_are_listed(tmp_path):
    dicom(tmp_path / "in/p1/t1")
    dicom(tmp_path / "in/p1/t2", seed=9)
    dicom(tmp_path / "in/p1/ct", Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    for k in range(2):  # in one folder
        dicom(tmp_path / f"part{k}", seed=k)
        for file in (tmp_path / f"part{k}").iterdir():
            (tmp_path / "in/p2").mkdir(exist_ok=True)
            file.rename(tmp_path / "in/p2" / f"{k}-{file.name}")
    found = survey(tmp_path / "in")
    assert {"p1_t1", "p1_t2"} < found.sources.keys()
    assert len(found.sources) == 4
    assert all(series for name, (_, series) in found.sources.items() if name.startswith("p2"))
    assert ["a CT series" in why for why in found.aside.values()] == [True]


def test_links_to_folders_are_followed_where_cases_are_and_listed_below(tmp_path):
    make(tmp_path / "elsewhere", "a/mr.nii.gz", "b/")
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "in/deep/c").symlink_to(tmp_path / "elsewhere/a")
    (tmp_path / "in/gone.nii").symlink_to(tmp_path / "nothing.nii")
    found = survey(tmp_path / "in")
    assert sorted(found.sources) == ["a", "b", "gone"]
    assert [path.name for path in found.left_out] == ["c"]


def test_earlier_outputs_are_no_inputs(tmp_path, models):
    root = make(tmp_path / "in", "p1.nii")
    synthesize_case(root / "p1.nii", root / "ct of p1.nii.gz", models)
    synthesize_case(root / "p1.nii", root / "made" / "series", models)
    ok("synthesize", str(root), "-o", str(root / "out"), "--model", models[0].synthesizer.path)
    found = survey(root, [root / "out"])
    assert sorted(found.sources) == ["p1"]
    assert not found.left_out
    reasons = {path.name: why for path, why in found.aside.items()}
    assert reasons["ct of p1.nii.gz"] == "made by this suite"
    assert reasons["out"] == "the results of this command"
    assert reasons["CT0001.dcm"].startswith("a CT series")
    assert sorted(survey(root).sources) == ["p1"]  # also where the results were written by another run
    with pytest.raises(MrictError, match="a synthetic CT or uncertainty map of this suite"):
        synthesize_case(root / "ct of p1.nii.gz", tmp_path / "again.nii", models)


def test_the_counts_of_the_last_line_add_up_and_the_status_tells(tmp_path, checkpoints):
    names = ["p1.nii", "p2/T1w.nii.gz", "p3/mr.nii.gz", "p3/ct.nii.gz", "p4.nii", "notes.txt", "p5.mgz"]
    root = make(tmp_path / "in", *names)
    (root / "p4.nii").write_bytes(b"nothing")
    arguments = ["synthesize", str(root), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    result = invoke(*arguments)
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    total, *counts = map(int, re.findall(r"(\d+) (?:found|written|kept|failed|left out|no MR)", last))
    assert (total, counts) == (7, [2, 0, 1, 2, 2])
    assert "T1w.nii.gz: left out: not where an MR is expected" in result.output
    table = pd.read_csv(tmp_path / "out/summary.csv")
    assert len(table) == total
    assert table["reason"][table["status"] != "written"].notna().all()
    for name in ("p2/T1w.nii.gz", "p4.nii", "p5.mgz"):
        (root / name).unlink()
    ok(*arguments)  # files of other roles and of no image are no fault


OUTPUTS = {
    "one nested series": (["SE01/"], "ct.nii.gz", None),
    "a series deeper": (["study/SE01/"], "ct.mha", None),
    "one patient's folder": (["mr.nii.gz", "ct.nii.gz"], "ct.nii.gz", None),
    "two series": (["SE01/", "SE02/"], "ct.nii.gz", "has 2 inputs"),
    "one left out": (["SE01/", "p2/T1.nii"], "ct.nii.gz", "has 2 inputs"),
    "a table": (["p1.nii", "p2.nii"], "out.csv", "has the name of a file"),
    "a page": (["p1.nii"], "out.html", "not an image type"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_named_like_a_file_is_a_file_or_an_error(name, tmp_path, checkpoints):
    names, output, message = OUTPUTS[name]
    make(tmp_path / "in", *names)
    target = tmp_path / output
    result = invoke("synthesize", str(tmp_path / "in"), "-o", str(target), "--model", str(checkpoints / "a.pt"))
    if message is None:
        assert result.exit_code == 0, result.output
        assert target.is_file()
    else:
        assert message in str(result.exception)
        assert not target.exists()
    for folder in ("--uncertainty", "--qa"):
        make(tmp_path / "two", "p1.nii", "p2.nii")
        arguments = ["synthesize", str(tmp_path / "two"), "-o", str(tmp_path / "out"), folder, str(tmp_path / "x.nii")]
        assert "has the name of a file" in str(invoke(*arguments, "--model", str(checkpoints / "a.pt")).exception)


def test_names_of_outputs_and_messages_are_printable(tmp_path, checkpoints):
    make(tmp_path / "in", "p\x1b[31m1\n.nii", "=SUM(1).nii", "bad\x07.nii")
    (tmp_path / "in/bad\x07.nii").write_bytes(b"nothing")
    result = invoke(
        "synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")
    )
    assert result.exit_code == 1
    assert "\x1b[31m" not in result.output
    assert "\x07" not in result.output
    assert all(name.isprintable() for name in files_in(tmp_path / "out"))
    assert "p_[31m1__sct.nii" in files_in(tmp_path / "out")
    written = (tmp_path / "out/summary.csv").read_text()
    assert [line for line in written.splitlines() if not line.isprintable()] == []
    assert "\n=SUM" not in written


def test_a_csv_as_spreadsheets_write_it_chooses_series_too(tmp_path):
    make(tmp_path, "p1.nii")
    (tmp_path / "list.csv").write_text("\ufeffCase ; INPUT; Series\n one ;p1.nii;abc\n\n", encoding="utf-8")
    found = find_cases(tmp_path / "list.csv", tmp_path / "out")
    (case,) = found.cases
    assert (case.name, case.source, case.series) == ("one", tmp_path / "p1.nii", "abc")
    (tmp_path / "two.csv").write_text("input,input\np1.nii,p1.nii\n")
    with pytest.raises(MrictError, match="column input more than once"):
        find_cases(tmp_path / "two.csv", tmp_path / "out")


def test_an_image_beside_a_dicom_series_is_said(tmp_path, checkpoints):
    make(tmp_path, "in/", "in/converted.nii.gz", "in/notes.txt")
    arguments = [
        "synthesize",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "ct.nii"),
        "--model",
        str(checkpoints / "a.pt"),
    ]
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "converted.nii.gz: left out" in result.output
    assert nib.load(tmp_path / "ct.nii").shape == SHAPE
    (tmp_path / "in/converted.nii.gz").unlink()
    ok(*arguments, "--overwrite")


@pytest.mark.parametrize("kind", ["DICOMDIR", "a report", "a damaged file"])
def test_dicom_that_is_no_image_does_not_make_a_folder_one_series(kind, tmp_path, checkpoints):
    root = make(tmp_path / "in", "p1.nii", "p2/", "p3/mr.nii.gz")
    first = sorted((root / "p2").iterdir())[0]
    stray = pydicom.dcmread(first)
    stray.SOPClassUID = stray.file_meta.MediaStorageSOPClassUID = {
        "DICOMDIR": "1.2.840.10008.1.3.10",
        "a report": "1.2.840.10008.5.1.4.1.1.88.11",
        "a damaged file": "1.2.840.10008.5.1.4.1.1.4",
    }[kind]
    del stray.Rows
    stray.save_as(root / ("DICOMDIR" if kind == "DICOMDIR" else "stray.dcm"))
    result = invoke("synthesize", str(root), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt"))
    assert "3 written, 0 kept, 0 failed" in result.output
    assert result.exit_code == (kind == "a damaged file")


def test_a_folder_that_holds_no_case_says_what_it_holds(tmp_path):
    make(tmp_path / "in", "a_ct.nii", "b_ct.nii")
    with pytest.raises(MrictError, match=r"no case found.*a_ct\.nii: named as a ct; .*b_ct"):
        find_cases(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(MrictError, match="no such file or folder"):
        find_cases(tmp_path / "in", tmp_path / "out")
