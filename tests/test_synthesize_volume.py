"""A volume in, a synthetic CT out: geometry over shapes, spacings and axis codes; tiles, flips, planes, ensembles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from samples import sample
from scipy import ndimage
from scipy.spatial.transform import Rotation
from test_volumes import CODES, affine_of
from tiny_models import head_array, untrained_checkpoint, with_network
from torch import nn

from mrict_core.data.cache.patient import body_of, prepare_mr, prepare_mr_predecessor, prepare_predecessor
from mrict_core.data.images.orders import PLANES, SliceOrder
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.data.intensity import MR_PERCENTILES
from mrict_core.data.masks import outline
from mrict_core.errors import MrictError
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.tiles import slices_to_hu
from mrict_core.inference.volume import SynthesisOptions, flips_of, synthesize_volume

SPACING = (5.0, 5.0, 6.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tiny(folder) -> Synthesizer:
    return load_synthesizer(untrained_checkpoint(folder / "a.pt"), device="cpu")


@pytest.fixture(scope="module")
def other(folder) -> Synthesizer:
    return load_synthesizer(untrained_checkpoint(folder / "b.pt", seed=1), device="cpu")


@pytest.fixture(scope="module")
def old(folder) -> Synthesizer:
    return load_synthesizer(untrained_checkpoint(folder / "old.pt", protocol="predecessor"), device="cpu")


@pytest.fixture(scope="module")
def copying(tiny) -> Synthesizer:
    """A model that returns its input: where a voxel lands can then be computed without it."""
    return with_network(tiny, nn.Identity())


def in_plane(model: Synthesizer, plane: str) -> Synthesizer:
    return dataclasses.replace(model, facts=dataclasses.replace(model.facts, plane=plane))


def of_size(model: Synthesizer, size: int) -> Synthesizer:
    return dataclasses.replace(model, facts=dataclasses.replace(model.facts, size=size))


def head(shape=(34, 40, 7), spacing=SPACING) -> Volume:
    return Volume(head_array(shape, spacing), np.diag([*spacing, 1.0]), Path("head.nii.gz"))


def turned(volume: Volume, code: str) -> Volume:
    """Return the volume stored along other axes, by nibabel."""
    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(code))
    image = nib.Nifti1Image(volume.array, volume.affine).as_reoriented(change)
    return Volume(np.asarray(image.dataobj), image.affine, volume.path)


def expected_copy(volume: Volume, model: Synthesizer) -> np.ndarray:
    """Return what a model that copies its input must give: the MR in HU by its range in the body, air elsewhere."""
    body = body_of(volume)
    low, high = np.percentile(volume.array[body], MR_PERCENTILES)
    unit = np.clip((volume.array - low) / (high - low), 0, 1)
    window = model.window
    return np.where(body, window.low + unit * (window.high - window.low), -1024.0)


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("code", CODES)
def test_a_reoriented_volume_gives_the_reoriented_ct_exactly(code, tiny):
    straight = synthesize_volume(tiny, head())
    volume = turned(head(), code)
    assert "".join(nib.aff2axcodes(volume.affine)) == code
    found = synthesize_volume(tiny, volume)
    back = turned(Volume(found.hu, volume.affine, volume.path), "RAS")
    np.testing.assert_array_equal(back.array, straight.hu)
    np.testing.assert_array_equal(back.affine, head().affine)
    assert len(np.unique(straight.hu)) > 1000  # not a constant that any turn would keep


@pytest.mark.parametrize("code", ["LPS", "PIR", "SAL", "ASR"])
@pytest.mark.parametrize("kind", ["planes", "flips", "predecessor"])
def test_so_do_planes_flips_and_the_predecessors_protocol(code, kind, tiny, other, old):
    models, options = {
        "planes": ([tiny, in_plane(other, "coronal"), in_plane(tiny, "sagittal")], SynthesisOptions(uncertainty=True)),
        "flips": ([tiny, other], SynthesisOptions(tta=True, uncertainty=True)),
        "predecessor": ([old], SynthesisOptions()),
    }[kind]
    upright = head((34, 40, 12))  # high enough for other planes than the axial one
    straight = synthesize_volume(models, upright, options)
    volume = turned(upright, code)
    found = synthesize_volume(models, volume, options)
    for name in ("hu", "sd_hu", "body"):
        if getattr(straight, name) is not None:
            back = turned(Volume(getattr(found, name).astype(np.float32), volume.affine, volume.path), "RAS")
            np.testing.assert_array_equal(back.array, getattr(straight, name).astype(np.float32), err_msg=name)


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(CODES),
    shape=st.tuples(st.integers(14, 70), st.integers(14, 70), st.integers(1, 6)),
    spacing=st.tuples(st.floats(2, 6), st.floats(2, 6), st.floats(1, 9)),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    plane=st.sampled_from(sorted(PLANES)),
)
def test_every_voxel_lands_where_it_was(copying, code, shape, spacing, angles, plane):
    """Odd sizes, single slices, bodies larger than the canvas, anisotropic and oblique grids."""
    axial = SliceOrder.axial(affine_of(code))
    shape, spacing = (tuple(np.take(v, np.argsort((*axial.axes[1:], axial.axes[0])))) for v in (shape, spacing))
    affine = affine_of(code, spacing)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    # three tilts may add up to more than 45 degrees: the thin axis would then lie in the slices, and the head with it
    assume(SliceOrder.axial(affine).axes == axial.axes)
    volume = Volume(head_array(shape, spacing), affine, Path("x.nii"))
    model = in_plane(of_size(copying, 96), plane)
    found = synthesize_volume(model, volume, SynthesisOptions(resample_to_mm=0))
    assert found.hu.shape == volume.shape
    assert found.hu.dtype == np.float32
    np.testing.assert_allclose(found.hu, expected_copy(volume, model), atol=0.01)
    np.testing.assert_array_equal(found.hu[~found.body], -1024)


@pytest.mark.parametrize("shape", [(110, 70, 2), (61, 131, 3), (150, 149, 1)])
def test_slices_larger_than_the_canvas_are_tiled_and_joined(shape, copying, tiny):
    volume = head(shape, (2.0, 2.0, 6.0))
    found = synthesize_volume(copying, volume)
    assert found.facts["tiled"]
    assert any("overlapping tiles" in text for text in found.warnings)
    np.testing.assert_allclose(found.hu, expected_copy(volume, copying), atol=0.01)
    real = synthesize_volume(tiny, volume)
    assert np.isfinite(real.hu).all()
    assert not np.array_equal(real.hu, found.hu)


def test_tiles_blend_without_a_step_where_one_tile_begins(tiny, copying):
    """Two halves that disagree by a constant join in a ramp, never in one jump."""

    class ByPlace(nn.Module):
        def forward(self, x):
            return x * 0 + x.amax(dim=(2, 3), keepdim=True)

    model = with_network(copying, ByPlace())
    row = np.full((1, 64, 112), -0.5, np.float32)
    row[..., 100:] = 0.5
    hu = slices_to_hu(model, row)
    steps = np.abs(np.diff(hu[0, 32]))
    assert hu[0, 32, 0] == pytest.approx(model.window.to_hu(np.float32(-0.5)), abs=0.1)
    assert hu[0, 32, -1] == pytest.approx(model.window.to_hu(np.float32(0.5)), abs=0.1)
    assert steps.max() < 0.2 * (hu.max() - hu.min())


def test_slices_that_fit_are_the_same_as_in_evaluation(tiny):
    """The path that scores a model and the path that uses it give the same numbers."""
    volume = head()
    prepared = prepare_mr(volume, 64)
    hu = prepared.to_volume(tiny.slices_to_hu(prepared.mr))
    found = synthesize_volume(tiny, volume)
    np.testing.assert_array_equal(found.hu[found.body], hu[found.body])
    assert not found.facts["tiled"]


def test_predecessor_input_differs_from_its_training_input_in_the_mask_alone():
    mr = turned(head(), "LPS")
    ct = Volume(np.where(mr.array > 100, 40.0, -1000.0).astype(np.float32), mr.affine, mr.path)
    arrays, trained = prepare_predecessor(mr, ct, np.ones(mr.shape, bool), 64)
    alone = prepare_mr_predecessor(mr, 64)
    both = trained.body & alone.body
    assert both.any()
    np.testing.assert_allclose(alone.mr[both], arrays["mr"][both], atol=1e-6)
    assert (alone.order, alone.crop) == (trained.order, trained.crop)


# --------------------------------------------------------------------------------- several predictions, another spacing


def test_flips_and_models_are_averaged_and_their_spread_is_the_sample_sd(tiny, other):
    volume = head()
    found = synthesize_volume([tiny, other], volume, SynthesisOptions(tta=True, uncertainty=True))
    prepared = prepare_mr(volume, 64)
    stack = np.stack(
        [
            prepared.to_volume(np.flip(model.slices_to_hu(np.flip(prepared.mr, axes)), axes))
            for model in (tiny, other)
            for axes in flips_of(model, "axial")
        ]
    ).astype(np.float64)
    inside = found.body
    np.testing.assert_allclose(found.hu[inside], stack.mean(axis=0)[inside], atol=0.01)
    np.testing.assert_allclose(found.sd_hu[inside], stack.std(axis=0, ddof=1)[inside], atol=0.01)
    assert found.sd_hu[inside].mean() > 1
    np.testing.assert_array_equal(found.sd_hu[~outline(inside, volume.spacing_mm)], 0)
    assert found.facts["passes"] == 8


def test_planes_are_merged_by_their_mean(tiny, other):
    models = [tiny, in_plane(other, "coronal"), in_plane(tiny, "sagittal")]
    volume = head((30, 34, 20), (6.0, 6.0, 6.0))
    merged = synthesize_volume(models, volume, SynthesisOptions(uncertainty=True))
    single = np.stack([synthesize_volume(model, volume).hu for model in models])
    np.testing.assert_allclose(merged.hu, single.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(merged.sd_hu, single.std(axis=0, ddof=1), atol=0.05)
    assert len({each.tobytes() for each in single}) == 3
    assert merged.facts["planes"] == ["axial", "coronal", "sagittal"]


@pytest.mark.parametrize(
    ("plane", "codes"), [("axial", ("S", "P", "L")), ("coronal", ("P", "I", "L")), ("sagittal", ("L", "I", "P"))]
)
def test_planes_show_the_patient_alike_from_any_axes(plane, codes):
    letters = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
    for code in CODES:
        affine = affine_of(code, (1.0, 2.0, 3.0))
        order = SliceOrder.toward(affine, PLANES[plane])
        grid = np.stack(np.meshgrid(*map(np.arange, (2, 3, 4)), indexing="ij"), axis=-1) @ affine[:3, :3].T
        for axis, letter in enumerate(codes):
            world, sign = letters[letter]
            assert (sign * np.diff(order.to_slices(grid[..., world]), axis=axis) > 0).all(), (code, letter)


def smooth_head(spacing: float, n: int) -> Volume:
    grid = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * spacing] * 2, [0.0, 6.0, 12.0], indexing="ij")
    radius = np.sqrt(grid[0] ** 2 + grid[1] ** 2)
    array = 700 / (1 + np.exp((radius - 60) / 2)) * (1 + 0.3 * np.cos(grid[0] / 25)) + 3
    affine = np.diag([spacing, spacing, 6.0, 1.0])
    return Volume(array.astype(np.float32), affine, Path("smooth.nii"))


def test_another_pixel_for_the_network_and_back_onto_the_grid(copying):
    volume = smooth_head(2.5, 70)
    native, moved = (synthesize_volume(copying, volume, SynthesisOptions(resample_to_mm=mm)) for mm in (0, 3.1))
    assert native.facts["network_spacing_mm"] == [6.0, 2.5, 2.5]
    assert moved.facts["network_spacing_mm"] == [6.0, 3.1, 3.1]
    assert moved.hu.shape == volume.shape
    np.testing.assert_array_equal(moved.body, native.body)
    core = native.body & (np.hypot(*np.meshgrid(*[(np.arange(70) - 34.5) * 2.5] * 2, indexing="ij")) < 40)[..., None]
    assert core.sum() > 1000
    shift = np.abs(moved.hu - native.hu)[core]
    assert shift.max() < 60  # of a 4024 HU window: interpolation of a smooth image, no voxel elsewhere


@pytest.mark.parametrize(("trained_mm", "resampled"), [(2.5, False), (3.0, False), (6.0, True), (1.0, True)])
def test_the_pixel_is_changed_by_itself_only_far_from_training(trained_mm, resampled, copying):
    spacing = {f"spacing_{side}": {"centre": float(np.log(trained_mm))} for side in ("rows", "cols")}
    facts = dataclasses.replace(copying.facts, fingerprint={"features": spacing})
    model = dataclasses.replace(copying, facts=facts)
    found = synthesize_volume(model, smooth_head(2.5, 70))
    assert (found.facts["network_spacing_mm"][1] == pytest.approx(trained_mm)) is (resampled or trained_mm == 2.5)
    assert any("the network was trained on" in text for text in found.warnings) is resampled


@pytest.mark.parametrize(
    ("plane", "pixel_mm", "square"), [("axial", [1.5, 1.5], False), ("sagittal", [1.5, 1.5], True)]
)
def test_pixels_far_from_square_are_made_square(plane, pixel_mm, square, copying):
    """A sagittal acquisition with thick slices: the pixels of its axial slices are 1.5 x 6 mm."""
    volume = Volume(head_array((110, 100, 30), (1.5, 1.5, 6.0)), affine_of("PSR", (1.5, 1.5, 6.0)), Path("thick.nii"))
    found = synthesize_volume(in_plane(copying, plane), volume)
    assert found.facts["network_spacing_mm"][1:] == pixel_mm
    assert any("1.5 x 6 mm, the network was trained on square ones" in text for text in found.warnings) is not square
    assert found.hu.shape == volume.shape
    core = ndimage.binary_erosion(found.body, iterations=2)
    assert np.abs(found.hu - expected_copy(volume, copying))[core].mean() < 60


def test_sheared_pixels_far_from_square_stay_with_a_warning(copying):
    affine = np.diag([2.0, 5.0, 6.0, 1.0])
    affine[0, 1] = 0.5
    volume = Volume(head_array((60, 40, 5), (2.0, 5.0, 6.0)), affine, Path("sheared.nii"))
    found = synthesize_volume(copying, volume)
    assert any("not at right angles: not resampled" in text for text in found.warnings)
    np.testing.assert_allclose(found.hu, expected_copy(volume, copying), atol=0.01)


def test_a_given_body_bounds_the_output_and_says_which_slices_are_wanted(tiny):
    volume = head()
    own = body_of(volume)
    wanted = np.zeros(volume.shape, bool)
    wanted[3:30, 5:30, :] = True
    assert not own[..., 0].any()
    found = synthesize_volume(tiny, volume, body=wanted)
    np.testing.assert_array_equal(found.hu[~wanted], -1024)
    assert found.facts["slices"] == 7
    np.testing.assert_array_equal(found.body, wanted)
    inside = wanted & own
    np.testing.assert_array_equal(found.hu[inside], synthesize_volume(tiny, volume).hu[inside])


# ------------------------------------------------------------------------------------------------------------- refusals


def changed(array=None, affine=None) -> Volume:
    volume = head()
    return Volume(volume.array if array is None else array, volume.affine if affine is None else affine, volume.path)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (changed(np.full((20, 20, 3), 7.0, np.float32)), "head.nii.gz: .*constant"),
        (changed(np.zeros((20, 20, 3), np.float32)), "head.nii.gz: "),
        (changed(head_array((34, 40, 7)) * 1.4 - 1000), "look like a CT in HU"),
    ],
)
def test_images_without_a_body_are_refused_by_name(volume, message, tiny):
    with pytest.raises(MrictError, match=message):
        synthesize_volume(tiny, volume)


def test_what_cannot_be_asked_is_said(tiny, old):
    volume = head()
    for models, options, message in (
        ([], {}, "no model given"),
        ([tiny], {"uncertainty": True}, "uncertainty needs several predictions"),
        ([tiny, old], {}, "protocols patient and predecessor"),
        ([in_plane(old, "coronal")], {}, "only axial slices"),
        ([in_plane(tiny, "oblique")], {}, "unknown plane 'oblique'"),
    ):
        with pytest.raises(MrictError, match=message):
            synthesize_volume(models, volume, SynthesisOptions(**options))
    for options in ({"overlap": 1.0}, {"resample_to_mm": -1.0}, {"resample_to_mm": 1e4}):
        with pytest.raises(MrictError, match="expected"):
            SynthesisOptions(**options)
    assert tiny.facts.all_planes == ["axial"]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6, 1e12]),
    protocol=st.sampled_from(["patient", "predecessor"]),
)
def test_the_smallest_and_strangest_volumes_give_a_ct_or_one_clear_line(shape, seed, scale, protocol, tiny, old):
    array = np.random.default_rng(seed).gamma(1.0, 100.0, shape).astype(np.float32) * np.float32(scale)
    volume = Volume(array, np.diag([5.0, 5.0, 6.0, 1.0]), Path("strange.nii"))
    found, refusal = None, ""
    try:
        found = synthesize_volume(tiny if protocol == "patient" else old, volume)
    except MrictError as error:
        refusal = str(error)
    assert refusal.startswith("strange.nii: ") is (found is None)
    if found is None:
        return
    assert found.hu.shape == shape
    assert np.isfinite(found.hu).all()
    assert found.hu.min() >= -1024
    assert found.hu.max() <= 3000


@pytest.mark.parametrize("plane", PLANES)
def test_one_slice_is_predicted_in_its_plane_by_any_model(plane, tiny, other):
    """An axial model too: other planes of one slice are lines."""
    whole = head((34, 40, 30), (5.0, 5.0, 5.0))
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    middle = [slice(None)] * 3
    middle[axis] = slice(15, 16)
    volume = dataclasses.replace(whole, array=np.ascontiguousarray(whole.array[tuple(middle)]))
    found = synthesize_volume([tiny, in_plane(other, plane)], volume)
    assert (found.facts["planes"], found.facts["slices"]) == ([plane], 1)
    used = [tiny, other] if plane == "axial" else [other]  # those trained on the plane
    prepared = prepare_mr(volume, 64, plane=plane)
    hu = np.mean([prepared.to_volume(one.slices_to_hu(prepared.mr)) for one in used], axis=0)
    np.testing.assert_allclose(found.hu[found.body], hu[found.body], atol=1e-3)
    alone = synthesize_volume(tiny, volume)
    np.testing.assert_array_equal(alone.hu[alone.body], prepared.to_volume(tiny.slices_to_hu(prepared.mr))[alone.body])
    every = dataclasses.replace(tiny, facts=dataclasses.replace(tiny.facts, planes=list(PLANES)))
    with pytest.raises(MrictError, match=r"head\.nii\.gz: one model gives one prediction of its"):
        synthesize_volume(every, volume, SynthesisOptions(uncertainty=True))


def test_thick_slices_are_resampled_where_they_are_rows_and_stay_apart_where_they_are_slices(tiny, other):
    volume = Volume(head_array((40, 44, 9), (4.0, 4.0, 12.0)), np.diag([4.0, 4.0, 12.0, 1.0]), Path("thick.nii"))
    for models, spacing in (([tiny], [12.0, 4.0, 4.0]), ([in_plane(other, "coronal")], [4.0, 4.0, 4.0])):
        assert synthesize_volume(models, volume).facts["network_spacing_mm"] == spacing
    found = synthesize_volume([tiny, in_plane(other, "coronal")], volume)
    assert found.facts["network_spacing_mm"] == [12.0, 4.0, 4.0], "of the first plane"
    assert any("4 x 12 mm" in text or "12 x 4 mm" in text for text in found.warnings)


def test_sheared_grids_keep_native_pixels_and_say_so_when_asked_for_others(tiny):
    affine = np.diag([*SPACING, 1.0])
    affine[0, 1] = 1.0
    volume = changed(affine=affine)
    assert synthesize_volume(tiny, volume).hu.shape == volume.shape
    with pytest.raises(MrictError, match="not at right angles"):
        synthesize_volume(tiny, volume, SynthesisOptions(resample_to_mm=4.0))


# -------------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize(
    ("name", "region", "size"), [("brainweb_head", "brain/BW04", 64), ("pelvis_bulk", "pelvis/P3", 96)]
)
def test_sample_volumes_return_on_their_grid(name, region, size, copying, tiny):
    whole = load_volume(sample(f"{name}/Task1/{region}") / "mr.nii.gz")
    n = whole.shape[2]
    few = slice(n // 2, n // 2 + 4)
    volume = dataclasses.replace(whole, array=np.ascontiguousarray(whole.array[..., few]))
    found = synthesize_volume(of_size(copying, size), volume)
    assert found.facts["tiled"]
    np.testing.assert_allclose(found.hu, expected_copy(volume, copying), atol=0.01)
    real = synthesize_volume(of_size(tiny, size), volume)
    np.testing.assert_array_equal(real.body, found.body)
    assert real.hu[real.body].std() > 1
