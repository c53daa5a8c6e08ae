"""Tests that need a GPU; run by benchmarks/on_gpu.sh, skipped elsewhere."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
import torch

from benchmarks.inference import random_model
from mrict_core.data.augment import JointTransform
from mrict_core.data.batches import Batch
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.hu import SYNTHRAD2023
from mrict_core.machine import pick_precision, tune_gpu
from mrict_core.methods import build_method

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SMOKE = get_profile("smoke")
CUDA = torch.device("cuda")


@pytest.mark.parametrize("name", ["mk6_1_0", "cyclegan_mk1", "mk1"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_in_the_cards_own_precision(name, compiled):
    tune_gpu(CUDA)
    method = build_method(get(name), SMOKE, CUDA, pick_precision("auto", CUDA))
    method.begin_epoch(0)
    if compiled:
        method.compile()
    images = [torch.rand(4, 1, 64, 64, device=CUDA) * 2 - 1 for _ in range(2)]
    for _ in range(3):
        terms = method.train_step(Batch(*images, torch.ones_like(images[0])))
    assert all(torch.isfinite(value) and value.device.type == "cuda" for value in terms.values())


def test_the_segmenter_of_the_loss_learns_on_the_card():
    terms = {"loss.hu_features": {"weight": 1.0, "steps": 3}}
    method = build_method(with_values(get("mk6_1_0"), terms), SMOKE, CUDA, pick_precision("auto", CUDA))
    images = torch.rand(4, 1, 64, 64, device=CUDA) * 2 - 1
    batch = Batch(images, images, torch.ones_like(images))
    (line,) = method.loss.fit(repeat(batch), SYNTHRAD2023, 0)
    assert "Dice" in line
    assert torch.isfinite(method.train_step(batch)["loss_g_hu_features"])


def test_augmentation_stays_on_the_card_and_repeats():
    real = torch.rand(4, 1, 64, 64, device=CUDA) * 2 - 1
    mask = (real > 0).float()
    first, second = (JointTransform(generator=torch.Generator().manual_seed(3))(real, real, mask) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.device.type == "cuda"
        torch.testing.assert_close(a, b)


def test_the_card_synthesises_what_the_cpu_does():
    mr = np.random.default_rng(0).uniform(-1, 1, (5, 64, 64)).astype(np.float32)
    found = []
    for device in (torch.device("cpu"), CUDA):
        torch.manual_seed(0)
        found.append(random_model(get("mk6_1_0"), SMOKE, device, 2, torch.float32).slices_to_hu(mr))
    assert np.abs(found[0] - found[1]).max() < 5  # HU, of a window of 4024; TF32 rounds the products
