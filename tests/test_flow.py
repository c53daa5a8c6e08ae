"""MK9: samples around a cross-fitted mean; who saw whom, where the noise comes from, resuming, and its reference."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import run_of, untrained_checkpoint
from torch import Tensor, nn

from mrict_core import ranks
from mrict_core.data.batches import Batch
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import load_split
from mrict_core.errors import MrictError
from mrict_core.evaluation.conformal import conformal_factor
from mrict_core.evaluation.sample_scores import KINDS, sample_scores
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.tiles import slices_to_hu
from mrict_core.methods import Method, build_method, check
from mrict_core.methods.drawing import euler, noise_of
from mrict_core.methods.flow import folds_of
from mrict_core.models.export import Original, example_of
from mrict_core.ranks import Ranks
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.distributed import check_ranks
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run

SMOKE = get_profile("smoke")
FOUR = dataclasses.replace(SMOKE, epochs_min=4, epochs_max=4)
QUIET = {"report": lambda line: None}
TWELVE = TrainSettings(steps=12)
TINY = {"network.G.folds": 2, "network.G.depth": 2, "data.view": "slice"}


def flow_of(changes: dict | None = None, name: str = "mk9_0", seed: int = 0, canvas: int = 32) -> Method:
    torch.manual_seed(seed)
    halves = {"method.mean_share": 0.5} if name == "mk9_0" else {}
    return build_method(with_values(get(name), TINY | halves | (changes or {})), SMOKE, canvas=canvas)


def batch_of(people: list[int], side: int = 32) -> Batch:
    shape, generator = (len(people), 1, side, side), torch.Generator().manual_seed(1)
    real_A, real_B = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    return Batch(real_A, real_B, torch.ones(shape), people=tuple(people))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: nn.Module) -> bool:
    return any(not torch.equal(before[name], value) for name, value in module.state_dict().items())


# ------------------------------------------------------------------------------------------------------- the solver


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_with_the_true_velocity_of_a_straight_path_any_number_of_steps_is_exact(steps):
    start, end = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(euler(lambda x, t: end - start, start, steps), end)


def test_steps_start_at_zero_and_are_equal():
    times = []
    euler(lambda x, t: times.append(t) or torch.zeros(1), torch.zeros(1), 4)
    assert times == [0, 0.25, 0.5, 0.75]


# --------------------------------------------------------------------------------------------------------- the noise


def test_the_noise_of_a_slice_depends_on_its_place_sample_and_seed_alone():
    sides = (24, 20)
    whole = noise_of(range(9), sides, 3)
    assert whole.shape == (9, 1, *sides)
    torch.testing.assert_close(noise_of([7, 2], sides, 3), whole[[7, 2]], rtol=0, atol=0)
    others = [noise_of([2], sides, 3, seed=1), noise_of([2], sides, 4), noise_of([3], sides, 3)]
    assert not any(torch.equal(other[0], whole[2]) for other in others)
    values = noise_of(range(64), (32, 32), 0)
    assert abs(float(values.mean())) < 0.02
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    flat = values.flatten(1)
    assert float(torch.corrcoef(flat).fill_diagonal_(0).abs().max()) < 0.15, "slices are independent"


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory) -> Synthesizer:
    """mk9_0 with random weights, as if its flow had been trained for a step."""
    path = untrained_checkpoint(tmp_path_factory.mktemp("flow") / "best.pt", name="mk9_0")
    model = load_synthesizer(path, device="cpu")
    assert model.method.draws == 0, "before its flow is trained, it draws nothing"
    model.generator.flow_steps += 1
    nn.init.normal_(model.generator.flow.head.weight, std=0.05, generator=torch.Generator().manual_seed(3))
    return model


def mr_of(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_seed_gives_the_same_samples_in_any_batches(flow_model, batch_size):
    mr = mr_of(4, 64)
    other = dataclasses.replace(flow_model, batch_size=batch_size)
    for sample in (0, 5, None):
        np.testing.assert_allclose(other.slices_to_hu(mr, sample), flow_model.slices_to_hu(mr, sample), atol=0.01)
    assert np.abs(flow_model.slices_to_hu(mr, 0) - flow_model.slices_to_hu(mr, 1)).max() > 1


def test_the_ct_is_the_mean_of_the_samples_and_the_map_their_sd(flow_model):
    mr = mr_of(3, 64)
    samples = np.stack([flow_model.slices_to_hu(mr, k) for k in range(8)])
    mean, sd = flow_model.moments(mr)
    np.testing.assert_allclose(mean, samples.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(sd, samples.std(axis=0, ddof=1), atol=0.01)
    np.testing.assert_allclose(flow_model.slices_to_hu(mr), mean, atol=0.01)
    assert sd.min() > 0


def test_overlapping_tiles_of_a_larger_slice_see_the_same_noise(flow_model):
    """A method that returns its noise gives that of the whole slice back, without seams."""

    class Echo:
        draws, view = 8, flow_model.method.view

        def drawn(self, real_A: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
            return noise / 8  # inside [-1, 1]

    echo = dataclasses.replace(flow_model, method=Echo())
    mr = mr_of(3, 100)
    expected = flow_model.window.to_hu(noise_of(range(3), (100, 100), 2)[:, 0].numpy() / 8)
    np.testing.assert_allclose(slices_to_hu(echo, mr, sample=2), expected, atol=0.01)


# ------------------------------------------------------------------------------------------------------ what is learned


def test_a_flow_learns_mean_and_sd_of_a_known_distribution():
    """Every pixel of the CT is normal, around a value that follows the MR, with twice the SD of the start's noise."""
    changes = {"network.G.norm": "none", "network.G.stem": "full", "optimizer.G.lr": 4e-3, "method.steps": 8}
    method = flow_of(changes | {"method.ema": 0.9}, canvas=16)
    method.meet(["a", "b", "c", "d"], seed=0)
    sd, steps, generator = 2 * method.sigma, 260, torch.Generator().manual_seed(0)
    for mean in method.means:  # a mean that is off by 0.1: the flow has to correct it
        nn.init.zeros_(mean.head.weight)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        real_A = (torch.rand((count, 1, 1, 1), generator=generator) - 0.5).expand(-1, 1, 16, 16).contiguous()
        return real_A, real_A / 4 + WATER_OFF + sd * torch.randn(real_A.shape, generator=generator)

    method.begin_epoch(0)
    for k in range(steps):
        method.follow(0.5 + 0.5 * k / steps)
        for group in method.optimizers["G"].param_groups:
            group["lr"] = 4e-3 * (1 - k / steps)
        real_A, real_B = drawn(16)
        method.train_step(Batch(real_A, real_B, torch.ones_like(real_B), people=(0, 1, 2, 3) * 4))
    real_A, _ = drawn(8)
    noise = torch.stack([noise_of(range(8), (16, 16), sample) for sample in range(16)])
    with torch.inference_mode():
        samples = method.drawn(real_A, noise)
    gains = [1 + ((k / 8) * 4 - (1 - k / 8)) / ((1 - k / 8) ** 2 + 4 * (k / 8) ** 2) / 8 for k in range(8)]
    expected = method.sigma * np.prod(gains)  # of the true velocity in eight steps; in the limit it is `sd`
    assert float((samples.mean(dim=0) - real_A / 4 - WATER_OFF).abs().mean()) < 0.35 * sd
    assert float(samples.std(dim=0).mean()) == pytest.approx(expected, rel=0.15)


