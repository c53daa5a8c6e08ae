"""Many cases: one failure never stops the rest, a second run goes on, nothing is replaced unasked."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_cli import error_of, invoke, ok
from tiny_models import files_in, write_head

from mrict_core.errors import MrictError
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.pipeline.cases import find_cases, synthesize_cases


@pytest.fixture
def cohort_folder(tmp_path) -> Path:
    """Two cases as files, one as a folder, one in SynthRAD's layout, one damaged, one that is two files."""
    root = tmp_path / "cases"
    for name in ("a/x", "Task1/brain/1BA001"):
        (root / name).mkdir(parents=True)
    write_head(root / "one_mr.nii.gz")
    write_head(root / "two.nii", (30, 30, 5))
    write_head(root / "a" / "mr.nii.gz", (28, 36, 4))
    write_head(root / "Task1/brain/1BA001/mr.nii.gz", (26, 26, 3))
    write_head(root / "Task1/brain/1BA001/ct.nii.gz")
    (root / "bad.nii.gz").write_bytes(b"nothing")
    write_head(root / "twice.nii.gz")
    write_head(root / "twice_mr.nii")
    (root / "readme.txt").write_text("no image")
    return root


def test_one_failure_does_not_stop_the_others_and_a_second_run_goes_on(cohort_folder, tmp_path, checkpoints):
    out = tmp_path / "out"
    arguments = ["synthesize", str(cohort_folder), "-o", str(out), "--model", str(checkpoints / "a.pt")]
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "4 written, 0 kept, 2 failed" in result.output
    assert "two files for one mr" in result.output
    table = pd.read_csv(out / "summary.csv").set_index("case")
    assert table.loc[table["status"] != "aside", "status"].to_dict() == {
        **{"1BA001": "written", "a": "written", "bad": "failed", "one": "written", "twice": "failed", "two": "written"}
    }
    assert "bad.nii.gz: cannot be read" in table.loc["bad", "reason"]
    names = ["1BA001_sct.nii.gz", "a_sct.nii.gz", "one_sct.nii.gz", "two_sct.nii"]
    assert [f for f in files_in(out) if "nii" in f] == names
    stamps = {name: (out / name).stat().st_mtime_ns for name in names}
    write_head(cohort_folder / "bad.nii.gz", (24, 24, 3))
    (cohort_folder / "twice_mr.nii").unlink()
    (out / "a_sct.nii.gz").unlink()
    (out / "a_sct.json").unlink()
    text = ok(*arguments)
    assert "3 written, 3 kept, 0 failed" in text
    assert all((out / name).stat().st_mtime_ns == stamps[name] for name in names if name != "a_sct.nii.gz")


