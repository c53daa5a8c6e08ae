"""Training steps: which terms are built, what moves, what stays frozen."""

from __future__ import annotations

import pytest
import torch

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments import all_variants, get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods import Method, build_method
from mrict_core.methods.cyclegan import ImagePool

SMOKE = get_profile("smoke")
REAL_A = torch.rand((4, 1, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
REAL_B = torch.rand((4, 1, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
MASK = (REAL_B > -0.5).float()
COMMON = {"loss_g", "loss_g_gan", "loss_d", "loss_d_gan", "loss_gp", "d_real", "d_fake"}

CASES = [
    ("mk1", {"loss_g_perceptual"}),
    ("mk3_6", {"loss_g_perceptual"}),
    ("mk6_0_1", {"loss_g_perceptual"}),
    ("mk6_1_0", {"loss_g_perceptual", "loss_g_l1"}),
    ("practice_mk2", {"loss_g_perceptual"}),
    ("cyclegan_mk1", {"loss_g_perceptual", "loss_g_cycle", "loss_g_identity"}),
]


def step(method: Method) -> dict[str, torch.Tensor]:
    return method.train_step(Batch(method.view.widened(REAL_A), REAL_B, MASK))


@pytest.mark.parametrize(("name", "terms"), CASES)
def test_a_step_returns_the_terms_of_the_variant(name, terms):
    method = build_method(get(name), SMOKE)
    result = step(method)
    assert set(result) == COMMON | terms
    assert all(torch.isfinite(value) and not value.requires_grad for value in result.values())


def changed(network: torch.nn.Module, before: dict) -> bool:
    return any(not torch.equal(before[n], p) for n, p in network.named_parameters())


@pytest.mark.parametrize("name", ["mk1", "mk6_1_0", "cyclegan_mk1"])
def test_a_step_moves_every_network_and_no_feature_weight(name):
    method = build_method(get(name), SMOKE)
    before = {k: {n: p.detach().clone() for n, p in m.named_parameters()} for k, m in method.networks.items()}
    features = {n: p.clone() for n, p in method.features.state_dict().items()}
    step(method)
    assert all(changed(network, before[k]) for k, network in method.networks.items())
    assert all(torch.equal(features[n], p) for n, p in method.features.state_dict().items())
    assert all(p.requires_grad for network in method.networks.values() for p in network.parameters())


def test_the_total_is_the_weighted_sum():
    variant = with_values(get("mk6_3_4"), {"method.generator_steps": 1})
    terms = step(build_method(variant, SMOKE))
    total = terms["loss_g_gan"] + 9 * terms["loss_g_perceptual"] + 9 * terms["loss_g_l1"]
    assert float(terms["loss_g"]) == pytest.approx(float(total), rel=1e-5)
    assert float(terms["loss_d"]) == pytest.approx(float(terms["loss_d_gan"] + 9 * terms["loss_gp"]), rel=1e-5)


def test_cyclegan_total_is_the_weighted_sum():
    terms = step(build_method(get("cyclegan_mk1"), SMOKE))
    weights = {"loss_g_gan": 1, "loss_g_cycle": 10, "loss_g_identity": 5, "loss_g_perceptual": 0.7}
    assert float(terms["loss_g"]) == pytest.approx(sum(w * float(terms[n]) for n, w in weights.items()), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_generator_steps_per_discriminator_step(steps):
    method = build_method(with_values(get("mk6_1_0"), {"method.generator_steps": steps}), SMOKE)
    step(method)
    counts = {name: {int(s["step"]) for s in o.state.values()} for name, o in method.optimizers.items()}
    assert counts == {"G": {steps}, "D": {1}}


def test_zero_weight_terms_are_not_built():
    variant = with_values(get("mk1"), {"loss.perceptual.weight": 0.0, "method.gradient_penalty": 0.0})
    method = build_method(variant, SMOKE)
    assert method.features is None
    assert not {"loss_g_perceptual", "loss_gp", "loss_g_l1"} & set(step(method))


def test_conditional_discriminator_sees_the_mr():
    variant = with_values(get("mk6_1_0"), {"method.conditional": True})
    method = build_method(variant, SMOKE)
    assert next(method.D.parameters()).shape[1] == 2
    assert torch.isfinite(step(method)["loss_d"])
    assert next(build_method(get("mk6_1_0"), SMOKE).D.parameters()).shape[1] == 1


def test_adaptive_weight_follows_the_rule_of_mk4_1():
    method = build_method(get("mk4_1"), SMOKE)
    assert method.loss.weights["perceptual"] == 29
    method.end_epoch({"loss_g_perceptual": 1.0, "loss_g_gan": 1.0})
    assert method.loss.weights["perceptual"] == 29  # nothing to compare with yet
    method.end_epoch({"loss_g_perceptual": 0.5, "loss_g_gan": 0.9})  # P fell more
    assert method.loss.weights["perceptual"] == 26
    method.end_epoch({"loss_g_perceptual": 0.5, "loss_g_gan": 0.8})  # the GAN loss fell more
    assert method.loss.weights["perceptual"] == 29
    other = build_method(get("mk4_1"), SMOKE)
    other.load_state(method.state())
    assert other.state() == method.state()


def test_image_pool_keeps_a_history():
    torch.manual_seed(0)
    pool = ImagePool(4)
    first = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(pool.query(first), first)
    seen = torch.cat([pool.query(torch.full((4, 1, 1, 1), 10.0 + k)) for k in range(6)])
    assert (seen < 10).any()
    assert len(pool.images) == 4
    assert ImagePool(0).query(first) is first


def test_the_state_that_earlier_versions_saved_is_taken_back():
    method = build_method(get("mk4_1"), SMOKE)
    method.load_state({"lambda_perceptual": 23.0, "previous": {"loss_g_perceptual": 1.0, "loss_g_gan": 1.0}})
    assert method.loss.weights == {"gan": 1.0, "perceptual": 23.0}
    method.end_epoch({"loss_g_perceptual": 0.5, "loss_g_gan": 0.9})
    assert method.loss.weights["perceptual"] == 20
    cyclegan = build_method(get("cyclegan_mk1"), SMOKE)
    cyclegan.load_state({"D_CT": [REAL_A[0]], "D_MRI": []})
    assert torch.equal(cyclegan.pools["D_CT"].images[0], REAL_A[0])
    assert cyclegan.loss.weights == {"gan": 1.0, "perceptual": 0.7, "cycle": 10.0, "identity": 5.0}


def test_the_features_of_the_real_images_are_computed_once_for_a_batch(monkeypatch):
    method = build_method(with_values(get("mk6_1_0"), {"method.generator_steps": 3}), SMOKE)
    shown = []
    method.features.register_forward_pre_hook(lambda _, images: shown.append(images[0]))
    step(method)
    assert len(shown) == 1 + 3
    assert sum(torch.equal(images, REAL_B) for images in shown) == 1


@pytest.mark.parametrize("name", ["mk1", "practice_mk2"])
def test_a_prediction_is_one_grey_image_in_range(name):
    method = build_method(get(name), SMOKE, training=False)
    assert list(method.networks) == ["G"]
    assert method.optimizers == {}
    with torch.no_grad():
        found = method.predict(REAL_A)
        assert found.shape == REAL_A.shape
        method.networks["G"] = lambda x: 3 * x.expand(-1, method.out_channels, -1, -1)
        torch.testing.assert_close(method.predict(REAL_A), (3 * REAL_A).clamp(-1, 1))
        method.networks["G"] = lambda x: x / 0
        assert method.predict(REAL_A).isnan().all()  # and refused where it is used


@pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.name)
def test_every_variant_builds(variant):
    method = build_method(variant, SMOKE)
    assert set(method.optimizers) == set(variant.optimizer)
    for role, optimizer in method.optimizers.items():
        group, given = optimizer.param_groups[0], variant.optimizer[role]
        assert (group["lr"], list(group["betas"])) == (given.lr, given.options["betas"])


def test_unknown_method_is_named():
    with pytest.raises(MrictError, match="did you mean 'pix2pix'"):
        build_method(with_values(get("mk1"), {"method.name": "pix2pixx"}), SMOKE)
