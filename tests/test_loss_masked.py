"""Loss terms inside the mask: values against plain numpy, gradients, what the mask leaves out, and the HU segmenter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Term
from mrict_core.hu import SYNTHRAD2023, TISSUES
from mrict_core.losses import Loss, Output, check_terms, masked_mean
from mrict_core.networks.hu_segmenter import damage
from mrict_core.training.run import TrainSettings, prepare_run

SIDE = 32
MASKS = {
    "all": (slice(None), slice(None)),
    "body": (slice(8, 24), slice(7, 23)),
    "strip": (slice(12, 13), slice(6, 26)),
    "pixel": (slice(15, 16), slice(15, 16)),
}
WITHIN = {  # the terms that a mask limits
    "l1": {"masked": True},
    "gradient_l1": {},
    "ssim": {},
    "laplace": {},
    "hu_features": {},
}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def mask_of(*names: str) -> torch.Tensor:
    """Return a mask for each name.  # (B, 1, SIDE, SIDE)"""
    mask = torch.zeros(len(names), 1, SIDE, SIDE, dtype=torch.float64)
    for one, name in zip(mask, names, strict=True):
        if name in MASKS:
            one[(0, *MASKS[name])] = 1
    return mask


def pair(mask: torch.Tensor, channels: int = 1, seed: int = 0, **more: torch.Tensor) -> tuple[Output, Batch]:
    """Return random images for a mask."""
    fake, real = (rand(len(mask), channels, *mask.shape[2:], seed=seed + k) for k in (1, 2))
    out = Output(fake_B=fake, log_b=rand(*mask.shape, seed=seed + 3) - 1, **more)
    return out, Batch(real, real, mask)


def built(name: str, **options: object):
    """Return a term as the loss builds it."""
    return Loss({name: Term(1.0, options=options)}, device="cpu", precision=torch.float32).terms[name]


def value(name: str, out: Output, batch: Batch) -> torch.Tensor:
    """Return a masked term; the segmenter computes in float32."""
    if name != "hu_features":
        return built(name, **WITHIN[name])(out, batch)
    single = Batch(batch.real_A.float(), batch.real_B.float(), batch.mask.float())
    return built(name)(Output(fake_B=out.fake_B.float()), single)


# ------------------------------------------------------------------------------------------------------------- values


def plain_l1(fake, real, log_b, inside):
    return np.abs(fake - real)[inside].mean()


def plain_laplace(fake, real, log_b, inside):
    b = np.broadcast_to(np.exp(log_b), fake.shape)
    return (np.abs(fake - real) / b + np.log(b))[inside].mean()


def plain_gradient_l1(fake, real, log_b, inside):
    total = 0.0
    for axis in (2, 3):
        first, second = (np.swapaxes(x, axis, 3) for x in (fake, real))
        within = np.swapaxes(inside, axis, 3)
        found = []
        for place in np.ndindex(first.shape):
            after = (*place[:3], place[3] + 1)
            if after[3] < first.shape[3] and within[place] and within[after]:
                found.append(abs((first[after] - first[place]) - (second[after] - second[place])))
        total += sum(found) / max(1, len(found))
    return total


def plain_ssim(fake, real, log_b, inside):
    """scikit-image on images with air outside the mask; it mirrors borders in another way, so no mask reaches them."""
    maps = []
    for first, second, within in zip(*(x.reshape(-1, SIDE, SIDE) for x in (fake, real, inside)), strict=True):
        images = (np.where(within, x, -1.0) + 1 for x in (first, second))
        kernel = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
        maps.append(structural_similarity(*images, full=True, **kernel)[1])
    return 1 - np.stack(maps).reshape(inside.shape)[inside].mean()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [("body",), ("body", "strip"), ("pixel", "empty", "body"), ("strip", "pixel")])
@pytest.mark.parametrize(
    ("term", "plain"),
    [
        ("l1", plain_l1),
        ("gradient_l1", plain_gradient_l1),
        ("ssim", plain_ssim),
        ("laplace", plain_laplace),
    ],
)
def test_terms_equal_their_formula_over_the_pixels_of_the_mask(term, plain, names, channels):
    mask = mask_of(*names)
    out, batch = pair(mask, channels)
    inside = np.broadcast_to(mask.numpy() > 0, out.fake_B.shape)
    expected = plain(out.fake_B.numpy(), batch.real_B.numpy(), out.log_b.numpy(), inside)
    assert value(term, out, batch).item() == pytest.approx(expected, rel=1e-9)


