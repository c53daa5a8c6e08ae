"""Regression: averaged weights by hand, what is validated and kept, resuming bit for bit; and its network."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import run_of
from torch import Tensor, nn

from mrict_core.data.batches import Batch
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import load_split
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference import load_synthesizer
from mrict_core.methods import METHODS, Method, build_method, check
from mrict_core.networks import NETWORKS, build_network
from mrict_core.networks.residual_unet import STEMS
from mrict_core.training.checkpoint import load_checkpoint, save_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

SMOKE = get_profile("smoke")
FOUR = dataclasses.replace(SMOKE, epochs_min=4, epochs_max=4)
QUIET = {"report": lambda line: None}
NINE = TrainSettings(max_pairs=17, steps=9)
ALL = ["axial", "coronal", "sagittal"]
REAL_A, REAL_B = (torch.rand((3, 1, 32, 32), generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in (0, 1))
MASK = (REAL_B > -0.5).float()


def method_of(changes: dict | None = None, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return build_method(with_values(get("mk7_0"), changes or {}), SMOKE, canvas=32)


def step(method: Method) -> dict[str, Tensor]:
    return method.train_step(Batch(method.view.widened(REAL_A), REAL_B, MASK))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------------- averaged weights


@pytest.mark.parametrize(
    ("ema", "kept"), [(0.999, [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14]), (0.15, [0.1] + [0.15] * 4)]
)
def test_the_average_by_hand(ema, kept):
    """The first step keeps a tenth of the start, later ones more, up to `ema`; counts of batches are those of today."""
    method = method_of({"method.ema": ema})
    assert same(copied(method.raw), copied(method.G)), "both start alike"
    expected = {name: value.double() for name, value in copied(method.G).items()}
    method.begin_epoch(0)
    for keep in kept:
        step(method)
        for name, value in method.raw.state_dict().items():
            whole = not value.is_floating_point()
            expected[name] = value.double() if whole else keep * expected[name] + (1 - keep) * value.double()
    found = copied(method.G)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
    counted = [value for name, value in found.items() if name.endswith("num_batches_tracked")]
    assert counted
    assert all(value.dtype == torch.int64 and value == len(kept) for value in counted)
    assert not same(found, copied(method.raw))


def test_without_averaging_there_is_one_network():
    method = method_of({"method.ema": 0.0})
    before = copied(method.G)
    step(method)
    assert method.raw is method.G
    assert not same(before, copied(method.G))
    assert method.state() == {"loss": method.loss.state()}
    method.started()
    method.load_state(method.state())


def test_averaging_does_not_change_what_is_optimised():
    """The same batches make the same optimised weights, whatever their average is."""
    raws = []
    for ema in (0.0, 0.9):
        method = method_of({"method.ema": ema})
        method.begin_epoch(0)
        for _ in range(3):
            step(method)
        raws.append(copied(method.raw))
    assert same(*raws)


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_the_gradient_is_clipped_to_its_largest_norm(clip):
    method, plain = method_of({"method.clip": clip}), method_of({"method.clip": None})
    gradients, logged = [], []
    for one in (method, plain):
        one.begin_epoch(0)
        logged.append(float(step(one)["grad_norm"]))
        gradients.append([p.grad for p in one.raw.parameters()])
    norm = float(torch.cat([g.flatten() for g in gradients[1]]).norm())
    assert logged == pytest.approx([norm, norm], rel=1e-4), "the norm before it is clipped"
    factor = min(1.0, (clip or 1e9) / norm)
    for clipped, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(clipped, whole * factor, rtol=1e-4, atol=1e-9)
    assert norm > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.ema": 1.0}, "ema is 1.0, expected at least 0 and below 1"),
        ({"method.ema": -0.1}, "ema is -0.1"),
        ({"method.clip": 0}, "clip is 0, expected a number above 0, or null"),
        (
            {"loss.laplace": {"weight": 1.0}},
            "loss.laplace: needs a network with a second head; add network.G.log_b=true",
        ),
        ({"network.G.norms": "batch"}, "did you mean 'norm'"),
        ({"network.G.norm": "bach"}, "did you mean 'batch'"),
        ({"network.G.stem": "ful"}, "did you mean 'full'"),
        ({"network.G.depth": 1}, "depth is 1, expected 2 to 5"),
        ({"network.G.width": 0}, "width is 0, expected at least 1"),
        ({"data.augment.gama": 0.1}, "did you mean 'gamma'"),
        ({"data.augment.crop": -1}, "data.augment.crop is -1, expected at least 0"),
        ({"data.view": {"name": "slab", "radius": -1}}, "radius is -1"),
    ],
)
def test_what_an_experiment_cannot_ask_is_said_before_training(changes, message):
    with pytest.raises(MrictError, match=message) as caught:
        check(with_values(get("mk7_0"), changes))
    assert str(caught.value).startswith("mk7_0: ")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ training and resuming


def flat(value: object, path: str = "") -> dict[str, object]:
    """Return {path: tensor or plain value} of nested dictionaries and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, inner in items for name, leaf in flat(inner, f"{path}/{key}").items()}
    return {path: value}


