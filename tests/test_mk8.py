"""MK8 and MK10 from training to a synthetic CT; the steps of the GAN by hand."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_regression import FOUR, QUIET, SMOKE, copied, resumable, same
from tiny_models import head_array, untrained_checkpoint, with_network
from torch import Tensor, nn

from mrict_core.data.batches import Batch
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.volumes import Volume
from mrict_core.data.splits import load_split
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.gate import check_input
from mrict_core.inference.volume import SynthesisOptions, synthesize_volume
from mrict_core.losses import masked_mean
from mrict_core.methods import Method, build_method, check
from mrict_core.models.export import Original, example_of
from mrict_core.pipeline.evaluate import evaluate_variant
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run

SPACING = (5.0, 5.0, 6.0)
GENERATOR = torch.Generator().manual_seed(0)
REAL_A, REAL_B = (torch.rand((2, 1, 16, 32, 32), generator=GENERATOR) * 2 - 1 for _ in range(2))
MASK = (REAL_B > -0.5).float()


def head(shape: tuple[int, int, int], spacing: tuple[float, float, float] = SPACING) -> Volume:
    return Volume(head_array(shape, spacing), np.diag([*spacing, 1.0]), Path("head.nii.gz"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Synthesizer:
    return load_synthesizer(untrained_checkpoint(tmp_path_factory.mktemp("m") / "a.pt", name="mk8_0"), device="cpu")


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> Synthesizer:
    path = untrained_checkpoint(tmp_path_factory.mktemp("m") / "b.pt", name="unet_l1")
    return with_network(load_synthesizer(path, device="cpu"), nn.Identity())


# ------------------------------------------------------------------------------------------------ volumes of any size


@pytest.mark.parametrize("shape", [(34, 40, 3), (34, 40, 24), (30, 32, 45), (90, 84, 20), (34, 40, 1)])
def test_thin_thick_and_wide_volumes_keep_their_grid(shape, tiny, slices):
    """A network that copies puts every voxel where a copying network of slices does; a real one gives numbers."""
    volume = head(shape)
    found = synthesize_volume(with_network(tiny, nn.Identity()), volume)
    expected = synthesize_volume(slices, volume)
    np.testing.assert_allclose(found.hu, expected.hu, rtol=0, atol=0.05)
    assert found.hu.std() > 100
    made = synthesize_volume(tiny, volume)
    assert made.hu.shape == shape
    assert np.isfinite(made.hu).all()
    thin = [text for text in made.warnings if "the network was trained on patches of 16: padded" in text]
    assert len(thin) == (shape[2] < 16)


def test_overlap_and_flips_reach_a_network_of_volumes(tiny):
    volume = head((60, 60, 40))
    plain, dense, both = (
        synthesize_volume(tiny, volume, SynthesisOptions(**options)).hu
        for options in ({}, {"overlap": 0.75}, {"tta": True})
    )
    assert 0 < np.abs(plain - dense).max() < 100
    mirrored = synthesize_volume(tiny, Volume(volume.array[::-1].copy(), volume.affine, volume.path)).hu[::-1]
    inside = np.abs(plain - mirrored) > 1
    assert inside.any()
    np.testing.assert_allclose(both[inside], ((plain + mirrored) / 2)[inside], atol=1.0)


def test_slices_far_thicker_than_in_training_are_noticed(space):
    fingerprint = prepare_run(get("mk8_0"), SMOKE, space, TrainSettings()).fingerprint
    names = [finding.name for finding in check_input(head((40, 46, 10), (4.0, 4.0, 25.0)), fingerprint)]
    assert "spacing_slices" in names


def test_a_network_of_volumes_is_not_exported_as_one_of_slices(tiny):
    original = Original(tiny.method, tiny.facts, {"hash": "0", "data": {}})
    with pytest.raises(MrictError, match=r"sees volumes in patches, expected one of slices; use the model itself"):
        example_of(original, None)


# ----------------------------------------------------------------------------------------------------------- training


def test_mk8_is_trained_resumed_scored_and_continued_as_mk10(fresh_space):
    """The cohort's ten slices are fewer than a patch."""
    lines: list[str] = []
    few = TrainSettings(steps=5)
    whole = train(get("mk8_0"), FOUR, fresh_space, few, report=lines.append)
    assert (
        "mk8_0: 1BA001, 1BA002, 1BA003 and 6 more have fewer slices than a patch, 16: padded with background" in lines
    )
    row = whole.history.iloc[-1]
    record, _ = evaluate_variant(get("mk8_0"), FOUR, fresh_space, device="cpu", report=lambda line: None)
    assert record["predecessor"]["mse"] is None
    assert "sees whole volumes" in record["predecessor"]["reasons"]["mse"]
    assert record["summary"]["all"]["mae_hu"]["mean"] > 0
    model, store = load_synthesizer(whole.best, "mk8_0", "cpu"), SliceStore(fresh_space.store)
    errors = []
    for patient in load_split(fresh_space.split_file).val:
        one = store.slices(patient)
        errors.append(np.abs(model(store, patient) - one.ct)[one.mask > 0].mean())
    best = load_checkpoint(whole.best)
    assert np.mean(errors) == pytest.approx(best["history"][best["epoch"] - 1]["val_mae_hu"], rel=1e-3)
    child = train(get("mk10_0"), FOUR, fresh_space, TrainSettings(steps=5), **QUIET)
    assert child.complete
    assert {"loss_d", "loss_r1", "loss_g_feature_matching"} <= set(child.history.columns)
    assert set(load_checkpoint(child.last)["networks"]) == {"G", "D"}
    assert np.isfinite(row["val_mae_hu"])


