"""FID, KID and LPIPS: closed formulas, brute force, documented values, and absence with a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.frechet import frechet
from samples import pretrained

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.metrics import feature_distances as fm
from mrict_core.networks import build_features, weights


class Pooled(torch.nn.Module):
    """Quadrant means of an image, as cheap features."""

    name, weights_hash = "pooled", "0" * 64

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float() / 255
        return torch.nn.functional.adaptive_avg_pool2d(images[:, :1], 2).flatten(1)


class Distance(torch.nn.Module):
    """Mean absolute difference of two images."""

    name, weights_hash = "distance", "1" * 64

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        assert real.shape[1] == 3
        return (real - fake).abs().flatten(1).mean(dim=1)


def collected(real: dict, fake: dict, masks: dict, networks: dict) -> list[fm.FeatureScore]:
    """Collect one patient after another, as the pipeline does."""
    collector = fm.FeatureCollector(networks)
    for patient in real:
        collector.add(real[patient], fake[patient], masks[patient])
    return collector.scores()


NETWORKS = {"inception": Pooled(), "lpips": Distance(), "vgg": Pooled()}


def test_images_show_the_whole_window_and_nothing_outside_the_mask():
    hu = np.array([[[-3000.0, -1024, 992, 3000, 9000, 500]]])
    mask = np.array([[[1, 1, 1, 1, 1, 0]]], bool)
    assert fm.to_uint8(hu, mask).tolist() == [[[0, 0, 128, 255, 255, 0]]]
    assert fm.to_unit_range(hu, mask)[0, 0].tolist() == pytest.approx([-1, -1, 0, 1, 1, -1], abs=0.01)


def test_frechet_distance_of_gaussians():
    rng = np.random.default_rng(0)
    mean, spread = np.array([3.0, 0.0, -1.0]), np.array([1.0, 2.0, 0.5])
    real, fake = rng.normal(size=(20_000, 3)), rng.normal(size=(20_000, 3)) * spread + mean
    expected = (mean**2).sum() + ((spread - 1) ** 2).sum()  # for diagonal covariances
    assert fm.frechet_distance(real, fake) == pytest.approx(expected, rel=0.03)
    assert fm.frechet_distance(real, fake) == pytest.approx(frechet(real, fake), rel=1e-9)


def test_frechet_distance_is_biased_upwards_for_few_samples_and_kid_is_not():
    rng = np.random.default_rng(1)
    found = {"fid": [], "kid": []}
    for _ in range(40):
        real, fake = rng.normal(size=(2, 30, 16))
        found["fid"].append(fm.frechet_distance(real, fake))
        found["kid"].append(fm.kid(real, fake, np.zeros(30))[0])
    assert min(found["fid"]) > 1  # of the same distribution
    assert np.mean(found["kid"]) == pytest.approx(0, abs=3 * np.std(found["kid"]) / np.sqrt(40))
    shifted = fm.kid(real, fake + 1, np.zeros(30))[0]
    assert shifted > 10 * np.std(found["kid"])


def brute_kid(x: np.ndarray, y: np.ndarray) -> float:
    n, d = x.shape

    def kernel(a, b):
        return (a @ b / d + 1) ** 3

    same = sum(kernel(c[i], c[j]) for c in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return same - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_kid_equals_the_double_sum_and_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    x, y = np.random.default_rng(2).normal(size=(2, 12, 5))
    value = fm.kid(x, y, np.arange(12) // 4)[0]
    assert value == pytest.approx(brute_kid(x, y), rel=1e-9)
    assert value == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-9)


def test_the_bootstrap_draws_patients_and_never_pairs_a_slice_with_itself():
    x, y = np.random.default_rng(3).normal(size=(2, 6, 4))
    kernels = [(a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    weights_ = np.array([[2.0, 2, 0, 0, 1, 1]])  # the first patient twice, the third once
    drawn = [0, 1, 0, 1, 4, 5]
    pairs = [(i, j) for i in range(6) for j in range(6) if drawn[i] != drawn[j]]
    within = sum(np.mean([k[drawn[i], drawn[j]] for i, j in pairs]) for k in kernels[:2])
    between = np.mean([kernels[2][i, j] for i in drawn for j in drawn])
    assert fm._mmd(*kernels, weights_)[0] == pytest.approx(within - 2 * between, rel=1e-9)
    value, low, high = fm.kid(x, y, [0, 0, 1, 1, 2, 2])
    assert low < high
    assert fm.kid(x, y, [0, 0, 1, 1, 2, 2]) == (value, low, high)  # seeded
    assert np.isnan(fm.kid(x, y, [0] * 6)[1:]).all()


def patients(count: int, slices: int, shift: float = 0.0) -> tuple[dict, dict, dict]:
    rng = np.random.default_rng(4)
    real = {f"p{k}": rng.normal(0, 300, (slices, 16, 16)) for k in range(count)}
    fake = {p: hu + shift + rng.normal(0, 50, hu.shape) for p, hu in real.items()}
    return real, fake, {p: np.ones(hu.shape, bool) for p, hu in real.items()}


def test_scores_carry_n_weights_and_warnings():
    fid, kid, lpips, vgg = collected(*patients(3, 5), NETWORKS)
    assert [s.name for s in (fid, kid, lpips, vgg)] == ["fid", "kid", "lpips", "corrected_vgg"]
    assert vgg.low <= vgg.value <= vgg.high
    assert all((s.n, s.patients, s.reason) == (15, 3, "") for s in (fid, kid, lpips, vgg))
    assert (fid.weights, lpips.weights_hash) == ("pooled", "1" * 64)
    assert "15 slices of at least 2048: biased upwards" in fid.warning
    assert "15 slices" in kid.warning
    assert kid.low < kid.value < kid.high or kid.low <= kid.high
    assert lpips.low < lpips.value < lpips.high
    assert metrics.keys("features") == tuple(s.name for s in (fid, kid, lpips, vgg))


def test_taking_patients_in_one_by_one_equals_all_at_once():
    real, fake, masks = patients(3, 5)
    fid, kid, lpips, _ = collected(real, fake, masks, NETWORKS)
    clouds = [
        fm.embed(np.concatenate([fm.to_uint8(hu[p], masks[p]) for p in real]), NETWORKS["inception"])
        for hu in (real, fake)
    ]
    assert fid.value == pytest.approx(fm.frechet_distance(*clouds))
    assert (kid.value, kid.low, kid.high) == pytest.approx(fm.kid(*clouds, np.repeat([0, 1, 2], 5)))
    means = [np.abs(fm.to_unit_range(real[p], masks[p]) - fm.to_unit_range(fake[p], masks[p])).mean() for p in real]
    assert lpips.value == pytest.approx(np.mean(means) * 16**2 / 64**2, rel=1e-4)  # padded with equal air


def test_too_little_is_absent_or_said():
    fid, kid, lpips, _ = collected(*patients(1, 4), NETWORKS)
    assert fid.value is not None
    assert (kid.value, kid.reason) == (None, "4 slices of at least 10")
    assert (lpips.low, lpips.warning) == (None, "one patient: no interval")
    one = collected(*patients(1, 1), NETWORKS)
    assert one[0].reason == "needs at least 2 slices"
    twelve = collected(*patients(1, 12), NETWORKS)[1]
    assert twelve.value is not None
    assert twelve.warning.endswith("one patient: no interval")


def test_absent_weights_are_absent_numbers_with_their_reason():
    why = MrictError("weights 'x': not here; put the file into a folder")
    scores = collected(*patients(2, 6), {"inception": why, "lpips": why, "vgg": why})
    assert [s.value for s in scores] == [None] * 4
    assert {s.reason for s in scores} == {str(why)}


def test_lpips_pads_small_slices_with_air_and_goes_in_batches():
    real = np.random.default_rng(5).uniform(-1, 1, (fm.BATCH + 3, 20, 30)).astype(np.float32)
    seen = []

    def network(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(a.shape))
        assert float(a[0, 0, 0, 0]) == -1.0
        return (a - b).abs().amax(dim=(1, 2, 3))

    found = fm.lpips(real, real * 0.5, network)
    assert seen == [(fm.BATCH, 3, 64, 64), (3, 3, 64, 64)]
    assert found == pytest.approx(np.abs(real * 0.5).max(axis=(1, 2)), rel=1e-6)


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No weights, and a server address without a server."""
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    monkeypatch.setenv(weights.MIRROR, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("mrict_core.web.TRIES", 1)
    return tmp_path


@pytest.mark.parametrize("name", ["lpips_squeeze", "inception_fid", "vgg16_relu3_3"])
def test_without_download_absent_weights_are_one_line(nothing_here, name):
    with pytest.raises(
        MrictError, match=r"not on this machine and this profile downloads nothing; put the file"
    ) as error:
        build_features(name, download=False)
    assert "\n" not in str(error.value)
    with pytest.raises(MrictError, match="cannot be downloaded"):  # allowed, it is tried
        build_features(name)


def test_lpips_squeeze_gives_the_documented_values(monkeypatch):
    """torchmetrics documents tensor([0.1024, 0.0938]) for these images."""
    file = weights.FILES["squeezenet1_1"]
    monkeypatch.setenv(weights.FOLDER, str(pretrained(file.name, file.alternate).parent))
    before = torch.get_rng_state()
    network = build_features("lpips_squeeze", download=False)
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(42)
    real, fake = ((torch.rand(2, 3, 100, 100, generator=generator) * 2) - 1 for _ in range(2))
    assert network(real, fake).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)
    assert network(real, real).tolist() == [0.0, 0.0]
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().training
    assert network.weights_hash.startswith("435cedb3")
    with pytest.raises(MrictError, match="repeat grey images"):
        network(real[:, :1], fake[:, :1])


