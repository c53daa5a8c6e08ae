"""The lean training step against the plain one: the same gradients, step by step; layouts and precisions."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from reference.pix2pix import PlainWeights, plain_step
from torch import Tensor, nn
from torchvision import models

from mrict_core import losses as loss_terms
from mrict_core.data.batches import Batch
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Experiment, Part
from mrict_core.methods import Method, build_method
from mrict_core.networks import build_network
from mrict_core.networks.features import FeatureNetwork

FULL, SMOKE = get_profile("full"), get_profile("smoke")
SIDE = 64  # pixels
RELATIVE = 1e-5
EXACT = 1e-7  # in float64; only the sum of the first weights was rounded to float32 before


@pytest.fixture
def vgg19(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The first layers of VGG19 with random weights, instead of the real file."""
    torch.manual_seed(3)
    layers = models.vgg19(weights=None).features[:14]

    def features(name: str) -> FeatureNetwork:
        return FeatureNetwork(copy.deepcopy(layers), name=f"random {name}", weights_hash="0", dimension=256)

    monkeypatch.setattr(loss_terms, "build_features", features)
    return layers


def without_chance(name: str, **changes) -> Experiment:
    """The variant without dropout, whose masks differ in every pass; the plain step makes more passes."""
    return with_values(get(name), {"network.G.dropout": 0.0, "network.D.dropout": 0.0, **changes})


def plain_weights(variant: Experiment) -> PlainWeights:
    method, weights = variant.method.options, {name: term.weight for name, term in variant.loss.items()}
    return PlainWeights(
        method["real_label"],
        method["gradient_penalty"],
        weights["perceptual"],
        weights.get("l1", 0.0),
        method["generator_steps"],
    )


def paired(method: Method, real_A: Tensor, real_B: Tensor) -> Batch:
    return Batch(method.view.widened(real_A), real_B, torch.ones_like(real_B))


def recording(optimizer: torch.optim.Optimizer, into: list[list[Tensor]]) -> torch.optim.Optimizer:
    """Record the gradients before each step of `optimizer`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.register_step_pre_hook(lambda *_: into.append([p.grad.detach().clone() for p in parameters]))
    return optimizer


def descents(G: nn.Module, D: nn.Module, into: dict[str, list]) -> dict[str, torch.optim.Optimizer]:
    """Plain descent: Adam divides by the gradient's size and would amplify small differences."""
    return {n: recording(torch.optim.SGD(m.parameters(), lr=1e-3), into[n]) for n, m in (("G", G), ("D", D))}


def difference(mine: list[Tensor], theirs: list[Tensor]) -> float:
    """Norm of the difference of two gradients, relative to the norm of the second."""
    mine, theirs = (torch.cat([part.flatten().double() for part in whole]) for whole in (mine, theirs))
    return float((mine - theirs).norm() / theirs.norm())


def both(variant, layers: nn.Module, width: int, dtype: torch.dtype) -> tuple[dict, dict, dict, tuple]:
    """Take one lean and one plain step from equal networks; return both gradients, the lean terms, the plain losses."""
    torch.manual_seed(0)
    method = build_method(variant, dataclasses.replace(FULL, width=width))
    method.begin_epoch(0)
    for network in method.networks.values():
        network.to(dtype)
    method.features.compute_in(dtype)
    G, D = copy.deepcopy(method.G), copy.deepcopy(method.D)
    real_A, real_B = (torch.rand(2, 1, SIDE, SIDE, dtype=dtype) * 2 - 1 for _ in range(2))
    lean, plain = {"G": [], "D": []}, {"G": [], "D": []}
    method.optimizers = descents(method.G, method.D, lean)
    own = descents(G, D, plain)
    weights = plain_weights(variant)
    torch.manual_seed(1)  # the penalty's mixing weights
    terms = method.train_step(paired(method, real_A, real_B))
    torch.manual_seed(1)
    return lean, plain, terms, plain_step(G, D, layers.to(dtype), own["G"], own["D"], real_A, real_B, weights)


