"""Losses. A term of a generator's loss is a registered function f(out, batch) -> (), a mean over the batch.

    out     the generator's output: an `Output`
    batch   real_A, real_B and mask: a `data.batches.Batch`

An experiment names its terms and gives each a weight and options: loss.l1 = {"weight": 5.0}. What a term computes and
its defaults are declared here; to add a term, add its function.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core import ranks
from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import Term
from mrict_core.hu import HuRange
from mrict_core.networks import build_features
from mrict_core.networks.features import FEATURES
from mrict_core.networks.hu_segmenter import HuSegmenter, fresh_segmenter, in_mask, train_segmenter
from mrict_core.networks.layers import autocast, in_full
from mrict_core.parts import Parts
from mrict_core.ranks import plain

FAKE_LABEL = 0.0
LOG_B_MIN, LOG_B_MAX = -7.0, 1.0  # of `laplace`: b from 0.001 to 2.7, that is 2 HU to more than a whole window
STEP = "weight_step"  # option of every term, see `Loss.end_epoch`
Logs = dict[str, Tensor]  # name => detached scalar


class Output(SimpleNamespace):
    """One generator's output for one batch. A method sets what its `gives` names.

    fake_B      (B, C, H, W), compared with batch.real_B
    log_b       (B, 1, H, W), log of the error's expected size b, in units of [-1, 1]
    logits      of the discriminator on fake_B, any shape
    features    of the discriminator's layers on fake_B and on real_B: pairs of tensors of one shape
    real_label  float, their target
    gan         how logits are compared with their target, a name of `GANS`
    rec_A       (B, C, H, W), the other generator's output for fake_B, compared with batch.real_A
    idt_B       (B, C, H, W), the generator's output for real_B itself
    """

    gan: str = "bce"


class Terms(Parts):
    """Terms by name; `needs` names what a term reads of the output, `volumes` says whether it takes volumes too."""

    def register(
        self, name: str, needs: Collection[str] = ("fake_B",), *, volumes: bool = True
    ) -> Callable[[Any], Any]:
        """Return a decorator that registers a function, or a class with callable objects, as the term `name`."""

        def known(term: Any) -> Any:
            term.needs, term.volumes = tuple(needs), volumes
            return super(Terms, self).register(name)(term)

        return known


LOSSES = Terms("loss", supplied=("out", "batch", "device", "precision", "feature_network"))


# ------------------------------------------------------------------------------------------- terms of the generator


@LOSSES.register("gan", needs=("logits", "real_label"))
def gan(out: Output, batch: Batch) -> Tensor:
    """Return the non-saturating GAN loss BCE(D(G(m)), y) (Goodfellow et al. 2014), or the method's other `gan` loss.

    The target y is the discriminator's label of real patches, smoothed or not, as in the predecessor.
    """
    return GANS[out.gan](out.logits, out.real_label)


@LOSSES.register("feature_matching", needs=("features",))
def feature_matching(out: Output, batch: Batch) -> Tensor:
    """Return the mean over the discriminator's layers of mean |D_k(fake) - D_k(real)| (Wang et al. 2018, pix2pixHD)."""
    return sum(distance_l1(fake, real) for fake, real in out.features) / len(out.features)


@LOSSES.register("l1")
def l1(out: Output, batch: Batch, *, masked: bool = False) -> Tensor:
    """Return mean |fake - real| over the full image, in units of [-1, 1] (pix2pix: Isola et al. 2017).

    masked: over the pixels of the mask alone, as the scores are taken.
    """
    if masked:
        return masked_mean(error(out, batch).abs(), batch.mask)
    return distance_l1(out.fake_B, batch.real_B)


@LOSSES.register("gradient_l1")
def gradient_l1(out: Output, batch: Batch) -> Tensor:
    """Return mean |gradient of fake - gradient of real|, summed over the axes, over neighbours both in the mask.

    Unlike the gradient difference of Mathieu et al. 2016, it compares the signs of the gradients too.
    """
    wrong, mask = error(out, batch), batch.mask

    def along(dim: int) -> Tensor:
        count = mask.shape[dim] - 1
        return masked_mean(wrong.diff(dim=dim).abs(), mask.narrow(dim, 1, count) * mask.narrow(dim, 0, count))

    return sum(along(dim) for dim in range(2, wrong.ndim))


