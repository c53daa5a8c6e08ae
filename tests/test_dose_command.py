"""The command `dose`: files in, doses, record, page and table out; bad input; resume."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from dose_cases import distance_mm, needs_pyradplan, write_case
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.dose import engine
from mrict_core.dose.study import DoseSettings
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.pipeline.dose_files import DoseCase
from mrict_core.pipeline.dose_inputs import cases_of_csv

QUICK = ("--modality", "protons", "--grid-mm", "5", "--targets", "1")


def run(*arguments) -> tuple[int, str, str]:
    """Return (exit status, output, error's text) of the command."""
    result = CliRunner().invoke(app, ["dose", *map(str, arguments)])
    error = result.exception if isinstance(result.exception, MrictError) else ""
    return result.exit_code, result.output, str(error)


def of(paths, output, *more) -> tuple[int, str, str]:
    files = (f"--{role}={paths[role]}" for role in ("ct", "sct", "mask"))
    return run(*files, "-o", output, *QUICK, *more)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("dose") / "p01")


@pytest.fixture(scope="module")
def done(case, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    return output, of(case, output)


@needs_pyradplan
def test_one_case_has_doses_record_page_and_table(done, case):
    output, (status, text, _) = done
    assert status == 0, text
    folder = output / "p01"
    ct = nib.load(case["ct"])
    read = {name: nib.load(folder / "protons_test_target_1" / f"{name}.nii.gz") for name in
            ("ct_dose", "sct_dose", "sct_difference", "test_target")}  # fmt: skip
    for found in read.values():
        assert found.shape == ct.shape
        np.testing.assert_allclose(found.affine, ct.affine, atol=1e-4)
    arrays = {name: found.get_fdata() for name, found in read.items()}
    np.testing.assert_allclose(arrays["sct_difference"], arrays["sct_dose"] - arrays["ct_dose"], atol=1e-5)
    assert arrays["ct_dose"][nib.load(case["mask"]).get_fdata() == 0].max() == 0
    assert np.median(arrays["ct_dose"][arrays["test_target"] > 0]) == pytest.approx(2.0, rel=0.05)
    record = json.loads((folder / "dose.json").read_text())
    assert "not for clinical use" in record["note"]
    assert record["plans"][0]["target"]["what"] == "test target, not a lesion"
    assert record["measures"]["sCT"]["protons"]["dvh"] is None
    page = (folder / "index.html").read_text()
    for words in ("not for clinical use", "test target, not a lesion", "not commissioned", "gamma"):
        assert words in page
    table = pd.read_csv(output / "dose.csv")
    assert list(table["modality"]) == ["protons"]
    assert "generic machine" in text


@needs_pyradplan
def test_a_second_run_keeps_the_case_and_other_settings_are_refused(done, case):
    output, _ = done
    before = (output / "p01" / "dose.json").stat().st_mtime_ns
    status, text, _ = of(case, output)
    assert status == 0, text
    assert (output / "p01" / "dose.json").stat().st_mtime_ns == before
    status, text, _ = of(case, output, "--dose-gy", 3)
    assert status == 1
    assert "--overwrite" in text
    assert (output / "p01" / "dose.json").stat().st_mtime_ns == before


@needs_pyradplan
def test_a_folder_that_was_not_made_here_is_not_replaced(case, tmp_path):
    (tmp_path / "p01").mkdir()
    (tmp_path / "p01" / "thesis.txt").write_text("mine")
    status, text, _ = of(case, tmp_path)
    assert status == 1
    assert "not made by this command" in text
    assert (tmp_path / "p01" / "thesis.txt").read_text() == "mine"


def ball(radius_mm: float, centre=(0, 0, 0)) -> np.ndarray:
    return distance_mm(40, 3.0, centre) < radius_mm


@needs_pyradplan
@pytest.mark.parametrize(
    ("changed", "more", "message"),
    [
        ({"ptv": ball(12, (70, 0, 0))}, ("--target",), "outside the body"),
        ({"ptv": ball(0)}, ("--target",), "target: empty"),
        ({"ptv": ball(5)}, ("--target",), "give a smaller --grid-mm"),
        ({"mask": ball(0)}, (), "the mask is empty"),
        ({"ct": ball(54) * 200 + 50.0}, (), "ct.nii.gz"),
    ],
    ids=["target outside", "target empty", "grid too coarse", "no body", "CT not in HU"],
)
def test_bad_input_is_a_line_that_names_it_and_nothing_is_written(tmp_path, changed, more, message):
    paths = write_case(tmp_path / "p01", **changed)
    more = (*more, paths["ptv"]) if more else ()
    status, text, error = of(paths, tmp_path / "out", *more)
    assert status == 1
    assert message in text + error
    assert not (tmp_path / "out" / "p01").exists()


@needs_pyradplan
def test_a_mask_on_another_grid_is_refused(case, tmp_path):
    other = write_case(tmp_path / "other", size=36)
    status, text, error = of(case | {"mask": other["mask"]}, tmp_path / "out")
    assert status == 1
    assert "grid" in text + error


@needs_pyradplan
def test_notes_on_what_is_cut_shared_or_beyond_the_table(tmp_path):
    paths = write_case(tmp_path / "p01", ptv=ball(18), organ=ball(20, (12, 0, 0)))
    ct = nib.load(paths["ct"])
    array = np.asarray(ct.dataobj).copy()
    array[20:22, 20:22, 8:10] = 3050
    nib.save(nib.Nifti1Image(array, ct.affine), paths["ct"])
    status, text, _ = of(paths, tmp_path / "out", "--target", paths["ptv"], "--oar", f"cord={paths['organ']}")
    assert status == 0, text
    record = json.loads((tmp_path / "out" / "p01" / "dose.json").read_text())
    notes = " ".join(record["notes"])
    assert "cord" in notes
    assert "beyond the machines' table" in notes
    assert record["measures"]["sCT"]["protons"]["dvh"] is not None or record["plans"][0]["faults"]


def test_a_body_at_the_edge_of_the_field_is_said():
    from dose_cases import image

    from mrict_core.dose.study import _edges

    inside = ball(54)
    assert not _edges(image(inside.astype(np.uint8)))
    (note,) = _edges(image(inside[10:30].astype(np.uint8)))
    assert "touches the field's edge" in note


def test_without_pyradplan_the_way_to_get_it_is_said(case, tmp_path, monkeypatch):
    def missing():
        raise UnavailableError(f"dose needs {engine.PACKAGE}; install it: {engine.INSTALL}")

    monkeypatch.setattr(engine, "_library", missing)
    status, _, error = of(case, tmp_path / "out")
    assert status == 1
    assert engine.INSTALL in error
    assert not (tmp_path / "out" / "p01").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ("gammas",)}, "unknown modality"),
        ({"modalities": ()}, "no modality"),
        ({"grid_mm": 0.2}, "grid_mm"),
        ({"dose_gy": -1.0}, "dose_gy"),
        ({"targets": 0}, "test targets"),
        ({"modalities": ("photons", "protons", "photons")}, "expected each once"),
    ],
)
def test_settings_out_of_range_are_errors(arguments, message):
    with pytest.raises(MrictError, match=message):
        DoseSettings(**arguments)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--oar", "cord"), "NAME=FILE"),
        (("--oar", "cord=a.nii.gz", "--oar", "cord=b.nii.gz"), "the name cord is given twice"),
        (("--oar", "target=a.nii.gz"), "an organ is named target, as a structure of every plan"),
        (("--oar", "Body=a.nii.gz"), "an organ is named Body, as a structure of every plan"),
        (("--sct", "a.nii.gz"), "MODEL=PATH"),
        (("--ct", "cases.csv"), "its columns name all files"),
    ],
)
def test_options_that_say_too_little_are_errors(case, tmp_path, more, message):
    status, _, error = of(case, tmp_path / "out", *more)
    assert status == 1
    assert message in error


