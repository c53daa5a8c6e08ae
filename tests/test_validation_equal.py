"""The lean validation against the predecessor's plain one: every value, epoch after epoch, what is kept and how often.

Tolerance 1e-6, relative: images and features are float32 in both forms (eps 6e-8, and means over many average it out);
the plain one also takes its MSE and VGG sums in float32.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from reference.frechet import frechet
from reference.validate import slice_ssim, validate
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils.data import Dataset

from mrict_core.data.batches import Batch, View, loader
from mrict_core.errors import MrictError
from mrict_core.hu import WINDOWS
from mrict_core.methods import Method
from mrict_core.metrics.frechet import Cloud, frechet_distance
from mrict_core.metrics.plane_ssim import BAND, PlaneSsim
from mrict_core.training.feature_cache import RealSide
from mrict_core.training.validation import Validator

NAMES = {"mae_hu": "val_mae_hu", "mse": "val_mse", "ssim": "val_ssim", "fid": "val_fid", "vgg": "val_vgg"}
SIDE = 32
BATCH = 4
CPU = torch.device("cpu")


class Phantom(Dataset):
    """One patient: a skull of noisy tissue in air, per slice; `air`: slices that hold nothing at all."""

    def __init__(self, slices: int, seed: int, air: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
        radius = np.hypot(x / 0.7, y / 0.85) / np.linspace(0.7, 1, slices)[:, None, None]
        real = np.select([radius < 0.85, radius < 1], [0.04, 0.9], -1) + rng.normal(0, 0.05, radius.shape) * (
            radius < 1
        )
        inside = radius < 1.03
        real[list(air)], inside[list(air)] = -1, False
        self.real_B = torch.from_numpy(real.clip(-1, 1).astype(np.float32))[:, None]
        self.real_A = self.real_B + 0.3 * torch.from_numpy(rng.normal(0, 1, radius.shape).astype(np.float32))[:, None]
        self.mask = torch.from_numpy(inside.astype(np.float32))[:, None]

    def __len__(self) -> int:
        return len(self.real_A)

    def __getitems__(self, items: list[int]) -> Batch:
        return Batch(self.real_A[items], self.real_B[items], self.mask[items])


class Vectors(nn.Module):
    """Stands for Inception: `num_features` smooth functions of the image; counts the images it is shown."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features, self.shown = num_features, 0
        draw = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(3 * 64, num_features, generator=draw) / 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown += len(images)
        return torch.tanh(nn.functional.adaptive_avg_pool2d(images / 255, 8).flatten(1) @ self.weight)


