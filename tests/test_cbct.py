"""Cone-beam CT as input: files, checks, preparation, phantoms, baselines, words, and the commands."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.text import Text
from tiny_models import untrained_checkpoint
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.data.cache.fingerprint import fingerprint
from mrict_core.data.cache.patient import body_of, prepare_mr
from mrict_core.data.discovery import Kind, discover
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.intensity import check_input
from mrict_core.data.phantom import PhantomSpec, make_patient, phantom_ids
from mrict_core.errors import MrictError
from mrict_core.evaluation.baselines import baseline_predictions
from mrict_core.evaluation.controls import control_predictions
from mrict_core.evaluation.samples import sample_rows
from mrict_core.experiments.profiles import get_profile
from mrict_core.hu import SYNTHRAD2023
from mrict_core.inference.synthesizer import check_store, load_synthesizer
from mrict_core.inference.volume import synthesize_volume
from mrict_core.modalities import CBCT, MR, modality_named
from mrict_core.models.catalogue import Entry, for_region
from mrict_core.paths import workspace
from mrict_core.pipeline import prepare_data
from mrict_core.pipeline.cases import find_cases
from mrict_core.pipeline.report import title_of
from mrict_core.pipeline.submission import run_challenge
from mrict_core.reporting.images import pairs_figure

SPEC = PhantomSpec("brain", 6.0, 6.0)


def texts(figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The smoke profile's phantoms with simulated CBCT, prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRICT_DATA", str(tmp_path_factory.mktemp("cbct")))
        yield prepare_data("smoke", modality="cbct", report=lambda _: None)


@pytest.fixture(scope="module")
def model(prepared, tmp_path_factory):
    """An untrained network that reads CBCT."""
    path = tmp_path_factory.mktemp("models") / "cbct.pt"
    learned = fingerprint(prepared.store, prepared.store.patients)
    return untrained_checkpoint(path, size=prepared.store.size, fingerprint=learned)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MR inside the body mask", "CBCT inside the body mask"),
        ("the MR's body; an MR, two MRs. An MR.", "the CBCT's body; a CBCT, two CBCTs. A CBCT."),
        ("MR-to-CT synthesis from MRI", "CBCT-to-CT synthesis from CBCT"),
        ("/data/MR/x/MR.nii.gz: an MR of MRICT", "/data/MR/x/MR.nii.gz: a CBCT of MRICT"),
        ("MR.nii.gz: no MR.", "MR.nii.gz: no CBCT."),
        ("my_MR and MR_1 in data/MR stay", "my_MR and MR_1 in data/MR stay"),
    ],
)
def test_words(text: str, said: str) -> None:
    assert CBCT.words(text) == said
    assert MR.words(text) == text


def test_unknown_inputs_are_named() -> None:
    with pytest.raises(MrictError, match="unknown input 'cbc': did you mean 'cbct'"):
        modality_named("cbc")


# -------------------------------------------------------------------------------- phantoms


def test_phantoms_are_equal_in_every_call_and_look_like_cbct() -> None:
    first, again = (make_patient("2BA001", 3, SPEC) for _ in range(2))
    assert np.array_equal(first.mr, again.mr)
    body, ct = first.mask > 0, first.ct.astype(float)
    seen = body & (first.mr > -1000)
    error = (first.mr - ct)[seen & (ct > 0) & (ct < 100)]
    assert -220 < error.mean() < -20, "soft tissue is darkened by cupping"
    assert error.std() > 15, "and noisy"
    assert np.corrcoef(first.mr[seen], ct[seen])[0, 1] > 0.95
    assert first.mr.min() == -1024
    assert first.mr.max() <= 3071


def test_the_field_of_a_pelvis_is_cut() -> None:
    patient = make_patient("2PA001", 0, PhantomSpec("pelvis", 9.0, 12.0))
    tissue = patient.ct > -200
    assert 0.03 < np.mean(patient.mr[tissue] == -1024) < 0.6


def test_ids_and_mr_of_task_1_stay() -> None:
    assert phantom_ids("brain", 1) == ["1BA001", "1BB001", "1BC001"]
    assert phantom_ids("brain", 1, CBCT) == ["2BA001", "2BB001", "2BC001"]
    assert make_patient("1BA001", 3, SPEC).mr.min() >= 0


# -------------------------------------------------------------------------------- files and their checks


def test_cbct_and_mr_of_one_folder_are_kept_apart(prepared, tmp_path: Path) -> None:
    root = prepared.workspace.data_dir
    shutil.copytree(root / "Task2/brain/2BA001", tmp_path / "2BA001")
    mr = shutil.copytree(root / "Task2/brain/2BA002", tmp_path / "1BA002")
    (mr / "cbct.nii.gz").rename(mr / "mr.nii.gz")
    for modality, patient in (("mr", "1BA002"), ("cbct", "2BA001")):
        found = discover(tmp_path, "brain", modality=modality)
        assert [p.patient for p in found.patients] == [patient]
        assert found.patients[0].mr.name == f"{modality}.nii.gz"
        assert [a.kind for a in found.aside] == [Kind.ELSEWHERE]
        assert found.skipped == ()


def test_the_other_input_is_named_where_there_is_no_patient(prepared) -> None:
    with pytest.raises(MrictError, match=r"no patient found.*--input cbct"):
        discover(prepared.workspace.data_dir / "Task2", "brain")


def test_a_single_patient_of_the_other_input_is_no_folder_of_patients(prepared) -> None:
    with pytest.raises(MrictError, match=r"no patient found.*choose --input cbct"):
        discover(prepared.workspace.data_dir / "Task2/brain/2BA001", "brain")


def test_a_patient_of_this_task_without_its_input_is_skipped(prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.workspace.data_dir / "Task2/brain/2BA001", tmp_path / "Task1/brain/1BA001")
    found = discover(tmp_path, "brain")
    assert "mr.nii.gz is missing; expected mr, ct and mask; add it" in found.skipped[0].reason


def test_a_missing_cbct_is_named(prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.workspace.data_dir / "Task2/brain/2BA001", tmp_path / "2BA001")
    (tmp_path / "2BA001" / "cbct.nii.gz").unlink()
    found = discover(tmp_path, "brain", modality="cbct")
    assert "cbct.nii.gz is missing; expected cbct, ct and mask; add it" in found.skipped[0].reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a * 0 + 7, "CBCT has the constant value 7"),
        (lambda a: (a > 0) * 2000.0 - 1000, "holds only the values -1000 and 1000, like a mask"),
        (lambda a: a + 1024, "expected a CBCT in HU, with air near -1000"),
        (lambda a: a / 4000, "expected a CBCT in HU"),
    ],
)
def test_values_that_are_not_hu_are_refused(change, said: str, prepared) -> None:
    image = load_volume(prepared.workspace.data_dir / "Task2/brain/2BA001/cbct.nii.gz")
    check_input(image.array, image.path, CBCT)
    with pytest.raises(MrictError, match=said):
        check_input(change(np.asarray(image.array, np.float32)), image.path, CBCT)
    with pytest.raises(MrictError, match="look like a CT"):
        check_input(image.array, image.path, MR)


def test_a_ct_in_place_of_the_cbct_is_skipped(prepared, tmp_path: Path) -> None:
    root = prepared.workspace.data_dir / "Task2/brain"
    for patient in ("2BA001", "2BA002", "2BB001", "2BB002"):
        shutil.copytree(root / patient, tmp_path / "in" / patient)
    shutil.copy(tmp_path / "in/2BA001/ct.nii.gz", tmp_path / "in/2BA001/cbct.nii.gz")
    found = prepare_data("smoke", tmp_path / "in", modality="cbct", report=lambda _: None)
    assert [skip["patient"] for skip in found.left_out] == ["2BA001"]
    assert "holds the voxels of the CT" in found.left_out[0]["reason"]
    assert found.split is not None


# -------------------------------------------------------------------------------- preparation and scores


def test_the_cache_keeps_the_scale(prepared) -> None:
    store = prepared.store
    assert store.modality == CBCT
    assert prepared.workspace.name == "smoke-phantom-brain-cbct"
    assert store.index["settings"]["modality"] == "cbct"
    slices = store.slices("2BA001")
    meta = store.meta("2BA001")
    assert meta["mr_range"] == [SYNTHRAD2023.low, SYNTHRAD2023.high]
    assert store.source("2BA001", "mr").name == "cbct.nii.gz"
    cbct = load_volume(store.source("2BA001", "mr")).array
    back = store.to_volume("2BA001", np.where(slices.body > 0, SYNTHRAD2023.to_hu(slices.mr), -1024))
    inside = store.to_volume("2BA001", np.asarray(slices.body, np.float32)) > 0
    assert np.abs(back - cbct)[inside].max() < 2, "half precision costs about 1 HU"


def test_an_mr_cache_has_the_settings_of_before(tmp_path: Path, prepared) -> None:
    root = tmp_path / "in"
    for patient in ("2BA001", "2BA002", "2BB001"):
        shutil.copytree(prepared.workspace.data_dir / "Task2/brain" / patient, root / patient)
        image = nib.load(root / patient / "cbct.nii.gz")
        mr = np.abs(np.asarray(image.dataobj, np.float32) + 1024)
        nib.save(nib.Nifti1Image(mr, image.affine), root / patient / "mr.nii.gz")
    store = prepare_data("smoke", root, report=lambda _: None).store
    assert store.index["settings"] == {"protocol": "patient", "size": store.size, "region": "brain"}
    assert store.modality == MR


def test_the_body_is_that_of_the_mask(prepared) -> None:
    for patient in prepared.store.patients:
        slices = prepared.store.slices(patient)
        tissue = (np.asarray(slices.ct) > -200) & (np.asarray(slices.mask) > 0)
        assert np.mean(np.asarray(slices.body)[tissue] > 0) > 0.95, patient


def test_the_cbct_itself_is_a_baseline_and_no_control(prepared) -> None:
    store, split = prepared.store, prepared.split
    baselines = baseline_predictions(store, split.train)
    assert list(baselines)[-1] == "baseline_input"
    slices = store.slices(split.test[0])
    body = np.asarray(slices.body) > 0
    hu = baselines["baseline_input"].slices(split.test[0])
    assert np.abs(hu[body] - SYNTHRAD2023.to_hu(np.asarray(slices.mr))[body]).max() <= 0.5
    assert (hu[~body] == -1024).all()
    errors = {
        name: np.abs(own.slices(split.test[0]) - slices.ct.astype(float))[slices.mask > 0].mean()
        for name, own in baselines.items()
    }
    assert min(errors, key=errors.get) in ("baseline_input", "baseline_rank_map")
    assert "control_copy_of_mr" not in control_predictions(store)


def test_figures_name_the_input(prepared) -> None:
    rows = sample_rows(prepared.store, prepared.split.test)
    assert {row["input"] for row in rows} == {"CBCT"}
    figure = pairs_figure(rows, title="Training pairs", label="smoke test")
    assert "CBCT, body mask" in texts(figure)
    assert "MR" not in texts(figure).split()
    assert any(image.get_clim() == pytest.approx(CBCT.greys) for image in figure.findobj(AxesImage)), "shown in HU"
    mr = pairs_figure([{**row, "input": "MR"} for row in rows], title="Training pairs", label="smoke test")
    assert "MR, body mask" in texts(mr)


def test_titles_name_the_input() -> None:
    assert title_of(MR) == "MRICT: synthetic CT from MRI"
    assert title_of(CBCT) == "MRICT: synthetic CT from CBCT"


# -------------------------------------------------------------------------------- models


def test_a_model_knows_what_it_reads(model, prepared) -> None:
    synthesizer = load_synthesizer(model, device="cpu")
    assert synthesizer.facts.modality == CBCT
    check_store(synthesizer, prepared.store)
    other = dataclasses.replace(
        synthesizer, facts=dataclasses.replace(synthesizer.facts, fingerprint={"patients": 1, "features": {}})
    )
    with pytest.raises(MrictError, match="trained on MR, the slices are of CBCT"):
        check_store(other, prepared.store)
    with pytest.raises(MrictError, match="models of CBCT and MR in one ensemble"):
        synthesize_volume([synthesizer, other], load_volume(prepared.store.source("2BA001", "mr")))


def test_a_volume_is_prepared_as_in_training(model, prepared) -> None:
    store, volume = prepared.store, load_volume(prepared.store.source("2BA001", "mr"))
    alone = prepare_mr(volume, store.size, modality=CBCT, body=body_of(volume, CBCT))
    meta = store.meta("2BA001")
    both = np.isin(alone.z, meta["z"])
    kept = np.isin(meta["z"], alone.z)
    assert alone.mr[both] == pytest.approx(np.asarray(store.slices("2BA001").mr, np.float32)[kept], abs=1e-3)
    assert synthesize_volume(load_synthesizer(model, device="cpu"), volume).facts["mr_range"] == [-1024.0, 3000.0]


def test_synthesize_reads_cbct_in_its_words(model, prepared, tmp_path: Path) -> None:
    source, page = prepared.store.source("2BA001", "mr"), tmp_path / "qa.html"
    told = ["synthesize", str(source), "-o", str(tmp_path / "sct.nii.gz"), "--model", str(model), "--device", "cpu"]
    result = CliRunner().invoke(cli.app, [*told, "--qa", str(page)])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "sct.json").read_text())
    assert facts["mr_range"] == [-1024.0, 3000.0]
    html = page.read_text(encoding="utf-8")
    assert 'alt="CBCT, synthetic CT' in html
    assert "<th>CBCT</th>" in html
    wrong = CliRunner().invoke(cli.app, [*told, "--input", "mr", "--overwrite"])
    assert "reads CBCT, the input is MR; expected the same; give --input cbct" in str(wrong.exception)


def test_a_container_of_task_2(model, prepared, tmp_path: Path) -> None:
    source = prepared.store.source("2BA001", "mr").parent
    for folder, name in (("cbct", "cbct"), ("body", "mask")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(source / f"{name}.nii.gz", tmp_path / "images" / folder / "case.nii.gz")
    lines: list[str] = []
    assert run_challenge(tmp_path, tmp_path / "out", [str(model)], device="cpu", report=lines.append) == {}
    assert (tmp_path / "out/images/synthetic-ct/case.nii.gz").is_file()
    assert lines[-1].endswith("1 written, 0 kept, 0 failed, 0 left out, 0 no CBCT")
    (tmp_path / "images/cbct").rename(tmp_path / "images/mri")
    with pytest.raises(MrictError, match="reads CBCT, the input is MR; expected the same; give another --model"):
        run_challenge(tmp_path, tmp_path / "out", [str(model)], device="cpu", report=lines.append)


def test_cases_of_cbct_are_found(prepared, tmp_path: Path) -> None:
    root = prepared.workspace.data_dir
    found = find_cases(root, tmp_path / "out", modality="cbct")
    assert [case.name for case in found.cases] == prepared.store.patients
    assert {case.source.name for case in found.cases} == {"cbct.nii.gz"}
    assert (found.failed, found.left_out) == ({}, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MrictError, match=r"expected a file for each case, or a folder with a file named cbct$"):
        find_cases(tmp_path / "empty", tmp_path / "out", modality="cbct")


def test_the_best_model_is_chosen_by_input(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"region": "brain", "makes_ct": True, "mae_hu": 50.0}
    every = [Entry("a", "1", Path("a"), **common), Entry("b", "2", Path("b"), modality="cbct", **common)]
    monkeypatch.setattr("mrict_core.models.catalogue.entries", lambda root=None: every)
    assert [entry.variant for entry in for_region("brain")[0]] == ["a"]
    assert [entry.variant for entry in for_region("brain", modality="cbct")[0]] == ["b"]
    with pytest.raises(MrictError, match=r"no published model for pelvis of cbct .*--input cbct"):
        for_region("pelvis", modality="cbct")


# -------------------------------------------------------------------------------- commands


@pytest.mark.slow
def test_training_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    common = ["--profile", "smoke", "--input", "cbct"]
    for command in (["train", "mk7_1", *common, "--steps", "4"], ["evaluate", "mk7_1", *common], ["report", *common]):
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
    space = workspace(get_profile("smoke").name, modality="cbct")
    page = (space.reports / "index.html").read_text(encoding="utf-8")
    assert "MRICT: synthetic CT from CBCT" in page
    assert "a model’s output for a CBCT" in page
    assert 'title: "CBCT"' in page
    assert "baseline_input" in page
    card = next((tmp_path / "mrict_checkpoints" / "mk7_1").glob("*/README.md")).read_text(encoding="utf-8")
    assert "CBCT to synthetic CT in HU" in card
    assert json.loads((space.metrics / "mk7_1.json").read_text())["context"]["input"] == "CBCT"