@pytest.mark.parametrize("name", ["mk8_0", "mk10_0"])
def test_volumes_resume_bit_for_bit(name, fresh_space):
    variant, settings = dataclasses.replace(get(name), init_from=None), TrainSettings(steps=6)
    whole = train(variant, FOUR, fresh_space, settings, **QUIET)
    expected = resumable(whole.last)
    shutil.rmtree(fresh_space.checkpoints)
    train(variant, FOUR, fresh_space, settings, stop_after=2, **QUIET)
    torch.manual_seed(999)
    found = resumable(train(variant, FOUR, fresh_space, settings, **QUIET).last)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value, key


def test_single_slices_are_no_volumes(fresh_space, monkeypatch):
    monkeypatch.setattr(SliceStore, "counts", lambda self: dict.fromkeys(self.patients, 1))
    with pytest.raises(MrictError, match="every training patient is a single slice; choose view slice"):
        train(get("mk8_0"), SMOKE, fresh_space, **QUIET)


# ------------------------------------------------------------------------------------------------------------- the GAN


def gan(**options: object) -> Method:
    torch.manual_seed(0)
    changes = {f"method.{name}": value for name, value in options.items()}
    method = build_method(with_values(get("mk10_0"), changes), SMOKE, canvas=64)
    method.begin_epoch(0)
    return method


def batch() -> Batch:
    return Batch(REAL_A, REAL_B, MASK)


def test_before_its_start_the_gan_is_the_regression():
    """The same first loss and the same weights; D stays as it was, and the columns are those of later steps."""
    method, other = gan(start=0.5), gan(start=0.5)
    method.follow(0.49)
    before = copied(method.D)
    logs = method.train_step(batch())
    assert same(before, copied(method.D))
    other.follow(0.5)
    later = other.train_step(batch())
    assert set(logs) == set(later)
    assert float(logs["loss_d"]) == float(logs["loss_g_gan"]) == 0
    torch.testing.assert_close(logs["loss_g_l1"], later["loss_g_l1"])
    torch.testing.assert_close(logs["loss_g"], 100 * logs["loss_g_l1"])
    assert not same(before, copied(other.D))


def test_losses_of_the_gan_by_hand():
    method = gan(r1=0.0)
    fake = method.raw(REAL_A).detach()
    real_said, fake_said = (method.D(torch.cat([REAL_A, image], 1))[-1].detach() for image in (REAL_B, fake))
    logs = method.train_step(batch())
    expected = ((real_said - 1).square().mean() + fake_said.square().mean()) / 2
    torch.testing.assert_close(logs["loss_d"], expected)
    torch.testing.assert_close(logs["loss_g_l1"], masked_mean((fake - REAL_B).abs(), MASK))
    *after, said = [x.detach() for x in method.D(torch.cat([REAL_A, fake], 1))]
    real = [x.detach() for x in method.D(torch.cat([REAL_A, REAL_B], 1))][:-1]
    torch.testing.assert_close(logs["loss_g_gan"], (said - 1).square().mean())
    matched = sum((a - b).abs().mean() for a, b in zip(after, real, strict=True)) / len(real)
    torch.testing.assert_close(logs["loss_g_feature_matching"], matched)
    total = 100 * logs["loss_g_l1"] + logs["loss_g_gan"] + 10 * matched
    torch.testing.assert_close(logs["loss_g"], total)
    assert float(logs["loss_r1"]) == 0


