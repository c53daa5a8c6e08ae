"""Metrics against direct formulas, hand-computed cases and known properties of the definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.frechet import frechet as by_definition
from reference.synthrad import direct_ssim
from reference.validate import slice_ssim
from skimage.metrics import structural_similarity

from mrict_core import metrics
from mrict_core.errors import MrictError


def volumes(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT with values outside the range, an sCT near it, and a mask that touches the faces."""
    rng = np.random.default_rng(seed)
    ct = rng.uniform(-2000, 4000, shape)
    mask = rng.random(shape) < 0.6
    mask.flat[0] = mask.flat[-1] = True
    return ct, ct + rng.normal(0, 300, shape), mask.astype(np.uint8) * 255


SHAPES = [(9, 8, 7), (11, 7, 10), (7, 7, 7), (13, 9, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_synthrad_metrics_equal_the_direct_formulas(shape):
    ct, sct, mask = volumes(shape)
    if shape == (7, 7, 7):
        mask[3, 3, 3] = 255  # the only voxel with a value
    inside = mask > 0
    clipped = [np.clip(a, -1024, 3000) for a in (ct, sct)]
    mse = ((clipped[0] - clipped[1])[inside] ** 2).mean()
    assert metrics.mae_hu(ct, sct, mask) == pytest.approx(np.abs(ct - sct)[inside].sum() / inside.sum(), rel=1e-6)
    assert metrics.psnr_db(ct, sct, mask) == pytest.approx(10 * np.log10(4024**2 / mse), rel=1e-6)
    score = metrics.ssim(ct, sct, mask)
    assert score.dimensionality == "3D"
    assert score.value == pytest.approx(direct_ssim(ct, sct, mask), rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1, 3, 6])
def test_thin_volumes_are_scored_per_slice_along_the_thin_axis(axis, thickness):
    ct, sct, mask = (np.moveaxis(a, 2, axis) for a in volumes((11, 9, thickness), seed=thickness))
    score = metrics.ssim(ct, sct, mask)
    slices = [tuple(np.moveaxis(a, axis, 0)[i] for a in (ct, sct, mask)) for i in range(thickness)]
    counts = [np.count_nonzero(m[3:-3, 3:-3]) for *_, m in slices]
    expected = np.average([direct_ssim(*s) if n else 0.0 for s, n in zip(slices, counts, strict=True)], weights=counts)
    assert score.dimensionality == "2D"
    assert score.value == pytest.approx(expected, rel=1e-6)


def test_ssim_equals_the_library_map_on_a_smooth_volume():
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (12, 15, 14)), indexing="ij")
    ct = (1200 * np.exp(-3 * (x**2 + y**2 + z**2)) - 1000).astype(np.float32)
    sct = (ct * 0.9).astype(np.float32)
    mask = ct > -700
    real, fake = (np.where(mask, a, -1024).astype(np.float32) + 1024 for a in (ct, sct))
    _, full = structural_similarity(real, fake, win_size=7, data_range=4024, full=True)
    inner = (slice(3, -3),) * 3
    expected = full[inner][mask[inner]].mean(dtype=np.float64)
    assert metrics.ssim(ct, sct, mask).value == pytest.approx(expected, rel=1e-6)


def test_hand_computed_case():
    ct = np.zeros((7, 7, 7))
    sct = np.full_like(ct, 100.0)
    sct[0] = -300.0  # 49 of 343 voxels
    mask = np.ones(ct.shape)
    assert metrics.mae_hu(ct, sct, mask) == pytest.approx((49 * 300 + 294 * 100) / 343)
    assert metrics.psnr_db(ct, sct, mask) == pytest.approx(10 * np.log10(4024**2 * 343 / (49 * 300**2 + 294 * 100**2)))


def test_only_the_mask_counts():
    ct, sct, mask = volumes((9, 9, 9), seed=4)
    other = np.where(mask > 0, sct, 12345.0)
    for metric in (metrics.mae_hu, metrics.psnr_db, metrics.ssim):
        assert metric(ct, sct, mask) == metric(ct, other, mask)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-900, 900))
def test_a_constant_bias_is_the_mae(seed, bias):
    rng = np.random.default_rng(seed)
    ct = rng.integers(-100, 100, (8, 7, 9)).astype(float)
    mask = np.ones(ct.shape, np.uint8)
    assert metrics.mae_hu(ct, ct + bias, mask) == pytest.approx(abs(bias), abs=1e-3)
    score = metrics.ssim(ct, ct + bias, mask)
    assert -1.0 <= score.value <= 1.0 + 1e-4  # float32 maps, by definition


