"""The training loop: resume bit for bit, guards, checkpoints, schedules."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pandas as pd
import pytest
import torch
from tiny_models import run_of

from mrict_core.data.augment import NONE
from mrict_core.errors import MrictError
from mrict_core.experiments import get, lineage, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Schedule, Score
from mrict_core.files import read_json, write_json
from mrict_core.inference import load_synthesizer
from mrict_core.methods.pix2pix import Pix2Pix
from mrict_core.pipeline import evaluate_variant, prepare_data, train_variant
from mrict_core.training.checkpoint import load_checkpoint, save_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run
from mrict_core.training.runs import runs_of
from mrict_core.training.schedules import ScheduleStepper, fid_vgg, schedule_score

SMOKE = get_profile("smoke")
FOUR = dataclasses.replace(SMOKE, epochs_min=4, epochs_max=4)
QUIET = {"report": lambda line: None}
FEW = TrainSettings(max_pairs=17)


def weights(path):
    payload = load_checkpoint(path)
    return {f"{n}.{k}": v for n, state in payload["networks"].items() for k, v in state.items()} | {
        f"{n}.{i}.{k}": v
        for n, state in payload["optimizers"].items()
        for i, entry in state["state"].items()
        for k, v in entry.items()
    }


COSINE = Schedule("cosine", t_0=3, t_mult=2, eta_min=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mk4_1", {}),
        ("cyclegan_mk1", {"method.image_pool": 6}),
        ("mk3_1_2_v4_50", {"optimizer.G.schedule": COSINE, "optimizer.D.schedule": COSINE}),
        ("mk1", {"method.generator_eval_after_first_validation": True}),
        ("mk1", {"optimizer.G.name": "adamw", "optimizer.D": {"name": "sgd", "lr": 1e-3, "momentum": 0.9}}),
        ("mk1", {"loss.hu_features": {"weight": 1.0, "steps": 2}}),
    ],
)
def test_half_resume_half_equals_whole_bit_for_bit(name, changes, fresh_space):
    variant = with_values(get(name), changes)
    whole = train(variant, FOUR, fresh_space, FEW, **QUIET)
    expected = weights(whole.last)
    shutil.rmtree(fresh_space.checkpoints)
    half = train(variant, FOUR, fresh_space, FEW, stop_after=2, **QUIET)
    assert (half.epochs, half.complete) == (2, False)
    torch.manual_seed(999)  # another process would have another state
    resumed = train(variant, FOUR, fresh_space, FEW, **QUIET)
    assert (resumed.epochs, resumed.complete) == (4, True)
    found = weights(resumed.last)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    columns = [c for c in whole.history if c != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns], check_exact=True)


@pytest.fixture(scope="module")
def trained(space, tmp_path_factory):
    """mk1 and v4_50 trained for an epoch; the tests that damage a checkpoint copy this folder first."""
    import os

    folder = tmp_path_factory.mktemp("trained")
    old = os.environ.get("MRICT_CHECKPOINTS")
    os.environ["MRICT_CHECKPOINTS"] = str(folder)
    for name in ("mk1", "mk3_1_2_v4_50"):
        train(get(name), SMOKE, space, FEW, **QUIET)
    os.environ["MRICT_CHECKPOINTS"] = old
    return folder


@pytest.fixture
def trained_space(trained, fresh_space, tmp_path):
    shutil.copytree(trained, tmp_path / "checkpoints", dirs_exist_ok=True)
    return fresh_space


def files_of(space):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in space.checkpoints.rglob("*") if p.is_file()}


def test_an_equal_run_is_reused_and_another_one_made_beside_it(trained_space):
    before, lines = files_of(trained_space), []
    assert train(get("mk1"), SMOKE, trained_space, FEW, report=lines.append).reused
    assert lines == [f"mk1: unchanged, 1 epochs exist ({run_of(trained_space, 'mk1').last})"]
    assert files_of(trained_space) == before
    other = train(get("mk1"), SMOKE, trained_space, TrainSettings(seed=1, max_pairs=17), **QUIET)
    again = train(get("mk1"), SMOKE, trained_space, FEW, retrain=True, **QUIET)
    assert not other.reused
    assert not again.reused
    assert again.run.folder.name.endswith("-2")
    assert train(get("mk1"), SMOKE, trained_space, FEW, **QUIET).run == again.run, "the newest of the same is meant"
    assert len({run.folder for run in runs_of(trained_space, "mk1")}) == 3
    assert before.items() <= files_of(trained_space).items(), "nothing that was finished is touched"


def test_history_and_checkpoint_say_where_they_come_from(trained_space):
    payload = load_checkpoint(run_of(trained_space, "mk1").last)
    assert payload["fields"]["loss"]["perceptual"]["weight"] == 30
    assert payload["features"]["name"] == "demo_features"
    assert payload["versions"]["torch"] == torch.__version__.split("+")[0]
    assert payload["training_pairs"] == 17
    run = run_of(trained_space, "mk1")
    assert run.id == payload["key"]
    assert (run.seed, run.epoch, run.epochs, run.best_epoch, run.complete) == (42, 1, 1, 1, True)
    assert (run.data, run.todays) == ((payload["store_key"], payload["split_hash"]), True)
    assert run.trained["variant"]["loss"]["perceptual"]["weight"] == 30
    history = pd.read_csv(run.history)
    assert run.val_mae_hu == pytest.approx(history["val_mae_hu"][0])
    assert list(history["epoch"]) == [1]
    assert {"loss_g", "loss_d", "val_mae_hu", "val_ssim", "val_fid", "lr_G", "lr_D", "is_best"} <= set(history)
    assert history.notna().all().all()


def test_a_child_starts_from_its_parents_last_weights(trained_space, monkeypatch):
    seen = {}

    def step(self, batch):
        seen.update({name: {k: v.clone() for k, v in n.state_dict().items()} for name, n in self.networks.items()})
        seen["adam"] = self.optimizers["G"].state_dict()["state"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Pix2Pix, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(get("mk6_0_1"), SMOKE, trained_space, FEW, **QUIET)
    parent = load_checkpoint(run_of(trained_space, "mk3_1_2_v4_50").last)
    assert all(torch.equal(seen[n][k], v) for n in ("G", "D") for k, v in parent["networks"][n].items())
    assert not seen["adam"], "the child's Adam starts fresh"
    child = run_of(trained_space, "mk6_0_1")
    assert (child.epoch, child.complete, child.trained["parent"]) == (0, False, parent["key"])
    assert not child.best.exists(), "nothing is a best network before an epoch is done"


def test_a_missing_parent_is_named_and_the_lineage_offered(fresh_space):
    with pytest.raises(MrictError, match=r"mk6_0_1 starts from .* mk3_1_2_v4_50.*train mk6_0_1 --lineage"):
        train(get("mk6_0_1"), SMOKE, fresh_space, FEW, **QUIET)
    result = train_variant(get("mk6_0_1"), SMOKE, fresh_space, FEW, ancestors=lineage("mk6_0_1")[:-1], **QUIET)
    assert result.complete
    assert run_of(fresh_space, "mk3_1_2_v4_50").last.is_file()


def test_an_unfinished_parent_is_refused(fresh_space):
    train(get("mk3_1_2_v4_50"), FOUR, fresh_space, FEW, stop_after=1, **QUIET)
    with pytest.raises(MrictError, match="not finished"):
        train(get("mk6_0_1"), FOUR, fresh_space, FEW, **QUIET)


def test_a_parent_of_another_split_is_refused(trained_space):
    """It may have been trained on patients that are test patients now."""
    path = run_of(trained_space, "mk3_1_2_v4_50").folder / "run.json"
    facts = read_json(path)
    write_json(path, facts | {"trained": facts["trained"] | {"split": "0123"}})
    with pytest.raises(MrictError, match=r"another split.*test patients.*train mk6_0_1 --lineage"):
        train(get("mk6_0_1"), SMOKE, trained_space, FEW, **QUIET)


def test_missing_metric_weights_show_before_a_checkpoint_is_touched(trained_space, monkeypatch):
    from mrict_core.training import run

    def missing(name):
        raise MrictError("weights 'inception_fid': not to be had")

    last = run_of(trained_space, "mk1").last
    before = last.read_bytes()
    monkeypatch.setattr(run, "build_features", missing)
    with pytest.raises(MrictError, match="not to be had"):
        train(get("mk1"), SMOKE, trained_space, FEW, retrain=True, **QUIET)
    assert last.read_bytes() == before


def test_where_a_best_checkpoint_is_lost_a_new_one_is_trained_beside(trained_space):
    run, lines = run_of(trained_space, "mk1"), []
    run.best.unlink()
    result = train(get("mk1"), SMOKE, trained_space, FEW, report=lines.append)
    assert not result.reused
    assert "lacks best.pt or last.pt" in lines[0]
    assert result.best.is_file()
    assert result.run.folder != run.folder


@pytest.mark.parametrize(
    ("variant", "profile", "settings", "same"),
    [
        ({"why": "reworded", "history.epochs_planned": 99}, {}, {}, True),
        ({}, {"threads": 2, "jobs": 7, "label": "other"}, {"device": "cuda"}, True),
        ({"method.gradient_penalty": 1.0}, {}, {}, False),
        ({"optimizer.G.schedule": COSINE}, {}, {}, False),
        ({}, {"batch_size": 4}, {}, False),
        ({}, {"epochs_min": 2, "epochs_max": 2}, {}, False),
        ({}, {"width": 8}, {}, False),
        ({}, {"feature_network": None}, {}, False),
        ({}, {}, {"seed": 1}, False),
        ({}, {}, {"max_pairs": 3}, False),
        ({}, {}, {"augment": NONE}, False),
    ],
)
def test_the_id_holds_what_decides_the_weights_and_nothing_else(variant, profile, settings, same, space):
    def identity(variant, profile, settings):
        changed = with_values(get("mk1"), variant), dataclasses.replace(SMOKE, **profile)
        return prepare_run(*changed, space, TrainSettings(**settings)).id

    assert (identity(variant, profile, settings) == identity({}, {}, {})) is same


def test_a_split_without_validation_patients_is_refused(fresh_space, monkeypatch):
    from mrict_core.training import run

    split = run.load_split(fresh_space.split_file)
    monkeypatch.setattr(run, "load_split", lambda path: dataclasses.replace(split, val=()))
    with pytest.raises(MrictError, match=r"split\.json: no validation patient"):
        train(get("mk1"), SMOKE, fresh_space, FEW, **QUIET)


@pytest.fixture(scope="module")
def old_space(cohort):
    """The cohort prepared by the predecessor's protocol."""
    return prepare_data("smoke", str(cohort), protocol="predecessor", report=lambda line: None).workspace