def test_l1_without_the_option_is_the_mean_over_the_image_to_the_last_bit():
    out, batch = pair(mask_of("body", "empty"))
    assert torch.equal(built("l1")(out, batch), torch.nn.functional.l1_loss(out.fake_B, batch.real_B))
    everywhere = Batch(batch.real_A, batch.real_B, mask_of("all", "all"))
    torch.testing.assert_close(built("l1", masked=True)(out, everywhere), built("l1")(out, batch))


def test_the_mean_counts_pixels_of_the_batch_not_images():
    mask = mask_of("pixel", "body")
    values = torch.stack([torch.full((2, SIDE, SIDE), 10.0), torch.full((2, SIDE, SIDE), 1.0)])
    assert masked_mean(values, mask).item() == pytest.approx((10 + 256) / 257)


@pytest.mark.parametrize("term", ["l1", "gradient_l1", "ssim", "laplace"])
def test_a_larger_canvas_around_the_same_body_changes_nothing(term):
    out, batch = pair(mask_of("body"))
    images = (out.fake_B, out.log_b, batch.real_A, batch.real_B, batch.mask)
    padded = [torch.nn.functional.pad(x, (16,) * 4) for x in images]
    larger = value(term, Output(fake_B=padded[0], log_b=padded[1]), Batch(*padded[2:]))
    torch.testing.assert_close(larger, value(term, out, batch))


@pytest.mark.parametrize("term", ["l1", "gradient_l1", "ssim", "hu_features"])
def test_equal_images_cost_nothing_and_other_shapes_are_refused(term):
    out, batch = pair(mask_of("body", "strip"))
    assert value(term, Output(fake_B=batch.real_B), batch).item() == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="they must be equal"):
        value(term, Output(fake_B=out.fake_B[:, :, 1:]), batch)


def test_ssim_with_a_smaller_range_sees_small_differences_of_soft_tissue():
    _, batch = pair(mask_of("body"))
    flat = Batch(batch.real_A, batch.real_B * 0.01, batch.mask)
    losses = [built("ssim", data_range=width)(Output(fake_B=0 * flat.real_B), flat) for width in (2.0, 0.1)]
    assert losses[1] > 10 * losses[0] > 0


# ------------------------------------------------------------------------------------------------ gradients and masks


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("term", ["l1", "gradient_l1", "ssim"])
def test_gradients_of_the_image_pass_gradcheck(term, channels):
    mask = mask_of("body")[:, :, 4:18, 4:16]
    out, batch = pair(mask, channels)
    fake = out.fake_B.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: value(term, Output(fake_B=x), batch), (fake,))


def test_laplace_teaches_b_alone():
    out, batch = pair(mask_of("body")[:, :, 4:18, 4:16])
    out.fake_B.requires_grad_(True)
    out.log_b.requires_grad_(True)
    value("laplace", out, batch).backward()
    assert out.fake_B.grad is None
    assert torch.equal(out.log_b.grad != 0, batch.mask > 0)
    check = (lambda x: value("laplace", Output(fake_B=out.fake_B, log_b=x), batch), (out.log_b,))
    assert torch.autograd.gradcheck(*check)


def test_laplace_is_least_where_b_is_the_error_and_stays_finite_beyond_its_bounds():
    out, batch = pair(mask_of("body"))
    right = (out.fake_B - batch.real_B).abs().log().requires_grad_(True)
    value("laplace", Output(fake_B=out.fake_B, log_b=right), batch).backward()
    torch.testing.assert_close(right.grad, torch.zeros_like(right))
    for extreme in (-1e4, 1e4):
        assert value("laplace", Output(fake_B=out.fake_B, log_b=0 * right + extreme), batch).isfinite()


@pytest.mark.parametrize("term", WITHIN)
def test_what_is_outside_the_mask_changes_nothing(term):
    mask = mask_of("body", "strip")
    out, batch = pair(mask)
    changed, _ = pair(mask, seed=10)
    inside = mask > 0
    fake = torch.where(inside, out.fake_B, changed.fake_B).requires_grad_(True)
    log_b = torch.where(inside, out.log_b, changed.log_b).requires_grad_(True)
    real = torch.where(inside, batch.real_B, rand(*mask.shape, seed=20))
    found = value(term, Output(fake_B=fake, log_b=log_b), Batch(real, real, mask))
    assert torch.equal(found, value(term, out, batch))
    found.backward()
    gradient = log_b.grad if term == "laplace" else fake.grad
    assert gradient[~inside].abs().max() == 0
    assert gradient[inside].abs().max() > 0


