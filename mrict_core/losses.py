"""Losses. A term of a generator's loss is a registered function f(out, batch) -> (), a mean over the batch.

    out     the generator's output: an `Output`
    batch   real_A, real_B and mask: a `data.batches.Batch`

An experiment names its terms and gives each a weight and options: loss.l1 = {"weight": 5.0}. What a term computes and
its defaults are declared here; to add a term, add its function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import Term
from mrict_core.networks import build_features
from mrict_core.networks.features import FEATURES
from mrict_core.networks.layers import autocast
from mrict_core.parts import Parts

FAKE_LABEL = 0.0
STEP = "weight_step"  # option of every term, see `Loss.end_epoch`
Logs = dict[str, Tensor]  # name => detached scalar


class Output(SimpleNamespace):
    """One generator's output for one batch. A method sets what its `gives` names.

    fake_B      (B, C, H, W), compared with batch.real_B
    logits      of the discriminator on fake_B, any shape
    real_label  float, their target
    rec_A       (B, C, H, W), the other generator's output for fake_B, compared with batch.real_A
    idt_B       (B, C, H, W), the generator's output for real_B itself
    """


class Terms(Parts):
    """Terms by name; `needs` names what a term reads of the output."""

    def register(self, name: str, needs: Collection[str] = ("fake_B",)) -> Callable[[Any], Any]:
        """Return a decorator that registers a function, or a class with callable objects, as the term `name`."""

        def known(term: Any) -> Any:
            term.needs = tuple(needs)
            return super(Terms, self).register(name)(term)

        return known


LOSSES = Terms("loss", supplied=("out", "batch", "device", "precision", "feature_network"))


# ------------------------------------------------------------------------------------------- terms of the generator


@LOSSES.register("gan", needs=("logits", "real_label"))
def gan(out: Output, batch: Batch) -> Tensor:
    """Return the non-saturating GAN loss BCE(D(G(m)), y) (Goodfellow et al. 2014).

    The target y is the discriminator's label of real patches, smoothed or not, as in the predecessor.
    """
    return bce(out.logits, out.real_label)


@LOSSES.register("l1")
def l1(out: Output, batch: Batch, masked: bool = False) -> Tensor:
    """Return mean |fake - real| over the full image, in units of [-1, 1] (pix2pix: Isola et al. 2017)."""
    if masked:
        return ((out.fake_B - batch.real_B).abs() * batch.mask).sum() / batch.mask.sum().clamp_min(1)
    return distance_l1(out.fake_B, batch.real_B)


@LOSSES.register("cycle", needs=("rec_A",))
def cycle(out: Output, batch: Batch) -> Tensor:
    """Return mean |F(G(a)) - a|: back to the input (CycleGAN: Zhu et al. 2017)."""
    return distance_l1(out.rec_A, batch.real_A)


@LOSSES.register("identity", needs=("idt_B",))
def identity(out: Output, batch: Batch) -> Tensor:
    """Return mean |G(b) - b|: a CT is to stay unchanged (CycleGAN: Zhu et al. 2017)."""
    return distance_l1(out.idt_B, batch.real_B)


@LOSSES.register("perceptual")
class Perceptual:
    """Distance between the features phi of a frozen network (Johnson et al. 2016).

        mse: mean (phi(fake) - phi(real))^2          l1: mean |phi(fake) - phi(real)|

    The predecessor's P is mse on VGG19 pool5; MK3.6 used l1 on VGG19 relu3_3. The features of the real images are
    computed once per batch. feature_network: a profile's replacement for `features`.
    """

    def __init__(
        self,
        *,
        features: str,
        distance: str = "mse",
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        feature_network: str | None = None,
    ) -> None:
        self.device, self.precision = torch.device(device), precision
        self.features: nn.Module = build_features(feature_network or features).to(device)
        self.features.compute_in(precision)
        self.distance = DISTANCES[distance]

    @staticmethod
    def check_options(*, features: str, distance: str = "mse") -> None:
        for kind, name, known in (("feature network", features, FEATURES), ("distance", distance, DISTANCES)):
            if name not in known:
                raise unknown_name(kind, name, known)

    def __call__(self, out: Output, batch: Batch) -> Tensor:
        real = batch.once(self, lambda: self.phi(batch.real_B))
        return self.distance(self.phi(out.fake_B), real)

    def phi(self, image: Tensor) -> Tensor:
        """Return the features of images.  # (B, C, H, W) => (B, C', H', W')"""
        with autocast(self.device, self.precision):
            return self.features(image)