def test_the_predecessors_protocol_from_end_to_end(old_space, fresh_space):
    """Train and validation slices come from the same patients, as they did; scores come from others all the same."""
    run = prepare_run(get("mk1"), SMOKE, old_space, TrainSettings())
    learning, test = set(run.split.train), set(run.split.test)
    training = set(run.dataset.index)
    validation = {row for dataset in run.validation_sets() for row in dataset.index}
    assert len(training) + len(validation) == sum(run.store.counts()[p] for p in learning)
    assert not training & validation
    assert {p for p, *_ in validation} <= {p for p, *_ in training} == learning
    assert not learning & test
    result = train(get("mk1"), SMOKE, old_space, TrainSettings(), **QUIET)
    assert result.complete
    record, _ = evaluate_variant(get("mk1"), SMOKE, old_space)
    assert {row["patient"] for row in record["patients"]} == test
    assert 0 < record["summary"]["all"]["mae_hu"]["mean"] < 4024
    assert (record["context"]["protocol"], record["context"]["split"]) == ("predecessor", "predecessor_any")


def test_the_cap_on_pairs_holds_in_the_predecessors_protocol(old_space):
    whole = prepare_run(get("mk1"), SMOKE, old_space, TrainSettings()).dataset.index
    capped = prepare_run(get("mk1"), SMOKE, old_space, FEW).dataset.index
    assert len(capped) == 17 < len(whole)
    assert set(capped) <= set(whole)


