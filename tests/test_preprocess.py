"""Preprocessing and the dataset cache: contents, inverses, resuming, and what happens to bad patients."""

from __future__ import annotations

import errno
import gzip
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import filelock
import nibabel as nib
import numpy as np
import pytest
from samples import sample

from mrict_core.data.cache import keys, store
from mrict_core.data.cache import preprocess as preprocessing
from mrict_core.data.cache.patient import prepare_mr
from mrict_core.data.cache.preprocess import in_plane_shapes, preprocess
from mrict_core.data.cache.store import SliceStore, StoreWriteError
from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.masks import union_otsu_mask
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import hash_of, read_json, write_json

SHAPE = (44, 50, 7)  # columns, rows, slices of the patient lying as RAS
SIZE = 40


def anatomy(seed: int) -> dict[str, np.ndarray]:
    """Return mr, ct (whole HU) and mask of an off-centre head in RAS order; the last slice is air."""
    random = np.random.RandomState(seed)
    x, y, _ = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1], 0 : SHAPE[2]]
    radius = np.hypot((x - 26) / 15.0, (y - 22) / 18.0)
    radius[..., -1] = 9
    mr = np.select([radius < 0.75, radius < 0.85, radius < 1], [500.0, 40.0, 700.0], 0.0) + 30 * (y - 22) / 18.0
    ct = np.select([radius < 0.75, radius < 0.85, radius < 1], [35.0, 1100.0, -80.0], -1000.0)
    return {
        "mr": np.abs(mr * (radius < 1) + random.normal(0, 6, SHAPE)).astype(np.float32),
        "ct": np.round(ct + random.normal(0, 9, SHAPE)).clip(-1024).astype(np.int16),
        "mask": (radius < 1.1).astype(np.uint8),
    }


def write_patient(folder: Path, seed: int = 0, code: str = "RAS", tilt: bool = False, **changes: np.ndarray) -> Path:
    """Write a patient whose files are stored in the axis order `code`."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.1, 1.1, 3.0, 1.0])
    if tilt:
        affine[:3, :3] = np.array([[0.97, -0.17, -0.17], [0.17, 0.98, -0.03], [0.17, 0.0, 0.98]]) @ affine[:3, :3]
    for role, array in {**anatomy(seed), **changes}.items():
        image = nib.Nifti1Image(array, affine)
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
        )
        nib.save(image.as_reoriented(turn), folder / f"{role}.nii.gz")
    return folder


def prepare(source: Path, folder: Path, **settings: object) -> SliceStore:
    return preprocess(source, folder, **{"region": "brain", "size": SIZE, **settings})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three good patients."""
    for seed, patient in enumerate(("1BA001", "1BA002", "1BB001")):
        write_patient(tmp_path / "source" / "Task1" / "brain" / patient, seed)
    return tmp_path / "source"


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return (time, content) of every file of a store but its lock."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_store_holds_what_the_protocol_says(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store")
    assert (store.patients, store.skipped) == (["1BA001", "1BA002", "1BB001"], [])
    assert (store.size, store.protocol, store.window.low, store.window.high) == (SIZE, "patient", -1024, 3000)
    assert store.counts() == dict.fromkeys(store.patients, 6)  # the slice of air is left out
    assert [store.centre(p) for p in store.patients] == ["A", "A", "B"]
    slices, truth = store.slices("1BA002"), anatomy(1)
    assert isinstance(slices.mr, np.memmap)
    assert [a.dtype.name for a in (slices.mr, slices.ct, slices.mask, slices.body)] == [
        *("float16", "int16", "uint8", "uint8")
    ]
    assert slices.z.tolist() == [0, 1, 2, 3, 4, 5]
    assert (slices.mr[slices.body == 0] == -1).all()
    assert slices.mr[slices.body == 1].max() == 1
    assert (slices.ct[slices.mask == 0] == -1024).all()
    assert slices.mask.sum() == truth["mask"].sum()  # off-centre, yet not cut
    assert sorted(slices.ct[slices.mask == 1]) == sorted(truth["ct"][truth["mask"] == 1])
    overlap = (slices.body & slices.mask).sum() / slices.body.sum()
    assert overlap > 0.97
    assert store.meta("1BA002")["spacing_mm"] == pytest.approx([3.0, 1.1, 1.1])
    assert store.meta("1BA002")["mask_voxels_cropped"] == 0


