"""Parts of an experiment by name: what a registry refuses and passes on; MONAI's networks; shapes before memory."""

from __future__ import annotations

import pytest
import torch

from mrict_core.errors import MrictError
from mrict_core.experiments import all_variants, get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Part
from mrict_core.methods import build_method, check, check_networks
from mrict_core.networks import build_network
from mrict_core.parts import Parts

SMOKE = get_profile("smoke")
BASIC = {"name": "monai.BasicUNet", "features": [4, 4, 8, 8, 16, 4]}


@pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.name)
def test_every_declared_variant_can_be_trained(variant):
    check(variant)
    check_networks(variant, SMOKE, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"data.batch_size": -1}, "data.batch_size is -1, expected at least 1"),
        ({"early_stop_patience": 0}, "early_stop_patience is 0, expected at least 1"),
        ({"score.boost_epochs": 0}, "score.boost_epochs is 0, expected at least 0.001"),
        ({"optimizer.G.lr": 0}, "optimizer.G.lr is 0, expected a number above 0"),
        ({"optimizer.G.betas": [0.5]}, r"optimizer.G.betas is \[0.5\], expected two numbers"),
        ({"optimizer.G.betas": [2, 0.9]}, "optimizer.G: adam: Invalid beta parameter at index 0"),
        ({"optimizer.G.name": "lbfgs"}, "optimizer.G: unknown optimizer 'lbfgs'"),
        ({"optimizer.G.schedule.factor": 5}, "optimizer.G.schedule.factor is 5, expected a number between 0 and 1"),
        ({"optimizer.G.schedule.mode": "up"}, "optimizer.G.schedule.mode is up, expected min or max"),
        ({"optimizer.G.schedule": {"kind": "cosine", "t_0": 0}}, "schedule.t_0 is 0, expected at least 1"),
        ({"method.generator_steps": 0}, "method: generator_steps is 0, expected at least 1"),
        ({"loss.gan.weight_step": "x"}, "loss.gan.weight_step is 'x', expected float"),
        ({"method.name": "pix2pixx"}, "method: unknown method 'pix2pixx': did you mean 'pix2pix'"),
        ({"method.real_lable": 1.0}, "method: unknown option of pix2pix 'real_lable': did you mean 'real_label'"),
        ({"method.generator_steps": "two"}, "method.generator_steps is 'two', expected int"),
        ({"method.conditional": 1}, "method.conditional is '1', expected bool"),
        ({"network.G.name": "unet_c"}, "network.G: unknown network 'unet_c': did you mean"),
        ({"network.G.drop": 0.1}, "network.G: unknown option of unet_b 'drop': did you mean 'dropout'"),
        ({"network.G.in_channels": 2}, "network.G: unknown option of unet_b 'in_channels'"),
        ({"network.G": "monai.BasicUnett"}, "unknown class of monai.networks.nets .* did you mean 'monai.BasicU"),
        ({"network.G": "monai.UNet"}, "network.G: monai.UNet needs 'channels'"),
        ({"network.E": "unet_a"}, "network: unknown role of pix2pix 'E'"),
        ({"network.D": None}, "network.D is missing; pix2pix needs G, D"),
        ({"optimizer.D": None}, "optimizer.D is missing"),
        ({"optimizer.G.name": "adem"}, "optimizer.G: unknown optimizer 'adem': did you mean 'adam'"),
        ({"optimizer.G.beta": [0, 1]}, "optimizer.G: unknown option of adam 'beta': did you mean 'betas'"),
        ({"optimizer.G.schedule.kind": "plato"}, "optimizer.G.schedule: unknown schedule 'plato'"),
        ({"optimizer.G.schedule.patience": None}, "optimizer.G.schedule: plateau needs 'patience'"),
        ({"optimizer.G.schedule.watch": "los_g"}, "schedule.watch: unknown column 'los_g': did you mean 'loss_g'"),
        ({"loss.l2.weight": 1.0}, "loss.l2: unknown loss 'l2': did you mean 'l1'"),
        ({"loss.l1.power": 1.0}, "loss.l1: unknown option of l1 'power'"),
        ({"loss.cycle.weight": 1.0}, "loss.cycle: needs rec_A, which the method does not give; choose from gan, "),
        ({"loss.perceptual.features": "vgg9"}, "loss.perceptual: unknown feature network 'vgg9'"),
        ({"loss.perceptual.distance": "l3"}, "loss.perceptual: unknown distance 'l3'"),
        ({"loss.gan": None, "loss.l1.weight_step": 1.0}, "loss.l1.weight_step: compares with the missing term 'gan'"),
        ({"loss": {"gan": {"weight": 0.0}}}, "loss: no term has a weight"),
        ({"data.view": "slise"}, "data.view: unknown view 'slise': did you mean 'slice'"),
        ({"data.view": {"name": "slice", "copy": 3}}, "data.view: unknown option of slice 'copy'"),
        ({"select_by": "mae"}, "select_by: unknown measure 'mae'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_its_path(changes, message):
    with pytest.raises(MrictError, match=f"mk6_1_0: .*{message}") as caught:
        check(with_values(get("mk6_1_0"), changes))
    assert "\n" not in str(caught.value)


def test_a_published_model_is_not_refused_for_a_loss_that_is_gone():
    model = with_values(get("mk1"), {"loss.of_another_version.weight": 1.0, "optimizer.G.name": "adem"})
    check(model, training=False)
    with pytest.raises(MrictError, match="unet_z"):
        check(with_values(model, {"network.G.name": "unet_z"}), training=False)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (get("mk1").network["G"], 72, "unet_a: needs slices of a multiple of 32 px, these have 72"),
        (Part("monai.UNet", {"channels": [4, 8, 16], "strides": [2, 3]}), 64, "monai.UNet does not work on slices"),
        (Part("monai.UNet", {"channels": [], "strides": []}), 64, "monai.UNet does not work"),
        (Part("monai.DenseNet121"), 64, r"monai.DenseNet121: returns \(1, 1\) for a slice, expected \(1, 1, 64, 64\)"),
        (Part("patch4"), 64, r"patch4: returns \(1, 1, 3, 3\) for a slice"),
    ],
)
def test_a_network_that_makes_no_ct_is_refused_before_anything_is_trained(network, size, message):
    variant = with_values(get("mk1"), {"network.G": network})
    check(variant)
    with pytest.raises(MrictError, match=message):
        check_networks(variant, SMOKE, size)


