"""The phantom: reproducible patients, one grid, plausible MR and CT, centres that differ, idempotent writing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mrict_core.data.phantom import (
    CENTRES,
    OUTSIDE,
    PhantomPatient,
    PhantomSpec,
    Tissue,
    make_patient,
    phantom_ids,
    write_cohort,
)
from mrict_core.data.phantom import patients as cohort_module
from mrict_core.data.phantom.fields import Grid, WaveField
from mrict_core.data.phantom.scanner import acquisition_grid, spgr
from mrict_core.data.phantom.shapes import capsule, ellipsoid
from mrict_core.data.phantom.tissues import column
from mrict_core.errors import MrictError
from mrict_core.files import read_json

TINY = {
    "brain": PhantomSpec("brain", in_plane_mm=4.5, slice_mm=8.0),
    "pelvis": PhantomSpec("pelvis", in_plane_mm=7.5, slice_mm=10.0),
}
FINE = {
    "brain": PhantomSpec("brain", in_plane_mm=2.2, slice_mm=3.0),
    "pelvis": PhantomSpec("pelvis", in_plane_mm=3.0, slice_mm=4.0),
}
COARSE = PhantomSpec("brain", in_plane_mm=9.0, slice_mm=24.0)
SEED = 7


@pytest.fixture(scope="module")
def tiny() -> dict[str, PhantomPatient]:
    ids = ("1BA001", "1BB001", "1BC001", "1PA001", "1PB001", "1PC001")
    return {pid: make_patient(pid, SEED, TINY["brain" if pid[1] == "B" else "pelvis"]) for pid in ids}


@pytest.fixture(scope="module")
def fine() -> dict[str, PhantomPatient]:
    return {pid: make_patient(pid, SEED, FINE["brain" if pid[1] == "B" else "pelvis"]) for pid in ("1BA002", "1PA002")}


def body_of(patient: PhantomPatient) -> np.ndarray:
    return ~np.isin(patient.labels, [int(t) for t in OUTSIDE])


def inside(patient: PhantomPatient, tissue: Tissue) -> np.ndarray:
    """Voxels wholly surrounded by their own tissue: no partial volume."""
    return ndimage.binary_erosion(patient.labels == tissue)


@pytest.mark.parametrize(("region", "first", "last"), [("brain", "1BA001", "1BC004"), ("pelvis", "1PA001", "1PC004")])
def test_ids_go_centre_by_centre(region: str, first: str, last: str) -> None:
    ids = phantom_ids(region, 4)
    assert (ids[0], ids[-1], len(ids)) == (first, last, 12)
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("pid", ["1BA001", "1BC001", "1PB001"])
def test_same_id_and_seed_give_same_bits_whatever_came_before(pid: str, tiny: dict[str, PhantomPatient]) -> None:
    np.random.seed(123)  # the global generator must play no part
    again = make_patient(pid, SEED, TINY["brain" if pid[1] == "B" else "pelvis"])
    for name in ("mr", "ct", "mask", "labels", "affine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tiny[pid], name))


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from mrict_core.data.phantom import PhantomSpec, make_patient;"
        f"p = make_patient('1BA003', {SEED}, PhantomSpec('brain', 9.0, 24.0));"
        "np.savez(sys.argv[1], mr=p.mr, ct=p.ct, mask=p.mask, labels=p.labels)"
    )
    file = tmp_path / "other.npz"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, cwd=root, timeout=60)
    here = make_patient("1BA003", SEED, COARSE)
    with np.load(file) as other:
        for name in other.files:
            np.testing.assert_array_equal(getattr(here, name), other[name])


def test_patients_and_seeds_differ_in_anatomy() -> None:
    labels = [make_patient(pid, seed, COARSE).labels for pid, seed in (("1BA001", 0), ("1BA002", 0), ("1BA001", 1))]
    assert all((labels[0] != other).mean() > 0.05 for other in labels[1:])


@pytest.mark.parametrize("pid", ["1BA001", "1BB001", "1BC001", "1PA001", "1PB001", "1PC001"])
def test_one_grid_types_and_ranges(pid: str, tiny: dict[str, PhantomPatient]) -> None:
    patient = tiny[pid]
    assert patient.mr.shape == patient.ct.shape == patient.mask.shape == patient.labels.shape
    assert (patient.mr.dtype, patient.ct.dtype, patient.mask.dtype) == (np.float32, np.int16, np.uint8)
    assert np.isfinite(patient.mr).all()
    assert patient.mr.min() >= 0
    assert -1024 <= patient.ct.min() < -950
    assert 500 < patient.ct.max() <= 3071
    assert set(np.unique(patient.mask)) == {0, 1}
    assert abs(np.linalg.det(patient.affine)) > 0


@pytest.mark.parametrize(("region", "in_plane_mm", "limit"), [("brain", 3.6, 64), ("pelvis", 6.6, 64)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("centre", CENTRES)
def test_volumes_fit_the_canvas(region: str, in_plane_mm: float, limit: int, full: bool, centre: str) -> None:
    if full:
        in_plane_mm, limit = {"brain": 1.0, "pelvis": 1.7}[region], 256
    grid = acquisition_grid(region, CENTRES[centre], in_plane_mm, 5.0)
    sides = dict(zip(CENTRES[centre].axes, grid.shape, strict=True))
    axial = [n for letter, n in sides.items() if letter not in "SI"]
    assert len(axial) == 2
    assert 0.6 * limit < max(axial) <= limit
    assert next(n for letter, n in sides.items() if letter in "SI") in range(30, 50)


@pytest.mark.parametrize(
    ("pid", "tissue", "low", "high"),
    [
        ("1BA002", Tissue.WHITE_MATTER, 20, 38),
        ("1BA002", Tissue.MUSCLE, 30, 75),
        ("1BA002", Tissue.CAVITY_AIR, -1024, -900),
        ("1BA002", Tissue.VITREOUS, -15, 30),
        ("1BA002", Tissue.SPONGY_BONE, 200, 1000),
        ("1PA002", Tissue.FAT, -125, -75),
        ("1PA002", Tissue.MUSCLE, 35, 75),
        ("1PA002", Tissue.URINE, -10, 25),
        ("1PA002", Tissue.SPONGY_BONE, 100, 420),
        ("1PA002", Tissue.CAVITY_AIR, -1024, -900),
    ],
)
def test_tissues_have_their_hounsfield_units(
    pid: str, tissue: Tissue, low: float, high: float, fine: dict[str, PhantomPatient]
) -> None:
    voxels = inside(fine[pid], tissue)
    assert voxels.sum() >= 8
    assert low < fine[pid].ct[voxels].mean() < high


def test_skull_is_dense_in_the_ct(fine: dict[str, PhantomPatient]) -> None:
    patient = fine["1BA002"]
    assert 600 < patient.ct[patient.labels == Tissue.CORTICAL_BONE].mean() < 1500


@pytest.mark.parametrize("centre", CENTRES)
def test_bone_and_air_are_dark_in_every_sequence(centre: str) -> None:
    signal = spgr(CENTRES[centre], column("t1_ms"), column("t2s_ms"), column("pd"))
    soft = min(signal[t] for t in (Tissue.FAT, Tissue.MUSCLE, Tissue.GREY_MATTER, Tissue.WHITE_MATTER))
    assert signal[Tissue.CORTICAL_BONE] < 0.05 * soft
    assert signal[Tissue.CAVITY_AIR] == 0
    assert signal[Tissue.WHITE_MATTER] > signal[Tissue.GREY_MATTER] > signal[Tissue.CSF]


@pytest.mark.parametrize("pid", ["1BA002", "1PA002"])
def test_mr_does_not_tell_bone_from_air(pid: str, fine: dict[str, PhantomPatient]) -> None:
    patient = fine[pid]
    mean = {t: patient.mr[patient.labels == t].mean() for t in (Tissue.MUSCLE, Tissue.CORTICAL_BONE, Tissue.CAVITY_AIR)}
    assert mean[Tissue.CAVITY_AIR] < 0.6 * mean[Tissue.MUSCLE]
    assert mean[Tissue.CORTICAL_BONE] < 0.8 * mean[Tissue.MUSCLE]
    dark = (patient.mr < 0.4 * mean[Tissue.MUSCLE]) & body_of(patient)
    assert (patient.ct[dark] < -500).mean() > 0.05
    assert (patient.ct[dark] > 300).mean() > 0.05


def test_bone_density_differs_between_patients() -> None:
    patients = [make_patient(f"1BA{n:03d}", SEED, TINY["brain"]) for n in range(1, 6)]
    skull = [p.ct[p.labels == Tissue.CORTICAL_BONE].mean() for p in patients]
    assert np.ptp(skull) > 60


@pytest.mark.parametrize(
    ("pid", "tissues"),
    [
        ("1BA002", set(Tissue) - {Tissue.URINE, Tissue.PELVIC_ORGAN, Tissue.BOWEL, Tissue.CALCIFICATION, Tissue.LENS}),
        (
            "1PA002",
            {Tissue.URINE, Tissue.PELVIC_ORGAN, Tissue.BOWEL, Tissue.CAVITY_AIR, Tissue.BLOOD, Tissue.CARTILAGE},
        ),
    ],
)
def test_anatomy_is_complete(pid: str, tissues: set[Tissue], fine: dict[str, PhantomPatient]) -> None:
    assert tissues <= {Tissue(int(n)) for n in np.unique(fine[pid].labels)}


def test_centres_differ_in_orientation_and_voxel_size(tiny: dict[str, PhantomPatient]) -> None:
    affines = {c: tiny[f"1B{c}001"].affine for c in CENTRES}
    assert {"".join(nib.aff2axcodes(a)) for a in affines.values()} == {c.axes for c in CENTRES.values()}
    assert len({tuple(sorted(np.round(np.linalg.norm(a[:3, :3], axis=0), 4))) for a in affines.values()}) == 3
    oblique = {c: nib.affines.obliquity(a).max() > np.deg2rad(2) for c, a in affines.items()}
    assert oblique == {"A": False, "B": False, "C": True}


def test_centres_differ_in_noise(tiny: dict[str, PhantomPatient]) -> None:
    """Noise in air, relative to the body's signal in MR and in HU in CT; the order is the one the centres declare."""
    mr, ct = {}, {}
    for name in CENTRES:
        patient = tiny[f"1B{name}001"]
        air = ndimage.binary_erosion((patient.labels == Tissue.AIR) & (patient.mask == 0), iterations=3)
        mr[name] = patient.mr[air].std() / np.percentile(patient.mr[body_of(patient)], 90)
        ct[name] = patient.ct[air].std()
    assert sorted(mr, key=mr.get) == sorted(CENTRES, key=lambda c: CENTRES[c].mr_noise)
    assert sorted(ct, key=ct.get) == sorted(CENTRES, key=lambda c: CENTRES[c].ct_noise_hu)
    assert max(ct.values()) > 1.5 * min(ct.values())