def test_mr_keeps_one_range_over_the_volume(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store")
    low, high = store.meta("1BA001")["mr_range"]
    slices, mr = store.slices("1BA001"), anatomy(0)["mr"]
    restored = (slices.mr.astype(float) + 1) / 2 * (high - low) + low
    inside = (slices.body == 1) & (slices.mr > -1) & (slices.mr < 1)
    column = np.sort(restored[inside])
    expected = np.sort(mr[(mr > low) & (mr < high)])
    assert np.isin(np.round(column[::50]), np.round(expected)).mean() > 0.9
    assert low < 60
    assert 650 < high < 760


@pytest.mark.parametrize(
    ("code", "tilt"), [("RAS", False), ("LPS", False), ("PIR", False), ("SRA", False), ("ILP", True), ("ASL", True)]
)
def test_slices_come_back_onto_the_files_grid(tmp_path: Path, code: str, tilt: bool) -> None:
    write_patient(tmp_path / "source" / "1BA001", 3, code, tilt)
    store = prepare(tmp_path / "source", tmp_path / "store")
    slices = store.slices("1BA001")
    ct, mask, mr = store.reference("1BA001")
    back = store.to_volume("1BA001", slices.ct)
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, np.where(mask, ct.array, -1024))
    assert mr.shape == back.shape
    upright = write_patient(tmp_path / "upright" / "1BA001", 3)
    reference = prepare(upright.parent, tmp_path / "second").slices("1BA001")
    np.testing.assert_array_equal(slices.ct, reference.ct)  # every file order gives the same picture