def test_an_unfinished_training_is_said_in_the_record(fresh_space):
    train(get("mk1"), FOUR, fresh_space, FEW, stop_after=1, **QUIET)
    record, _ = evaluate_variant(get("mk1"), FOUR, fresh_space)
    assert record["note"] == "training not finished: epoch 1 of 4"


@pytest.mark.parametrize(
    ("poison", "reason"),
    [(float("nan"), "not finite"), (0.0, "constant output")],
)
def test_collapse_keeps_the_last_good_checkpoint(poison, reason, fresh_space, monkeypatch):
    """From the second epoch on every weight of G becomes NaN, or zero (a constant image)."""
    plain = Pix2Pix.train_step
    steps = []

    def step(self, batch):
        terms = plain(self, batch)
        steps.append(1)
        if len(steps) > 3:
            with torch.no_grad():
                for p in self.G.parameters():
                    p.fill_(poison)
        return terms

    monkeypatch.setattr(Pix2Pix, "train_step", step)
    lines: list[str] = []
    result = train(get("mk3_1_2_v4_50"), FOUR, fresh_space, FEW, report=lines.append)
    assert result.epochs == 1
    assert result.complete
    assert reason in result.stopped
    assert any("collapsed in epoch 2" in line for line in lines)
    payload = load_checkpoint(result.last)
    assert all(torch.isfinite(v).all() for v in payload["networks"]["G"].values())
    assert any(v.abs().sum() > 0 for k, v in payload["networks"]["G"].items() if k.endswith("weight"))
    record, _ = evaluate_variant(get("mk3_1_2_v4_50"), FOUR, fresh_space)
    assert reason in record["note"]
    assert train(get("mk3_1_2_v4_50"), FOUR, fresh_space, FEW, **QUIET).reused, "a collapsed run is not repeated"