def test_values_outside_the_range_reach_only_the_mae():
    ct = np.full((8, 8, 8), 3000.0)
    sct = np.full_like(ct, 9000.0)
    mask = np.ones(ct.shape)
    assert metrics.mae_hu(ct, sct, mask) == 6000.0
    assert metrics.psnr_db(ct, sct, mask) == float("inf")
    assert metrics.ssim(ct, sct, mask).value == pytest.approx(1.0)


def corrupted(what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ct, sct, mask = volumes((9, 9, 9))
    match what:
        case "shape":
            return ct, sct[:-1], mask
        case "mask shape":
            return ct, sct, mask[:, :-1]
        case "2-D":
            return ct[0], sct[0], mask[0]
        case "empty mask":
            return ct, sct, np.zeros_like(mask)
        case "NaN":
            sct[4, 4, 4] = np.nan
        case "infinite":
            ct[0, 0, 0] = np.inf
    return ct, sct, mask


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shape", "9×9×9, sCT 8×9×9"),
        ("mask shape", "mask 9×8×9"),
        ("2-D", "3-D volumes"),
        ("empty mask", "mask is empty"),
        ("NaN", "sCT has 1 NaN"),
        ("infinite", "CT has 1 NaN or infinite"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.mae_hu, metrics.psnr_db, metrics.ssim])
def test_bad_input_is_a_one_line_error(metric, what, message):
    with pytest.raises(MrictError, match=message) as error:
        metric(*corrupted(what))
    assert "\n" not in str(error.value)


def test_ssim_names_what_it_cannot_score():
    line = np.zeros((20, 3, 2))
    with pytest.raises(MrictError, match="20×3×2"):
        metrics.ssim(line, line, line + 1)
    ct, sct, mask = volumes((9, 9, 9))
    mask[3:-3, 3:-3, 3:-3] = 0
    with pytest.raises(MrictError, match="within 3 voxels"):
        metrics.ssim(ct, sct, mask)


