"""Training steps: which terms are built, what moves, what stays frozen."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mrict_core.errors import MrictError
from mrict_core.experiments import all_variants, get
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods import build_method, translate
from mrict_core.methods.cyclegan import ImagePool

SMOKE = get_profile("smoke")
REAL_A = torch.rand((4, 1, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
REAL_B = torch.rand((4, 1, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
COMMON = {"loss_g", "loss_g_gan", "loss_d", "loss_d_gan", "loss_gp", "d_real", "d_fake"}

CASES = [
    ("mk1", {"loss_g_perceptual"}),
    ("mk3_6", {"loss_g_perceptual"}),
    ("mk6_0_1", {"loss_g_perceptual"}),
    ("mk6_1_0", {"loss_g_perceptual", "loss_g_l1"}),
    ("practice_mk2", {"loss_g_perceptual"}),
    ("cyclegan_mk1", {"loss_g_perceptual", "loss_g_cycle", "loss_g_identity"}),
]


@pytest.mark.parametrize(("name", "terms"), CASES)
def test_a_step_returns_the_terms_of_the_variant(name, terms):
    method = build_method(get(name), SMOKE)
    result = method.step(REAL_A, REAL_B)
    assert set(result) == COMMON | terms
    assert all(torch.isfinite(value) and not value.requires_grad for value in result.values())


def changed(network: torch.nn.Module, before: dict) -> bool:
    return any(not torch.equal(before[n], p) for n, p in network.named_parameters())


@pytest.mark.parametrize("name", ["mk1", "mk6_1_0", "cyclegan_mk1"])
def test_a_step_moves_every_network_and_no_feature_weight(name):
    method = build_method(get(name), SMOKE)
    before = {k: {n: p.detach().clone() for n, p in m.named_parameters()} for k, m in method.networks.items()}
    features = {n: p.clone() for n, p in method.features.state_dict().items()}
    method.step(REAL_A, REAL_B)
    assert all(changed(network, before[k]) for k, network in method.networks.items())
    assert all(torch.equal(features[n], p) for n, p in method.features.state_dict().items())
    assert all(p.requires_grad for network in method.networks.values() for p in network.parameters())


def test_the_total_is_the_weighted_sum():
    variant = dataclasses.replace(get("mk6_3_4"), generator_steps=1)
    terms = build_method(variant, SMOKE).step(REAL_A, REAL_B)
    total = terms["loss_g_gan"] + 9 * terms["loss_g_perceptual"] + 9 * terms["loss_g_l1"]
    assert float(terms["loss_g"]) == pytest.approx(float(total), rel=1e-5)
    assert float(terms["loss_d"]) == pytest.approx(float(terms["loss_d_gan"] + 9 * terms["loss_gp"]), rel=1e-5)


def test_cyclegan_total_is_the_weighted_sum():
    terms = build_method(get("cyclegan_mk1"), SMOKE).step(REAL_A, REAL_B)
    weights = {"loss_g_gan": 1, "loss_g_cycle": 10, "loss_g_identity": 5, "loss_g_perceptual": 0.7}
    assert float(terms["loss_g"]) == pytest.approx(sum(w * float(terms[n]) for n, w in weights.items()), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_generator_steps_per_discriminator_step(steps):
    method = build_method(dataclasses.replace(get("mk6_1_0"), generator_steps=steps), SMOKE)
    method.step(REAL_A, REAL_B)
    counts = {name: {int(s["step"]) for s in o.state.values()} for name, o in method.optimizers.items()}
    assert counts == {"G": {steps}, "D": {1}}


def test_zero_weight_terms_are_not_built():
    variant = dataclasses.replace(get("mk1"), lambda_perceptual=0.0, lambda_gp=0.0)
    method = build_method(variant, SMOKE)
    assert method.features is None
    assert not {"loss_g_perceptual", "loss_gp", "loss_g_l1"} & set(method.step(REAL_A, REAL_B))


def test_conditional_discriminator_sees_the_mr():
    variant = dataclasses.replace(get("mk6_1_0"), conditional_discriminator=True)
    method = build_method(variant, SMOKE)
    assert next(method.D.parameters()).shape[1] == 2
    assert torch.isfinite(method.step(REAL_A, REAL_B)["loss_d"])
    assert next(build_method(get("mk6_1_0"), SMOKE).D.parameters()).shape[1] == 1


def test_adaptive_weight_follows_the_rule_of_mk4_1():
    method = build_method(get("mk4_1"), SMOKE)
    assert method.lambda_perceptual == 29
    method.end_epoch({"loss_g_perceptual": 1.0, "loss_g_gan": 1.0})
    assert method.lambda_perceptual == 29  # nothing to compare with yet
    method.end_epoch({"loss_g_perceptual": 0.5, "loss_g_gan": 0.9})  # P fell more
    assert method.lambda_perceptual == 26
    method.end_epoch({"loss_g_perceptual": 0.5, "loss_g_gan": 0.8})  # the GAN loss fell more
    assert method.lambda_perceptual == 29
    other = build_method(get("mk4_1"), SMOKE)
    other.load_state(method.state())
    assert (other.lambda_perceptual, other.previous) == (method.lambda_perceptual, method.previous)


def test_image_pool_keeps_a_history():
    torch.manual_seed(0)
    pool = ImagePool(4)
    first = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(pool.query(first), first)
    seen = torch.cat([pool.query(torch.full((4, 1, 1, 1), 10.0 + k)) for k in range(6)])
    assert (seen < 10).any()
    assert len(pool.images) == 4
    assert ImagePool(0).query(first) is first


@pytest.mark.parametrize("name", ["mk1", "practice_mk2"])
def test_translate_gives_one_grey_image(name):
    variant = get(name)
    method = build_method(variant, SMOKE)
    assert translate(method.generator, REAL_A, variant.channels).shape == REAL_A.shape


@pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.name)
def test_every_variant_builds(variant):
    method = build_method(variant, SMOKE)
    assert set(method.optimizers) == {"G", "D"}
    for name, lr in (("G", variant.lr_generator), ("D", variant.lr_discriminator)):
        group = method.optimizers[name].param_groups[0]
        assert (group["lr"], group["betas"]) == (lr, (variant.beta1, variant.beta2))


def test_unknown_method_is_named():
    with pytest.raises(MrictError, match="did you mean 'pix2pix'"):
        build_method(dataclasses.replace(get("mk1"), method="pix2pixx"), SMOKE)
