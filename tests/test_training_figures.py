"""What a discriminator says of patches, and the figures of trainings, on a real training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.networks.layers import patch_size
from mrict_core.networks.patch70 import patch70
from mrict_core.networks.patchgan import patch3, patch4
from mrict_core.pipeline import (
    TrainSettings,
    judged_patches,
    prepare_run,
    sample_row,
    sampled_slices,
    train_and_evaluate,
)
from mrict_core.reporting import figures
from mrict_core.training.checkpoint import load_checkpoint

CPU = TrainSettings(device="cpu")


@pytest.mark.parametrize(("make", "expected"), [(patch4, (94, 16)), (patch3, (46, 8)), (patch70, (70, 8))])
def test_patch_sizes_are_the_published_ones_and_those_of_the_gradient(make, expected):
    """The pixels that change one output, found by its gradient, are a square of that size."""
    network = make(width=2).eval()
    assert patch_size(network) == expected
    image = torch.randn(1, 1, 256, 256, requires_grad=True)
    out = network(image)
    middle = out.shape[-1] // 2
    out[0, 0, middle, middle].backward()
    rows = np.flatnonzero(image.grad[0, 0].abs().sum(dim=1))
    assert rows[-1] - rows[0] + 1 == expected[0]
    centre, first = (rows[0] + rows[-1]) / 2, (256 - 1) / 2 - (out.shape[-1] - 1) / 2 * expected[1]
    assert centre == first + middle * expected[1]  # where `patch_figure` draws it


@pytest.fixture(scope="module")
def trained(space, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MRICT_CHECKPOINTS", "MRICT_REPORTS"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        profile = get_profile("smoke")
        outcome = train_and_evaluate(get("mk1"), profile, space, CPU, report=lambda line: None)
        yield outcome, prepare_run(get("mk1"), profile, space, CPU)


def test_the_map_is_what_the_last_discriminator_says_of_the_slice(trained):
    outcome, run = trained
    row = judged_patches(outcome, run)
    D = run.method().networks["D"]
    D.load_state_dict(load_checkpoint(outcome.training.last)["networks"]["D"])
    ct = torch.from_numpy(run.store.window.to_unit(row["ct"]))[None, None].float()
    expected = torch.sigmoid(D.eval()(ct))[0, 0].detach().numpy()
    np.testing.assert_allclose(row["judged_ct"], expected, atol=1e-5)
    assert row["judged_sct"].shape == expected.shape == (3, 3)
    assert (row["patch_px"], row["step_px"]) == (94, 16)
    (sample,) = sampled_slices(outcome, run).values()
    np.testing.assert_allclose(row["sct"], sample, atol=0.51)  # of the same epoch, in whole HU
    assert row["patient"] == sample_row(run)["patient"] == run.split.val[0]
    figure = figures.patch_figure(row, title="mk1", label="smoke")
    texts = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert {f"{value:.2f}" for value in expected.flat} <= texts


def test_a_method_without_discriminator_is_refused(trained):
    outcome, run = trained
    run = prepare_run(get("unet_l1"), get_profile("smoke"), run.workspace, CPU)
    with pytest.raises(MrictError, match="has no discriminator; choose a GAN"):
        judged_patches(outcome, run)


def test_the_chain_counts_epochs_on_and_marks_what_is_scored():
    one = pd.DataFrame({"epoch": [1, 2], "val_mae_hu": [300.0, 200.0], "is_best": [True, True]})
    two = pd.DataFrame({"epoch": [1, 2, 3], "val_mae_hu": [190.0, 150.0, 160.0], "is_best": [True, True, False]})
    figure = figures.chain_figure({"mk6_0_1": one, "mk6_1_0": two}, label="smoke")
    lines = [line for axis in figure.axes for line in axis.lines if line.get_marker() in ("o", "D")]
    points = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    assert points == [[(1, 300), (2, 200)], [(2, 200)], [(3, 190), (4, 150), (5, 160)], [(4, 150)]]
    with pytest.raises(MrictError, match="no training to draw"):
        figures.chain_figure({}, label="smoke")


def test_a_layer_without_stride_keeps_the_distance():
    assert patch_size(nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.ReLU(), nn.Conv2d(1, 1, 3))) == (7, 2)