def test_cropped_voxels_are_counted_and_come_back_as_air(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store", size=16)
    ct, mask, _ = store.reference("1BA001")
    back = store.to_volume("1BA001", store.slices("1BA001").ct)
    kept = back != -1024
    np.testing.assert_array_equal(back[kept], ct.array[kept])
    lost = store.meta("1BA001")["mask_voxels_cropped"]
    assert lost == mask.sum() - store.slices("1BA001").mask.sum() > 0


def test_fractional_hu_are_kept(tmp_path: Path) -> None:
    ct = anatomy(0)["ct"] + np.float32(0.25)
    write_patient(tmp_path / "source" / "1BA001", ct=ct)
    store = prepare(tmp_path / "source", tmp_path / "store")
    assert store.slices("1BA001").ct.dtype == np.float32
    mask = anatomy(0)["mask"] == 1
    np.testing.assert_array_equal(store.to_volume("1BA001", store.slices("1BA001").ct)[mask], ct[mask])


def test_predecessor_protocol_follows_lineage(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store", protocol="predecessor", size=45)
    files, slices = anatomy(0), store.slices("1BA001")
    union = union_otsu_mask(files["mr"].astype(float), files["ct"])
    assert slices.z.tolist() == list(range(SHAPE[2]))  # every slice, the one of air too
    for k in range(SHAPE[2]):
        mr = files["mr"][:, :, k].astype(float)
        mr = (mr - mr.min()) / (mr.max() - mr.min() + 1e-5) * union[:, :, k]
        ct = (files["ct"][:, :, k].clip(-1000, 1000) + 1000.0) / 2000 * union[:, :, k]
        for images, unit in ((mr, slices.mr[k].astype(float)), (ct, store.window.to_unit(slices.ct[k]))):
            expected = np.pad(images, [(1, 0), (0, 0)])[:, 2:-3]  # 44 rows: one on top; 50 columns: 2 left, 3 right
            np.testing.assert_allclose((unit + 1) / 2, expected, atol=3e-4)
    assert store.slices("1BA001").mask.max() == 1
    np.testing.assert_array_equal(slices.body[:, 1:], union.transpose(2, 0, 1)[:, :, 2:-3])


def test_second_call_touches_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = prepare(source, tmp_path / "store").key
    before = state(tmp_path / "store")
    monkeypatch.setattr(preprocessing, "_prepare", lambda job: pytest.fail("prepared again"))
    monkeypatch.setattr(keys, "hash_image", lambda path: pytest.fail("hashed again"))
    assert prepare(source, tmp_path / "store").key == key
    assert state(tmp_path / "store") == before


def redone(source: Path, folder: Path, **settings: object) -> list[str]:
    """Return the patients that a call prepares."""
    seen: list[str] = []
    prepare(source, folder, progress=lambda done, total, patient: seen.append(patient), **settings)
    return seen


def test_only_what_changed_is_prepared_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, brain = tmp_path / "store", source / "Task1" / "brain"
    everyone = ["1BA001", "1BA002", "1BB001"]
    assert redone(source, folder) == everyone
    (folder / "split.json").write_text("{}")
    key = SliceStore(folder).key
    (brain / "1BA002" / "ct.nii.gz").touch()
    assert redone(source, folder) == []
    assert SliceStore(folder).key == key
    write_patient(brain / "1BA002", 9)
    assert redone(source, folder) == ["1BA002"]
    assert SliceStore(folder).key != key
    write_patient(brain / "1BC001", 4)
    assert redone(source, folder) == ["1BC001"]
    assert redone(source, folder, size=32) == [*everyone, "1BC001"]
    shutil.rmtree(brain / "1BC001")
    assert redone(source, folder, size=32) == []
    assert SliceStore(folder).patients == everyone
    assert not (folder / "1BC001").exists()
    (folder / "1BA001" / "mr.npy").unlink()
    assert redone(source, folder, size=32) == ["1BA001"]
    (folder / "index.json").write_text("{ damaged")
    assert redone(source, folder, size=32) == []
    monkeypatch.setattr(keys, "code_hash", lambda *modules: "other code")
    assert redone(source, folder, size=32) == everyone
    assert (folder / "split.json").read_text() == "{}"


def test_a_moved_source_is_followed(source: Path, tmp_path: Path) -> None:
    key = prepare(source, tmp_path / "store").key
    moved = source.rename(tmp_path / "moved")
    assert redone(moved, tmp_path / "store") == []
    store = SliceStore(tmp_path / "store")
    assert store.key == key
    assert store.reference("1BA001")[0].path.is_relative_to(moved)


def test_an_interrupted_run_is_resumed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int, patient: str) -> None:
        assert (done, total, patient) == (1, 3, "1BA001")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "store", progress=stop)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "store")
    assert not (tmp_path / "store" / "index.json").exists()
    assert sorted(p.name for p in (tmp_path / "store").iterdir() if p.is_dir()) == ["1BA001"]
    (tmp_path / "store" / ".new-1BA002-killed").mkdir()  # what a killed process leaves
    assert redone(source, tmp_path / "store") == ["1BA002", "1BB001"]
    assert not list((tmp_path / "store").glob(".new-*"))


