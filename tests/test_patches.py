"""Patches of volumes: where they are, what surrounds them, and how predictions of them are joined."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mrict_core.data.augment import NONE, JointTransform
from mrict_core.data.batches import Batch, PairedSlices, Patch3d, View, as_slices, loader, make_view
from mrict_core.data.cache.store import PatientSlices, SliceStore
from mrict_core.data.patches import PairedPatches, WholeVolume, middle, patch_of, training_set
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import Patches, get_profile
from mrict_core.losses import LOSSES, Output
from mrict_core.methods import METHODS, build_method, check, check_networks

SMOKE = get_profile("smoke")
BASE = 64  # coordinates are digits of this base
SHAPE = (20, 24, 28)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Return a volume whose every value, exact in float32, says where it is: 0, 1, 2, …"""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def numbered_store():
    """A store of one volume: MR counts its voxels, CT counts them in HU, the mask is a block."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:17, 5:20, 6:22] = 1
    ct = (numbered(SHAPE) / 8).astype(np.float32)  # up to 1680 HU
    slices = PatientSlices(numbered(SHAPE), ct, mask, mask, np.arange(SHAPE[0]))
    window = SimpleNamespace(to_unit=lambda hu: np.where(hu <= -1024, -1.0, hu))
    return SimpleNamespace(
        patients=["1BA001"],
        slices=lambda p: slices,
        plane=lambda p: "axial",
        subjects=lambda: {"1BA001": "1BA001"},
        window=window,
        size=28,
    )


# ---------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(
    ("centre", "sides", "starts"),
    [
        ((10, 12, 14), (4, 6, 8), (8, 9, 10)),  # around the centre
        ((0, 23, 14), (4, 6, 8), (0, 18, 10)),  # moved inside at both ends
        ((10, 12, 14), (20, 24, 28), (0, 0, 0)),  # the whole
    ],
)
def test_a_patch_is_where_it_says(centre, sides, starts):
    found = patch_of(numbered(SHAPE), centre, sides, -1)
    place = tuple(slice(s, s + n) for s, n in zip(starts, sides, strict=True))
    np.testing.assert_array_equal(found, numbered(SHAPE)[place])


@pytest.mark.parametrize("sides", [(32, 8, 8), (23, 8, 40), (21, 25, 29)])
@pytest.mark.parametrize("fill", [-1, 0])
def test_a_smaller_volume_is_centred_and_padded_as_monai_pads(sides, fill):
    """Where the window of a prediction shows a voxel, the patch of training shows it too."""
    volume, seen = numbered(SHAPE), []
    found = patch_of(volume, (10, 12, 14), sides, fill)
    view = Patch3d(patch=sides)
    view.applied(lambda x: seen.append(x.clone()) or x, torch.from_numpy(volume)[None, None])
    inside = [min(n, s) for n, s in zip(SHAPE, sides, strict=True)]
    assert (found != fill).sum() >= np.prod(inside) - 1  # a voxel may have the value of `fill` itself
    rows = np.nonzero((found > 0).any(axis=(1, 2)))[0]
    window = seen[0][0, 0].numpy()
    np.testing.assert_array_equal(rows, np.nonzero((window > 0).any(axis=(1, 2)))[0])
    assert (window[window < 0] == -1).all()
    assert set(np.unique(found[found <= 0])) <= {0.0, float(fill)}


def test_samples_are_of_one_place_with_their_centres_in_the_mask(numbered_store):
    sides = (8, 10, 40)  # wider than the volume
    dataset = training_set(numbered_store, ["1BA001"], None, Patch3d(patch=sides))
    assert isinstance(dataset, PairedPatches)
    assert [k for *_, k in dataset.index] == list(range(3, 17)), "slices with mask alone"
    for batch in loader(dataset, 4, torch.Generator().manual_seed(1), steps=5):
        assert batch.real_A.shape == batch.real_B.shape == batch.mask.shape == (4, 1, *sides)
        assert {part.dtype for part in batch.parts[:3]} == {torch.float32}
        for mr, ct, mask in zip(*(part[:, 0].numpy() for part in batch.parts[:3]), strict=True):
            inside = mr >= 0
            assert inside.sum() == 8 * 10 * 28
            first = np.unravel_index(int(mr[inside].min()), SHAPE)
            place = tuple(slice(f, f + n) for f, n in zip(first, (8, 10, 28), strict=True))
            np.testing.assert_array_equal(mr[..., 6:34], numbered(SHAPE)[place])
            np.testing.assert_array_equal(ct[inside], mr[inside] / 8)
            np.testing.assert_array_equal(mask[..., 6:34], numbered_store.slices("").mask[place])
            assert (mr[~inside] == -1).all()
            assert (ct[~inside] == -1).all()
            assert (mask[~inside] == 0).all()
            assert mask.any()


def test_places_reach_every_voxel_of_a_slices_mask(numbered_store):
    dataset = PairedPatches(numbered_store, ["1BA001"], None, Patch3d(patch=(1, 1, 1)))
    count = 15 * 16
    seen = {float(dataset[0, (k + 0.5) / count].real_A) for k in range(count)}
    np.testing.assert_array_equal(sorted(seen), numbered(SHAPE)[3, 5:20, 6:22].ravel())
    assert float(dataset[0, 1.0].mask) == float(dataset[0].mask) == 1


def test_a_seed_gives_the_same_patches_and_every_slice_its_turn(numbered_store):
    dataset = PairedPatches(numbered_store, ["1BA001"], None, Patch3d(patch=(1, 4, 4)))
    draws = [[batch.real_A for batch in loader(dataset, 7, torch.Generator().manual_seed(seed))] for seed in (3, 3, 4)]
    assert torch.equal(torch.cat(draws[0]), torch.cat(draws[1]))
    assert not torch.equal(torch.cat(draws[0]), torch.cat(draws[2]))
    slices = torch.cat(draws[0])[:, 0, 0, 0, 0] // (SHAPE[1] * SHAPE[2])
    assert sorted(slices.tolist()) == list(range(3, 17)), "one pass"


@pytest.mark.parametrize(
    ("count", "most", "least", "rows"),
    [(30, None, 8, range(30)), (30, 16, 8, range(7, 23)), (30, 4, 8, range(11, 19)), (5, 4, 8, range(5))],
)
def test_validation_may_take_the_middle_slices(count, most, least, rows):
    assert middle(count, most, least) == rows


def test_a_whole_volume_is_what_its_slices_are(space):
    store = SliceStore(space.store)
    patient = store.patients[0]
    batch = next(iter(loader(WholeVolume(store, patient, range(2, 9), Patch3d()), 8)))
    every = PairedSlices(store, [patient])
    expected = every.__getitems__(range(2, 9))
    assert batch.real_A.shape == (1, 1, 7, 64, 64)
    for found, one in zip(batch.parts[:3], expected.parts[:3], strict=True):
        assert torch.equal(as_slices(found), one)


# ----------------------------------------------------------------------------------------------------- augmentation


def test_all_slices_of_a_volume_move_as_one_slice_would():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((2, 1, 1, 24, 24), generator=generator) * 2 - 1
    volume, mask = image.expand(-1, -1, 5, -1, -1).contiguous(), (image > 0).float().expand(-1, -1, 5, -1, -1)
    settings = dataclasses.replace(
        NONE, flip_horizontal=0.5, rotation_degrees=20, translation=0.1, scale=0.2, gamma=0.3
    )
    moved = JointTransform(settings, torch.Generator().manual_seed(3))(volume, volume, mask)
    plain = JointTransform(settings, torch.Generator().manual_seed(3))(image[:, :, 0], image[:, :, 0], mask[:, :, 0])
    for found, one in zip(moved, plain, strict=True):
        assert found.shape == volume.shape
        torch.testing.assert_close(found, one[:, :, None].expand_as(found))
    assert not torch.allclose(moved[1], volume)


# -------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("shape", [(3, 40, 40), (16, 32, 32), (37, 50, 41)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_network_that_sees_a_voxel_alone_gives_the_same_in_patches_as_in_one(shape, overlap):
    volume = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    sizes = []

    def network(x):
        sizes.append(tuple(x.shape))
        return 0.3 * x**2 - x

    found = Patch3d(patch=(16, 32, 32)).applied(network, volume, overlap)
    torch.testing.assert_close(found, 0.3 * volume**2 - volume, rtol=0, atol=2e-6)
    assert found.dtype == torch.float32
    assert {size[1:] for size in sizes} == {(1, 16, 32, 32)}, "never more than a patch"
    assert max(size[0] for size in sizes) <= 2


def test_weights_are_gaussian_and_sums_are_float32_for_a_network_in_bfloat16():
    """A network that answers with its patch's number: no value jumps from one number to the next."""
    calls = iter(range(1000))
    volume = torch.zeros((1, 1, 16, 32, 96))

    def network(x):
        return torch.stack([torch.full_like(one, next(calls)) for one in x]).bfloat16()

    found = Patch3d(patch=(16, 32, 32)).applied(network, volume)
    line = found[0, 0, 8, 16]
    assert found.dtype == torch.float32
    assert line.min() == 0
    assert line.max() == pytest.approx(4, abs=0.01)
    assert (line.diff() >= -1e-5).all()
    assert line.diff().max() < 0.35, "a step of 1, spread over half a patch"