@pytest.mark.parametrize("pid", ["1BA001", "1BB001", "1BC001", "1PA001", "1PB001", "1PC001"])
def test_mask_holds_the_body_and_not_the_couch(pid: str, tiny: dict[str, PhantomPatient]) -> None:
    patient = tiny[pid]
    body, mask = body_of(patient), patient.mask > 0
    couch = np.isin(patient.labels, (Tissue.COUCH_SHELL, Tissue.COUCH_FOAM))
    assert body.sum() < mask.sum() < 1.6 * body.sum()
    assert mask[body].all()
    assert couch.any()
    assert not mask[couch].any()


@pytest.mark.parametrize("pid", ["1BA002", "1PA002"])
def test_couch_is_in_the_ct_and_not_in_the_mr(pid: str, fine: dict[str, PhantomPatient]) -> None:
    patient = fine[pid]
    far = ndimage.binary_erosion(patient.mask == 0, iterations=2)
    couch, air = (patient.labels == Tissue.COUCH_SHELL) & far, (patient.labels == Tissue.AIR) & far
    assert couch.sum() > 50
    assert patient.ct[couch].mean() > patient.ct[air].mean() + 150
    assert patient.mr[couch].mean() == pytest.approx(patient.mr[air].mean(), rel=0.1)


def test_anatomy_does_not_depend_on_sampling() -> None:
    """The same patient on two grids fills the same space."""
    volume = []
    for spec in (TINY["brain"], replace(TINY["brain"], supersample=2)):
        patient = make_patient("1BA004", SEED, spec)
        volume.append(body_of(patient).sum() * abs(np.linalg.det(patient.affine)))
    assert volume[0] == pytest.approx(volume[1], rel=0.03)