def change(folder: Path, role: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(folder / f"{role}.nii.gz")
    array = edit(np.asanyarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(array, image.affine), folder / f"{role}.nii.gz")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def spoil(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(content[:-900])))


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[4, 4, 4] = np.nan
    return array


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no ct": (lambda p: (p / "ct.nii.gz").unlink(), "ct.nii.gz is missing"),
    "truncated gzip": (lambda p: cut(p / "ct.nii.gz"), "ct.nii.gz: cannot be read"),
    "too few voxels": (lambda p: spoil(p / "mr.nii.gz"), "mr.nii.gz: cannot be read"),
    "NaN": (lambda p: change(p, "mr", with_nan), "1 voxels are NaN"),
    "constant MR": (lambda p: change(p, "mr", np.ones_like), "constant value 1"),
    "MR is a CT": (lambda p: shutil.copy(p / "ct.nii.gz", p / "mr.nii.gz"), "look like a CT"),
    "MR is a mask": (lambda p: shutil.copy(p / "mask.nii.gz", p / "mr.nii.gz"), "like a mask"),
    "CT is an MR": (lambda p: shutil.copy(p / "mr.nii.gz", p / "ct.nii.gz"), "or an MR"),
    "offset CT": (lambda p: change(p, "ct", lambda a: a + 1024), "subtract 1024"),
    "8-bit CT": (lambda p: change(p, "ct", lambda a: ((a + 1024.0) / 16).astype(np.uint8)), "8 bits"),
    "empty mask": (lambda p: change(p, "mask", np.zeros_like), "mask is empty"),
    "labels as mask": (lambda p: change(p, "mask", lambda a: a * np.arange(1, 8, dtype=np.uint8)), "expected 0 and 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_patient_is_listed_with_its_file_and_remedy(source: Path, tmp_path: Path, case: str) -> None:
    fault, message = BAD[case]
    bad = source / "Task1" / "brain" / "1BA002"
    fault(bad)
    store = prepare(source, tmp_path / "store")
    assert store.patients == ["1BA001", "1BB001"]
    (skip,) = store.skipped
    assert (skip["patient"], skip["path"]) == ("1BA002", str(bad))
    assert message in skip["reason"]
    assert str(bad) in skip["reason"]
    assert "\n" not in skip["reason"]
    before = state(tmp_path / "store")
    assert redone(source, tmp_path / "store") == []
    assert state(tmp_path / "store") == before
    for folder in (tmp_path / "store", tmp_path / "fresh"):
        with pytest.raises(MrictError) as caught:
            prepare(source, folder, strict=True)
        assert str(caught.value) == skip["reason"]
    write_patient(bad, 5)
    assert redone(source, tmp_path / "store") == ["1BA002"]
    assert SliceStore(tmp_path / "store").skipped == []


def test_no_usable_patient_is_an_error(source: Path, tmp_path: Path) -> None:
    for folder in (source / "Task1" / "brain").iterdir():
        change(folder, "mr", np.zeros_like)
    (source / "Task1" / "brain" / "1BB001" / "ct.nii.gz").unlink()
    for _ in range(2):
        with pytest.raises(MrictError, match=r"none of its 3 patients can be used: ") as caught:
            prepare(source, tmp_path / "store")
        reasons = str(caught.value).split(" | ")
        for patient, reason in zip(("1BA001", "1BA002", "1BB001"), reasons, strict=True):
            assert patient in reason
            assert ("ct.nii.gz is missing" if patient == "1BB001" else "constant value 0") in reason
    assert not (tmp_path / "store" / "index.json").exists()


@pytest.mark.parametrize("place", ["file", "/proc/nowhere"])
def test_unwritable_output_is_named(source: Path, tmp_path: Path, place: str) -> None:
    folder = Path(place) if place.startswith("/") else tmp_path / place / "store"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MrictError, match=r"cannot be written .*make it writable or choose another"):
        prepare(source, folder)


def test_a_full_disk_is_not_blamed_on_the_patient(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(MrictError, match="No space left on device"):
        prepare(source, tmp_path / "store")
    assert [p.name for p in (tmp_path / "store").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"protocol": "patients"}, "did you mean 'patient'"), ({"size": 0}, "at least 1"), ({"region": "knee"}, "brain")],
)
def test_wrong_settings(source: Path, tmp_path: Path, settings: dict[str, object], message: str) -> None:
    write_patient(source / "1BA009")
    with pytest.raises(MrictError, match=message):
        prepare(source, tmp_path / "store", **settings)


def test_a_folder_in_use_is_said_so(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "LOCK_WAIT_S", 0.05)
    (tmp_path / "store").mkdir()
    with (
        filelock.FileLock(tmp_path / "store" / ".lock"),
        pytest.raises(MrictError, match="another process is preparing it"),
    ):
        prepare(source, tmp_path / "store")


def test_processes_at_once_and_workers_change_nothing(source: Path, tmp_path: Path) -> None:
    alone = prepare(source, tmp_path / "alone")
    prepare(source, tmp_path / "workers", workers=2)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        calls = [pool.submit(prepare, source, tmp_path / "shared") for _ in range(2)]
        stores = [call.result() for call in calls]
    assert [s.key for s in stores] == [alone.key] * 2
    expected = {name: content for name, (_, content) in state(tmp_path / "alone").items()}
    for folder in ("workers", "shared"):
        assert {name: content for name, (_, content) in state(tmp_path / folder).items()} == expected