WATER_OFF = -0.4  # near water, where a regression of zeros ends


# ------------------------------------------------------------------------------------------------------- cross-fitting


@pytest.mark.parametrize(("people", "folds"), [(9, 3), (10, 3), (5, 5), (2, 2)])
def test_folds_are_even_and_follow_the_seed(people, folds):
    found = folds_of(people, folds, 42)
    counts = np.bincount(found, minlength=folds)
    assert counts.sum() == people
    assert counts.max() - counts.min() <= 1
    assert folds_of(people, folds, 42) == found
    if people > 5:
        assert any(folds_of(people, folds, seed) != found for seed in range(5))


def test_the_mean_of_a_person_is_of_the_one_regression_that_never_saw_the_person():
    method = flow_of()
    method.meet(list("abcde"), seed=3)
    batch = batch_of([0, 1, 2, 3, 4, 0])
    method.begin_epoch(0)
    mu = method.unseen_mean(batch)
    for row, person in enumerate(batch.people):
        own = method.means[method.fold_of[person]](batch.real_A[[row]])
        torch.testing.assert_close(mu[[row]], own, atol=1e-5, rtol=1e-5)
    assert len(set(method.fold_of)) == 2


def test_a_regression_learns_from_no_slice_of_its_fold():
    """Other MR and CT of the people in its fold leave its weights as they are, bit for bit."""
    found = []
    for seed in (1, 2):
        method = flow_of()
        method.meet(list("abcd"), seed=0)
        batch, generator = batch_of([0, 1, 2, 3]), torch.Generator().manual_seed(seed)
        own = [k for k in range(4) if method.fold_of[k] == 0]
        batch.real_A[own], batch.real_B[own] = torch.rand((2, len(own), 1, 32, 32), generator=generator)
        method.train_step(batch)
        found.append((copied(method.raw.means[0]), copied(method.means[0])))
        assert method.seen[0] == {"abcd"[k] for k in range(4) if method.fold_of[k] != 0}
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_part_trains_its_own_weights_in_turn():
    method = flow_of()
    method.meet(list("abcd"), seed=0)
    parts = {"mean0": method.raw.means[0], "mean1": method.raw.means[1], "flow": method.raw.flow}
    for fraction, moved in ((0.0, "mean0"), (0.1, "mean1"), (0.2, "mean0"), (0.6, "flow"), (0.9, "flow")):
        before = {name: copied(part) for name, part in parts.items()}
        method.begin_epoch(0)
        method.follow(fraction)
        logs = method.train_step(batch_of([0, 1, 2, 3]))
        assert [name for name, part in parts.items() if changed(before[name], part)] == [moved]
        assert float(logs["flow_share"]) == (moved == "flow")
    assert method.averaged == {"mean0": 2, "mean1": 1, "flow": 2}
    assert int(method.generator.flow_steps) == 2