@LOSSES.register("ssim", volumes=False)
class Ssim:
    """1 - SSIM (Wang et al. 2004), the mean over the mask: Gaussian window 11x11 with SD 1.5, K1 0.01, K2 0.03.

    Outside the mask both images are set to the lowest value, as in the challenges' SSIM, so that only the mask counts.
    data_range: in units of [-1, 1]; 2 is the whole HU window. With less, small differences of soft tissue count more.
    """

    def __init__(self, *, data_range: float = 2.0) -> None:
        self.data_range = data_range

    @staticmethod
    def check_options(*, data_range: float = 2.0) -> None:
        if not 0 < data_range <= 2:
            raise MrictError(f"data_range is {data_range}, expected above 0 and at most 2, the whole HU window")

    def __call__(self, out: Output, batch: Batch) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        require_same_shape(out.fake_B, batch.real_B)
        # The luminance term compares means and needs them positive.
        fake, real = (in_mask(image, batch.mask) + 1 for image in (out.fake_B, batch.real_B))
        _, similarity = structural_similarity_index_measure(
            fake, real, data_range=self.data_range, return_full_image=True
        )
        return masked_mean(1 - similarity, batch.mask)


@LOSSES.register("laplace", needs=("fake_B", "log_b"))
def laplace(out: Output, batch: Batch) -> Tensor:
    """Return mean |fake - real| / b + log b over the mask: it teaches b, the expected absolute error of each pixel.

    This is the negative log likelihood of a Laplace distribution without its constant log 2 (Kendall and Gal 2017).
    fake is detached: the image is left to other terms, else hard pixels would be given up for a larger b. The network
    detaches the features that it computes log_b from.
    """
    log_b = out.log_b.clamp(LOG_B_MIN, LOG_B_MAX)
    return masked_mean(error(out, batch).detach().abs() * (-log_b).exp() + log_b, batch.mask)


