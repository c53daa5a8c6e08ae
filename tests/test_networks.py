"""Generators and discriminators: shapes, names, parameter counts, receptive fields, errors."""

from __future__ import annotations

import pytest
import torch

from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Part
from mrict_core.networks import build_network, count_parameters

# (in, out) channels of every convolution at width 64 with one image channel, as measured in the predecessor's files
UNET_A = {
    "enc1.0": (1, 64), "enc2.0": (64, 128), "enc3.0": (128, 256), "enc4.0": (256, 512), "bottleneck.0": (512, 512),
    "dec4.0": (512, 256), "dec3.0": (768, 128), "dec2.0": (384, 64), "dec1": (192, 64), "final_upsample": (64, 1),
}  # fmt: skip
UNET_B = {
    "enc1.0": (1, 64), "enc2.0": (64, 128), "enc3.0": (128, 256), "enc4.0": (256, 512), "bottleneck.0": (512, 1024),
    "dec4.0": (1024, 512), "dec3.0": (1024, 256), "dec2.0": (512, 128), "dec1.0": (256, 64), "final_upsample": (128, 1),
}  # fmt: skip
PATCH4 = {"model.0": (1, 64), "model.3": (64, 128), "model.7": (128, 256), "model.11": (256, 512), "model.15": (512, 1)}
PATCH3 = {"model.0": (1, 64), "model.3": (64, 128), "model.7": (128, 256), "model.11": (256, 1)}
NORM_OF_PATCH = {"model.3": "model.4", "model.7": "model.8", "model.11": "model.12"}


def batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    sizes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return sizes | {f"{name}.num_batches_tracked": ()}


def unet_shapes(convs: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (c_in, c_out) in convs.items():
        transposed = name.startswith(("dec", "final"))
        shapes[f"{name}.weight"] = (c_in, c_out, 4, 4) if transposed else (c_out, c_in, 4, 4)
        shapes[f"{name}.bias"] = (c_out,)
        if name.endswith(".0"):
            shapes |= batch_norm(name.removesuffix("0") + "1", c_out)
    return shapes


def patch_shapes(convs: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    last = list(convs)[-1]
    for name, (c_in, c_out) in convs.items():
        shapes |= {f"{name}.weight": (c_out, c_in, 4, 4), f"{name}.bias": (c_out,)}
        if name in NORM_OF_PATCH and name != last:
            shapes |= batch_norm(NORM_OF_PATCH[name], c_out)
    return shapes


def generator(
    name: str, width: int = 4, channels: int = 1, dropout: float = 0.1, slope: float = 0.14
) -> torch.nn.Module:
    options = {"dropout": dropout, "slope": slope}
    return build_network(Part(name, options), width=width, in_channels=channels, out_channels=channels)


def discriminator(name: str, width: int = 4, in_channels: int = 1, dropout: float = 0.1) -> torch.nn.Module:
    return build_network(Part(name, {"dropout": dropout}), width=width, in_channels=in_channels)


def full_size(build, *args, **kwargs) -> torch.nn.Module:
    with torch.device("meta"):  # shapes only
        return build(*args, width=64, **kwargs)


@pytest.mark.parametrize(
    ("build", "name", "channels", "count"),
    [
        (generator, "unet_a", {"channels": 1}, 11_214_529),
        (generator, "unet_a", {"channels": 3}, 11_218_627),
        (generator, "unet_b", {"channels": 1}, 25_046_657),
        (discriminator, "patch4", {"in_channels": 1}, 2_764_481),
        (discriminator, "patch3", {"in_channels": 1}, 661_697),
        (discriminator, "patch4", {"in_channels": 2}, 2_764_481 + 16 * 64),
        (discriminator, "scalar", {"in_channels": 3}, 2_764_481 + 2 * 16 * 64),
    ],
)
def test_parameter_counts_are_the_predecessors(build, name, channels, count):
    assert count_parameters(full_size(build, name, **channels)) == count


@pytest.mark.parametrize(
    ("build", "name", "expected"),
    [
        (generator, "unet_a", unet_shapes(UNET_A)),
        (generator, "unet_b", unet_shapes(UNET_B)),
        (discriminator, "patch4", patch_shapes(PATCH4)),
        (discriminator, "patch3", patch_shapes(PATCH3)),
    ],
)
def test_state_dict_has_the_predecessors_names_and_shapes(build, name, expected):
    found = {key: tuple(value.shape) for key, value in full_size(build, name).state_dict().items()}
    assert found == expected


def test_known_landmarks_of_the_state_dicts():
    a = full_size(generator, "unet_a").state_dict()
    b = full_size(generator, "unet_b").state_dict()
    assert a["dec1.weight"].shape == (192, 64, 4, 4)
    assert "dec1.0.weight" not in a
    assert a["final_upsample.weight"].shape == (64, 1, 4, 4)
    assert b["final_upsample.weight"].shape == (128, 1, 4, 4)
    assert (len(a), len(b)) == (60, 65)


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 1, 64, 64)),
        ({"width": 8}, (1, 1, 96, 64)),
        ({"channels": 3, "slope": 0.15}, (2, 3, 32, 32)),
        ({"dropout": 0.0}, (1, 1, 128, 160)),
    ],
)
def test_generator_keeps_the_shape_and_the_range(name, arguments, shape):
    torch.manual_seed(0)
    fake = generator(name, **arguments)(torch.rand(shape) * 2 - 1)
    assert fake.shape == shape
    assert fake.abs().max() < 1


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "expected"),
    [
        ("patch4", {}, (1, 1, 256, 256), (1, 1, 15, 15)),
        ("patch3", {}, (1, 1, 256, 256), (1, 1, 31, 31)),
        ("patch4", {"in_channels": 2}, (2, 2, 64, 64), (2, 1, 3, 3)),
        ("patch3", {}, (2, 1, 64, 96), (2, 1, 7, 11)),
        ("patch4", {}, (2, 1, 32, 32), (2, 1, 1, 1)),
        ("scalar", {"in_channels": 3}, (2, 3, 64, 64), (2, 1)),
        ("scalar", {"in_channels": 3}, (1, 3, 256, 256), (1, 1)),
    ],
)
def test_discriminator_shapes(name, arguments, shape, expected):
    assert discriminator(name, **arguments)(torch.zeros(shape)).shape == expected