@pytest.mark.parametrize(("fraction", "within"), [(0.0, 0.0), (0.25, 0.5), (0.5, 0.0), (0.75, 0.5), (1.0, 1.0)])
def test_each_part_goes_through_the_schedule(fraction, within):
    method = flow_of()
    method.follow(0.2)
    assert method.within(fraction) == pytest.approx(within)
    assert method.fraction == 0.2, "asking changes nothing"


def test_an_untrained_flow_ends_at_the_mean():
    method = flow_of()
    method.generator.eval()
    method.generator.flow_steps += 1
    real_A = batch_of([0, 1]).real_A
    mean = method.generator(real_A).clamp(-1, 1)
    torch.testing.assert_close(method.predict(real_A), mean, atol=1e-5, rtol=1e-5)


# -------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mk9_0", {"network.G": "residual_unet"}, "needs mean_flow"),
        ("mk9_0", {"data.view": {"name": "slab", "planes": ["axial", "coronal"]}}, "leave planes out"),
        ("mk9_0", {"network.G.folds": 1}, "at least 2"),
        ("mk9_0", {"method.sigma_hu": 0.0}, "sigma_hu"),
        ("mk9_0", {"method.mean_share": 1.0}, "mean_share"),
        ("mk9_0", {"method.samples": 1}, "samples"),
        ("mk9_0", {"loss.laplace": {"weight": 1.0}}, "second head"),
        ("mk9_ddpm", {"network.G": "mean_flow"}, "needs denoiser"),
        ("mk9_ddpm", {"method.steps": 0}, "steps"),
        ("mk9_ddpm", {"data.view": {"name": "slab", "planes": ["axial"]}}, "leave planes out"),
    ],
)
def test_what_cannot_work_is_refused_before_training(name, changes, said):
    with pytest.raises(MrictError, match=said):
        check(with_values(get(name), changes))