@LOSSES.register("hu_features", volumes=False)
class HuFeatures:
    """Mean |phi(fake) - phi(real)| inside the mask, averaged over the stages of a frozen segmenter of HU classes.

    phi: a stage's features, each pixel's vector scaled to length 1. The segmenter is trained by `fit` at the start of a
    training, on the training CTs; see `networks.hu_segmenter`. steps: of that training.
    """

    def __init__(
        self, *, steps: int = 300, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
    ) -> None:
        self.steps, self.device, self.precision = steps, torch.device(device), precision
        self.segmenter = self.fresh(seed=0)  # untrained: enough to time a step

    @staticmethod
    def check_options(*, steps: int = 300) -> None:
        if steps < 1:
            raise MrictError(f"steps is {steps}, expected at least 1")

    def fresh(self, seed: int) -> HuSegmenter:
        return fresh_segmenter(seed).to(self.device, memory_format=torch.channels_last)

    def fit(self, batches: Iterator[Batch], window: HuRange, seed: int) -> str:
        """Train the segmenter; return its Dice on the damaged training slices as text."""
        self.segmenter = self.fresh(seed)
        pairs = ((batch.real_B, batch.mask) for batch in batches)
        dice = train_segmenter(self.segmenter, pairs, window, self.steps, seed)
        return "segmenter's Dice on damaged training slices: " + ", ".join(
            f"{name} {value:.2f}" for name, value in dice.items()
        )

    def state(self) -> dict[str, Tensor]:
        return self.segmenter.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.segmenter.load_state_dict(state)

    def __call__(self, out: Output, batch: Batch) -> Tensor:
        require_same_shape(out.fake_B, batch.real_B)
        real = batch.once(self, lambda: self.phi(batch.real_B, batch.mask))
        pairs = zip(self.phi(out.fake_B, batch.mask), real, strict=True)
        terms = [masked_mean((f - r).abs(), batch.mask[..., :: 2**k, :: 2**k]) for k, (f, r) in enumerate(pairs)]
        return sum(terms) / len(terms)

    def phi(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the features of each stage; several channels are averaged.  # (B, C, H, W) => (B, C_k, h_k, w_k)"""
        with autocast(self.device, self.precision):
            features = self.segmenter(in_mask(image.mean(dim=1, keepdim=True), mask))
        return [F.normalize(in_full(x), dim=1) for x in features]


@LOSSES.register("cycle", needs=("rec_A",))
def cycle(out: Output, batch: Batch) -> Tensor:
    """Return mean |F(G(a)) - a|: back to the input (CycleGAN: Zhu et al. 2017)."""
    return distance_l1(out.rec_A, batch.real_A)


@LOSSES.register("identity", needs=("idt_B",))
def identity(out: Output, batch: Batch) -> Tensor:
    """Return mean |G(b) - b|: a CT is to stay unchanged (CycleGAN: Zhu et al. 2017)."""
    return distance_l1(out.idt_B, batch.real_B)


@LOSSES.register("perceptual", volumes=False)
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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values`, (B, C, *sides), where `mask`, (B, 1, *sides), is 1; 0 for an empty mask.  # => ()

    The sum is divided by the batch's number of mask pixels (times C), so a small body weighs as much per pixel as a
    large one. On several ranks each divides by the mean of their numbers, so that the mean over ranks is that of the
    whole batch.
    """
    return (values * mask).sum() / ranks.average(mask.sum() * values.shape[1]).clamp(min=1 / ranks.current().count)


def error(out: Output, batch: Batch) -> Tensor:
    """Return fake - real.  # (B, C, H, W)"""
    require_same_shape(out.fake_B, batch.real_B)
    return out.fake_B - batch.real_B


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


def least_squares(logits: Tensor, label: float) -> Tensor:
    """Return mean (logit - label)^2, of logits of any shape (LSGAN: Mao et al. 2017); D has no sigmoid then."""
    return (logits - label).square().mean()


GANS = {"bce": bce, "least_squares": least_squares}


def gan_discriminator(logits_real: Tensor, logits_fake: Tensor, real_label: float, gan: str = "bce") -> Tensor:
    """Return L_D = (f(D(x), y) + f(D(G(m)), 0)) / 2, f of `GANS` (Goodfellow et al. 2014).  # two maps of logits => ()

    y is 1, or less with one-sided smoothing (Salimans et al. 2016). The fake label is 0: the predecessor's "smoothed"
    zeros, 0 * 0.9, were zeros too.
    """
    return (GANS[gan](logits_real, real_label) + GANS[gan](logits_fake, FAKE_LABEL)) / 2


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
    D: nn.Module, real: Tensor, fake: Tensor, *, real_label: float, penalty: float, gan: str = "bce"
) -> tuple[Tensor, Logs]:
    """Return L_D + penalty · GP, and its parts.  # two of (B, C, H, W) => (), logs

    d_real and d_fake are what D says on average: its probabilities, or with least squares its plain output.
    """
    logits_real, logits_fake = D(real), D(fake)
    loss_gan = gan_discriminator(logits_real, logits_fake, real_label, gan)
    loss_D, logs = loss_gan, {"loss_d_gan": loss_gan.detach()}
    if penalty > 0:
        loss_gp = gradient_penalty(plain(D).forward, real, fake)  # not the compiled D: this is differentiated twice
        loss_D = loss_D + penalty * loss_gp
        logs["loss_gp"] = loss_gp.detach()
    logs["loss_d"] = loss_D.detach()
    for name, logits in (("d_real", logits_real), ("d_fake", logits_fake)):
        said = logits.detach()
        logs[name] = (torch.sigmoid(said) if gan == "bce" else said).mean()
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
        self.needs_of: dict[str, set[str]] = {}
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
            self.needs_of[name] = set(part.needs)
            self.needs |= self.needs_of[name]
            self.weights[name] = term.weight
            if step := term.options.get(STEP):
                self.steps[name] = step

    def __call__(self, *pairs: tuple[Output, Batch]) -> tuple[Tensor, Logs]:
        """Return the loss, (), and its terms, each summed over the generators; a pair for each generator."""
        values = {name: sum(term(out, batch) for out, batch in pairs) for name, term in self.terms.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        logs = {f"loss_g_{name}": value.detach() for name, value in values.items()}
        return total, logs | {"loss_g": total.detach()}

    def without(self, needs: Collection[str]) -> Loss:
        """Return the sum of those terms that need none of these parts of the output; they stay the same objects."""
        rest = copy.copy(self)
        rest.terms = {name: term for name, term in self.terms.items() if not self.needs_of[name] & set(needs)}
        rest.needs = set().union(*(self.needs_of[name] for name in rest.terms))
        return rest

    def fit(self, batches: Iterator[Batch], window: HuRange, seed: int) -> list[str]:
        """Fit the terms that learn from the training data before the first step; return a line of text for each.

        batches: of pairs, without end, for these terms alone. window: what [-1, 1] stands for.
        """
        fitted = {name: term for name, term in self.terms.items() if hasattr(term, "fit")}
        return [f"{name}: {term.fit(batches, window, seed)}" for name, term in fitted.items()]

    def spread(self) -> None:
        """Give all ranks what the first one's terms learned."""
        for term in self._learning().values():
            ranks.spread(term.state().values())

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

    def state(self) -> dict[str, Any]:
        learned = {name: term.state() for name, term in self._learning().items()}
        state = {"weights": dict(self.weights), "previous": dict(self.previous)}
        return state | {"terms": learned} if learned else state

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self.weights |= {name: state["weights"][name] for name in self.weights.keys() & state["weights"].keys()}
        self.previous = dict(state["previous"])
        for name, term in self._learning().items():
            if name not in state.get("terms", {}):
                raise MrictError(f"loss.{name}: the checkpoint lacks what the term learned; --retrain trains again")
            term.load_state(state["terms"][name])

    def _learning(self) -> dict[str, Any]:
        """Return the terms with a state of their own."""
        return {name: term for name, term in self.terms.items() if hasattr(term, "load_state")}


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