def test_discriminators_return_logits_not_probabilities():
    torch.manual_seed(0)
    D = discriminator("patch4").eval()
    torch.nn.init.constant_(D.model[-1].bias, 7.0)
    assert D(torch.randn(2, 1, 64, 64)).min() > 1


def test_scalar_is_the_mean_of_an_unpadded_map():
    torch.manual_seed(0)
    D = discriminator("scalar", in_channels=3).eval()
    x = torch.randn(2, 3, 256, 256)
    maps = D.model(x)
    assert maps.shape == (2, 1, 13, 13)
    torch.testing.assert_close(D(x), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(("name", "pixels"), [("patch4", 94), ("patch3", 46)])
def test_receptive_field_of_one_patch(name, pixels):
    D = discriminator(name, dropout=0.0).double().eval()
    for module in D.modules():  # positive weights: no path may cancel another
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.1)
    x = torch.ones(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = D(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad[0, 0] != 0
    assert seen.any(dim=0).sum() == pixels
    assert seen.any(dim=1).sum() == pixels


@pytest.mark.parametrize(("name", "sees_enc1"), [("unet_a", False), ("unet_b", True)])
def test_only_g_b_carries_enc1_to_the_last_layer(name, sees_enc1):
    torch.manual_seed(0)
    G = generator(name, dropout=0.0).eval()
    with torch.no_grad():
        G.enc2[1].weight.zero_()  # enc2 is constant now, so all that varies must come from enc1's skip
        G.enc2[1].bias.zero_()
        one, other = G(torch.randn(1, 1, 64, 64)), G(torch.randn(1, 1, 64, 64))
    assert torch.equal(one, other) is not sees_enc1


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_dropout_and_slope_reach_every_block(name):
    G = generator(name, dropout=0.05, slope=0.15)
    dropouts = [m.p for m in G.modules() if isinstance(m, torch.nn.Dropout)]
    slopes = [m.negative_slope for m in G.modules() if isinstance(m, torch.nn.LeakyReLU)]
    blocks = {"unet_a": 8, "unet_b": 9}[name]
    assert dropouts == [0.05] * blocks
    assert slopes == [0.15] * blocks


def test_discriminator_dropout_follows_every_block_but_the_last():
    kinds = [type(m).__name__ for m in discriminator("patch3", dropout=0.3).model]
    block = ["Conv2d", "BatchNorm2d", "LeakyReLU", "Dropout"]
    assert kinds == ["Conv2d", "LeakyReLU", "Dropout", *block, *block, "Conv2d"]
    D = discriminator("patch3", dropout=0.3)
    assert {m.p for m in D.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    assert {m.negative_slope for m in D.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize(("build", "name"), [(generator, "unet_a"), (generator, "unet_b"), (discriminator, "patch4")])
def test_every_layer_gets_a_gradient(build, name):
    torch.manual_seed(0)
    module = build(name)
    module(torch.randn(2, 1, 64, 64)).square().mean().backward()
    kernels = {key: p.grad for key, p in module.named_parameters() if p.ndim == 4}
    assert all(torch.isfinite(grad).all() and grad.abs().sum() > 0 for grad in kernels.values())


@pytest.mark.parametrize("shape", [(1, 1, 60, 64), (1, 1, 64, 65), (1, 3, 64, 64), (1, 64, 64)])
def test_generator_refuses_a_wrong_shape(shape):
    with pytest.raises(MrictError, match=r"expected \(B, 1, H, W\) with H and W multiples of 32"):
        generator("unet_b")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "shape", "minimum"),
    [
        ("patch4", (1, 1, 31, 64), 32),
        ("patch3", (1, 1, 15, 15), 16),
        ("scalar", (1, 1, 32, 32), 64),
        ("patch4", (1, 2, 64, 64), 32),
    ],
)
def test_discriminator_refuses_a_wrong_shape(name, shape, minimum):
    with pytest.raises(MrictError, match=rf"expected \(B, 1, H, W\) with H and W at least {minimum}"):
        discriminator(name)(torch.zeros(shape))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(MrictError, match=r"unknown network 'unet_c': did you mean 'unet_[ab]'"):
        generator("unet_c")
    with pytest.raises(MrictError, match="unknown network 'patch_4': did you mean 'patch4'"):
        discriminator("patch_4")