class Linear(nn.Module):
    """D(x, y) = w · mean over positions of (x + 2 y) + bias, a map of one logit: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.bias = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(0.5))

    def forward(self, pair: Tensor) -> list[Tensor]:
        return [pair * self.w, self.w * (pair[:, :1] + 2 * pair[:, 1:]).flatten(1).sum(dim=1, keepdim=True) + self.bias]


def test_r1_by_hand_in_every_few_steps_and_in_one_backward():
    """|∂D/∂y|² = (2 w)² for each of n voxels; its derivative by w reaches the weights with that of the GAN loss."""
    method = gan(r1=0.5, r1_every=3, start=0.0)
    method.D = method.networks["D"] = Linear()
    method.optimizers["D"] = torch.optim.SGD(method.D.parameters(), lr=0.0)
    n, found = REAL_B[0].numel(), []
    for _ in range(4):
        logs = method.step_D(batch(), REAL_A)
        found.append((float(logs["loss_r1"]), float(method.D.w.grad), float(method.D.bias.grad)))
    assert [r1 for r1, *_ in found] == pytest.approx([36 * n, 0, 0, 36 * n])
    extra = 3 * 0.5 / 2 * 24 * n  # r1_every · γ/2 · d(4 w² n)/dw at w = 3
    assert found[0][1] - found[1][1] == pytest.approx(extra, rel=1e-3)
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-5), "the bias, which R1 alone would not reach"


def test_a_term_that_learns_is_one_for_the_first_steps_and_the_later_ones():
    changes = {
        **{"data.view": "slice", "network.G": {"name": "residual_unet", "depth": 2}, "method.start": 0.5},
        "loss.hu_features": {"weight": 0.1},
    }
    method = build_method(with_values(get("mk10_0"), changes), SMOKE, canvas=32)
    assert set(method.first_loss.terms) == {"l1", "hu_features"}
    assert method.first_loss.terms["hu_features"] is method.loss.terms["hu_features"]
    assert method.first_loss.needs == {"fake_B"}
    assert set(method.loss.terms) == {"l1", "gan", "feature_matching", "hu_features"}


def test_r1_does_not_pass_through_the_compiled_network_of_several_ranks():
    """Nobody differentiates a compiled network twice; a rank's wrapper calls it, its plain network is not compiled."""
    method = gan(r1=0.5, r1_every=1, start=0.0)

    class Wrapped(nn.Module):
        plain, calls = method.D, 0

        def forward(self, pair: Tensor) -> list[Tensor]:
            Wrapped.calls += 1
            return self.plain(pair)

    method.D = Wrapped()
    method._real_logits(batch(), penalised=True)
    assert Wrapped.calls == 0
    method._real_logits(batch(), penalised=False)
    assert Wrapped.calls == 1


def test_a_network_of_volumes_may_make_several_channels():
    method = build_method(with_values(get("mk8_0"), {"network.G.out_channels": 2}), SMOKE, canvas=64)
    method.begin_epoch(0)
    assert torch.isfinite(method.train_step(batch())["loss_g"])
    method.generator.eval()
    assert method.predict(REAL_A).shape == REAL_A.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.start": 1.5}, "start is 1.5, expected a fraction from 0 to 1"),
        ({"method.r1": -1.0}, "r1 is -1.0, expected at least 0"),
        ({"method.r1_every": 0}, "r1_every is 0, expected at least 1"),
        ({"method.ema": 1.0}, "ema is 1.0"),
        ({"loss.l1": None}, "no term without a discriminator, for the first steps"),
        ({"network.D": None}, "network.D is missing; gan3d needs G, D"),
    ],
)
def test_what_the_gan_cannot_do_is_said_before_training(changes, message):
    with pytest.raises(MrictError, match=message) as caught:
        check(with_values(get("mk10_0"), changes))
    assert "\n" not in str(caught.value)


def test_layers_that_a_state_names_twice_are_averaged_once():
    """MONAI's DynUNet holds its layers under two names."""
    options = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 4, 4]}
    variant = with_values(get("mk8_0"), {"network.G": {"name": "monai.DynUNet", **options}})
    method = build_method(variant, SMOKE, canvas=64)
    method.begin_epoch(0)
    start = copied(method.G)
    method.train_step(batch())
    raw = copied(method.raw)
    for name, value in method.G.state_dict().items():
        torch.testing.assert_close(value, start[name] + 0.9 * (raw[name] - start[name]), rtol=1e-4, atol=1e-6)
