"""Bad input that meets several rooms at once: damaged files, changed data, two commands at a time, a full disk."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import filelock
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import write_patient
from test_cli import main

from mrict_core import files, machine, suite
from mrict_core.data.cache import preprocess as preprocessing
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.checks.hu_values import check_hu
from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.masks import check_mask_fits
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_json, write_json
from mrict_core.inference import load_synthesizer
from mrict_core.paths import Workspace, workspace
from mrict_core.pipeline import evaluate_variant, open_data, prepare_data
from mrict_core.suite import run_suite
from mrict_core.training.checkpoint import load_checkpoint, save_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import SEED_MAX, TrainSettings

SMOKE, MK1 = get_profile("smoke"), get("mk1")
CPU = TrainSettings(device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for number in range(1, 4):
        write_patient(root / f"1BA{number:03d}", seed=number)
    return root


@pytest.fixture
def own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A private copy of three patients, prepared."""
    for name in ("data", "checkpoints", "reports"):
        monkeypatch.setenv(f"MRICT_{name.upper()}", str(tmp_path / name))
    shutil.copytree(source, tmp_path / "cohort")
    return prepare_data("smoke", str(tmp_path / "cohort"), report=lambda line: None).workspace


def header(path: Path, offset: int, code: str, *values: float) -> None:
    """Overwrite bytes of a NIfTI header."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(f"<{code}", content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def colours(path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), kind), np.eye(4)), path)


HEADERS = {
    "offset beyond every file": (lambda p: header(p, 108, "f", 1e30), "vox_offset is 1e\\+30"),
    "offset not a number": (lambda p: header(p, 108, "f", float("nan")), "vox_offset is nan"),
    "more voxels than memory": (lambda p: header(p, 40, "4h", 3, 32767, 32767, 32767), "cannot be read"),
    "negative size": (lambda p: header(p, 40, "4h", 3, -40, 46, 10), "holds no voxel"),
    "colours": (colours, "one number per voxel"),
    "complex": (
        lambda p: nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.complex64), np.eye(4)), p),
        "one number per voxel",
    ),
    "metres": (
        lambda p: nib.save(nib.Nifti1Image(np.ones((4, 5, 6)), np.diag([1e-3] * 3 + [1])), p),
        "0.05 to 50 mm",
    ),
    "huge": (lambda p: nib.save(nib.Nifti1Image(np.ones((4, 5, 6)), np.diag([1e6] * 3 + [1])), p), "0.05 to 50 mm"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_headers_are_one_line(source: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "mr.nii.gz"
    shutil.copy(source / "1BA001" / "mr.nii.gz", path)
    damage, message = HEADERS[case]
    damage(path)
    with pytest.raises(MrictError, match=message) as caught:
        load_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # nibabel's own remarks name no file


def test_an_unforeseen_fault_of_one_patient_does_not_end_the_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = preprocessing._prepare

    def failing(job: preprocessing.Job) -> None:
        if job.files.patient == "1BA002":
            raise ZeroDivisionError("odd")
        prepare(job)

    monkeypatch.setattr(preprocessing, "_prepare", failing)
    store = preprocessing.preprocess(source, tmp_path / "store", region="brain", size=64)
    assert store.patients == ["1BA001", "1BA003"]
    assert "1BA002: cannot be prepared (ZeroDivisionError: odd)" in store.skipped[0]["reason"]
    with pytest.raises(MrictError, match="ZeroDivisionError"):
        preprocessing.preprocess(source, tmp_path / "strict", region="brain", size=64, strict=True)


def test_patients_that_are_no_folder_are_listed(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "1BA001", tmp_path / "1BA001")
    (tmp_path / "1BA002").write_text("no folder")
    (tmp_path / "1BA003").symlink_to(tmp_path / "1BA003")
    (tmp_path / "1BA004").symlink_to("/nowhere")
    found = discover(tmp_path, "brain")
    assert [p.patient for p in found.patients] == ["1BA001"]
    assert [s.patient for s in found.skipped] == ["1BA002", "1BA003", "1BA004"]
    assert all("expected a patient's folder" in s.reason for s in found.skipped)


def test_masks_far_from_the_body_are_refused() -> None:
    body = np.zeros((10, 20, 20), bool)
    body[:, 5:15, 5:15] = True
    check_mask_fits(np.pad(body, 2)[2:-2, 1:-3, 1:-3], body, "mask.nii.gz")
    aside, speck, organ = (np.zeros_like(body) for _ in range(3))
    aside[:, :5], speck[5, 10, 10], organ[3:8, 8:13, 8:12] = True, True, True
    check_mask_fits(organ, body, "mask.nii.gz")
    for mask in (aside, speck, ~body):
        with pytest.raises(MrictError, match=r"mask\.nii\.gz: \d+ of \d+ voxels of the mask are in the body"):
            check_mask_fits(mask, body, "mask.nii.gz")


def test_a_ct_of_wrong_sign_is_refused() -> None:
    ct = np.full((8, 20, 20), 1000.0)
    ct[:, 5:15, 5:15] = -40
    ct[0, 10, 10] = -900
    with pytest.raises(MrictError, match="sign inverted"):
        check_hu(ct, "ct.nii.gz", ct < 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smoke", "", "knee"), "unknown region 'knee'"),
        (("smoke", "", "../../x"), "unknown region"),
        (("smoke", "", "brain", "patien"), "did you mean 'patient'"),
        (("smoke", "x" * 5000), "not a usable folder"),
        (("smoke", "a\0b"), "not a usable folder"),
        (("smoke", "~no_such_user_here/x"), "not a usable folder"),
    ],
)
def test_wrong_places_and_names(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(MrictError, match=message):
        workspace(*arguments)


def test_a_loop_of_links_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MrictError, match=r"loop: (not a usable|no such) folder"):
        workspace("smoke", tmp_path / "loop")


@pytest.mark.parametrize("device", ["mps", "meta", "cpu:7", "gpu", "cuda:abc", "cuda:999", ""])
def test_devices_the_suite_does_not_run_on(device: str) -> None:
    with pytest.raises(MrictError, match=f"device '{device}'"):
        machine.pick_device(device)


@pytest.mark.parametrize("settings", [{"seed": 2**70}, {"seed": -SEED_MAX - 1}, {"max_pairs": 0}, {"max_pairs": -3}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(MrictError, match="expected"):
        TrainSettings(**settings)


INDEXES = {
    "no files": lambda index: index | {"files": []},
    "files of nothing": lambda index: index | {"files": {"a": 3}},
    "patients of nothing": lambda index: index | {"patients": {"1BA001": 5}},
    "skipped of nothing": lambda index: index | {"skipped": [1]},
    "unknown protocol": lambda index: index | {"settings": index["settings"] | {"protocol": "x"}},
    "null": lambda index: None,
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_damaged_index_is_made_again(own: Workspace, case: str) -> None:
    path = own.store / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(INDEXES[case](index)))
    if case in ("patients of nothing", "unknown protocol", "null"):
        with pytest.raises(MrictError, match=r"index\.json: not the index"):
            SliceStore(own.store)
    prepare_data("smoke", str(own.data_dir), report=lambda line: None)
    assert json.loads(path.read_text()) == index


@pytest.mark.parametrize("keep", [0, 10, 200, -5])
def test_a_cut_array_is_made_again(own: Workspace, keep: int) -> None:
    path = own.store / "1BA002" / "ct.npy"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(MrictError, match=r"ct\.npy: cannot be read"):
        SliceStore(own.store).slices("1BA002")
    prepare_data("smoke", str(own.data_dir), report=lambda line: None)
    assert path.read_bytes() == content


def test_a_damaged_meta_is_named_and_made_again(own: Workspace) -> None:
    path = own.store / "1BA002" / "meta.json"
    content = path.read_text()
    path.write_text("[]")
    with pytest.raises(MrictError, match=r"meta\.json: not the record"):
        SliceStore(own.store).meta("1BA002")
    prepare_data("smoke", str(own.data_dir), report=lambda line: None)
    assert path.read_text() == content


def test_what_the_canvas_cuts_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "data"))
    write_patient(tmp_path / "cohort" / "1BA001", 1, (160, 160, 6))
    lines: list[str] = []
    prepare_data("smoke", str(tmp_path / "cohort"), report=lines.append)
    assert any("1BA001: the canvas of 64 px cuts off" in line for line in lines)


def test_files_replaced_after_preprocessing_are_noticed(own: Workspace) -> None:
    train(MK1, SMOKE, own, CPU, report=lambda line: None)
    _, split = open_data(own)
    held_out, learned = (own.data_dir / ids[0] / "ct.nii.gz" for ids in (split.test, split.train))
    os.utime(held_out)  # touched, not changed
    record, _ = evaluate_variant(MK1, SMOKE, own, device="cpu")
    assert record["n"] == 1
    content = held_out.read_bytes()
    shutil.copy(learned, held_out)
    with pytest.raises(MrictError, match=r"ct\.nii\.gz: changed since it was prepared; run preprocess"):
        evaluate_variant(MK1, SMOKE, own, device="cpu")
    held_out.unlink()
    assert evaluate_variant(MK1, SMOKE, own, device="cpu")[0] == record, "nothing needs the file again"
    shutil.rmtree(own.metrics)
    with pytest.raises(MrictError, match=r"ct\.nii\.gz: can no longer be read .* restore it"):
        evaluate_variant(MK1, SMOKE, own, device="cpu")
    held_out.write_bytes(content)
    image = nib.load(learned)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj) + np.int16(1), image.affine), learned)
    with pytest.raises(MrictError, match="changed since it was prepared"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)
    prepare_data("smoke", str(own.data_dir), report=lambda line: None)
    with pytest.raises(MrictError, match=r"data or settings changed.*train mk1 again"):
        evaluate_variant(MK1, SMOKE, own, device="cpu")


def test_training_without_its_source_goes_on_from_the_store(own: Workspace) -> None:
    shutil.rmtree(own.data_dir)
    own.data_dir.mkdir()
    assert train(MK1, SMOKE, own, CPU, report=lambda line: None).complete


@pytest.fixture
def trained(own: Workspace) -> Path:
    """The checkpoint folder of a trained mk1."""
    return train(MK1, SMOKE, own, CPU, report=lambda line: None).best.parent


def test_one_wrong_byte_in_a_checkpoint_is_found(trained: Path) -> None:
    path = trained / "best.pt"
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 0xFF  # in the weights: torch itself reads it without a word
    path.write_bytes(content)
    with pytest.raises(MrictError, match=r"best\.pt: not a readable checkpoint .*delete it"):
        load_checkpoint(path)


def rewritten(path: Path, change: dict, drop: tuple[str, ...] = ()) -> None:
    payload = load_checkpoint(path) | change
    torch.save({key: value for key, value in payload.items() if key not in drop}, path)


def test_checkpoints_that_lack_something_are_refused(own: Workspace, trained: Path) -> None:
    best, last = trained / "best.pt", trained / "last.pt"
    rewritten(best, {"networks": {}})
    with pytest.raises(MrictError, match=r"best\.pt: has no network G"):
        load_synthesizer(best, device="cpu")
    rewritten(best, {"fields": {}})
    with pytest.raises(MrictError, match="train the variant again"):
        load_synthesizer(best, device="cpu")
    unfinish(trained)
    rewritten(last, {}, drop=("optimizers",))
    with pytest.raises(MrictError, match=r"last\.pt: no optimizers"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)
    rewritten(last, {"optimizers": {}}, drop=("history",))
    with pytest.raises(MrictError, match=r"last\.pt: a history of 0 epochs after epoch 1"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)
    rewritten(last, {"key": "another"})
    with pytest.raises(MrictError, match=r"last\.pt: of training another, but its folder is of training"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)
    rewritten(last, {}, drop=("fields", "size"))
    with pytest.raises(MrictError, match=r"last\.pt: not a complete checkpoint .* fields, size missing"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)


def unfinish(folder: Path) -> None:
    """Make a training look as if it had been stopped."""
    write_json(folder / "run.json", read_json(folder / "run.json") | {"complete": False})


def test_a_checkpoint_of_another_profile_is_not_scored(own: Workspace, trained: Path) -> None:
    write_json(trained / "run.json", read_json(trained / "run.json") | {"profile": "demo"})
    with pytest.raises(MrictError, match=r"trained with profile demo .* profile smoke"):
        evaluate_variant(MK1, SMOKE, own, device="cpu")


def test_a_full_disk_is_said_by_checkpoints_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0\nat inline_container.cc")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MrictError, match=r"last\.pt: cannot be written \(disk full\? .*free space"):
        save_checkpoint(tmp_path / "last.pt", {})
    assert list(tmp_path.iterdir()) == []


def test_equal_checkpoints_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, {"networks": {"G": {"w": torch.ones(3)}}})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_two_trainings_of_a_variant_do_not_mix(own: Workspace, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.05)
    before = (trained / "best.pt").read_bytes()
    unfinish(trained)
    with filelock.FileLock(trained / ".lock"), pytest.raises(MrictError, match="another process trains mk1"):
        train(MK1, SMOKE, own, CPU, report=lambda line: None)
    assert (trained / "best.pt").read_bytes() == before


def test_leftovers_of_a_killed_training_are_swept(own: Workspace, trained: Path) -> None:
    (trained / f"{files.NEW}last.pt.killed.pt").write_bytes(b"half")
    unfinish(trained)
    train(MK1, SMOKE, own, CPU, report=lambda line: None)
    assert sorted(p.name for p in trained.iterdir()) == [
        ".lock",
        "best.pt",
        "history.csv",
        "last.pt",
        "run.json",
        "samples",
    ]


def test_a_suite_runs_once_at_a_time_and_mends_damaged_stamps(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.05)
    own.executed.mkdir(parents=True)
    with filelock.FileLock(own.executed / ".lock"), pytest.raises(MrictError, match="another process runs the"):
        run_suite("smoke", str(own.data_dir), variants="mk1", only="00", say=lambda line: None)
    stamp = own.executed / "00_preprocess_and_mask.json"
    stamp.write_text("[ damaged")
    executed = []
    monkeypatch.setattr(suite, "execute", lambda step, *_, **__: executed.append(step.name))
    run_suite("smoke", str(own.data_dir), variants="mk1", only="00", say=lambda line: None)
    assert executed == ["00_preprocess_and_mask"]


def test_an_empty_data_option_is_not_the_phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRICT_DATA", str(tmp_path))
    done = main("preprocess", "--profile", "smoke", "--data", "")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --data is empty")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_two_lines_stays_one_line_of_error() -> None:
    done = main("preprocess", "--profile", "smoke", "--data", "a\nb")
    assert done.returncode == 1
    assert done.stderr == "error: a b: no such folder; give a folder of patients with mr, ct and mask files\n"
