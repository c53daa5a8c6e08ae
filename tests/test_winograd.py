"""Winograd's convolution against the direct sum: values and gradients, odd sizes, where it is used and where not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mrict_core.networks.features import FeatureNetwork
from mrict_core.networks.winograd import WinogradConv2d, convolve, transform_kernel, use_winograd

WIDE = 128  # channels from which it is used


def direct(image, weight, bias=None):
    return F.conv2d(image, weight, bias, padding=1)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 45), st.integers(1, 45)),
    outputs=st.integers(1, 6),
    seed=st.integers(0, 99),
    last=st.booleans(),
)
def test_equals_the_direct_sum(shape, outputs, seed, last):
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(shape, generator=random, dtype=torch.float64)
    weight = torch.randn(outputs, shape[1], 3, 3, generator=random, dtype=torch.float64)
    bias = torch.randn(outputs, generator=random, dtype=torch.float64)
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        convolve(image, transform_kernel(weight), bias), direct(image, weight, bias), rtol=1e-11, atol=1e-11
    )


def test_more_tiles_than_one_portion():
    image, weight = (torch.randn(s, dtype=torch.float64) for s in ((3, 512, 17, 61), (2, 512, 3, 3)))
    torch.testing.assert_close(convolve(image, transform_kernel(weight)), direct(image, weight))


@pytest.mark.parametrize("channels", [128, 512])
def test_rounds_by_two_millionths_at_most(channels):
    torch.manual_seed(0)
    image, weight = torch.randn(2, channels, 16, 16), torch.randn(channels, channels, 3, 3) / channels
    exact = direct(image.double(), weight.double())
    assert float((convolve(image, transform_kernel(weight)) - exact).norm() / exact.norm()) < 2e-6


def test_the_gradient_reaches_the_image():
    conv = nn.Conv2d(WIDE, WIDE, 3, padding=1).double().requires_grad_(False)
    image = torch.randn(2, WIDE, 7, 6, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(conv(image).square().sum(), image)
    (found,) = torch.autograd.grad(WinogradConv2d(conv)(image).square().sum(), image)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("conv", "used"),
    [
        (nn.Conv2d(128, 128, 3, padding=1), True),
        (nn.Conv2d(256, 512, 3, padding=1, bias=False), True),
        (nn.Conv2d(127, 256, 3, padding=1), False),
        (nn.Conv2d(256, 256, 3), False),
        (nn.Conv2d(256, 256, 3, padding=1, stride=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(256, 256, 3, padding=2, dilation=2), False),
        (nn.Conv2d(256, 256, 4, padding=1), False),
        (nn.ConvTranspose2d(256, 256, 3, padding=1), False),
    ],
    ids=str,
)
def test_only_convolutions_that_gain_are_replaced(conv, used):
    network = use_winograd(nn.Sequential(nn.Sequential(conv)))
    assert isinstance(network[0][0], WinogradConv2d) is used


def test_a_feature_network_keeps_names_values_and_gradients():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, WIDE, 3, padding=1), nn.ReLU(True), nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.ReLU(True)
    )
    network = FeatureNetwork(layers, name="two layers", weights_hash="none", dimension=WIDE)
    names = set(network.state_dict())
    image = torch.rand(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    results = []
    for prepared in (False, True):
        if prepared:
            network.compute_in(torch.float64)
            assert isinstance(network.layers[2], WinogradConv2d)
        else:
            network.layers.double()
            network.dtype, network.grey_weight = torch.float64, network.grey_weight.double()
        features = network(image)
        results.append((features.detach(), torch.autograd.grad(features.square().mean(), image)[0]))
    torch.testing.assert_close(results[1], results[0])
    assert set(network.state_dict()) == names


def test_bfloat16_is_left_to_torch():
    conv = nn.Conv2d(WIDE, WIDE, 3, padding=1).to(torch.bfloat16)
    image = torch.randn(1, WIDE, 8, 8, dtype=torch.bfloat16)
    assert torch.equal(WinogradConv2d(conv)(image), conv(image))