def resumable(path) -> dict[str, object]:
    """Return all of last.pt that decides how training goes on."""
    payload = load_checkpoint(path)
    kept = {key: payload[key] for key in ("networks", "optimizers", "schedulers", "method_state", "rng", "epoch")}
    rows = [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in payload["history"]]
    return flat(kept | {"history": rows})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mk7_0", {}),
        ("mk7_0", {"method.ema": 0.0, "network.G.norm": "group"}),
        ("mk7_2", {"loss.hu_features": {"weight": 0.5, "steps": 2}}),
        ("mk7_1", {"network.G.log_b": True, "loss.laplace": {"weight": 1.0}, "method.clip": None}),
    ],
)
def test_killed_and_resumed_is_the_same_bit_for_bit(name, changes, fresh_space):
    variant = with_values(get(name), changes)
    settings = dataclasses.replace(NINE, max_pairs=None) if name == "mk7_2" else NINE  # a cut patient has one plane
    whole = train(variant, FOUR, fresh_space, settings, **QUIET)
    expected = resumable(whole.last)
    shutil.rmtree(fresh_space.checkpoints)
    half = train(variant, FOUR, fresh_space, settings, stop_after=2, **QUIET)
    assert (half.epochs, half.complete) == (2, False)
    torch.manual_seed(999)  # another process would have another state
    resumed = train(variant, FOUR, fresh_space, settings, **QUIET)
    assert (resumed.epochs, resumed.complete) == (4, True)
    found = resumable(resumed.last)
    assert found.keys() == expected.keys()
    assert any("/method_state/raw/" in key for key in found) is bool(variant.method.options["ema"])
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value, key
    columns = [column for column in whole.history if not column.endswith("seconds")]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], check_exact=True)