@pytest.mark.parametrize("name", ["CT", "../up", "a/b", ".", ""])
def test_a_synthetic_cts_name_must_suit_files_and_differ_from_the_ct(name, case):
    with pytest.raises(MrictError, match="p01: a synthetic CT is named"):
        DoseCase("p01", case["ct"], {name: case["sct"]}, case["mask"])


def test_the_case_is_named_by_its_file_or_folder(case):
    from mrict_core.cli.dose import _case

    assert _case(case["ct"], {"sCT": case["sct"]}, str(case["mask"]), "", [], "").name == "p01"
    assert isinstance(DoseCase("x", case["ct"], {"m": case["sct"]}, case["mask"]).hashes()["sct m"], str)


def test_a_csv_lists_cases_with_structures(case, tmp_path):
    for name in ("ct", "a", "mask", "ptv"):
        (tmp_path / f"{name}.nii.gz").write_bytes(case["mask"].read_bytes())
    (tmp_path / "rs.dcm").write_bytes(b"structures")
    (tmp_path / "cases.csv").write_text(
        "case;ct;mask;sct mk7;sct water;target;rtstruct;oar cord;oar eye\n"
        "one;ct.nii.gz;mask.nii.gz;a.nii.gz;;ptv.nii.gz;;;\n"
        "two;ct.nii.gz;mask.nii.gz;a.nii.gz;a.nii.gz;PTV 1;rs.dcm;Spinal Cord;\n"
        "three;ct.nii.gz;mask.nii.gz;;;;;;\n"
        "four;ct.nii.gz;mask.nii.gz;a.nii.gz;;gone.nii.gz;;;\n"
        "five;ct.nii.gz;;a.nii.gz;;;;;\n"
        "six;ct.nii.gz;mask.nii.gz;a.nii.gz;;;;;\n"
        "SIX;ct.nii.gz;mask.nii.gz;a.nii.gz;;;;;\n"
        "../up;ct.nii.gz;mask.nii.gz;a.nii.gz;;;;;\n"
    )
    (one, two), problems = cases_of_csv(tmp_path / "cases.csv")
    assert (one.name, list(one.scts), one.target, one.organs) == ("one", ["mk7"], str(tmp_path / "ptv.nii.gz"), {})
    assert (list(two.scts), two.target, two.organs) == (["mk7", "water"], "PTV 1", {"cord": "Spinal Cord"})
    assert two.rtstruct == tmp_path / "rs.dcm"
    said = {"three": "no sct", "four": "gone.nii.gz not found", "five": "no mask", "six": "more than one line",
            "SIX": "more than one line", "../up": "cannot name a folder"}  # fmt: skip
    assert {name: words in problems[name] for name, words in said.items()} == dict.fromkeys(said, True)
    assert set(problems) == set(said)


@pytest.mark.parametrize(
    ("head", "message"),
    [("case,ct,mask", "no column sct"), ("case,ct,mask,sct,ptv", "unknown column ptv"), ("case,ct,sct", "add mask")],
)
def test_a_csv_without_its_columns_is_an_error(tmp_path, head, message):
    (tmp_path / "cases.csv").write_text(f"{head}\n{','.join('x' for _ in head.split(','))}\n")
    with pytest.raises(MrictError, match=message):
        cases_of_csv(tmp_path / "cases.csv")


@needs_pyradplan
def test_a_csv_of_one_good_and_one_bad_case(done, case, tmp_path):
    output, _ = done
    row = ",".join(str(case[role]) for role in ("ct", "mask", "sct"))
    (tmp_path / "cases.csv").write_text(f"case,ct,mask,sct\np01,{row}\np02,{row.replace('ct.nii', 'no.nii', 1)}\n")
    status, text, _ = run("--ct", tmp_path / "cases.csv", "-o", output, *QUICK)
    assert status == 1
    assert "failed: p02: " in text
    table = pd.read_csv(output / "dose.csv").set_index("case")
    assert list(table["status"].sort_index()) == ["kept", "failed"]