def steps_of_tiling(view, made):
    """Return the steps that tiles make in a volume of twice their sides: at each border, the value with the tiles that
    begin or end there less the value without them.  # 27 tiles => all borders

    What the network itself makes at a border is no part of it.
    """
    weights, sides = view.weights(), view.patch
    firsts = [[n // 2 * k for n, k in zip(sides, np.unravel_index(tile, (3, 3, 3)), strict=True)] for tile in range(27)]

    def blended(tiles):
        sums = torch.zeros((2, *(2 * n for n in sides)), dtype=torch.float64)
        for tile in tiles:
            place = tuple(slice(first, first + n) for first, n in zip(firsts[tile], sides, strict=True))
            sums[(slice(None), *place)] += torch.stack([weights * made[tile], weights])
        return sums

    total, found = blended(range(27)), []
    for axis, n in enumerate(sides):
        for first in (0, n // 2, n):
            own = blended([tile for tile in range(27) if firsts[tile][axis] == first])
            for border in [first] * (first > 0) + [first + n - 1] * (first < n):
                (value, weight), (mine, share) = total.select(axis + 1, border), own.select(axis + 1, border)
                found.append((value / weight - (value - mine) / (weight - share)).flatten())
    return (total[0] / total[1]).float(), torch.cat(found)


@pytest.mark.parametrize("name", ["mk8_0", "mk10_0"])
def test_tiles_make_no_step_of_5_hu(name):
    """Of an untrained network whose tiles differ by hundreds of HU, for its norms see other voxels in each."""
    torch.manual_seed(0)
    method = build_method(get(name), SMOKE, canvas=64, training=False)
    view, network, tiles = method.view, method.generator.eval(), []
    noise = torch.rand((1, 1, *(2 * n for n in view.patch)), generator=torch.Generator().manual_seed(1))
    mr = (nn.functional.avg_pool3d(noise, 9, 1, 4) * 8 - 4).clamp(-1, 1)
    mr[..., :12] = -1  # air
    nn.init.normal_(network.head.weight, std=1.0)
    with torch.inference_mode():
        network.head.weight *= 400 / network(mr).std()  # HU

        def made_by(x):
            made = network(x)
            tiles.extend(made[:, 0].clone())
            return made

        hu = view.applied(made_by, mr)[0, 0]
    expected, steps = steps_of_tiling(view, tiles)
    torch.testing.assert_close(hu, expected, rtol=0, atol=0.1)
    middle = tuple(slice(n // 2, n) for n in view.patch)
    differ = (tiles[0][middle] - tiles[13][tuple(slice(0, n // 2) for n in view.patch)]).abs()
    assert differ.mean() > 100
    assert steps.abs().max() < 5


# ------------------------------------------------------------------------------------------------------------- losses


def test_masked_l1_and_gradients_of_volumes_by_hand():
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.rand((2, 1, 3, 4, 5), generator=generator) for _ in range(2))
    mask = (torch.rand((2, 1, 3, 4, 5), generator=generator) > 0.4).float()
    out, batch = Output(fake_B=fake), Batch(fake, real, mask)
    wrong, inside = (fake - real).numpy(), mask.numpy() > 0
    assert float(LOSSES["l1"](out, batch, masked=True)) == pytest.approx(np.abs(wrong)[inside].mean(), rel=1e-6)
    expected = 0.0
    for axis in (2, 3, 4):
        first, second = (np.take(inside, range(k, inside.shape[axis] - 1 + k), axis) for k in (0, 1))
        expected += np.abs(np.diff(wrong, axis=axis))[first & second].mean()
    assert float(LOSSES["gradient_l1"](out, batch)) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.view.patch": [16, 32]}, "data.view: patch is .* expected three whole numbers"),
        ({"data.view.patch": [16, 32, 0]}, "expected three whole numbers"),
        ({"data.view.patch": [16, 32, 32.5]}, "expected three whole numbers"),
        ({"data.view.sides": [16, 32, 32]}, "unknown option of patch3d 'sides': allowed: patch"),
        ({"loss.ssim": {"weight": 1.0}}, "loss.ssim: is defined on slices, .* choose from .*gradient_l1"),
        ({"loss.perceptual": {"weight": 1.0, "features": "vgg19_pool5"}}, "loss.perceptual: is defined on slices"),
        ({"data.augment.crop": 32}, "data.augment.crop: view patch3d has patches of its own"),
        ({"network.G.norm": "bach"}, "did you mean 'batch'"),
        ({"network.G.depth": 9}, "depth is 9, expected 2 to 6"),
    ],
)
def test_what_volumes_cannot_do_is_said_before_training(changes, message):
    with pytest.raises(MrictError, match=message) as caught:
        check(with_values(get("mk8_0"), changes))
    assert str(caught.value).startswith("mk8_0: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "mk8_0",
            {"network.G.depth": 5, "data.view.patch": [12, 32, 32]},
            r"patches of multiples of 8 x 32 x 32 .* is 12 x 32 x 32; change",
        ),
        ("mk8_0", {"network.G.depth": 5, "data.view.patch": [16, 48, 32]}, "patch is 16 x 48 x 32"),
        ("mk8_0", {"data.view": "slice"}, "volume_unet: is for volumes; set data.view=patch3d"),
        ("mk8_0", {"network.G": "residual_unet"}, "residual_unet: is for slices; set data.view=slab"),
        ("mk8_0", {"network.G": {"name": "monai.BasicUNet", "features": [4] * 6}}, ""),
        ("mk10_0", {"network.D.layers": 4}, ""),
        ("mk10_0", {"data.view.patch": [4, 32, 32]}, "patchgan3d does not work on patches of 4 x 32 x 32 voxels"),
    ],
)
def test_sides_that_do_not_fit_the_network_are_named(name, changes, message):
    variant = with_values(get(name), changes)
    check(variant)
    if not message:
        return check_networks(variant, SMOKE, 64)
    with pytest.raises(MrictError, match=message) as caught:
        check_networks(variant, SMOKE, 64)
    assert "\n" not in str(caught.value)


def test_a_profile_gives_patches_unless_the_experiment_has_its_own():
    profile = dataclasses.replace(SMOKE, patches=Patches([8, 16, 16], batch_size=3, step_fraction=0.001))
    own = with_values(get("mk8_0"), {"data.view.patch": [32, 64, 64]})
    assert make_view(profile.view(get("mk8_0"))).patch == [8, 16, 16]
    assert make_view(profile.view(own)).patch == [32, 64, 64]
    assert (profile.batch(own), profile.steps_of(own)) == (3, 28)
    assert profile.described(get("mk8_0"))["patch"] == [8, 16, 16]
    assert "patch" not in profile.described(own), "part of the experiment itself"
    slices = get("mk7_1")
    assert profile.described(slices) == SMOKE.described(slices)
    assert (profile.batch(slices), profile.steps_of(slices)) == (SMOKE.batch_size, SMOKE.steps)
    assert profile.view(slices) == slices.data.view


def test_a_view_of_volumes_has_no_slices():
    with pytest.raises(MrictError, match="gives a network a volume, not slices"):
        Patch3d().gather(np.zeros((3, 4, 4)), 0)
    assert (View().dimensions, Patch3d().dimensions) == (2, 3)
    assert {name for name, kind in METHODS.items() if "logits" in kind.gives} >= {"gan3d"}