def test_fewer_people_than_folds_and_unknown_people_are_refused():
    method = flow_of()
    with pytest.raises(MrictError, match=r"1 training people.*add people$"):
        method.meet(["a"], seed=0)
    with pytest.raises(MrictError, match=r"2 training people.*or set network\.G\.folds=2$"):
        flow_of({"network.G.folds": 3}).meet(["a", "b"], seed=0)
    with pytest.raises(MrictError, match="known people"):
        method.train_step(batch_of([]))


def test_a_model_of_samples_is_not_exported(flow_model):
    """A copy of the network would give one step of one sample."""
    original = Original(flow_model.method, flow_model.facts, {"hash": "0", "data": {}})
    with pytest.raises(MrictError, match="its CT is the mean of samples"):
        example_of(original, None)


@pytest.mark.parametrize(("name", "refused"), [("mk9_0", True), ("mk9_ddpm", False)])
def test_a_flow_is_trained_by_one_process(name, refused, space):
    """Its steps train one part on some people, so the gradients of several ranks would be of different parts."""
    run, lines = prepare_run(get(name), SMOKE, space, TrainSettings(), **QUIET), []
    with ranks.among(Ranks(0, 2)), pytest.raises(MrictError, match="method flow") if refused else nullcontext():
        check_ranks(run, lines.append)
    assert refused or "2 processes" in lines[0]


# ------------------------------------------------------------------------------------------------- a whole training


@pytest.mark.parametrize("name", ["mk9_0", "mk9_ddpm"])
def test_killed_and_resumed_is_the_same_bit_for_bit(name, fresh_space):
    """After two of four rounds, where mk9_0 goes from the regressions to the flow, and in between."""
    changes = {"network.G.folds": 2, "method.mean_share": 0.4} if name == "mk9_0" else {"method.steps": 2}
    variant = with_values(get(name), changes)
    whole = train(variant, FOUR, fresh_space, TWELVE, **QUIET)
    expected = load_checkpoint(whole.last)
    shutil.rmtree(fresh_space.checkpoints)
    train(variant, FOUR, fresh_space, TWELVE, stop_after=2, **QUIET)
    torch.manual_seed(999)
    resumed = train(variant, FOUR, fresh_space, TWELVE, **QUIET)
    found = load_checkpoint(resumed.last)
    for key in ("networks", "method_state"):
        flat, other = (dict(leaves(payload[key])) for payload in (expected, found))
        assert flat.keys() == other.keys()
        for path, value in flat.items():
            assert torch.equal(other[path], value) if isinstance(value, Tensor) else other[path] == value, path
    columns = [column for column in whole.history if not column.endswith("seconds")]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], check_exact=True)
    if name == "mk9_0":
        state = found["method_state"]
        folds = folds_of(len(state["people"]), 2, 42)
        for fold, seen in enumerate(state["seen"]):
            assert seen == [who for who, own in zip(state["people"], folds, strict=True) if own != fold]
        assert state["averaged"]["mean0"] >= 2
        shares = whole.history["flow_share"].to_numpy()
        assert (shares[0], shares[-1]) == (0, 1)
        first = int(np.flatnonzero(shares > 0)[0])
        assert whole.history["is_best"][first], "a checkpoint without its flow is never the best"
        assert load_checkpoint(whole.best if whole.best.is_file() else resumed.best)["epoch"] > first