@pytest.fixture(scope="module")
def trained(space, tmp_path_factory):
    """mk7_0 after two of four rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRICT_CHECKPOINTS", str(tmp_path_factory.mktemp("trained")))
        train(get("mk7_0"), FOUR, space, NINE, stop_after=2, **QUIET)
        return space.checkpoints


@pytest.fixture
def trained_space(trained, fresh_space):
    shutil.copytree(trained, fresh_space.checkpoints, dirs_exist_ok=True)
    return fresh_space


def test_the_averaged_weights_are_validated_and_kept(trained_space):
    run = run_of(trained_space, "mk7_0")
    last, best = load_checkpoint(run.last), load_checkpoint(run.best)
    assert list(last["networks"]) == list(best["networks"]) == ["G"]
    assert not same(last["networks"]["G"], last["method_state"]["raw"])
    assert "method_state" not in best
    model, store = load_synthesizer(run.best, "mk7_0", "cpu"), SliceStore(trained_space.store)
    assert same(model.generator.state_dict(), best["networks"]["G"])
    errors = []
    for patient in load_split(trained_space.split_file).val:
        slices = store.slices(patient)
        errors.append(np.abs(model(store, patient) - slices.ct)[slices.mask > 0].mean())
    assert np.mean(errors) == pytest.approx(last["history"][best["epoch"] - 1]["val_mae_hu"], rel=1e-4)


@pytest.mark.parametrize("lost", [["raw"], ["averaged"], ["raw", "averaged"]])
def test_lost_weights_are_named_with_their_file_and_nothing_is_written(lost, trained_space):
    path = run_of(trained_space, "mk7_0").last
    payload = load_checkpoint(path)
    payload.pop("format")
    payload["method_state"] = {k: v for k, v in payload["method_state"].items() if k not in lost}
    save_checkpoint(path, payload)
    before = path.read_bytes()
    with pytest.raises(MrictError, match=rf"last\.pt: has no {', '.join(lost)} to go on averaging.*retrain") as caught:
        train(get("mk7_0"), FOUR, trained_space, NINE, **QUIET)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_child_starts_from_the_averaged_weights_of_its_parent(fresh_space, monkeypatch):
    parent = train(get("mk7_0"), SMOKE, fresh_space, dataclasses.replace(NINE, steps=2), **QUIET)
    child = dataclasses.replace(get("mk7_0"), name="child", init_from="mk7_0")
    seen = {}

    def stop(self, batch):
        seen.update(G=copied(self.G), raw=copied(self.raw), averaged=self.averaged)
        raise KeyboardInterrupt

    monkeypatch.setattr(METHODS["regression"], "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(child, SMOKE, fresh_space, dataclasses.replace(NINE, steps=2), parent=parent.run, **QUIET)
    expected = load_checkpoint(parent.last)["networks"]["G"]
    assert same(seen["G"], expected)
    assert same(seen["raw"], expected)
    assert seen["averaged"] == 0


# --------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("stem", list(STEMS))
@pytest.mark.parametrize("depth", [2, 5])
def test_norms_stems_and_depths_keep_the_shape_and_learn(norm, stem, depth):
    part = dataclasses.replace(get("mk7_0").network["G"], options={"norm": norm, "stem": stem, "depth": depth})
    network = build_network(part, in_channels=5, width=3)
    side = STEMS[stem] * 2 ** (depth - 1)
    assert network.multiple == side
    images = torch.rand(2, 5, 2 * side, 4 * side) * 2 - 1
    made = network(images)
    assert made.shape == (2, 1, 2 * side, 4 * side)
    made.abs().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    for shape in ((2, 4, side, side), (2, 5, side, side + 1), (5, side, side)):
        with pytest.raises(MrictError, match=rf"expected \(B, 5, H, W\) with H and W multiples of {side}"):
            network(torch.zeros(shape))


def test_the_network_starts_near_water_and_is_linear_in_hu():
    network = NETWORKS.build("residual_unet", {}, width=4)
    with torch.no_grad():
        start = network.eval()(torch.rand(1, 1, 64, 64) * 2 - 1)
        network.head.weight.zero_()
        network.head.bias.fill_(7.0)  # thousands of HU, beyond the window: only the prediction is clamped
        made = network(torch.zeros(1, 1, 64, 64))
    width = 4024.0  # HU, of the window
    water = 2 * 1024 / width - 1
    assert start.mean() == pytest.approx(water, abs=0.15)
    torch.testing.assert_close(made, torch.full_like(made, water + 7000 * 2 / width))


def test_the_image_is_made_in_float32_within_bfloat16():
    network = NETWORKS.build("residual_unet", {"log_b": True}, width=4).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        made, log_b = network.with_log_b(torch.rand(1, 1, 64, 64))
    assert made.dtype == log_b.dtype == torch.float32
    assert made.unique().numel() > 1000


def test_the_second_head_leaves_the_shared_layers_alone():
    """With the scale of the Laplace distribution in the loss, all other gradients are the same to the last bit."""
    gradients = []
    for laplace in ({}, {"loss.laplace": {"weight": 1.0}}):
        method = method_of({"network.G.log_b": True, "method.ema": 0.0, "method.clip": None, **laplace})
        method.begin_epoch(0)
        step(method)
        gradients.append({name: p.grad for name, p in method.G.named_parameters()})
    plain, both = gradients
    own = {name for name in both if name.startswith("head_log_b")}
    assert own
    assert all(plain[name] is None and both[name].abs().sum() > 0 for name in own)
    assert all(torch.equal(plain[name], both[name]) for name in both.keys() - own)