def test_wave_field_is_a_function_of_position() -> None:
    field = WaveField(np.random.default_rng(0), (20, 60), rms=2.0, count=64)
    grid = Grid(np.diag([2.0, 2.0, 3.0, 1.0]), (40, 44, 30))
    box = (slice(5, 25), slice(3, 30), slice(10, 20))
    np.testing.assert_allclose(field.on(grid)[box], field.on(grid.part(box)), atol=1e-4)
    assert field.on(grid).std() == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (ellipsoid((1, 2, 3), (10, 14, 8)), 4 / 3 * np.pi * 10 * 14 * 8),
        (capsule((-6, 0, 0), (6, 4, 5), 6), 4 / 3 * np.pi * 6**3 + np.pi * 36 * np.sqrt(144 + 16 + 25)),
    ],
)
def test_shapes_have_their_volume(shape, volume: float) -> None:
    x, y, z = np.meshgrid(*[np.arange(-25, 25, 0.5, dtype=np.float32)] * 3, indexing="ij")
    solid = shape.distance(x, y, z) < 0
    assert solid.sum() * 0.125 == pytest.approx(volume, rel=0.02)
    inside_box = np.all([(p > lo) & (p < hi) for p, lo, hi in zip((x, y, z), shape.low, shape.high, strict=True)], 0)
    assert not solid[~inside_box].any()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: PhantomSpec("brian", 3.6, 5.0), "did you mean 'brain'"),
        (lambda: PhantomSpec("brain", 0.0, 5.0), "0.5-20 mm"),
        (lambda: PhantomSpec("brain", 3.6, 5.0, 9), "supersample 9"),
        (lambda: phantom_ids("brain", 0), "1 to 999"),
        (lambda: phantom_ids("thorax", 1), "allowed: brain, pelvis"),
        (lambda: make_patient("1PA001", 0, COARSE), "1BA001"),
        (lambda: make_patient("1BD001", 0, COARSE), "1BA001"),
        (lambda: write_cohort("unused", "pelvis", 1, 0, COARSE), "pelvis"),
    ],
)
def test_errors_say_what_is_allowed(call, word: str) -> None:
    with pytest.raises(MrictError, match=word):
        call()