@pytest.mark.parametrize("term", WITHIN)
def test_an_empty_mask_gives_zero_with_a_gradient(term):
    out, batch = pair(mask_of("empty", "empty"))
    out.fake_B.requires_grad_(True)
    out.log_b.requires_grad_(True)
    found = value(term, out, batch)
    found.backward()
    assert found.item() == 0
    assert (out.log_b if term == "laplace" else out.fake_B).grad.abs().max() == 0


# ---------------------------------------------------------------------------------------------------- HU segmenter

SEED = 7
RADII = {"fat": 0.9, "soft tissue": 0.8, "dense bone": 0.6, "spongy bone": 0.45, "air": 0.2}
HU = {"air": -1000.0, "fat": -100.0, "soft tissue": 40.0, "spongy bone": 400.0, "dense bone": 1200.0}


def heads(seed: int, number: int = 8) -> Batch:
    """Return nested ellipses of the five classes, each of its own size, place and shape."""
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(*2 * [torch.linspace(-1, 1, 2 * SIDE)], indexing="ij")
    one = (torch.rand((number, 4, 1, 1), generator=draw) - 0.5) * 0.3
    radius = ((x - one[:, 0]) / (1 + one[:, 1])) ** 2 + ((y - one[:, 2]) / (1 + one[:, 3])) ** 2
    hu = torch.full(radius.shape, -1000.0)
    for tissue, reach in RADII.items():
        hu[radius.sqrt() < reach] = HU[tissue]
    unit = SYNTHRAD2023.to_unit(hu)[:, None]
    return Batch(unit, unit, (radius.sqrt() < RADII["fat"]).float()[:, None])


def endless(seed: int = 0) -> Iterator[Batch]:
    return map(heads, count(seed))


@pytest.fixture(scope="module")
def fitted():
    """A loss whose segmenter was trained on the ellipses, what it said, and the random state before and after."""
    loss = Loss({"hu_features": Term(1.0, options={"steps": 80})}, device="cpu", precision=torch.float32)
    before = torch.get_rng_state()
    (line,) = loss.fit(endless(), SYNTHRAD2023, SEED)
    return loss, line, torch.equal(torch.get_rng_state(), before)


def test_the_segmenter_finds_the_clean_classes_in_damaged_slices(fitted):
    _, line, _ = fitted
    assert line.startswith("hu_features: segmenter's Dice on damaged training slices: ")
    dice = dict(part.rsplit(" ", 1) for part in line.split(": ")[2].split(", "))
    assert tuple(dice) == TISSUES
    assert min(map(float, dice.values())) > 0.6, line


def test_it_does_better_than_thresholds_on_damaged_slices(fitted):
    """Else its features would be those of a threshold."""
    batch = heads(1000)
    generator = torch.Generator().manual_seed(3)
    hu = damage(SYNTHRAD2023.to_hu(batch.real_B), generator)
    bone = batch.mask * (SYNTHRAD2023.to_hu(batch.real_B) > 250)
    found = fitted[0].terms["hu_features"].segmenter.logits(SYNTHRAD2023.to_unit(hu)).argmax(dim=1, keepdim=True)
    dice = [2 * (x * bone).sum() / (x + bone).sum() for x in (batch.mask * (hu > 250), batch.mask * (found >= 3))]
    assert dice[1] > dice[0]


def test_it_is_frozen_and_equal_for_equal_seeds_and_draws_nothing_from_the_training(fitted):
    loss, _, untouched = fitted
    assert untouched
    term = loss.terms["hu_features"]
    assert not any(p.requires_grad for p in term.segmenter.parameters())
    states = []
    for seed in (SEED, SEED, SEED + 1):
        again = built("hu_features", steps=2)
        torch.rand(5)
        again.fit(endless(), SYNTHRAD2023, seed)
        states.append(again.state())
    same, other = ([torch.equal(states[0][k], state[k]) for k in states[0]] for state in states[1:])
    assert all(same)
    assert not all(other)