def test_early_stop(fresh_space, monkeypatch):
    from mrict_core.training.validation import Validator

    values = iter([5.0, 3.0, 4.0, 3.5, 1.0])
    plain = Validator.scores
    monkeypatch.setattr(Validator, "scores", lambda self, g: plain(self, g) | {"val_fid": next(values), "val_vgg": 0.0})
    ten = dataclasses.replace(SMOKE, epochs_min=10, epochs_max=10)
    result = train(dataclasses.replace(get("mk1"), early_stop_patience=2), ten, fresh_space, FEW, **QUIET)
    assert result.epochs == 4
    assert "stopped early after epoch 4" in result.stopped
    assert result.complete


@pytest.mark.parametrize(("switch", "modes"), [(False, [True, True]), (True, [True, False])])
def test_generator_mode_after_validation(switch, modes, fresh_space, monkeypatch):
    seen: list[bool] = []
    plain = Pix2Pix.train_step

    def step(self, batch):
        seen.append(self.G.training)
        assert self.D.training
        return plain(self, batch)

    monkeypatch.setattr(Pix2Pix, "train_step", step)
    variant = with_values(get("mk1"), {"method.generator_eval_after_first_validation": switch})
    train(variant, dataclasses.replace(FOUR, epochs_max=2), fresh_space, FEW, **QUIET)
    assert [seen[0], seen[-1]] == modes


@pytest.mark.parametrize(("select_by", "best"), [("mae_hu", 2), ("fid_vgg", 3)])
def test_which_epoch_is_best(select_by, best, fresh_space, monkeypatch):
    from mrict_core.training.validation import Validator

    rows = iter([(9.0, 9.0), (1.0, 8.0), (2.0, 7.0), (3.0, 9.0)])
    plain = Validator.scores

    def scores(self, generator):
        mae, fid = next(rows)
        return plain(self, generator) | {"val_mae_hu": mae, "val_fid": fid, "val_vgg": 0.0}

    monkeypatch.setattr(Validator, "scores", scores)
    variant = dataclasses.replace(get("mk1"), select_by=select_by)
    result = train(variant, FOUR, fresh_space, FEW, **QUIET)
    assert load_checkpoint(result.best)["epoch"] == best


def test_the_reloaded_generator_gives_the_validated_error(trained_space, space):
    """What is written to disk is what was validated: the best checkpoint repeats the history's masked MAE."""
    import numpy as np

    from mrict_core.data.cache.store import SliceStore
    from mrict_core.data.splits import load_split

    store = SliceStore(space.store)
    synthesizer = load_synthesizer(run_of(trained_space, "mk1").best, "mk1", "cpu")
    errors = []
    for patient in load_split(space.split_file).val:
        slices = store.slices(patient)
        inside = slices.mask > 0
        errors.append(np.abs(synthesizer(store, patient) - slices.ct)[inside].mean())
    assert np.mean(errors) == pytest.approx(synthesizer.facts.history[0]["val_mae_hu"], rel=1e-4)


def damaged(path, how):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"not a checkpoint")