def times(folders: list[Path]) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for folder in folders for file in sorted(folder.iterdir())}


def test_cohort_is_written_once_and_anew_when_the_seed_differs(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    folders = write_cohort(tmp_path, "brain", 1, SEED, COARSE, lambda *a: seen.append(a), workers=1)
    assert [f.relative_to(tmp_path).as_posix() for f in folders] == [f"Task1/brain/1B{c}001" for c in "ABC"]
    assert seen == [(1, 3, "1BA001"), (2, 3, "1BB001"), (3, 3, "1BC001")]
    first = times(folders)
    assert {f.name for f in first} == {"mr.nii.gz", "ct.nii.gz", "mask.nii.gz"}
    record = times([tmp_path])[tmp_path / "phantom.json"]

    write_cohort(tmp_path, "brain", 1, SEED, COARSE, lambda *a: seen.append(a), workers=1)
    assert times(folders) == first
    assert (tmp_path / "phantom.json").stat().st_mtime_ns == record
    assert len(seen) == 3

    write_cohort(tmp_path, "brain", 1, SEED + 1, COARSE, workers=1)
    assert all(times(folders)[file] != when for file, when in first.items())
    assert read_json(tmp_path / "phantom.json")["brain"]["seed"] == SEED + 1


def test_files_hold_the_patient(tmp_path: Path) -> None:
    folders = write_cohort(tmp_path, "brain", 1, SEED, COARSE, workers=2)
    for folder in folders:
        patient = make_patient(folder.name, SEED, COARSE)
        for name in ("mr", "ct", "mask"):
            image = nib.load(folder / f"{name}.nii.gz")
            np.testing.assert_array_equal(np.asarray(image.dataobj), getattr(patient, name))
            np.testing.assert_allclose(image.affine, patient.affine, atol=1e-4)


def test_cohort_mends_grows_and_shrinks(tmp_path: Path) -> None:
    folders = write_cohort(tmp_path, "brain", 2, SEED, COARSE, workers=1)
    (folders[0] / "ct.nii.gz").unlink()
    seen: list[str] = []
    write_cohort(tmp_path, "brain", 2, SEED, COARSE, lambda done, total, pid: seen.append(pid), workers=1)
    assert seen == ["1BA001"]
    write_cohort(tmp_path, "brain", 1, SEED, COARSE, lambda done, total, pid: seen.append(pid), workers=1)
    assert seen == ["1BA001"]
    assert sorted(f.name for f in (tmp_path / "Task1" / "brain").iterdir()) == ["1BA001", "1BB001", "1BC001"]


def test_interrupted_cohort_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cohort_module.write_patient

    def stop_at_b(folder: Path, patient_id: str, seed: int, spec: PhantomSpec) -> str:
        if patient_id == "1BB001":
            raise KeyboardInterrupt
        return real(folder, patient_id, seed, spec)

    monkeypatch.setattr(cohort_module, "write_patient", stop_at_b)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, "brain", 1, SEED, COARSE, workers=1)
    monkeypatch.undo()
    seen: list[str] = []
    write_cohort(tmp_path, "brain", 1, SEED, COARSE, lambda done, total, pid: seen.append(pid), workers=1)
    assert seen == ["1BB001", "1BC001"]


def test_real_patients_are_never_overwritten(tmp_path: Path) -> None:
    real = tmp_path / "Task1" / "brain" / "1BA001"
    real.mkdir(parents=True)
    (real / "ct.nii.gz").write_bytes(b"precious")
    with pytest.raises(MrictError, match="is not listed in"):
        write_cohort(tmp_path, "brain", 1, SEED, COARSE, workers=1)
    assert (real / "ct.nii.gz").read_bytes() == b"precious"
    assert not (tmp_path / "phantom.json").exists()
