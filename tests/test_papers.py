"""The references: networks, losses and values of pix2pix (1611.07004) and CycleGAN (1703.10593); unet_l1."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from mrict_core.data.augment import NONE
from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Part, as_plain, flattened
from mrict_core.inference import load_synthesizer
from mrict_core.losses import Output, gan, gan_discriminator
from mrict_core.methods import Method, build_method, check
from mrict_core.networks import build_network, count_parameters
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run
from mrict_core.training.schedules import ScheduleStepper

SMOKE = get_profile("smoke")
SIDE = 64  # pixels
MR, CT = (torch.rand((2, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in (0, 1))
PAPERS = ("pix2pix_paper", "cyclegan_paper", "unet_l1")


def network(name: str, width: int = 4, in_channels: int = 1, canvas: int = 256, **options) -> nn.Module:
    out_channels = options.pop("out_channels", 1)
    sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "canvas": canvas}
    return build_network(Part(name, options), **sizes)


def layers(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def of_smoke(name: str, **changes) -> Method:
    torch.manual_seed(0)
    return build_method(with_values(get(name), changes), SMOKE, canvas=SIDE)


# ----------------------------------------------------------------------------------------------------- the values


SHARED = {
    "optimizer.G.name": "adam", "optimizer.G.lr": 2e-4, "optimizer.G.betas": [0.5, 0.999],
    "optimizer.D.name": "adam", "optimizer.D.lr": 2e-4, "optimizer.D.betas": [0.5, 0.999],
    "optimizer.G.schedule.kind": "linear", "optimizer.D.schedule.kind": "linear", "epochs": 200,
    "data.batch_size": 1, "data.view.name": "slice", "data.max_pairs": None, "network.D.name": "patch70",
    "loss.gan.weight": 1.0, "early_stop_patience": None,
}  # fmt: skip
VALUES = {
    "pix2pix_paper": SHARED | {
        "method.name": "pix2pix", "method.conditional": True, "method.gan": "bce", "network.G.name": "unet_256",
        "network.G.dropout": 0.5, "network.D.norm": "batch", "loss.l1.weight": 100.0,
    },
    "cyclegan_paper": SHARED | {
        "method.name": "cyclegan", "method.gan": "least_squares", "method.image_pool": 50, "network.G.name": "resnet",
        "network.G.blocks": 9, "network.D.norm": "instance", "loss.cycle.weight": 10.0, "loss.identity.weight": 5.0,
    },
    "unet_l1": {
        "method.name": "regression", "network.G.name": "unet_b", "network.G.dropout": 0.05, "optimizer.G.lr": 1e-4,
        "optimizer.G.betas": [0.0, 0.999], "optimizer.G.schedule.watch": "val_mae_hu", "data.batch_size": 32,
        "loss.l1.weight": 1.0, "loss.l1.masked": True, "epochs": 50,
    },
}  # fmt: skip
TERMS = {"pix2pix_paper": ["gan", "l1"], "cyclegan_paper": ["gan", "cycle", "identity"], "unet_l1": ["l1"]}


@pytest.mark.parametrize(("name", "path", "value"), [(n, p, v) for n, rows in VALUES.items() for p, v in rows.items()])
def test_a_value_of_the_paper(name, path, value):
    assert dict(flattened(as_plain(get(name))))[path] == value


@pytest.mark.parametrize("name", PAPERS)
def test_a_reference_starts_from_scratch_and_has_the_terms_of_its_paper_alone(name):
    variant = get(name)
    assert (variant.family, variant.init_from) == ("papers", None)
    assert list(variant.loss) == TERMS[name]
    check(variant)


@pytest.mark.parametrize("name", ["pix2pix_paper", "cyclegan_paper"])
def test_only_mirroring_and_jitter_augment(name, space):
    used = prepare_run(get(name), SMOKE, space, TrainSettings()).augment
    assert used == dataclasses.replace(NONE, flip_horizontal=0.5, translation=0.0586)
    assert used.translation * 256 == pytest.approx((286 - 256) / 2, abs=0.01)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 2e-4), (99, 2e-4), (100, 2e-4), (150, 1e-4), (190, 2e-5)])
def test_the_rate_is_constant_for_100_epochs_and_falls_to_0_in_100(epoch, rate):
    variant = get("pix2pix_paper")
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=variant.optimizer["G"].lr)
    ScheduleStepper(optimizer, variant.optimizer["G"].schedule).follow(epoch / variant.epochs)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


# --------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    ("name", "channels", "options", "count", "published"),
    [  # published: millions, as the authors' code prints them
        ("unet_256", (3, 3), {}, 54_413_955, 54.414),
        ("resnet", (3, 3), {}, 11_378_179, 11.378),
        ("patch70", (6, 1), {"norm": "batch"}, 2_768_705, 2.769),
        ("patch70", (3, 1), {"norm": "instance"}, 2_764_737, 2.765),
    ],
)
def test_parameter_counts_are_the_authors_and_one_channel_takes_the_kernels_of_two_away(
    name, channels, options, count, published
):
    with torch.device("meta"):
        c_in, c_out = channels
        whole = network(name, 64, c_in, out_channels=c_out, **options)
        grey = network(name, 64, c_in - 2, **options)
    assert count_parameters(whole) == count
    assert count / 1e6 == pytest.approx(published, abs=5e-4)
    kernel = {"unet_256": 4 * 4, "resnet": 7 * 7, "patch70": 4 * 4}[name]
    fewer = 2 * 64 * kernel
    if c_out == 3:
        fewer += 2 * (2 * 64 if name == "unet_256" else 64) * kernel + 2  # two output channels, their biases
    assert count_parameters(grey) == count - fewer


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_patch_of_the_discriminator_sees_70_pixels(norm):
    D = network("patch70", norm=norm).double().eval()
    for place, layer in D.model.named_children():
        if isinstance(layer, nn.Conv2d):  # positive weights: no path may cancel another
            nn.init.constant_(layer.weight, 0.1)
        elif isinstance(layer, nn.InstanceNorm2d):  # it lets every pixel see the whole image
            D.model[int(place)] = nn.Identity()
    image = torch.ones(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = D(image)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    seen = image.grad[0, 0] != 0
    assert (int(seen.any(dim=0).sum()), int(seen.any(dim=1).sum())) == (70, 70)


@pytest.mark.parametrize(
    ("canvas", "halvings", "deepest"),
    [(256, 8, 1), (128, 7, 1), (64, 6, 1), (96, 5, 3), (224, 5, 7), (320, 6, 5), (512, 8, 2)],
)
def test_the_u_net_halves_as_often_as_the_canvas_allows(canvas, halvings, deepest):
    G, shapes = network("unet_256", 2, canvas=canvas).eval(), []
    assert (len(G.down), len(G.up) + 1, G.multiple) == (halvings, halvings, 2**halvings)
    G.down[-1].register_forward_hook(lambda *passed: shapes.append(tuple(passed[2].shape)))
    with torch.no_grad():
        assert G(torch.zeros(1, 1, canvas, canvas)).shape == (1, 1, canvas, canvas)
    assert shapes == [(1, 16, deepest, deepest)]


def test_the_u_net_drops_in_its_three_deepest_decoder_blocks_and_normalises_neither_end():
    G = network("unet_256")
    assert [len(layers(block, nn.Dropout)) for block in G.up] == [1, 1, 1, 0, 0, 0, 0]
    assert {layer.p for layer in layers(G, nn.Dropout)} == {0.5}
    assert [len(layers(block, nn.BatchNorm2d)) for block in G.down] == [0, 1, 1, 1, 1, 1, 1, 0]
    assert [len(layers(block, nn.BatchNorm2d)) for block in G.up] == [1] * 7
    assert [layers(block, nn.ConvTranspose2d)[0].out_channels for block in G.up] == [32, 32, 32, 32, 16, 8, 4]


@pytest.mark.parametrize(("options", "blocks"), [({}, 9), ({"blocks": 6}, 6)])
def test_the_resnet_has_instance_norm_reflection_and_strides_of_the_paper(options, blocks):
    G = network("resnet", **options)
    convolutions = [(c.kernel_size[0], c.stride[0], c.out_channels) for c in layers(G, nn.Conv2d)]
    down, residual = [(7, 1, 4), (3, 2, 8), (3, 2, 16)], [(3, 1, 16)] * 2 * blocks
    assert convolutions == [*down, *residual, (7, 1, 1)]
    up = [(c.kernel_size[0], c.stride[0], c.out_channels) for c in layers(G, nn.ConvTranspose2d)]
    assert up == [(3, 2, 8), (3, 2, 4)]
    assert len(layers(G, nn.InstanceNorm2d)) == 3 + 2 * blocks + 2
    assert [pad.padding[0] for pad in layers(G, nn.ReflectionPad2d)] == [3, *[1] * 2 * blocks, 3]
    assert not layers(G, nn.BatchNorm2d)
    assert not layers(G, nn.Dropout)


@pytest.mark.parametrize("name", ["unet_256", "resnet", "patch70"])
def test_weights_start_from_a_normal_distribution(name):
    torch.manual_seed(0)
    module = network(name, 16)
    convolutions = layers(module, (nn.Conv2d, nn.ConvTranspose2d))
    values = torch.cat([layer.weight.detach().flatten() for layer in convolutions])
    assert (float(values.mean()), float(values.std())) == pytest.approx((0, 0.02), abs=2e-4)
    assert all(not layer.bias.any() for layer in convolutions if layer.bias is not None)
    for layer in layers(module, nn.BatchNorm2d):
        assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize("name", ["unet_256", "resnet"])
def test_a_prediction_is_repeatable_and_in_range(name):
    torch.manual_seed(0)
    G = network(name, canvas=SIDE).eval()  # dropout is off
    with torch.no_grad():
        assert torch.equal(G(MR), G(MR))
        assert G(100 * MR).abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("unet_256", (1, 1, 64, 64), r"expected \(B, 1, H, W\) with H and W multiples of 256"),
        ("resnet", (1, 2, 64, 64), r"expected \(B, 1, H, W\) with H and W multiples of 4"),
        ("patch70", (1, 1, 23, 64), r"expected \(B, 1, H, W\) with H and W at least 24"),
    ],
)
def test_a_wrong_shape_is_refused(name, shape, message):
    with pytest.raises(MrictError, match=message):
        network(name)(torch.zeros(shape))


def test_the_smallest_image_of_the_discriminator():
    assert network("patch70", norm="instance")(torch.zeros(1, 1, 24, 24)).shape == (1, 1, 1, 1)


# -------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("real", "fake", "label", "of_d", "of_g"),
    [
        ([1.0, 1.0], [0.0, 0.0], 1.0, 0.0, 1.0),
        ([0.0, 0.0], [1.0, 1.0], 1.0, 1.0, 0.0),
        ([3.0, 1.0], [1.0, -1.0], 1.0, (2.0 + 1.0) / 2, 2.0),
        ([0.5, 0.5], [0.5, 0.5], 0.9, (0.16 + 0.25) / 2, 0.16),
    ],
)
def test_least_squares_by_hand(real, fake, label, of_d, of_g):
    real, fake = torch.tensor(real), torch.tensor(fake)
    assert float(gan_discriminator(real, fake, label, "least_squares")) == pytest.approx(of_d)
    out = Output(logits=fake, real_label=label, gan="least_squares")
    assert float(gan(out, None)) == pytest.approx(of_g)


def losses_of(kind: str, label: float, logits: torch.Tensor) -> float:
    if kind == "least_squares":
        return float((logits - label).square().mean())
    return float(nn.BCELoss()(torch.sigmoid(logits), torch.full_like(logits, label)))


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_both_sides_of_a_step_use_the_same_loss_and_that_of_d_is_halved(kind):
    method = of_smoke("pix2pix_paper", **{"method.gan": kind})
    seen: list[torch.Tensor] = []
    method.D.register_forward_hook(lambda *passed: seen.append(passed[2].detach()))
    logs = method.train_step(Batch(MR, CT, torch.ones_like(CT)))
    real, fake, judged = seen  # D's step on both, then G's on the fake
    halved = (losses_of(kind, 1.0, real) + losses_of(kind, 0.0, fake)) / 2
    assert float(logs["loss_d"]) == pytest.approx(halved, rel=1e-5)
    assert float(logs["loss_g_gan"]) == pytest.approx(losses_of(kind, 1.0, judged), rel=1e-5)
    said = torch.sigmoid(real) if kind == "bce" else real
    assert float(logs["d_real"]) == pytest.approx(float(said.mean()), rel=1e-5)


def test_an_unknown_gan_loss_suggests_the_nearest():
    with pytest.raises(MrictError, match="method: unknown GAN loss 'least_square': did you mean 'least_squares'"):
        check(with_values(get("cyclegan_paper"), {"method.gan": "least_square"}))


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", PAPERS)
def test_a_step_is_finite_and_moves_every_network(name):
    method = of_smoke(name)
    method.begin_epoch(0)
    before = {key: {n: p.detach().clone() for n, p in m.named_parameters()} for key, m in method.networks.items()}
    logs = method.train_step(Batch(MR, CT, torch.ones_like(CT)))
    assert all(torch.isfinite(value) for value in logs.values())
    weights = {term: part.weight for term, part in method.setup.experiment.loss.items()}
    total = sum(weight * float(logs[f"loss_g_{term}"]) for term, weight in weights.items())
    assert float(logs["loss_g"]) == pytest.approx(total, rel=1e-5)
    for key, module in method.networks.items():
        still = [n for n, p in module.named_parameters() if p.ndim == 4 and torch.equal(p, before[key][n])]
        assert still == []


def test_a_single_image_can_be_trained_on():
    method = of_smoke("pix2pix_paper")
    method.begin_epoch(0)
    logs = method.train_step(Batch(MR[:1], CT[:1], torch.ones_like(CT[:1])))
    assert all(torch.isfinite(value) for value in logs.values())


def test_the_discriminator_of_pix2pix_sees_mr_and_ct_that_of_cyclegan_one_image():
    assert next(of_smoke("pix2pix_paper").D.parameters()).shape[1] == 2
    assert {next(of_smoke("cyclegan_paper").networks[d].parameters()).shape[1] for d in ("D_CT", "D_MRI")} == {1}
    assert {pool.size for pool in of_smoke("cyclegan_paper").pools.values()} == {50}


@pytest.mark.parametrize(
    ("view", "channels"), [({"name": "slab", "radius": 1}, 3), ({"name": "slice", "copies": 3}, 3)]
)
@pytest.mark.parametrize("name", ["cyclegan_paper", "cyclegan_mk1"])
def test_cyclegan_refuses_a_view_of_several_channels(name, view, channels):
    with pytest.raises(MrictError, match=f"data.view: {view['name']} gives {channels} MR channels, cyclegan needs"):
        check(with_values(get(name), {"data.view": view}))


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("name", PAPERS)
def test_a_trained_reference_predicts(name, fresh_space):
    """The depth of the U-Net follows the dataset cache in training, and the checkpoint in inference."""
    result = train(get(name), SMOKE, fresh_space, TrainSettings(max_pairs=40), report=quiet)
    model = load_synthesizer(result.best)
    assert result.complete
    assert (model.facts.size, model.variant) == (SIDE, get(name))
    hu = model.slices_to_hu(MR[:, 0].numpy())
    assert hu.shape == (2, SIDE, SIDE)