def test_the_head_beside_the_weights_is_the_one_that_is_used():
    import hashlib

    from mrict_core.networks.lpips import HEAD_SHA256

    digest = hashlib.sha256(pretrained("lpips_v0.1_squeeze_head.pth").read_bytes()).hexdigest()
    assert digest == HEAD_SHA256


def test_a_backbone_of_another_shape_is_named(nothing_here):
    torch.save({"0.weight": torch.zeros(3, 3)}, nothing_here / weights.FILES["squeezenet1_1"].name)
    with pytest.raises(MrictError, match=r"squeezenet1_1-b8a52dc0\.pth: '0\.weight' has shape \(3, 3\)"):
        build_features("lpips_squeeze")


def test_the_vgg_twin_is_the_distance_at_224_averaged_over_slices():
    real, fake, masks = patients(1, 3)
    pair = [fm.to_unit_range(hu["p0"], masks["p0"]) for hu in (real, fake)]
    seen = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return images.mean(dim=(2, 3))

    expected = np.mean([(r.mean() - f.mean()) ** 2 for r, f in zip(*pair, strict=True)])
    assert fm.vgg_error(*pair, network) == pytest.approx(expected, rel=0.05, abs=1e-6)
    assert seen == [(3, 3, 224, 224)] * 2


def test_inception_and_vgg_from_files_of_the_right_shape(nothing_here):
    """Random values in files of the real names: the whole path from file to score, with the file's hash."""
    import hashlib

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchvision import models

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            return None

    path = nothing_here / "empty.pt"
    torch.save({}, path)
    torch.manual_seed(0)
    inception = Empty("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(inception.state_dict(), nothing_here / weights.FILES["inception_fid"].name)
    torch.save(models.vgg16(weights=None).features.state_dict(), nothing_here / weights.FILES["vgg16"].name)
    networks = {
        "inception": build_features("inception_fid", download=False),
        "vgg": build_features("vgg16_relu3_3", imagenet_normalisation=True, download=False),
        "lpips": MrictError("not here"),
    }
    fid, kid, lpips, vgg = collected(*patients(2, 6), networks)
    for score, file in ((fid, "inception_fid"), (kid, "inception_fid"), (vgg, "vgg16")):
        content = (nothing_here / weights.FILES[file].name).read_bytes()
        assert score.weights_hash == hashlib.sha256(content).hexdigest()
        assert np.isfinite(score.value)
    assert vgg.weights == "vgg16_relu3_3+imagenet_normalisation"
    assert lpips.reason == "not here"
    assert "12 slices of at least 2048" in fid.warning