# ---------------------------------------------------------------------------------------------------------- distances


def require_same_shape(fake: Tensor, real: Tensor) -> None:
    """Raise ValueError if the shapes differ; torch would silently broadcast."""
    if fake.shape != real.shape:
        raise ValueError(f"fake has shape {tuple(fake.shape)}, real has {tuple(real.shape)}; they must be equal")


def distance_l1(fake: Tensor, real: Tensor) -> Tensor:
    """Return mean |fake - real|.  # two of the same shape => ()"""
    require_same_shape(fake, real)
    return F.l1_loss(fake, real)


def distance_mse(fake: Tensor, real: Tensor) -> Tensor:
    """Return mean (fake - real)^2.  # two of the same shape => ()"""
    require_same_shape(fake, real)
    return F.mse_loss(fake, real)


DISTANCES = {"mse": distance_mse, "l1": distance_l1}


# ------------------------------------------------------------------------------------------- loss of the discriminator


def bce(logits: Tensor, label: float) -> Tensor:
    """Return the mean binary cross entropy of logits, any shape, with one label.

    It equals the predecessor's BCE on the sigmoid, without its overflow.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def bce_discriminator(logits_real: Tensor, logits_fake: Tensor, real_label: float) -> Tensor:
    """Return L_D = (BCE(D(x), y) + BCE(D(G(m)), 0)) / 2 (Goodfellow et al. 2014).  # two maps of logits => ()

    y is 1, or less with one-sided smoothing (Salimans et al. 2016). The fake label is 0: the predecessor's "smoothed"
    zeros, 0 * 0.9, were zeros too.
    """
    return (bce(logits_real, real_label) + bce(logits_fake, FAKE_LABEL)) / 2


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the gradient penalty of Gulrajani et al. 2017 (eq. 3), predecessor's form.  # two of (B, C, H, W) => ()

        GP = mean_b (|| grad_z sum_patches sigmoid(D(z_b)) ||_2 - 1)^2,   z_b = a_b real_b + (1 - a_b) fake_b

    The paper differentiates an unbounded critic; the predecessor the sum of the patches' sigmoids, with D in training
    mode (batch norm and dropout act). Both decide what is learned, so both are reproduced.

    `discriminator` maps images to logits. `generator` draws a_b, uniform in [0, 1), one per sample; None: torch's
    global generator. The gradient reaches the discriminator's weights, not the images.
    """
    require_same_shape(fake, real)
    source = generator.device if generator is not None else real.device
    alpha = torch.rand((real.shape[0], 1, 1, 1), generator=generator, device=source, dtype=real.dtype).to(real.device)
    mixed = (alpha * real.detach() + (1 - alpha) * fake.detach()).requires_grad_(True)
    score = torch.sigmoid(discriminator(mixed)).sum()
    (gradient,) = torch.autograd.grad(score, mixed, create_graph=True)
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norm - 1).square().mean()


def discriminator_loss(
    D: nn.Module, real: Tensor, fake: Tensor, *, real_label: float, penalty: float
) -> tuple[Tensor, Logs]:
    """Return L_D + penalty · GP, and its parts.  # two of (B, C, H, W) => (), logs"""
    logits_real, logits_fake = D(real), D(fake)
    loss_gan = bce_discriminator(logits_real, logits_fake, real_label)
    loss_D, logs = loss_gan, {"loss_d_gan": loss_gan.detach()}
    if penalty > 0:
        loss_gp = gradient_penalty(D.forward, real, fake)  # not the compiled D: this is differentiated twice
        loss_D = loss_D + penalty * loss_gp
        logs["loss_gp"] = loss_gp.detach()
    logs["loss_d"] = loss_D.detach()
    logs["d_real"] = torch.sigmoid(logits_real.detach()).mean()
    logs["d_fake"] = torch.sigmoid(logits_fake.detach()).mean()
    return loss_D, logs