@pytest.mark.parametrize("change", ["input", "model", "options"])
def test_what_changed_is_not_kept_and_not_replaced_unasked(change, tmp_path, checkpoints):
    (tmp_path / "in").mkdir()
    write_head(tmp_path / "in" / "p.nii.gz")
    arguments = ["synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    ok(*arguments)
    before = (tmp_path / "out" / "p_sct.nii.gz").read_bytes()
    if change == "input":
        write_head(tmp_path / "in" / "p.nii.gz", (30, 30, 5))
    elif change == "model":
        arguments[-1] = str(checkpoints / "b.pt")
    else:
        arguments.append("--tta")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert (tmp_path / "out" / "p_sct.nii.gz").read_bytes() == before
    ok(*arguments, "--overwrite")
    assert (tmp_path / "out" / "p_sct.nii.gz").read_bytes() != before


def test_a_csv_names_cases_inputs_and_outputs(tmp_path, checkpoints):
    (tmp_path / "mr").mkdir()
    write_head(tmp_path / "mr" / "x.nii.gz")
    write_head(tmp_path / "mr" / "y.nii.gz", (30, 30, 5))
    rows = [
        "case,input,output",
        "first,mr/x.nii.gz,one.mha",
        "second,mr/y.nii.gz,",
        "third,mr/none.nii.gz,",
        "fourth,,",
    ]
    rows += ["../up,mr/x.nii.gz,", "same,mr/x.nii.gz,same.nii", "same,mr/y.nii.gz,other.nii", "png,mr/x.nii.gz,x.png"]
    (tmp_path / "list.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    result = invoke(
        *("synthesize", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")),
        *("--format", "nrrd", "--csv", str(tmp_path / "done.csv"), "--uncertainty", str(tmp_path / "sd"), "--tta"),
    )
    assert result.exit_code == 1
    table = pd.read_csv(tmp_path / "done.csv").set_index("case")
    assert (table["status"] == "written").sum() == 2
    reasons = table["reason"].to_dict()
    for case, reason in (
        ("third", "No such file"),
        ("fourth", "line 5 has no input"),
        ("../up", "line 6: case and output must be plain names"),
        ("same", "x.nii.gz: its case name or output is used twice"),
        ("same (2)", "y.nii.gz: its case name or output is used twice"),
        ("png", "not an image type that is written"),
    ):
        assert reason in reasons[case], case
    assert files_in(tmp_path / "out") == ["one.json", "one.mha", "second_sct.json", "second_sct.nrrd"]
    assert files_in(tmp_path / "sd") == ["one.mha", "second_sct.nrrd"]


def test_no_output_replaces_the_input_of_another_case(tmp_path, checkpoints):
    first, second = (write_head(tmp_path / name).read_bytes() for name in ("x.nii.gz", "y.nii.gz"))
    (tmp_path / "list.csv").write_text("input,output\nx.nii.gz,y.nii.gz\ny.nii.gz,z.nii.gz\n")
    arguments = ["synthesize", str(tmp_path / "list.csv"), "-o", str(tmp_path), "--model", str(checkpoints / "a.pt")]
    result = invoke(*arguments, "--overwrite")
    assert result.exit_code == 1
    assert "y.nii.gz: an input of this run" in result.output
    assert [(tmp_path / name).read_bytes() for name in ("x.nii.gz", "y.nii.gz")] == [first, second]
    assert (tmp_path / "z.nii.gz").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds nothing"), ("mr\nx.nii\n", "holds mr; expected the columns input"), (b"\xff\xfe\x00i", "add input")],
)
def test_a_csv_that_is_none_is_refused(content, message, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MrictError, match=message):
        find_cases(path, tmp_path / "out")


def test_folders_that_cannot_be_meant_are_refused(tmp_path, checkpoints):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("x")
    for source, output, more, message in (
        ("in", "out", {}, "no case found"),
        ("in", "in", {}, "the folder of the inputs"),
        ("in", "file", {}, "expected a folder for the results"),
        ("in", "out", {"uncertainty": tmp_path / "out"}, "also the folder of the CTs"),
        ("nowhere", "out", {}, "no such file or folder"),
    ):
        with pytest.raises(MrictError, match=message):
            find_cases(tmp_path / source, tmp_path / output, **more)
    write_head(tmp_path / "in" / "p.nii.gz")
    (tmp_path / "mine.csv").write_text("my,own,table\n")
    arguments = ["synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    assert "is not a summary of this suite" in error_of(*arguments, "--csv", str(tmp_path / "mine.csv"))
    assert "unknown format 'png'" in error_of(*arguments, "--format", "png")
    assert not (tmp_path / "out").exists()


def test_cts_and_masks_beside_an_mr_are_no_cases(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "1PA004").mkdir()
    for name in ("p_mr.nii.gz", "p_ct.nii.gz", "p-mask.nii.gz", "p_sct.mha", "q.nii.gz", "ct_q2.nii"):
        (tmp_path / "flat" / name).touch()
    for name in ("mr.nii.gz", "ct.nii.gz", "mask.nii.gz"):
        (tmp_path / "1PA004" / name).touch()
    found = find_cases(tmp_path / "flat", tmp_path / "out")
    assert {case.name: case.source.name for case in found.cases} == {
        "p": "p_mr.nii.gz",
        "q": "q.nii.gz",
        "ct_q2": "ct_q2.nii",
    }
    assert not found.failed
    assert not found.left_out
    assert len(found.aside) == 3
    (one,) = find_cases(tmp_path / "1PA004", tmp_path / "out").cases
    assert (one.name, one.source.name, one.output.name) == ("1PA004", "mr.nii.gz", "1PA004_sct.nii.gz")
    (tmp_path / "1PA004" / "MR.nii").touch()
    found = find_cases(tmp_path / "1PA004", tmp_path / "out")
    assert not found.cases
    assert "two files for one mr" in found.failed["1PA004"]


def test_an_unforeseen_error_is_a_row_too(tmp_path, models):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_head(tmp_path / "in" / f"{name}.nii.gz", (24, 24, 3))
    found = find_cases(tmp_path / "in", tmp_path / "out")

    def check(volume, facts):
        if volume.path.name.startswith("a"):
            raise RuntimeError("out of memory\nor so")
        return []

    table = synthesize_cases(found, models, tmp_path / "s.csv", SynthesisOptions(), check=check)
    assert list(table["status"]) == ["failed", "written"]
    assert "RuntimeError: out of memory or so" in table["reason"][0]
    assert files_in(tmp_path / "out") == ["b_sct.json", "b_sct.nii.gz"]