@pytest.mark.parametrize("name", ["mk6_3_4", "mk3_1_2_v4_50"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, EXACT), (torch.float32, RELATIVE)])
def test_gradients_equal_those_of_the_plain_step(vgg19, name, dtype, bound):
    variant = without_chance(name)
    lean, plain, terms, losses = both(variant, vgg19, 16, dtype)
    assert len(lean["D"]) == len(plain["D"]) == 1
    assert len(lean["G"]) == len(plain["G"]) == variant.method.options["generator_steps"]
    steps = [(network, k) for network in ("D", "G") for k in range(len(lean[network]))]
    compared = steps if dtype == torch.float64 else steps[:1]  # in float32 later steps may part
    for network, k in compared:
        assert difference(lean[network][k], plain[network][k]) < bound
    for term, loss in zip((terms["loss_d"], terms["loss_g"]), losses, strict=True):
        assert float(term) == pytest.approx(float(loss), rel=bound if dtype == torch.float64 else 1e-3)


def test_the_plain_step_fills_gradients_that_nobody_uses(vgg19):
    """The plain step really does the work that the lean one saves."""
    variant = without_chance("mk6_3_4", **{"method.generator_steps": 1})
    method = build_method(variant, dataclasses.replace(FULL, width=4))
    real = torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    method.train_step(paired(method, real, real))
    assert all(p.grad is None for p in method.features.parameters())
    weights = PlainWeights(1.0, 1.0, 1.0, 1.0, 1)
    G, D = method.networks["G"], method.networks["D"]
    plain_step(G, D, vgg19, method.optimizers["G"], method.optimizers["D"], real, real, weights)
    assert all(p.grad is not None for p in vgg19.parameters())


@pytest.mark.parametrize("name", ["mk6_1_0", "cyclegan_mk1", "mk3_6", "practice_mk5"])
def test_bfloat16_points_the_same_way(name):
    """Half the bits: the gradient of the first generator step keeps its direction."""
    variant = without_chance(name, **{"method.generator_steps": 1})
    profile = dataclasses.replace(SMOKE, width=8)
    real_A, real_B = (torch.rand(4, 1, SIDE, SIDE) * 2 - 1 for _ in range(2))
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        method = build_method(variant, profile, "cpu", precision)
        found: list[list[Tensor]] = []
        recording(method.optimizers["G"], found)
        torch.manual_seed(1)
        terms = method.train_step(paired(method, real_A, real_B))
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in terms.values())
        gradients.append(torch.cat([part.flatten() for part in found[0]]))
    assert gradients[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.97


def test_the_image_is_made_in_float32():
    """A tanh in bfloat16 knows 256 values near 1; the HU between them would be lost."""
    G = build_network(Part("unet_b", {"dropout": 0.0}), width=4, in_channels=1).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        fake_B = G(torch.rand(1, 1, SIDE, SIDE))
    assert fake_B.dtype == torch.float32
    assert fake_B.unique().numel() > fake_B.numel() / 2


@pytest.mark.parametrize("name", ["mk1", "mk6_1_0", "cyclegan_mk1", "practice_mk5"])
def test_activations_follow_the_first_layer(name):
    method = build_method(get(name), SMOKE)
    image = torch.rand(2, method.view.in_channels, SIDE, SIDE)
    seen: list[Tensor] = []
    for network in method.networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda _, __, out: seen.append(out))
        network(image)
    deep = [out for out in seen if min(out.shape[2:]) > 1]  # of one pixel, both layouts are the same
    assert deep
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in deep)


def test_a_grey_image_needs_one_channel_of_the_first_layer(vgg19):
    features = loss_terms.build_features("vgg19_pool5")
    grey = torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-6)


def test_compile_reaches_every_network(monkeypatch: pytest.MonkeyPatch):
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: compiled.append(type(self).__name__))
    method: Method = build_method(get("mk6_1_0"), SMOKE)
    method.compile()
    assert compiled == ["UNet", "PatchGAN", "DemoFeatures"]