class Maps(nn.Module):
    """Stands for VGG16; counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers, self.shown = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown += len(images)
        return self.layers(images)


def generator(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Tanh()
    )


@dataclass
class Predictor:
    """What validation needs of a method."""

    generator: nn.Module
    predict = Method.predict
    view, mr_to_ct, masked = View(), "G", False

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"G": self.generator}


def validator(data: list[Phantom], fid: nn.Module | None, vgg: nn.Module | None, **options) -> Validator:
    options = {"batch_size": BATCH, "device": CPU, "vgg_side": 40} | options
    return Validator(WINDOWS["predecessor"], data, fid_features=fid, vgg_features=vgg, **options)


def plain(G: nn.Module, data: list[Phantom], fid: nn.Module | None, vgg: nn.Module | None, **options) -> dict:
    options = {"side": 40, "batch_means": False} | options
    return validate(G, [[batch.parts[:3] for batch in loader(patient, BATCH)] for patient in data], fid, vgg, **options)


def assert_equal(lean: dict[str, float], expected: dict[str, float], **tolerance: float) -> None:
    tolerance = dict.fromkeys(NAMES, 1e-6) | tolerance
    assert {NAMES[name] for name in expected} == set(lean) - {"output_sd_hu"}
    for name, value in expected.items():
        assert lean[NAMES[name]] == pytest.approx(value, rel=tolerance[name]), name


CASES = {
    "two patients, whole and broken batches": (lambda: [Phantom(8, 0), Phantom(7, 1)], True),
    "one slice each": (lambda: [Phantom(1, 0), Phantom(1, 1), *(Phantom(3, seed) for seed in range(2, 6))], True),
    "a single slice": (lambda: [Phantom(1, 0)], False),
    "air above and below": (lambda: [Phantom(9, 0, air=(0, 1, 8)), Phantom(6, 1, air=(5,))], True),
    "a patient of nothing but air": (lambda: [Phantom(9, 0), Phantom(5, 1, air=tuple(range(5)))], True),
}


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("case", CASES)
def test_every_value_is_the_plain_ones_whatever_g_does_between_epochs(case):
    make, with_fid = CASES[case]
    data, fid, vgg = make(), Vectors(6) if with_fid else None, Maps()
    lean = validator(data, fid, vgg)
    for epoch in (1, 2, 3):
        assert_equal(lean.scores(Predictor(generator(epoch))), plain(generator(epoch), data, fid, vgg))


def test_fewer_slices_than_dimensions():
    """The plain form takes roots of D - N eigenvalues that are 0 but for rounding, hence its tolerance."""
    data, fid = [Phantom(8, 0), Phantom(7, 1)], Vectors(64)
    lean = validator(data, fid, None)
    for epoch in (1, 2):
        assert_equal(lean.scores(Predictor(generator(epoch))), plain(generator(epoch), data, fid, None), fid=1e-4)


@pytest.mark.parametrize("options", [{"keep_mib": 0}, {"batch_size": 3}, {"batch_size": 64}])
def test_neither_what_is_kept_nor_the_batch_changes_a_value(options):
    data = [Phantom(8, 0), Phantom(7, 1)]
    one, other = validator(data, Vectors(6), Maps()), validator(data, Vectors(6), Maps(), **options)
    for epoch in (1, 2):
        found, expected = (side.scores(Predictor(generator(epoch))) for side in (other, one))
        assert found == pytest.approx(expected, rel=1e-6)


def test_means_of_batch_means_differ_where_the_last_batch_is_smaller():
    """What the suite changed on purpose is seen by the comparison: it compares something."""
    data = [Phantom(5, 0, air=(4,))]
    means, slices = (plain(generator(1), data, None, None, batch_means=which) for which in (True, False))
    assert means["mse"] != pytest.approx(slices["mse"], rel=1e-3)
    assert means["mae_hu"] == slices["mae_hu"]


def test_real_slices_pass_the_networks_once_in_a_training():
    data, fid, vgg = [Phantom(8, 0), Phantom(7, 1)], Vectors(6), Maps()
    lean = validator(data, fid, vgg)
    for epoch, shown in ((1, 30), (2, 45), (3, 60)):
        lean.scores(Predictor(generator(epoch)))
        assert (fid.shown, vgg.shown) == (shown, shown)
    fid.shown = vgg.shown = 0
    nothing_kept = validator(data, fid, vgg, keep_mib=0)
    for epoch in (1, 2):
        nothing_kept.scores(Predictor(generator(epoch)))
    assert (fid.shown, vgg.shown) == (45, 60)


def test_a_pass_that_ends_at_nan_leaves_the_next_ones_right():
    data, fid, vgg = [Phantom(8, 0), Phantom(7, 1)], Vectors(6), Maps()
    lean, calls = validator(data, fid, vgg), []

    class Late(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return x.clamp(-1, 1) if len(calls) < 3 else x * float("nan")

    scores = lean.scores(Predictor(Late()))
    assert set(scores) == {"val_mae_hu"}
    assert np.isnan(scores["val_mae_hu"])
    assert len(calls) == 3
    assert_equal(lean.scores(Predictor(generator(1))), plain(generator(1), data, fid, vgg))


def test_the_generators_precision_is_the_callers_choice():
    data, seen = [Phantom(8, 0)], []
    G = generator(1)
    G[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    full, half = (validator(data, None, Maps(), precision=p) for p in (torch.float32, torch.bfloat16))
    expected = full.scores(Predictor(copy.deepcopy(G)))
    assert set(seen) == {torch.float32}
    assert validator(data, None, Maps()).scores(Predictor(G)) == expected, "float32 is the default"
    seen.clear()
    found = half.scores(Predictor(G))
    assert set(seen) == {torch.bfloat16}
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected


def test_the_masked_error_and_the_spread_against_numpy():
    data = [Phantom(5, 0), Phantom(3, 1)]
    found = validator(data, None, None).scores(Predictor(G := generator(2)))
    with torch.no_grad():
        fakes = [1000 * G.eval()(patient.real_A).double() for patient in data]
    reals, inside = [1000 * patient.real_B.double() for patient in data], [patient.mask > 0 for patient in data]
    errors = [float((r - f)[m].abs().mean()) for r, f, m in zip(reals, fakes, inside, strict=True)]
    assert found["val_mae_hu"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert found["output_sd_hu"] == pytest.approx(np.mean([float(f.std(correction=0)) for f in fakes]), rel=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (7, 30), (30, 9), (BAND + 6, 8), (BAND + 7, 12), (2 * BAND + 20, 40)])
@pytest.mark.parametrize("kind", ["noise", "near", "flat"])
def test_ssim_is_scikit_images(shape, kind):
    rng = np.random.default_rng(5)
    x = np.full(shape, 0.3, np.float32) if kind == "flat" else rng.uniform(-1, 1, shape).astype(np.float32)
    y = x + rng.normal(0, 1e-3 if kind == "near" else 0.4, shape).astype(np.float32)
    similarity = PlaneSsim(shape)
    expected = structural_similarity(x.astype(float), y.astype(float), win_size=7, data_range=2.0)
    assert similarity(x, y, 2.0) == pytest.approx(expected, rel=1e-9)
    assert similarity(y, x, 2.0) == pytest.approx(expected, rel=1e-9), "nothing of the call before is left"
    assert similarity(x, x, 2.0) == pytest.approx(1, rel=1e-12)


def cloud(count: int, length: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, length)) @ rng.normal(size=(length, length)) + rng.normal(size=length)


@pytest.mark.parametrize(("real", "fake"), [(50, 50), (50, 9), (200, 12)])
def test_the_frechet_distance_is_the_formulas(real, fake):
    a, b = cloud(real, 8, 0), cloud(fake, 8, 1)
    assert frechet_distance(Cloud.of(a), Cloud.of(b)) == pytest.approx(frechet(a, b), rel=1e-9)


def test_the_frechet_distance_of_few_vectors_does_not_depend_on_empty_dimensions():
    """8 dimensions rotated into 300: more vectors than dimensions there, fewer here; the same distance, exactly."""
    a, b = cloud(50, 8, 0), cloud(40, 8, 1)
    into, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(300, 8)))
    expected = frechet_distance(Cloud.of(a), Cloud.of(b))
    assert frechet_distance(Cloud.of(a @ into.T), Cloud.of(b @ into.T)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(Cloud.of(a @ into.T), Cloud.of(a @ into.T)) == pytest.approx(0, abs=1e-9)


def test_one_real_slice_has_no_frechet_distance():
    with pytest.raises(MrictError, match="at least 2 slices, got 1"):
        validator([Phantom(1, 0)], Vectors(6), None).scores(Predictor(generator(1)))


def test_kept_maps_stop_at_the_room_there_is():
    side = RealSide(None, Maps(), vgg_side=None, keep_mib=1)
    stack = Phantom(8, 0).real_B[:, 0].numpy()  # 8 x 8 x 13 x 13 float32: 42 KiB
    for place in range(40):
        side.vgg_errors(place, stack, stack)
    kept = sum(maps.nbytes for maps in side.maps.values())
    assert 2**20 - 50_000 < kept <= 2**20
    assert side.vgg_errors(39, stack, -stack) == pytest.approx(side.vgg_errors(0, stack, -stack), rel=1e-12)


def test_another_window_is_converted_to_the_predecessors_unit():
    window, G = WINDOWS["patient"], generator(3)
    data = Phantom(5, 0)
    data.real_B = torch.empty_like(data.real_B).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    lean = Validator(window, [data], batch_size=2, device=CPU)
    with torch.no_grad():
        hu = [window.to_hu(unit)[:, 0].double().numpy() for unit in (data.real_B, G.eval()(data.real_A))]
    found, inside = lean.scores(Predictor(G)), data.mask[:, 0].numpy() > 0
    assert found["val_mae_hu"] == pytest.approx(np.abs(hu[0] - hu[1])[inside].mean(), rel=1e-6)
    real, fake = (stack.clip(-1000, 1000) / 1000 for stack in hu)
    assert found["val_mse"] == pytest.approx(np.square(real - fake).mean(), rel=1e-6)
    assert found["val_ssim"] == pytest.approx(slice_ssim(real, fake), rel=1e-6)


def test_what_is_masked_counts_as_air_and_a_constant_output_as_constant():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    class Masked(Predictor):
        masked = True

    data = [Phantom(8, 0)]
    whole, masked = (validator(data, None, None).scores(kind(Constant())) for kind in (Predictor, Masked))
    assert masked["output_sd_hu"] == whole["output_sd_hu"] == 0
    assert masked["val_mae_hu"] == whole["val_mae_hu"]
    assert masked["val_mse"] < whole["val_mse"] / 2