# ---------------------------------------------------------------------------------------------------- sum of the terms


class Loss:
    """The weighted sum of an experiment's terms, in their order; a term of weight zero is not built.

    A term with a `weight_step` follows the rule of mk4_1, see `end_epoch`. supplied: device, precision and
    feature_network, for the terms that take them.
    """

    def __init__(self, terms: Mapping[str, Term], **supplied: Any) -> None:
        self.terms: dict[str, Callable[[Output, Batch], Tensor]] = {}
        self.needs: set[str] = set()
        self.weights: dict[str, float] = {}
        self.steps: dict[str, float] = {}
        self.previous: dict[str, float] = {}  # each term's mean in the last epoch
        for name, term in terms.items():
            if not term.weight:
                continue
            function, options = term.function or name, own_options(term)
            part = LOSSES.find(function)
            built = inspect.isclass(part)
            self.terms[name] = LOSSES.build(function, options, **supplied) if built else partial(part, **options)
            self.needs |= set(part.needs)
            self.weights[name] = term.weight
            if step := term.options.get(STEP):
                self.steps[name] = step

    def __call__(self, *pairs: tuple[Output, Batch]) -> tuple[Tensor, Logs]:
        """Return the loss, (), and its terms, each summed over the generators; a pair for each generator."""
        values = {name: sum(term(out, batch) for out, batch in pairs) for name, term in self.terms.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        logs = {f"loss_g_{name}": value.detach() for name, value in values.items()}
        return total, logs | {"loss_g": total.detach()}

    @property
    def features(self) -> nn.Module | None:
        """The frozen network of the perceptual term, if there is one."""
        return next((term.features for term in self.terms.values() if hasattr(term, "features")), None)

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Move each weight with a step: down if its term fell, relatively, at least as much as the GAN loss, else up.

        The first epoch changes nothing.
        """
        now = {name: means[f"loss_g_{name}"] for name in (*self.steps, "gan")} if self.steps else {}
        if self.previous:
            fall = {name: 1 - value / self.previous[name] for name, value in now.items()}
            for name, step in self.steps.items():
                change = -step if fall[name] >= fall["gan"] else step
                self.weights[name] = max(0.0, self.weights[name] + change)
        self.previous = now

    def state(self) -> dict[str, dict[str, float]]:
        return {"weights": dict(self.weights), "previous": dict(self.previous)}

    def load_state(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.weights |= {name: state["weights"][name] for name in self.weights.keys() & state["weights"].keys()}
        self.previous = dict(state["previous"])


def own_options(term: Term) -> dict[str, Any]:
    """Return the options of a term's function, without the step of its weight."""
    return {name: value for name, value in term.options.items() if name != STEP}


def check_terms(terms: Mapping[str, Term], gives: Collection[str]) -> None:
    """Raise MrictError for an unknown term, or one that needs what the method does not give."""
    for name, term in terms.items():
        where, function = f"loss.{name}", term.function or name
        LOSSES.check(function, own_options(term), where)
        if missing := [one for one in LOSSES[function].needs if one not in gives]:
            fitting = sorted(n for n, part in LOSSES.items() if set(part.needs) <= set(gives))
            raise MrictError(
                f"{where}: needs {', '.join(missing)}, which the method does not give; choose from {', '.join(fitting)}"
            )
        if type(step := term.options.get(STEP, 0)) not in (int, float):
            raise MrictError(f"{where}.{STEP} is {str(step)[:40]!r}, expected float")
        if step and "gan" not in terms:
            raise MrictError(f"{where}.{STEP}: compares with the missing term 'gan'; add loss.gan")
    if not any(term.weight for term in terms.values()):
        raise MrictError("loss: no term has a weight; add one, such as loss.l1.weight=1")