def test_store_refuses_what_it_cannot_serve(source: Path, tmp_path: Path) -> None:
    with pytest.raises(MrictError, match=r"index\.json: not found; run"):
        SliceStore(tmp_path / "nothing")
    store = prepare(source, tmp_path / "store")
    with pytest.raises(MrictError, match="no patient '1BZ001'"):
        store.slices("1BZ001")
    with pytest.raises(MrictError, match="5 slices, expected 6"):
        store.to_volume("1BA001", store.slices("1BA001").ct[:5])
    (tmp_path / "store" / "1BA001" / "ct.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(MrictError, match=r"ct\.npy: cannot be read"):
        SliceStore(tmp_path / "store").slices("1BA001")
    (tmp_path / "store" / "index.json").write_text("[]")
    with pytest.raises(MrictError, match="not the index of a dataset cache"):
        SliceStore(tmp_path / "store")


def test_store_travels_to_another_process(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store")
    store.slices("1BA001")
    message = pickle.dumps(store)
    assert len(message) < 1000
    np.testing.assert_array_equal(pickle.loads(message).slices("1BA001").ct, store.slices("1BA001").ct)


def test_inference_sees_what_the_store_holds(source: Path, tmp_path: Path) -> None:
    store = prepare(source, tmp_path / "store")
    mr = load_volume(store.source("1BA001", "mr"))
    prepared, slices = prepare_mr(mr, SIZE), store.slices("1BA001")
    positions = [slices.z.tolist().index(z) for z in prepared.z]
    np.testing.assert_array_equal(prepared.mr.astype(np.float16), slices.mr[positions])
    np.testing.assert_array_equal(prepared.to_volume(slices.ct[positions]), store.to_volume("1BA001", slices.ct))


def test_in_plane_shapes(tmp_path: Path) -> None:
    write_patient(tmp_path / "1BA001", code="SRA")
    found = discover(tmp_path, "brain")
    assert in_plane_shapes(found) == [(SHAPE[1], SHAPE[0])]
    assert in_plane_shapes(found, "predecessor") == [(SHAPE[2], SHAPE[0])]


@pytest.mark.parametrize(
    ("name", "region", "every", "protocol"),
    [
        ("synthrad_brain_axial", "brain", 16, "patient"),
        ("synthrad_brain_axial", "brain", 16, "predecessor"),
        ("brainweb_head", "brain", 1, "patient"),
        ("pelvis_bulk", "pelvis", 1, "predecessor"),
    ],
)
def test_real_samples(tmp_path: Path, name: str, region: str, every: int, protocol: str) -> None:
    folders = sorted(sample(f"{name}/Task1/{region}").iterdir())[::every]
    (tmp_path / "source").mkdir()
    for folder in folders:
        (tmp_path / "source" / folder.name).symlink_to(folder)
    store = prepare(tmp_path / "source", tmp_path / "store", region=region, size=256, protocol=protocol)
    assert store.skipped == []
    assert store.patients == [folder.name for folder in folders]
    for patient in store.patients:
        slices = store.slices(patient)
        ct, mask, _ = store.reference(patient)
        assert slices.mask.sum() + store.meta(patient)["mask_voxels_cropped"] == mask.sum()
        assert np.abs(slices.mr).max() <= 1
        if protocol == "patient":
            back = store.to_volume(patient, slices.ct)
            assert store.meta(patient)["mask_voxels_cropped"] <= 0.01 * mask.sum()
            np.testing.assert_array_equal(back[back != -1024], ct.array[back != -1024])


def test_a_split_of_ones_own_is_kept_and_a_replaced_one_is_announced(cohort, tmp_path, monkeypatch):
    """Both through the step that notebook 00 calls."""
    import json

    from mrict_core.data.splits import load_split
    from mrict_core.pipeline import open_data, prepare_data

    monkeypatch.setenv("MRICT_DATA", str(tmp_path))
    lines: list[str] = []
    first = prepare_data("smoke", str(cohort), report=lines.append)
    assert lines == []
    other = prepare_data("smoke", str(cohort), split_kind="leave_out_A", report=lines.append)
    assert "stratified (seed 42) replaced by leave_out_A" in lines[0]
    assert set(other.split.test) == {p for p in other.store.patients if p.startswith("1BA")}
    path = first.workspace.split_file
    data = json.loads(path.read_text())
    data.pop("hash")
    data["train"], data["val"] = data["train"][1:], [*data["val"], data["train"][0]]
    path.write_text(json.dumps(data))
    own = load_split(path)
    lines.clear()
    kept = prepare_data("smoke", str(cohort), force=True, report=lines.append)
    assert kept.split == own
    assert "yours" in lines[0]
    data["test"] = [*data["test"], "1BZ999"]
    path.write_text(json.dumps(data))
    with pytest.raises(MrictError, match="1BZ999"):
        prepare_data("smoke", str(cohort), report=lines.append)
    path.unlink()
    given = tmp_path / "mine.json"
    given.write_text(json.dumps(data))
    with pytest.raises(MrictError, match=r"mine\.json: names patients that are not usable: 1BZ999;"):
        prepare_data("smoke", str(cohort), split_kind=str(given), report=lines.append)
    assert not path.exists()
    data["test"] += [f"1BZ{number:03}" for number in range(300)]
    given.write_text(json.dumps(data))
    with pytest.raises(MrictError, match="1BZ000, 1BZ001, 1BZ002, 1BZ003, 1BZ004 and 296 more; remove them"):
        prepare_data("smoke", str(cohort), split_kind=str(given), report=lines.append)
    data["test"] = [patient for patient in data["test"] if not patient.startswith("1BZ")]
    given.write_text(json.dumps(data))
    assert prepare_data("smoke", str(cohort), split_kind=str(given), report=lines.append).split.train == own.train
    assert prepare_data("smoke", str(cohort), report=lines.append).split.train == own.train, "kept afterwards"
    path.unlink()  # as where a process is killed between the store and its split
    with pytest.raises(MrictError, match=r"split\.json: no split yet; run preprocess again$"):
        open_data(first.workspace)


# --- faults that say nothing about the patients ---------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a store, hidden ones too, but its lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


FAULTS: dict[str, Callable[[], BaseException]] = {
    "EIO": lambda: OSError(errno.EIO, "Input/output error"),
    "too many open files": lambda: OSError(errno.EMFILE, "Too many open files"),
    "no memory for a page": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
    "no memory": MemoryError,
    "no thread": lambda: RuntimeError("can't start new thread"),
    "said by a reader": lambda: UnavailableError("ct.nii.gz: cannot be read now"),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("prepared_before", [False, True])
def test_a_passing_fault_is_an_error_and_is_forgotten(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, prepared_before: bool
) -> None:
    folder, real = tmp_path / "store", preprocessing._prepare
    prepare(source, tmp_path / "undisturbed")
    if prepared_before:
        prepare(source, folder, size=32)
    before = content(folder) if prepared_before else {}

    def faulty(job: keys.Job) -> None:
        if job.files.patient == "1BA002":
            raise FAULTS[case]()
        real(job)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "_prepare", faulty)
        with pytest.raises(UnavailableError, match="nothing that was prepared is lost") as caught:
            prepare(source, folder)
    assert "1BA002" in str(caught.value) or case == "said by a reader"
    assert "\n" not in str(caught.value)
    for patient in ("1BA002", "1BB001"):  # after it nothing was touched
        kept = {name: data for name, data in content(folder).items() if name.startswith(patient)}
        assert kept == {name: data for name, data in before.items() if name.startswith(patient)}
    assert prepare(source, folder).skipped == []
    assert content(folder) == content(tmp_path / "undisturbed")


def test_a_disk_that_is_full_at_the_last_small_file_refuses_no_patient(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise MrictError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)
        with pytest.raises(StoreWriteError, match="No space left"):
            prepare(source, tmp_path / "store")
    assert prepare(source, tmp_path / "store").skipped == []


def away(source: Path) -> None:
    source.rename(source.with_name("away"))


def away_and_empty(source: Path) -> None:
    away(source)
    source.mkdir()


def patient_away(source: Path) -> None:
    shutil.rmtree(source / "Task1" / "brain" / "1BA002")


def replaced(source: Path) -> None:
    write_patient(source / "Task1" / "brain" / "1BA002", 8)


@pytest.mark.parametrize("fault", [away, away_and_empty, patient_away, replaced])
def test_files_that_vanish_or_change_while_they_are_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    shutil.copytree(source, tmp_path / "sound")
    folder, real = tmp_path / "store", preprocessing._prepare

    def disturbed(job: keys.Job) -> None:
        if job.files.patient == "1BA002":
            fault(source)
        real(job)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "_prepare", disturbed)
        with pytest.raises(UnavailableError, match=r"1BA002.*nothing that was prepared is lost"):
            prepare(source, folder)
    assert not (folder / "index.json").exists()
    shutil.rmtree(source, ignore_errors=True)
    (tmp_path / "sound").rename(source)
    assert prepare(source, folder).patients == ["1BA001", "1BA002", "1BB001"]


@pytest.mark.parametrize("fault", [away, away_and_empty])
def test_a_data_folder_that_is_away_costs_nothing(source: Path, tmp_path: Path, fault: Callable[[Path], None]) -> None:
    prepare(source, tmp_path / "store")
    before = state(tmp_path / "store")
    fault(source)
    for size in (SIZE, 32):
        with pytest.raises(MrictError, match=r"no such folder|no patient found"):
            prepare(source, tmp_path / "store", size=size)
    assert state(tmp_path / "store") == before
    shutil.rmtree(source, ignore_errors=True)
    source.with_name("away").rename(source)
    assert redone(source, tmp_path / "store") == []


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def dangling(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("/nowhere/at/all")


def file_away(folder: Path) -> None:
    (folder / "ct.nii.gz").rename(folder / "ct.nii.gz.part")


@pytest.mark.parametrize("fault", [emptied, dangling, file_away, lambda folder: cut(folder / "ct.nii.gz")])
def test_a_patient_unusable_for_a_while_keeps_what_was_prepared(
    source: Path, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    key, patient = prepare(source, tmp_path / "store").key, source / "Task1" / "brain" / "1BA002"
    shutil.copytree(patient, tmp_path / "sound")
    fault(patient)
    store = prepare(source, tmp_path / "store")
    assert store.patients == ["1BA001", "1BB001"]
    assert [skip["patient"] for skip in store.skipped] == ["1BA002"]
    patient.unlink() if patient.is_symlink() else shutil.rmtree(patient)
    (tmp_path / "sound").rename(patient)
    assert redone(source, tmp_path / "store") == []
    assert SliceStore(tmp_path / "store").key == key


def test_what_no_check_foresaw_is_tried_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = preprocessing._prepare

    def odd(job: keys.Job) -> None:
        if job.files.patient == "1BA002":
            raise ZeroDivisionError("odd")
        real(job)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "_prepare", odd)
        for _ in range(2):
            assert [skip["patient"] for skip in prepare(source, tmp_path / "store").skipped] == ["1BA002"]
    assert prepare(source, tmp_path / "store").skipped == []


# --- the store's key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False])
def test_a_store_of_an_earlier_version_keeps_its_key_where_its_arrays_are_the_same(
    source: Path, tmp_path: Path, same: bool
) -> None:
    folder, keys = tmp_path / "store", []
    settings = prepare(source, folder).index["settings"]
    for path in sorted(folder.glob("*/meta.json")):  # as it was when keys were of files and code
        meta = {k: v for k, v in read_json(path).items() if k not in ("content", "warnings", "notes")}
        write_json(path, meta | {"key": f"old-{path.parent.name}"})
        keys.append(f"old-{path.parent.name}")
    old = hash_of([settings, keys])
    index = {k: v for k, v in read_json(folder / "index.json").items() if k != "content"}
    write_json(folder / "index.json", index | {"key": old})
    if not same:
        mr = np.load(folder / "1BA002" / "mr.npy")
        mr[0, 0, 0] += 0.5
        np.save(folder / "1BA002" / "mr.npy", mr)
    assert len(redone(source, folder)) == 3
    assert (SliceStore(folder).key == old) == same
    key = SliceStore(folder).key
    prepare(source, folder, force=True)
    assert SliceStore(folder).key == key


def test_the_key_is_of_the_content(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, everyone = tmp_path / "store", ["1BA001", "1BA002", "1BB001"]
    key = prepare(source, folder).key
    with monkeypatch.context() as patch:
        patch.setattr(keys, "code_hash", lambda *modules: "a comment was edited")
        assert redone(source, folder) == everyone
        assert SliceStore(folder).key == key
    seen: list[str] = []
    prepare(source, folder, force=True, progress=lambda done, total, patient: seen.append(patient))
    assert seen == everyone
    assert SliceStore(folder).key == key
    patient = source / "Task1" / "brain" / "1BB001"
    image = nib.load(patient / "ct.nii.gz")
    array = np.asanyarray(image.dataobj).copy()
    nib.save(image, patient / "ct.nii")
    (patient / "ct.nii.gz").unlink()
    assert redone(source, folder) == ["1BB001"]  # other files, the same images
    assert SliceStore(folder).key == key
    array[0, 0, 0] += 1  # outside mask and canvas: no array changes, but scores on the files' grid may
    nib.save(nib.Nifti1Image(array, image.affine), patient / "ct.nii")
    assert redone(source, folder) == ["1BB001"]
    different = {key, SliceStore(folder).key}
    for change in ({"size": 32}, {"protocol": "predecessor"}):
        different.add(prepare(source, folder, **change).key)
    nib.save(nib.Nifti1Image(array, image.affine @ np.diag([1, 1, 1.01, 1])), patient / "ct.nii")
    assert prepare(source, folder).patients == everyone[:2]  # no longer on one grid
    different.add(SliceStore(folder).key)
    assert len(different) == 5


# --- kill -9 --------------------------------------------------------------------------------------------------------


def killed(point: int, after: bool, source: Path, folder: Path, **settings: object) -> bool:
    """Run preprocess in a process that is killed before or after its renaming number `point`; False: it had fewer."""
    child = os.fork()
    if child == 0:
        count = iter(range(1, 1000))

        def deadly(rename: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                hit = next(count) == point
                if hit and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = rename(*arguments, **options)
                if hit:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        os.rename, os.replace = deadly(os.rename), deadly(os.replace)
        try:
            prepare(source, folder, **settings)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("before", ["nothing", "another size", "another patient", "the same"])
def test_killed_at_any_renaming_the_next_run_completes(source: Path, tmp_path: Path, before: str, after: bool) -> None:
    shutil.rmtree(source / "Task1" / "brain" / "1BB001")
    prepare(source, tmp_path / "undisturbed")
    folder, start = tmp_path / "store", tmp_path / "start"
    if before != "nothing":
        extra = write_patient(source / "Task1" / "brain" / "1BC009", 6) if before == "another patient" else None
        prepare(source, start, size=32 if before == "another size" else SIZE)
        if extra:
            shutil.rmtree(extra)
    points = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if start.exists():
            shutil.copytree(start, folder)
        if not killed(points + 1, after, source, folder, force=before == "the same"):
            break
        points += 1
        assert prepare(source, folder).patients == ["1BA001", "1BA002"]
        assert content(folder) == content(tmp_path / "undisturbed"), points
        assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == {".lock"}
    assert points == {"nothing": 5, "another size": 7, "another patient": 2, "the same": 7}[before]


def test_a_store_between_two_states_is_not_read_as_one(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "store")
    write_patient(source / "Task1" / "brain" / "1BA001", 7)
    assert killed(4, False, source, tmp_path / "store")  # the patient is new, the index is not
    store = SliceStore(tmp_path / "store")
    store.slices("1BA002")
    with pytest.raises(MrictError, match="1BA001: prepared again by an interrupted run; run preprocess again"):
        store.slices("1BA001")