def slices_hu(count: int = 5, side: int = 24, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hu = np.full((count, side, side), -1024.0, np.float32)
    hu[:, 6:18, 5:19] = rng.uniform(-900, 1800, (count, 12, 14))
    return hu


def test_predecessor_scores_equal_the_direct_formulas():
    real, fake = slices_hu(), slices_hu(seed=2)
    unit = [np.clip(a, -1000, 1000) / 1000 for a in (real, fake)]
    scores = metrics.predecessor_scores(real, fake)
    assert scores["mse"] == pytest.approx(np.mean((unit[0] - unit[1]) ** 2), rel=1e-6)
    assert scores["ssim"] == pytest.approx(slice_ssim(*unit), rel=1e-5)


def test_an_all_black_image_is_rewarded_for_the_background():
    real = slices_hu()
    scores = metrics.predecessor_scores(real, np.full_like(real, -1000.0))
    unit = metrics.to_unit(real)
    assert scores["mse"] == pytest.approx(float(np.mean((unit + 1) ** 2)), rel=1e-5)
    assert scores["ssim"] < 0.1
    wide = np.pad(real, ((0, 0), (40, 40), (40, 40)), constant_values=-1024)
    assert metrics.predecessor_scores(wide, np.full_like(wide, -1000.0))["ssim"] > 0.85


def test_a_150_hu_bias_is_seen_in_full():
    real = np.clip(slices_hu(), -800, 800)
    assert metrics.predecessor_scores(real, real + 150)["mse"] == pytest.approx(0.15**2, rel=1e-4)


@pytest.mark.parametrize(("fake_hu", "expected"), [(-1000.0, 1.0), (-1024.0, 1.0), (1000.0, -1.0)])
def test_a_constant_real_slice_uses_the_whole_range(fake_hu, expected):
    real = np.full((2, 16, 16), -1000.0)
    values = metrics.predecessor_ssim(metrics.to_unit(real), metrics.to_unit(np.full_like(real, fake_hu)))
    assert values == pytest.approx([expected] * 2, abs=1e-3)


class MeanFeatures(torch.nn.Module):
    """Quadrant means and SD of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float()
        pooled = torch.nn.functional.adaptive_avg_pool2d(images[:, :1], 2).flatten(1)
        return torch.cat([pooled, images.flatten(1).std(dim=1, keepdim=True)], dim=1)


def frechet(real: np.ndarray, fake: np.ndarray, features, batch_size: int = 32) -> float:
    distance = metrics.FrechetDistance(features, batch_size=batch_size)
    distance.update(real, fake)
    return distance.compute()


def test_frechet_distance_equals_the_formula():
    real, fake = (metrics.to_unit(slices_hu(count=12, seed=seed)) for seed in (3, 4))
    found = frechet(real, fake, MeanFeatures(), batch_size=5)
    clouds = []
    for stack in (real, fake):
        seen = torch.from_numpy(np.clip(stack * 255, 0, 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
        clouds.append(MeanFeatures()(seen).double().numpy())
    assert found == pytest.approx(by_definition(*clouds), rel=1e-5)
    assert frechet(real, real, MeanFeatures()) == pytest.approx(0.0, abs=1e-3)


def test_frechet_distance_does_not_depend_on_the_parts_and_sees_the_predecessors_images():
    real, fake = (metrics.to_unit(slices_hu(count=9, seed=seed)) for seed in (7, 8))
    distance = metrics.FrechetDistance(MeanFeatures())
    for part in (slice(0, 1), slice(1, 9)):
        distance.update(real[part], fake[part])
    assert distance.compute() == pytest.approx(frechet(real, fake, MeanFeatures()), rel=1e-6)

    seen = []
    grey = metrics.to_unit(np.stack([np.full((16, 16), hu, np.float32) for hu in (-1000, 0, 500, 1000)]))
    frechet(grey, grey, lambda images: (seen.append(images), images.float().flatten(1)[:, :2])[1])
    assert seen[-1].dtype == torch.uint8
    assert seen[-1][:, 2, 5, 5].tolist() == [0, 0, 127, 255]
    with pytest.raises(MrictError, match="at least 2 slices, got 1"):
        frechet(real[:1], fake[:1], MeanFeatures())


def test_frechet_distance_bounds_what_the_network_gets_at_a_time():
    seen = []
    features = MeanFeatures()
    distance = metrics.FrechetDistance(lambda images: (seen.append(len(images)), features(images))[1], batch_size=4)
    stack = np.random.default_rng(0).uniform(-1, 1, (11, 16, 16)).astype(np.float32)
    distance.update(stack, -stack)
    assert max(seen) == 4
    assert distance.compute() == pytest.approx(frechet(stack, -stack, features), rel=1e-6)


def test_frechet_distance_sees_nothing_below_water():
    real = np.full((4, 16, 16), -500.0, np.float32)
    unit = [metrics.to_unit(a) for a in (real, real - 300)]
    assert frechet(*unit, MeanFeatures()) == 0.0


def test_feature_error_is_the_mean_over_slices_whatever_the_batch():
    real, fake = (metrics.to_unit(slices_hu(seed=seed)) for seed in (5, 6))
    pairs = zip(real, fake, strict=True)
    expected = np.mean([metrics.predecessor_vgg(r[None], f[None], MeanFeatures(), side=None) for r, f in pairs])
    for batch_size in (1, 2, 32):
        found = metrics.predecessor_vgg(real, fake, MeanFeatures(), side=None, batch_size=batch_size)
        assert found == pytest.approx(expected)
    seen = []
    metrics.predecessor_vgg(real, fake, lambda images: (seen.append(tuple(images.shape)), images)[1])
    assert seen[0] == (5, 3, 224, 224)


def test_the_resize_for_vgg_keeps_a_constant_and_smooths_a_checkerboard():
    seen = []
    board = (np.arange(448)[:, None] + np.arange(448)) % 2 * 2.0 - 1
    stack = np.stack([np.full_like(board, 0.3), board])
    metrics.predecessor_vgg(stack, stack, lambda images: (seen.append(images), images)[1])
    constant, smooth = seen[0]
    assert torch.allclose(constant, torch.tensor(0.3))
    assert smooth.abs().mean() < 0.1  # without antialias half of the pixels would stay at +-1


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((0, 9, 9)), np.zeros((0, 9, 9)), "slice stacks"),
        (np.zeros((2, 9, 9)), np.zeros((2, 9, 8)), "one shape"),
        (np.zeros((2, 6, 9)), np.zeros((2, 6, 9)), "at least 7×7"),
        (np.zeros((2, 9, 9)), np.full((2, 9, 9), np.nan), "NaN"),
    ],
)
def test_bad_slices_are_named(real, fake, message):
    with pytest.raises(MrictError, match=message):
        metrics.predecessor_scores(real, fake)


def test_every_number_has_a_full_card():
    for name, row in metrics.TABLE.items():
        card = row.card()
        assert card["name"] == name
        assert all(card.values())
        assert json.loads(json.dumps(card)) == card


def test_cards_name_a_library_only_where_it_computes_the_number():
    cards = {name: " ".join(row.card().values()) for name, row in metrics.TABLE.items()}
    assert {name for name, text in cards.items() if "torchmetrics" in text} == {"kid", "lpips"}
    assert {name for name, text in cards.items() if "metrics/frechet.py" in text} == {"fid", "predecessor_fid"}
    root = Path(metrics.__file__).parent
    assert "torchmetrics" not in (root / "frechet.py").read_text(encoding="utf-8")
    for path in (root / "feature_distances.py", root.parent / "networks" / "lpips.py"):
        assert "from torchmetrics" in path.read_text(encoding="utf-8")