@pytest.mark.parametrize("how", ["truncated", "text"])
def test_a_damaged_checkpoint_is_named(how, trained_space):
    path = run_of(trained_space, "mk1").best
    damaged(path, how)
    with pytest.raises(MrictError, match=r"best\.pt: not a readable checkpoint") as caught:
        load_synthesizer(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused(trained_space):
    import pickle

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = run_of(trained_space, "mk1").best
    torch.save({"format": 1, "variant": Evil()}, path, pickle_module=pickle)
    with pytest.raises(MrictError, match="unsafe"):
        load_checkpoint(path)


def test_another_variants_checkpoint_names_both(trained_space):
    own, other = (run_of(trained_space, name).best for name in ("mk1", "mk3_1_2_v4_50"))
    shutil.copy(other, own)
    with pytest.raises(MrictError, match=r"checkpoint of variant 'mk3_1_2_v4_50', expected 'mk1'"):
        load_synthesizer(own, "mk1")


def test_a_wrong_width_names_both_shapes(trained_space):
    path = run_of(trained_space, "mk1").best
    payload = load_checkpoint(path)
    payload["profile"] = dataclasses.asdict(dataclasses.replace(SMOKE, width=8))
    payload.pop("format")
    save_checkpoint(path, payload)
    with pytest.raises(MrictError, match=r"does not fit network G.*in the file and .* in the network"):
        load_synthesizer(path)


def test_a_model_of_another_split_is_not_scored(trained_space):
    path = run_of(trained_space, "mk1").best
    payload = load_checkpoint(path) | {"split_hash": "0123"}
    payload.pop("format")
    save_checkpoint(path, payload)
    with pytest.raises(MrictError, match="may have been trained on"):
        evaluate_variant(get("mk1"), SMOKE, trained_space)


def test_missing_checkpoint_is_named(fresh_space):
    with pytest.raises(MrictError, match=r"mk1 is not trained on these data; train it: python -m mrict_core train mk1"):
        evaluate_variant(get("mk1"), SMOKE, fresh_space)


ROW = {"val_fid": 100.0, "val_vgg": 2.0, "val_ssim": 0.8, "loss_g": 7.0}


@pytest.mark.parametrize(
    ("score", "epoch", "value"),
    [
        (Score(fid=1, vgg=1), 0, 102.0),
        (Score(fid=1, ssim=200), 3, 140.0),
        (Score(fid=1, ssim=250, boost_epochs=12), 0, 150.0),
        (Score(fid=0.9, ssim=300, boost_epochs=12), 6, 150.0 * 1.5),
        (Score(loss_g=1), 5, 7.0),
    ],
)
def test_score_formula(score, epoch, value):
    assert schedule_score(score, ROW, epoch) == pytest.approx(value)
    assert fid_vgg(ROW) == 51.0


@pytest.mark.parametrize(
    ("schedule", "watched", "rates"),
    [
        (Schedule("constant"), [1, 2, 3], [1, 1, 1]),
        (Schedule("plateau", factor=0.5, patience=1, mode="min"), [1, 2, 3, 4], [1, 1, 0.5, 0.5]),
        (Schedule("plateau", factor=0.5, patience=1, mode="max"), [1, 2, 3, 4], [1, 1, 1, 1]),
        (
            Schedule("cosine", t_0=2, t_mult=1, eta_min=0.0),
            [9, 9, 9, 9],
            [0.5 * (1 + math.cos(math.pi * t / 2)) for t in (1, 2, 1, 2)],
        ),
    ],
)
def test_schedules_step_per_epoch(schedule, watched, rates):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stepper = ScheduleStepper(optimizer, schedule)
    found = []
    for value in watched:
        optimizer.step()
        stepper.step({"score": value})
        found.append(optimizer.param_groups[0]["lr"])
    rates = [1.0 if schedule.kind == "cosine" and abs(rate) < 1e-12 else rate for rate in rates]  # warm restart
    assert found == pytest.approx(rates)


def test_a_single_validation_slice_is_refused_before_the_first_step(fresh_space, monkeypatch):
    from mrict_core.data.batches import PairedSlices
    from mrict_core.training.run import Run

    plain = Run.validation_sets

    def one_slice(self):
        first: PairedSlices = plain(self)[0]
        first.index = first.index[:1]
        return [first]

    monkeypatch.setattr(Run, "validation_sets", one_slice)
    with pytest.raises(MrictError, match=r"split\.json: 1 validation slice.*at least 2"):
        train(get("mk1"), SMOKE, fresh_space, FEW, **QUIET)
    assert not fresh_space.checkpoints.exists()