def leaves(value: object, path: str = ""):
    """Yield (path, leaf) of nested dicts and lists."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def test_one_step_one_sample_and_the_mean_are_scored_side_by_side(flow_model, space):
    store, split = SliceStore(space.store), load_split(space.split_file)
    if store.size != flow_model.facts.size:
        pytest.skip("other canvas")
    found = sample_scores(flow_model, store, split.test[:1])["samples"]
    assert tuple(found) == KINDS
    assert all(np.isfinite([own["mae_hu"], own["spectrum_db"]]).all() for own in found.values())
    assert len({own["mae_hu"] for own in found.values()}) == 3


# ------------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_factor_makes_the_interval_hold_90_percent_of_exchangeable_errors(scale):
    random = np.random.default_rng(0)
    sd = random.uniform(20, 200, 40_000)
    error = np.abs(random.standard_t(3, sd.size) * sd * scale)
    factor = conformal_factor(error[:20_000], sd[:20_000])
    held = error[20_000:] <= 1.6448536 * factor * sd[20_000:]
    assert held.mean() == pytest.approx(0.9, abs=0.01)


def test_of_few_values_the_factor_is_that_of_a_high_rank():
    """Of nine values, rank ceil(0.9 · 10) is the largest."""
    error, sd = np.arange(1.0, 10.0), np.ones(9)
    assert conformal_factor(error, sd) == pytest.approx(9 / 1.6448536, rel=1e-6)
    with pytest.raises(MrictError, match="at least 9"):
        conformal_factor(error[:8], sd[:8])


# ------------------------------------------------------------------------------------------------------- the diffusion


@pytest.mark.parametrize("steps", [1, 4, 10, 50])
def test_with_the_true_velocity_the_solver_ends_at_the_clean_image(steps):
    """Its time steps are those it was told, however few: MONAI's own would mix two lists."""
    method = flow_of({"network.G": {"name": "denoiser"}, "method.steps": steps}, name="mk9_ddpm")
    clean, asked = torch.rand((2, 1, 32, 32)) * 1.8 - 0.9, []

    def told(real_A: Tensor, x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        a = method.kept[asked[-1]]
        noise = (x - a**0.5 * clean) / (1 - a) ** 0.5
        return a**0.5 * noise - (1 - a) ** 0.5 * clean

    method.networks = {"G": told}
    found = method.denoised(torch.zeros_like(clean), torch.randn_like(clean), steps)
    torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)
    assert asked[0] == 999
    assert len(asked) == steps
    assert sorted(asked, reverse=True) == asked
    assert asked[-1] == (0 if steps > 1 else 999)


def test_a_trained_model_is_published_with_its_calibration_and_gives_a_calibrated_map(fresh_space):
    """From training to the map of a new MR; models without samples keep their facts as they were."""
    from mrict_core.models.folder import load_facts_and_weights
    from mrict_core.pipeline.evaluate import evaluate_variant

    train(get("mk9_0"), SMOKE, fresh_space, TWELVE, **QUIET)
    lines: list[str] = []
    record, predictions = evaluate_variant(get("mk9_0"), SMOKE, fresh_space, device="cpu", report=lines.append)
    assert any("SD of samples times" in line for line in lines)
    factors = record["context"]["sd_factors"]
    run = run_of(fresh_space, "mk9_0")
    model = next(path for path in run.folder.parents[2].rglob("model.json")).parent
    facts, _ = load_facts_and_weights(model)
    assert facts.calibration == factors
    assert set(factors) == {"air", "soft", "bone"}
    patient = record["patients"][0]
    assert -90 <= patient["coverage_gap_90"] <= 10
    assert patient["ause"] >= 0
    assert set(record["samples"]) == set(KINDS)
    sd = predictions.sd(patient["patient"])
    assert sd.shape == predictions.slices(patient["patient"]).shape
    assert (sd > 0).any()
    assert "calibration" not in dataclasses.replace(facts, calibration={}).as_plain()
