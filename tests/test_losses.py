"""Loss terms against hand-computed values and torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from mrict_core.experiments.schema import Part
from mrict_core.losses import Output, distance_l1, distance_mse, gan, gan_discriminator, gradient_penalty
from mrict_core.networks import build_network


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("label", [1.0, 0.9, 0.7])
@pytest.mark.parametrize("shape", [(3, 1, 15, 15), (4, 1)])
def test_bce_equals_the_predecessors_bce_on_the_sigmoid(label, shape):
    real, fake = rand(*shape), rand(*shape, seed=1)
    bce = torch.nn.BCELoss()
    p_real, p_fake = torch.sigmoid(real), torch.sigmoid(fake)
    expected = (bce(p_real, torch.full_like(p_real, label)) + bce(p_fake, torch.zeros_like(p_fake))) / 2
    torch.testing.assert_close(gan_discriminator(real, fake, label), expected)
    torch.testing.assert_close(
        gan(Output(logits=fake, real_label=label), None), bce(p_fake, torch.full_like(p_fake, label))
    )


def test_bce_of_an_undecided_discriminator_is_log_2():
    zeros = torch.zeros(2, 1, 3, 3)
    assert gan_discriminator(zeros, zeros, 0.9).item() == pytest.approx(math.log(2))
    assert gan(Output(logits=zeros, real_label=1.0), None).item() == pytest.approx(math.log(2))


def test_bce_stays_finite_where_the_sigmoid_saturates():
    sure = torch.full((1, 1, 2, 2), 200.0, requires_grad=True)
    loss = gan_discriminator(-sure, sure, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert sure.grad.abs().sum().item() == pytest.approx(1.0)


def test_adversarial_gradient_pulls_the_fake_towards_real():
    logits = torch.tensor([[-1.0]], requires_grad=True)
    gan(Output(logits=logits, real_label=1.0), None).backward()
    assert logits.grad.item() < 0


@pytest.mark.parametrize(
    ("loss", "fake", "real", "expected"),
    [
        (distance_l1, [[1.0, -1.0]], [[0.0, 1.0]], 1.5),
        (distance_l1, [[3.0, 0.0]], [[0.0, 1.0]], 2.0),
        (distance_mse, [[3.0, 0.0]], [[0.0, 1.0]], 5.0),
    ],
)
def test_distances_by_hand(loss, fake, real, expected):
    assert loss(torch.tensor(fake), torch.tensor(real)).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [distance_l1, distance_mse])
def test_distances_are_means_zero_on_equals_and_refuse_to_broadcast(loss):
    x, y = rand(2, 1, 4, 4), rand(2, 1, 4, 4, seed=1)
    assert loss(x, x).item() == 0
    torch.testing.assert_close(loss(x, y), (loss(x[:1], y[:1]) + loss(x[1:], y[1:])) / 2)
    with pytest.raises(ValueError, match=r"fake has shape \(2, 1, 4, 4\), real has \(2, 4, 4\)"):
        loss(x, y[:, 0])


class Linear(torch.nn.Module):
    """Two patches per image with logits <w_1, x> and <w_2, x>."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(rand(2, pixels, seed=5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.w.T


def closed_form(D: Linear, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The penalty of a linear D: sigmoid' = p (1 - p), so the gradient is the sum over patches of p (1 - p) w."""
    mixed = alpha * real + (1 - alpha) * fake
    p = torch.sigmoid(mixed.flatten(1) @ D.w.T)
    gradient = (p * (1 - p)) @ D.w
    return ((gradient.square().sum(dim=1).sqrt() - 1) ** 2).mean()


def test_gradient_penalty_equals_its_closed_form_for_a_linear_discriminator():
    D = Linear(16)
    real, fake = rand(5, 1, 4, 4), rand(5, 1, 4, 4, seed=1)
    alpha = torch.rand((5, 1, 1, 1), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    penalty = gradient_penalty(D, real, fake, torch.Generator().manual_seed(9))
    expected = closed_form(D, real, fake, alpha)
    torch.testing.assert_close(penalty, expected)
    (found,) = torch.autograd.grad(penalty, D.w)
    (wanted,) = torch.autograd.grad(expected, D.w)
    torch.testing.assert_close(found, wanted)


def test_gradient_penalty_passes_gradcheck_with_respect_to_the_weights():
    real, fake = rand(3, 1, 3, 3), rand(3, 1, 3, 3, seed=1)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        def D(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(x, weight)

        return gradient_penalty(D, real, fake, torch.Generator().manual_seed(2))

    assert torch.autograd.gradcheck(penalty, rand(1, 1, 2, 2, seed=3).requires_grad_(True))


def test_gradient_penalty_trains_the_discriminator_and_leaves_the_images_alone():
    torch.manual_seed(0)
    D = build_network(Part("patch4"), width=4, in_channels=1)
    real, fake = torch.randn(2, 1, 64, 64), torch.randn(2, 1, 64, 64, requires_grad=True)
    gradient_penalty(D, real, fake).backward()
    assert fake.grad is None
    assert D.model[0].weight.grad.abs().sum() > 0
    assert torch.isfinite(D.model[0].weight.grad).all()


def test_gradient_penalty_of_a_flat_discriminator_is_one_with_a_finite_gradient():
    weight = torch.zeros(1, 1, 2, 2, requires_grad=True)
    penalty = gradient_penalty(
        lambda x: torch.nn.functional.conv2d(x, weight), torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    )
    penalty.backward()
    assert penalty.item() == 1
    assert torch.isfinite(weight.grad).all()


def test_gradient_penalty_mixes_each_sample_with_a_share_of_its_own():
    seen = []

    def D(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.sum(dim=(1, 2, 3))

    real, fake = torch.ones(64, 1, 2, 2), torch.zeros(64, 1, 2, 2)
    gradient_penalty(D, real, fake, torch.Generator().manual_seed(0))
    mixed = seen[0].flatten(1)
    assert torch.equal(mixed.min(dim=1).values, mixed.max(dim=1).values)
    assert len(set(mixed[:, 0].tolist())) == 64
    assert 0 <= mixed.min() < 0.1
    assert 0.9 < mixed.max() <= 1


def test_gradient_penalty_draws_from_the_given_generator_only():
    D, real, fake = Linear(4), rand(2, 1, 2, 2), rand(2, 1, 2, 2, seed=1)
    before = torch.get_rng_state()
    first = gradient_penalty(D, real, fake, torch.Generator().manual_seed(1))
    again = gradient_penalty(D, real, fake, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="must be equal"):
        gradient_penalty(D, real, fake[:1])