def test_monais_network_is_a_generator_by_its_name():
    variant = with_values(get("mk1"), {"network.G": BASIC})
    check_networks(variant, SMOKE, 48)
    method = build_method(variant, SMOKE)
    assert type(method.G).__name__ == "BasicUNet"
    assert method.predict(torch.zeros(1, 1, 48, 48)).shape == (1, 1, 48, 48)


def test_a_profiles_width_is_passed_where_it_is_taken_and_an_option_wins():
    narrow = build_network(Part("unet_b"), in_channels=1, width=4)
    assert narrow.enc1[0].out_channels == 4
    assert build_network(Part("unet_b", {"width": 6}), in_channels=1, width=4).enc1[0].out_channels == 6
    assert build_network(Part("monai.BasicUNet"), in_channels=3, width=4).conv_0.conv_0.conv.in_channels == 3


def test_the_arguments_of_a_part_are_its_options():
    parts = Parts("colour", supplied=("given",), offered=("size",))

    @parts.register("red")
    def red(given: int, shade: float, size: int, *, dark: bool = False) -> tuple:
        return given, shade, size, dark

    parts.check("red", {"shade": 1}, "colour")
    assert parts.register("red")(red) is red, "a cell that runs again"
    with pytest.raises(MrictError, match="colour 'red' is already registered in test_parts"):
        parts.register("red")(torch.zeros)
    assert parts.build("red", {"shade": 0.5, "dark": True}, given=1, size=2, unused=3) == (1, 0.5, 2, True)
    for options, message in (
        ({}, "colour: red needs 'shade'"),
        ({"shade": "x"}, "colour.shade is 'x', expected float"),
        ({"shade": 1.0, "given": 2}, "unknown option of red 'given'"),
    ):
        with pytest.raises(MrictError, match=message):
            parts.check("red", options, "colour")
