"""Registration of a CT to its MR from known poses, grids of ITK images, and transforms in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from samples import sample
from scipy.spatial.transform import Rotation

from benchmarks import pairing, pairing_cost
from benchmarks.poses import ANATOMIES, Anatomy, make_case
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.pairing.deformation import deform
from mrict_core.pairing.itk_grids import Grid, field_of_view, resample
from mrict_core.pairing.registration import DEFORM_MM, Pyramid, read_transform, register, write_transform
from mrict_core.pairing.similarity import BINS, binned, mutual_information
from mrict_core.pairing.starts import rigid
from mrict_core.pairing.transforms import affine_of, matrix_of

HEAD, PELVIS = (
    Anatomy(a.name, a.region, voxels_mm=size) for a, size in zip(ANATOMIES, ((3.0, 4.0), (5.0, 5.0)), strict=False)
)
OBLIQUE = tuple(Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix().ravel())


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("phantoms")


def image(
    size=(20, 16, 12), spacing=(2.0, 3.0, 4.0), origin=(-10.0, 5.0, 7.0), direction=OBLIQUE, low=-1000, high=1000
):
    values = np.random.default_rng(0).integers(low, high, size[::-1]).astype(np.int16)
    found = sitk.GetImageFromArray(values)
    found.SetSpacing(spacing)
    found.SetOrigin(origin)
    found.SetDirection(direction)
    return found


def centre(grid: Grid) -> np.ndarray:
    return np.array(grid.empty().TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in grid.size]))


@pytest.mark.parametrize("spacing", [1.0, 2.5, (1.0, 1.0, 2.5), (7.0, 7.0, 9.0), 500.0])
def test_a_grid_of_another_spacing_keeps_box_and_centre(spacing):
    before = Grid.of(image())
    after = before.with_spacing(spacing)
    extents = [np.multiply(grid.size, grid.spacing_mm) for grid in (before, after)]
    assert after.spacing_mm == tuple(np.broadcast_to(spacing, 3))
    assert np.allclose(centre(before), centre(after))
    assert (extents[1] >= extents[0] - 1e-4).all()
    assert (extents[1] < extents[0] + after.spacing_mm).all()


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan")])
def test_a_spacing_of_nothing_is_refused(spacing):
    with pytest.raises(MrictError, match="expected three numbers above 0"):
        Grid.of(image()).with_spacing(spacing)


@pytest.mark.parametrize("nearest", [False, True])
def test_resampling_makes_no_value_outside_the_range_but_the_fill(nearest):
    ct = image()
    turned = rigid(centre(Grid.of(ct)), centre(Grid.of(ct)) + 3, Rotation.from_rotvec([0.3, 0.2, -0.1]))
    found = sitk.GetArrayFromImage(resample(ct, Grid.of(ct).with_spacing(1.7), turned, nearest=nearest))
    given = sitk.GetArrayFromImage(ct)
    seen = sitk.GetArrayFromImage(field_of_view(ct, Grid.of(ct).with_spacing(1.7), turned)) > 0
    assert found.dtype == np.int16
    assert (found[~seen] == -1024).all()
    assert 0 < seen.mean() < 1
    assert given.min() <= found[seen].min()
    assert found[seen].max() <= given.max()
    assert not nearest or np.isin(found[seen], given).all()


def test_a_fill_that_the_type_cannot_hold_is_refused():
    mask = image(low=0, high=2)
    with pytest.raises(MrictError, match="holds 0 to 255"):
        resample(sitk.Cast(mask, sitk.sitkUInt8), Grid.of(mask))


def test_mutual_information_is_entropy_of_equal_and_nothing_of_unrelated_images():
    rng = np.random.default_rng(0)
    one, other = (binned(rng.uniform(size=100_000)) for _ in range(2))
    assert mutual_information(one, one) == pytest.approx(np.log(BINS), rel=0.01)
    assert mutual_information(one, BINS - 1 - one) == pytest.approx(mutual_information(one, one))
    assert mutual_information(one, other) < 0.01


@pytest.mark.parametrize(("anatomy", "number", "limit_mm"), [(HEAD, 0, 1), (HEAD, 1, 1), (PELVIS, 1, 1.5)])
def test_a_known_pose_is_found(anatomy, number, limit_mm, cache):
    """Within a third of a voxel: those of the CTs are up to 7 mm."""
    case = make_case(anatomy, number, cache)
    before = case.errors_mm(sitk.Transform(3, sitk.sitkIdentity))
    found = register(case.mr, case.ct, threads=1)
    assert before.mean() > 5
    assert case.errors_mm(found.transform).mean() < limit_mm
    assert case.errors_mm(found.transform).max() < 2 * limit_mm
    assert found.similarity > 0.2
    assert found.starts > 10
    assert found.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ANATOMIES[2:], ids=lambda anatomy: anatomy.name)
def test_a_known_pose_of_real_anatomy_is_found(anatomy, cache):
    sample(anatomy.sample)
    case = make_case(anatomy, 0, cache)
    assert case.errors_mm(register(case.mr, case.ct, threads=1).transform).mean() < 1


@pytest.fixture
def one_thread():
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums over several threads end in another order each time
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def test_equal_images_give_equal_transforms(cache, one_thread):
    case = make_case(HEAD, 0, cache)
    found = [matrix_of(register(case.mr, case.ct, threads=1).transform) for _ in range(2)]
    assert np.abs(found[0] - found[1]).max() < 1e-6


def thin(ct):
    return ct[:, :, :2]


def flat(ct):
    return ct * 0


def air(ct):
    return ct / 100 - 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [(thin, "CT: .* voxels, .*expected a volume"), (flat, "CT with values 0 to 0"), (air, "no body found on the CT")],
)
def test_images_that_cannot_be_registered_are_named(change, words, cache):
    case = make_case(HEAD, 0, cache)
    with pytest.raises(MrictError, match=words):
        register(case.mr, change(case.ct))


def bulge(fixed: sitk.Image, size_mm: float) -> sitk.Transform:
    """Return a smooth deformation of points."""
    spline = sitk.BSplineTransformInitializer(fixed, [2, 2, 2], 3)
    values = np.random.default_rng(3).uniform(-size_mm, size_mm, len(spline.GetParameters()))
    spline.SetParameters(values.tolist())
    return spline


@pytest.mark.slow
@pytest.mark.parametrize(("size_mm", "used"), [(0.0, False), (7.0, True)])
def test_a_deformation_is_used_where_there_is_one(size_mm, used, cache):
    mr, ct = (sitk.ReadImage(str(HEAD.folder(0, cache) / f"{name}.nii.gz")) for name in ("mr", "ct"))
    bent = bulge(mr, size_mm)
    pyramid = Pyramid(resample(mr, Grid.of(mr), bent, fill=0), ct)
    identity = sitk.Euler3DTransform()
    found, note = deform(identity, *pyramid.at(DEFORM_MM), 2)
    index = np.argwhere(sitk.GetArrayViewFromImage(pyramid.mr_body.mask) > 0)[::50, ::-1]
    points = [pyramid.mr_body.mask.TransformIndexToPhysicalPoint(i.tolist()) for i in index]
    errors = [
        np.linalg.norm(np.subtract(one.TransformPoint(p), bent.TransformPoint(p)))
        for one in (found, identity)
        for p in points
    ]
    after, before = np.mean(errors[: len(points)]), np.mean(errors[len(points) :])
    assert ("deformed" in note) is used
    assert ("rigid kept" in note) is not used
    assert after < 0.6 * before if used else after == before == 0


TURNED = rigid(np.array([1.0, 2, 3]), np.array([5.0, -4, 9]), Rotation.from_rotvec([0.1, -0.2, 0.3]))
POINT = (11.0, -7.0, 31.0)


@pytest.mark.parametrize("name", ["t.tfm", "t.txt", "t.h5", "t.npy"])
def test_a_transform_is_written_and_read(name, tmp_path):
    write_transform(TURNED, tmp_path / name)
    assert np.allclose(read_transform(tmp_path / name).TransformPoint(POINT), TURNED.TransformPoint(POINT))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_deformation_is_written_to_itks_formats_only(tmp_path):
    together = sitk.CompositeTransform([TURNED, bulge(image(), 3.0)])
    write_transform(together, tmp_path / "t.h5")
    assert np.allclose(read_transform(tmp_path / "t.h5").TransformPoint(POINT), together.TransformPoint(POINT))
    assert matrix_of(together) is None
    with pytest.raises(MrictError, match="a deformation is no matrix"):
        write_transform(together, tmp_path / "t.npy")


def test_matrices_of_chains_map_points_as_the_chain_does(tmp_path):
    chain = sitk.CompositeTransform([TURNED, affine_of(np.diag([1.1, 1, 1, 1.0]))])
    np.savetxt(tmp_path / "m.txt", matrix_of(chain))
    assert np.allclose(read_transform(tmp_path / "m.txt").TransformPoint(POINT), chain.TransformPoint(POINT))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.mat", b"1", "not a transform's file type"),
        ("t.tfm", b"#Insight Transform File V1.0\nTransform: Nothing\n", "cannot be read as a transform"),
        ("t.h5", b"no hdf5", "cannot be read as a transform"),
        ("t.txt", b"1 0 0\n0 1 0\n0 0 1\n", "3×3 numbers"),
        ("t.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n5 0 0 1\n", "last row"),
        ("t.txt", b"1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "finite"),
        ("t.txt", b"-1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "mirrors"),
        ("t.txt", b"0 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "changes a volume by a factor of 0"),
        ("t.txt", b"a transform\n", "not a matrix of numbers"),
        ("t.npy", b"no numpy", "not a matrix of numbers"),
    ],
)
def test_a_transform_that_cannot_be_used_is_named(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MrictError, match=words) as caught:
        read_transform(tmp_path / name)
    assert name in str(caught.value)


def test_a_transform_in_two_dimensions_is_refused(tmp_path):
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "t.tfm"))
    with pytest.raises(MrictError, match="in 2-D; expected one in 3-D"):
        read_transform(tmp_path / "t.tfm")


def test_a_missing_transform_is_named(tmp_path):
    with pytest.raises(UnavailableError, match=r"none\.tfm: cannot be read"):
        read_transform(tmp_path / "none.tfm")


def test_the_benchmark_continues_and_counts(tmp_path):
    path, keys = tmp_path / "poses.jsonl", {"anatomy": "phantom head", "number": 3}
    assert pairing.known(path, keys) is None
    pairing.append(path, {"anatomy": "phantom head", "number": 2})
    pairing.append(path, keys | {"tre_mm": 0.5})
    with open(path, "a", encoding="utf-8") as file:
        file.write('\n{"anatomy": "phantom')  # killed
    pairing.append(path, {"anatomy": "phantom head", "number": 4})
    assert pairing.known(path, keys)["tre_mm"] == 0.5
    assert pairing.known(path, keys | {"number": 4}) is not None
    found = [(0.2, "good"), (0.4, "look at it"), (1.5, "good"), (9.0, "not a pair"), (4.0, "good")]
    more = {"anatomy": "phantom head", "wrong_mm": 5.0, "wrong_verdict": "look at it", "cpu_s": 1.0}
    row = pairing.table([{"tre_mm": tre, "verdict": verdict, **more} for tre, verdict in found])[-1]
    assert {name: row[name] for name in ("poses", "failures", "failures_flagged", "wrong_poses", "wrong_flagged")} == {
        **{"poses": 5, "failures": 2, "failures_flagged": 1},
        **{"wrong_poses": 5, "wrong_flagged": 5},
    }
    assert row["within_1_mm"] == pytest.approx(2 / 5)
    assert row["within_2_mm"] == pytest.approx(3 / 5)
    assert row["good_flagged"] == pytest.approx(1 / 3)


def test_a_pose_that_is_wrong_on_purpose_has_the_error_asked_for(cache):
    case = make_case(HEAD, 0, cache)
    for distance in (3.5, 12.0):
        wrong = pairing.moved_by(case, distance, np.random.default_rng(1))
        assert 0.6 * distance < case.errors_mm(wrong).mean() < 1.4 * distance


@pytest.mark.parametrize("distance_mm", [0.0, 1.0, 4.0])
def test_a_ct_is_scanned_in_another_pose_without_resampling(distance_mm):
    ct = image()
    points = np.random.default_rng(2).uniform(-60, 60, (500, 3))
    truth = pairing_cost.wrong_pose("1BA001", points, distance_mm)
    gaps = [np.subtract(truth.TransformPoint(point.tolist()), point) for point in points]
    scan = pairing_cost.posed(ct, truth)
    assert np.linalg.norm(gaps, axis=1).mean() == pytest.approx(distance_mm, rel=0.02)
    assert resample(scan, Grid.of(ct), truth)[5, 6, 7] == ct[5, 6, 7]
    assert np.array_equal(*(sitk.GetArrayFromImage(one) for one in (resample(scan, Grid.of(ct), truth), ct)))


def test_the_table_of_misaligned_pairs_counts_seeds_and_draws():
    rows = [pairing_cost.Row(shift, registered) for registered in (False, True) for shift in (0.0, 4.0)]
    done = {(row, seed): 100 + row.shift_mm * (1 + 9 * (not row.registered)) + seed for row in rows for seed in (0, 1)}
    found = pairing_cost.table(rows, dict.fromkeys(rows, 0.1), done)
    assert [row["mae_hu"] for row in found] == [100.5, 140.5, 100.5, 104.5]
    assert [row["difference_hu"] for row in found] == [0, 40, 0, 4]
    assert [row["seeds"] for row in found] == [2] * 4
    panel = pairing_cost.figure(found).axes[-1]
    assert [line.get_label() for line in panel.lines if not line.get_label().startswith("_")] == [
        "as scanned",
        "after registration",
    ]