def test_it_counts_shapes_more_than_a_shift_of_all_hu(fitted):
    batch = heads(2000)
    hu = SYNTHRAD2023.to_hu(batch.real_B)
    shifted, boneless = hu + 100, torch.where(hu > 250, 40.0, hu)
    term = fitted[0].terms["hu_features"]
    losses = [term(Output(fake_B=SYNTHRAD2023.to_unit(fake)), batch).item() for fake in (shifted, boneless)]
    assert losses[1] > 3 * losses[0] > 0


def test_its_weights_are_part_of_the_state(fitted):
    loss, *_ = fitted
    other = Loss({"hu_features": Term(1.0)}, device="cpu", precision=torch.float32)
    out, batch = Output(fake_B=heads(5).real_B), heads(6)
    assert not torch.equal(other((out, batch))[0], loss((out, batch))[0])
    other.load_state(loss.state())
    fresh = Batch(*batch.parts)
    assert torch.equal(other((out, fresh))[0], loss((out, fresh))[0])
    with pytest.raises(MrictError, match=r"loss\.hu_features: the checkpoint lacks .*--retrain"):
        other.load_state({"weights": {}, "previous": {}})


@pytest.mark.parametrize("shape", [(29, 37), (64, 48)])
def test_any_side_will_do(shape, fitted):
    fake, real = rand(2, 1, *shape).float(), rand(2, 1, *shape, seed=1).float()
    found = fitted[0].terms["hu_features"](Output(fake_B=fake), Batch(real, real, torch.ones_like(real)))
    assert 0 < found < 1


def test_a_loss_without_learned_terms_has_the_state_it_always_had():
    loss = Loss({"l1": Term(2.0, options={"masked": True})})
    assert loss.state() == {"weights": {"l1": 2.0}, "previous": {}}
    assert loss.fit(iter(()), SYNTHRAD2023, SEED) == []


def test_bfloat16_and_several_channels_give_nearly_the_same(fitted):
    term = built("hu_features")
    term.load_state(fitted[0].terms["hu_features"].state())
    batch, fake = heads(6), heads(5).real_B
    expected = term(Output(fake_B=fake), batch)
    three = Batch(batch.real_A, batch.real_B.expand(-1, 3, -1, -1), batch.mask)
    torch.testing.assert_close(term(Output(fake_B=fake.expand(-1, 3, -1, -1)), three), expected)
    term.precision = torch.bfloat16
    found = term(Output(fake_B=fake), Batch(*batch.parts))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.0)


def test_the_batches_of_the_fit_are_its_own(space):
    run = prepare_run(get("mk1"), get_profile("smoke"), space, TrainSettings(max_pairs=9))
    before = torch.get_rng_state()
    first, again = ([next(pairs) for _ in range(4)] for pairs in (run.endless_pairs(3), run.endless_pairs(3)))
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(map(len, first)) > 9, "another epoch begins"
    assert all(torch.equal(a.real_B, b.real_B) for a, b in zip(first, again, strict=True))


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss.l1.mask": True}, r"loss\.l1: unknown option of l1 'mask'.*masked"),
        ({"loss.l1.masked": 1}, r"loss\.l1\.masked is '1', expected bool"),
        (
            {"loss.gradient_l1": {"weight": 1.0, "power": 2}},
            r"loss\.gradient_l1: unknown option of gradient_l1 'power'",
        ),
        ({"loss.ssim": {"weight": 1.0, "data_range": 0.0}}, r"loss\.ssim: data_range is 0\.0, expected above 0 and"),
        ({"loss.ssim": {"weight": 1.0, "data_range": 4024.0}}, r"data_range is 4024\.0, expected .* at most 2"),
        ({"loss.ssim": {"weight": 1.0, "data_range": math.nan}}, r"data_range is nan"),
        ({"loss.hu_features": {"weight": 1.0, "steps": 0}}, r"loss\.hu_features: steps is 0, expected at least 1"),
        ({"loss.hu_features": {"weight": 1.0, "steps": 1.5}}, r"loss\.hu_features\.steps is '1\.5', expected int"),
        ({"loss.hu_feature": {"weight": 1.0}}, r"loss\.hu_feature: unknown loss 'hu_feature'.*hu_features"),
        ({"loss.laplace": {"weight": 1.0}}, r"loss\.laplace: needs log_b, which the method does not give"),
    ],
)
def test_wrong_options_are_refused(values, message):
    terms = with_values(get("mk6_1_0"), values).loss
    with pytest.raises(MrictError, match=message):
        check_terms(terms, ("fake_B", "logits", "real_label"))
