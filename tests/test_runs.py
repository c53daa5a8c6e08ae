"""Trainings on disk: nothing finished is lost, a killed one ends like an undisturbed one, the right one is scored."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import filelock
import pandas as pd
import pytest
import torch
from conftest import FOLDERS
from test_formats import FORMATS, restored_store, unpacked
from tiny_models import run_of
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, get, lineage, with_values
from mrict_core.experiments.flat import is_flat
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_json, write_json
from mrict_core.methods.pix2pix import Pix2Pix
from mrict_core.models.catalogue import entries, find
from mrict_core.models.folder import load_facts_and_weights
from mrict_core.paths import Workspace, workspace
from mrict_core.pipeline import evaluate_variant, train_variant
from mrict_core.training import loop
from mrict_core.training.checkpoint import load_checkpoint, save_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings
from mrict_core.training.runs import all_runs, choose, read_run, remove_run, runs_of
from mrict_core.training.validation import Validator

SMOKE = get_profile("smoke")
TWO = dataclasses.replace(SMOKE, epochs_min=2, epochs_max=2)
MK1, CHILD, PARENT = get("mk1"), get("mk6_0_1"), get("mk3_1_2_v4_50")
FEW = TrainSettings(max_pairs=17, device="cpu")
QUIET = {"report": lambda line: None}


def seeded(seed: int) -> TrainSettings:
    return dataclasses.replace(FEW, seed=seed)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint under the path of its keys."""
    found: dict[str, torch.Tensor] = {}

    def walk(value, name):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict | list):
            for key, one in value.items() if isinstance(value, dict) else enumerate(value):
                walk(one, f"{name}/{key}")

    walk(load_checkpoint(path), "")
    return found


def same_result(one, other) -> None:
    for name in ("best.pt", "last.pt"):
        a, b = tensors(one / name), tensors(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (one, other))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    volatile = ("started", "finished", "seconds")
    a, b = ({k: v for k, v in read_json(f / "run.json").items() if k not in volatile} for f in (one, other))
    assert a == b
    names = [".lock", "best.pt", "history.csv", "last.pt", "run.json", "samples"]
    assert sorted(p.name for p in other.iterdir()) == names
    for own in (one / "samples").iterdir():
        assert own.read_bytes() == (other / "samples" / own.name).read_bytes()


# ------------------------------------------------------------------------------------------------------------ killed


def train_and_die(space: Workspace, number: int, folders: dict[str, str]) -> None:
    """Train in this process and kill it before its `number`-th rename."""
    os.environ.update(folders)
    plain, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(source, target)

    os.replace = replace
    train(MK1, TWO, space, FEW, **QUIET)
    os._exit(count)


@pytest.fixture(scope="module")
def undisturbed(space, tmp_path_factory) -> Path:
    """The folder of a training of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRICT_CHECKPOINTS", str(tmp_path_factory.mktemp("undisturbed")))
        return train(MK1, TWO, space, FEW, **QUIET).run.folder


RENAMES = 11  # run.json; then of two epochs history.csv, a sample, last.pt, best.pt, run.json


@pytest.mark.parametrize("number", range(1, RENAMES + 2))
def test_killed_at_any_rename_the_next_run_ends_as_an_undisturbed_one(number, fresh_space, undisturbed):
    # not a fork of this process: torch cannot train in that if its first backward here was of a compiled network
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__, "torch._dynamo", "pytest"])  # an optimiser needs the second
    folders = {name: os.environ[name] for name in FOLDERS}
    process = context.Process(target=train_and_die, args=(fresh_space, number, folders))
    process.start()
    process.join(120)
    assert process.exitcode == (-signal.SIGKILL if number <= RENAMES else RENAMES), "renames are counted right"
    for run in runs_of(fresh_space, "mk1"):  # what a reader sees in between
        assert not run.problem
        assert run.best.exists() or not run.epoch
        if run.best.exists():
            payload = load_checkpoint(run.best)
            assert payload["epoch"] > 0
            assert payload["key"] == run.id
    result = train(MK1, TWO, fresh_space, FEW, **QUIET)
    assert (result.epochs, result.complete) == (2, True)
    same_result(undisturbed, result.run.folder)
    assert len(runs_of(fresh_space, "mk1")) == 1


def test_a_lost_best_checkpoint_is_made_from_last_while_that_holds_it(fresh_space, undisturbed):
    half = train(MK1, TWO, fresh_space, FEW, stop_after=1, **QUIET).run
    half.best.unlink()
    same_result(undisturbed, train(MK1, TWO, fresh_space, FEW, **QUIET).run.folder)


def test_a_best_checkpoint_that_is_nowhere_any_more_means_the_start(fresh_space, monkeypatch):
    maes, plain = itertools.cycle([1.0, 2.0]), Validator.scores  # the first epoch is the best
    monkeypatch.setattr(Validator, "scores", lambda self, g: plain(self, g) | {"val_mae_hu": next(maes)})
    whole = train(MK1, TWO, fresh_space, FEW, **QUIET).run
    expected, lines = tensors(whole.best), []
    write_json(whole.folder / "run.json", read_json(whole.folder / "run.json") | {"complete": False})
    whole.best.unlink()
    again = train(MK1, TWO, fresh_space, FEW, report=lines.append).run
    assert "is not of the best epoch, 1; training from the start" in lines[0]
    assert (again.folder, again.complete, again.best_epoch) == (whole.folder, True, 1)
    assert all(torch.equal(value, expected[key]) for key, value in tensors(again.best).items())


def test_ctrl_c_in_a_new_training_leaves_the_finished_one(fresh_space, monkeypatch):
    """So that "finished results are kept" is true."""
    train(MK1, SMOKE, fresh_space, FEW, **QUIET)
    before, _ = files_of(fresh_space.checkpoints), evaluate_variant(MK1, SMOKE, fresh_space, **QUIET)
    record = read_json(fresh_space.metrics / "mk1.json")
    monkeypatch.setattr(Pix2Pix, "train_step", lambda self, batch: (_ for _ in ()).throw(KeyboardInterrupt))
    for settings, retrain in ((seeded(2), False), (FEW, True), (dataclasses.replace(FEW, max_pairs=9), False)):
        with pytest.raises(KeyboardInterrupt):
            train(MK1, SMOKE, fresh_space, settings, retrain=retrain, **QUIET)
    assert before.items() <= files_of(fresh_space.checkpoints).items()
    said: list[str] = []
    again, _ = evaluate_variant(MK1, SMOKE, fresh_space, report=said.append)
    assert again["context"]["checkpoint_hash"] == record["context"]["checkpoint_hash"]
    assert again["summary"] == record["summary"]
    assert sum("no epoch of the training is done" in line for line in said) == 3


# ---------------------------------------------------------------------------------------------------- other code


def test_other_code_keeps_the_training_and_says_so(fresh_space, monkeypatch):
    result = train(MK1, SMOKE, fresh_space, FEW, **QUIET)
    before, lines = files_of(fresh_space.checkpoints), []
    monkeypatch.setattr("mrict_core.training.runs.code_hash", lambda *rooms: "edited")
    monkeypatch.setattr(loop, "code_hash", lambda *rooms: "edited")
    again = train(MK1, SMOKE, fresh_space, FEW, report=lines.append)
    assert again.reused
    assert "another version of the code; --retrain trains again in a new folder" in lines[0]
    assert files_of(fresh_space.checkpoints) == before
    beside = train(MK1, SMOKE, fresh_space, FEW, retrain=True, **QUIET)
    assert beside.run.folder.name == f"{result.run.folder.name}-2"
    assert beside.run.code == ["edited"]
    assert before.items() <= files_of(fresh_space.checkpoints).items()
    assert evaluate_variant(MK1, SMOKE, fresh_space, **QUIET)[0]["context"]["run"] == beside.run.folder.name


def test_an_unfinished_training_of_other_code_goes_on_and_keeps_what_it_does_not_know(fresh_space, monkeypatch):
    half = train(MK1, TWO, fresh_space, FEW, stop_after=1, **QUIET).run
    write_json(half.folder / "run.json", read_json(half.folder / "run.json") | {"of_tomorrow": [1]})
    payload = load_checkpoint(half.last) | {"of_tomorrow": 2}
    payload.pop("format")
    save_checkpoint(half.last, payload)
    monkeypatch.setattr(loop, "code_hash", lambda *rooms: "edited")
    whole = train(MK1, TWO, fresh_space, FEW, **QUIET).run
    assert whole.folder == half.folder
    assert whole.code == [*half.code, "edited"]
    assert read_json(whole.folder / "run.json")["of_tomorrow"] == [1]
    assert load_checkpoint(whole.last)["of_tomorrow"] == 2


def test_a_field_that_a_later_version_adds_changes_no_id(space, monkeypatch):
    from mrict_core.training import run

    newer = dataclasses.make_dataclass(
        "Newer", [("of_tomorrow", float, 0.0)], bases=(Experiment,), frozen=True, kw_only=True
    )
    values = {f.name: getattr(MK1, f.name) for f in dataclasses.fields(Experiment)}
    ids = [
        run.prepare_run(one, SMOKE, space, FEW).id for one in (MK1, newer(**values), newer(**values, of_tomorrow=1.0))
    ]
    assert ids[0] == ids[1] != ids[2]


# ----------------------------------------------------------------------------------------------------- earlier versions


@pytest.fixture
def old_space(tmp_path, monkeypatch) -> tuple[Workspace, Path]:
    """A workspace whose trainings are in the layout of 2026-11, and the folder of the finished one."""
    old = unpacked(next(folder for folder in FORMATS if folder.name == "2026-11"), tmp_path / "old")
    restored_store(old)
    for name in ("DATA", "CHECKPOINTS", "REPORTS"):
        monkeypatch.setenv(f"MRICT_{name}", str(tmp_path / name.lower()))
    (tmp_path / "cohort").mkdir()
    space = workspace("smoke", str(tmp_path / "cohort"))
    shutil.copytree(old / "store", space.store)
    shutil.copytree(old / "checkpoints", space.checkpoints)
    return space, space.checkpoints / "mk4_1"


ONE = dataclasses.replace(SMOKE, width=1)
FOUR_PAIRS = TrainSettings(max_pairs=4, device="cpu")


def test_a_finished_training_of_an_earlier_version_is_found_and_never_written_to(old_space):
    space, folder = old_space
    before, lines = files_of(folder), []
    result = train(get("mk4_1"), ONE, space, FOUR_PAIRS, report=lines.append)
    assert result.reused
    assert (result.run.folder, result.run.old, result.complete, len(result.history)) == (folder, True, True, 1)
    assert "another version of the code" in lines[0]
    train(get("mk4_1"), ONE, space, FOUR_PAIRS, retrain=True, **QUIET)
    train(get("mk4_1"), ONE, space, dataclasses.replace(FOUR_PAIRS, seed=2), **QUIET)
    train(get("mk4_1"), dataclasses.replace(ONE, epochs_min=2, epochs_max=2), space, FOUR_PAIRS, **QUIET)
    assert len(runs_of(space, "mk4_1")) == 4
    assert before.items() <= files_of(folder).items()
    assert read_run(folder).data == result.run.data
    assert [run.problem for run in all_runs()] == [""] * 5


def test_an_unfinished_one_goes_on_in_a_folder_of_its_own(old_space):
    space, folder = old_space
    two = dataclasses.replace(ONE, epochs_min=2, epochs_max=2)
    whole = train(get("mk4_1"), two, space, FOUR_PAIRS, **QUIET)
    shutil.rmtree(whole.run.folder)
    for name in ("best.pt", "last.pt"):
        payload = load_checkpoint(folder / name) | {"epochs": 2, "complete": False}
        payload.pop("format")
        save_checkpoint(folder / name, payload)
    before = files_of(folder)
    result = train(get("mk4_1"), two, space, FOUR_PAIRS, **QUIET)
    assert (result.epochs, result.complete, result.run.old) == (2, True, False)
    assert load_checkpoint(result.best)["key"] == load_checkpoint(result.last)["key"] == result.run.id
    assert before.items() <= files_of(folder).items()


def test_an_old_training_is_no_seed_of_a_new_one_and_that_is_said(old_space):
    space, _ = old_space
    trained = runs_of(space, "mk4_1")[0]
    new = train(get("mk4_1"), ONE, space, dataclasses.replace(FOUR_PAIRS, seed=2), **QUIET).run
    chosen = choose(space, "mk4_1", trained.data)
    assert chosen.runs == (new,)
    assert chosen.left_out == (
        f"left out: {trained.folder}: the layout differs; an earlier version did not record all settings",
    )
    assert choose(space, "mk4_1", trained.data, like=trained).runs == (trained,)


def test_best_and_last_of_different_trainings_are_never_scored_or_gone_on_with(old_space):
    """What SIGKILL between the two left behind in the layout of earlier versions."""
    space, folder = old_space
    payload = load_checkpoint(folder / "best.pt") | {"key": "another", "epoch": 0, "history": []}
    payload.pop("format")
    save_checkpoint(folder / "best.pt", payload)
    assert "best.pt and last.pt are of different trainings" in read_run(folder).problem
    with pytest.raises(MrictError, match="different trainings; train the variant again"):
        evaluate_variant(get("mk4_1"), ONE, space, device="cpu", **QUIET)
    before = files_of(folder)
    assert not train(get("mk4_1"), ONE, space, FOUR_PAIRS, **QUIET).reused
    assert before.items() <= files_of(folder).items()


@pytest.fixture
def flat_space(old_space, tmp_path) -> Workspace:
    """A workspace whose trainings are in folders of their own and described by flat values, as of 2026-11."""
    space, _ = old_space
    shutil.rmtree(space.checkpoints)
    shutil.copytree(tmp_path / "old" / "runs", space.checkpoints)
    return space


def test_a_finished_training_described_by_flat_values_is_found_and_never_written_to(flat_space):
    before, lines = files_of(flat_space.checkpoints), []
    result = train(get("mk4_1"), ONE, flat_space, FOUR_PAIRS, report=lines.append)
    assert (result.reused, result.run.id, result.run.old) == (True, "9ef33a18de2fb2a3", False)
    assert "unchanged, 1 epochs exist" in lines[-1]
    again = train(get("mk4_1"), ONE, flat_space, FOUR_PAIRS, retrain=True, **QUIET).run
    assert again.trained == result.run.trained
    assert train(get("mk4_1"), ONE, flat_space, FOUR_PAIRS, **QUIET).run == again, "the newest of the same is meant"
    assert not train(with_values(get("mk4_1"), {"loss.l1.weight": 1}), ONE, flat_space, FOUR_PAIRS, **QUIET).reused
    assert before.items() <= files_of(flat_space.checkpoints).items()


def test_an_unfinished_one_described_by_flat_values_goes_on_where_it_is(flat_space):
    (folder,) = flat_space.checkpoints.glob("mk4_1/seed42*")
    two = dataclasses.replace(ONE, epochs_min=2, epochs_max=2)
    record = read_json(folder / "run.json")
    unfinished = {"complete": False, "epochs": 2}
    write_json(folder / "run.json", record | unfinished | {"trained": record["trained"] | {"epochs": 2}})
    for name in ("best.pt", "last.pt"):
        payload = load_checkpoint(folder / name) | unfinished
        payload.pop("format")
        save_checkpoint(folder / name, payload)
    result = train(get("mk4_1"), two, flat_space, FOUR_PAIRS, **QUIET)
    assert (result.run.folder, result.run.id, result.epochs, result.complete) == (folder, record["id"], 2, True)
    assert not is_flat(read_json(folder / "run.json")["trained"]["variant"])


def test_seeds_of_before_and_of_today_are_one_experiment_and_children_too(flat_space):
    old = runs_of(flat_space, "mk6_0_1")
    assert len({run.experiment for run in old}) == 1
    (parent,) = (run for run in runs_of(flat_space, "mk3_1_2_v4_50") if run.seed == 7)
    new = train(get("mk3_1_2_v4_50"), ONE, flat_space, dataclasses.replace(FOUR_PAIRS, seed=1), **QUIET).run
    assert new.experiment == parent.experiment
    assert new.id != parent.id
    child = train(get("mk6_0_1"), ONE, flat_space, dataclasses.replace(FOUR_PAIRS, seed=1), **QUIET).run
    assert child.experiment == old[0].experiment


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_what_is_published_is_what_was_scored_though_another_training_goes_on(fresh_space, monkeypatch):
    """The files are replaced the moment they were read; the model must hold the weights that the record tells of."""
    from mrict_core.pipeline import evaluate

    result = train(MK1, SMOKE, fresh_space, FEW, **QUIET)
    expected, other = tensors(result.best), load_checkpoint(result.best)
    other["networks"]["G"] = {k: torch.zeros_like(v) for k, v in other["networks"]["G"].items()}
    other.pop("format")
    plain, reads = evaluate.read_checkpoint, []

    def read(path, name):
        found = plain(path, name)
        reads.append(found[1])
        save_checkpoint(path, other)
        return found

    monkeypatch.setattr(evaluate, "read_checkpoint", read)
    record, _ = evaluate_variant(MK1, SMOKE, fresh_space, device="cpu", **QUIET)
    networks = load_facts_and_weights(find("mk1"))[1]
    assert all(torch.equal(value, expected[f"/networks/G/{key}"]) for key, value in networks["G"].items())
    assert [record["context"]["checkpoint_hash"]] == reads


def test_a_training_that_goes_on_is_said_and_not_published(fresh_space):
    run, said = train(MK1, TWO, fresh_space, FEW, stop_after=1, **QUIET).run, []
    with filelock.FileLock(run.folder / ".lock"):
        record, _ = evaluate_variant(MK1, TWO, fresh_space, device="cpu", report=said.append)
        with pytest.raises(MrictError, match="another process trains mk1"):
            remove_run(run.folder)
    assert said[0].endswith("training not finished: epoch 1 of 2 (in training now)")
    assert record["note"] == "training not finished: epoch 1 of 2"
    assert entries() == []


def test_epoch_0_is_never_scored(fresh_space):
    run = train(MK1, SMOKE, fresh_space, FEW, **QUIET).run
    payload = load_checkpoint(run.best) | {"epoch": 0, "history": []}
    payload.pop("format")
    save_checkpoint(run.best, payload)
    with pytest.raises(MrictError, match=r"best\.pt: an untrained network \(epoch 0\)"):
        evaluate_variant(MK1, SMOKE, fresh_space, **QUIET)
    assert not (fresh_space.metrics / "mk1.json").exists()


def test_a_lost_best_checkpoint_is_named(fresh_space):
    run = train(MK1, SMOKE, fresh_space, FEW, **QUIET).run
    run.best.unlink()
    with pytest.raises(MrictError, match=r"best\.pt: is missing; put it back, or train mk1 again"):
        evaluate_variant(MK1, SMOKE, fresh_space, **QUIET)


@pytest.mark.parametrize("values", [None, [], {}, {"epochs": float("nan")}, {"seed": "42"}, {"trained": 1}])
def test_a_record_with_wrong_values_says_what_to_do_and_the_checkpoints_stand_in(fresh_space, values):
    run = train(MK1, SMOKE, fresh_space, FEW, **QUIET).run
    record = run.folder / "run.json"
    whole = read_json(record)
    record.write_text(json.dumps(whole | values if values else values))
    with pytest.raises(
        MrictError, match=r"run\.json: .*; delete the file: the checkpoints next to it hold the same facts"
    ):
        train(MK1, SMOKE, fresh_space, FEW, **QUIET)
    record.unlink()
    result = train(MK1, SMOKE, fresh_space, FEW, **QUIET)
    assert result.reused
    assert {name: getattr(result.run, name) for name in ("id", "experiment", "trained", "seed", "best_epoch")} == {
        name: whole[name] for name in ("id", "experiment", "trained", "seed", "best_epoch")
    }


def test_a_collapse_in_the_first_epoch_is_an_error_each_time_and_no_model(fresh_space, monkeypatch):
    def step(self, batch):
        return {name: torch.tensor(float("nan")) for name in ("loss_g", "loss_d")}

    monkeypatch.setattr(Pix2Pix, "train_step", step)
    for _ in range(2):
        with pytest.raises(MrictError, match="collapsed in epoch 1: loss_g, loss_d not finite; there is no checkpoint"):
            train(MK1, TWO, fresh_space, FEW, **QUIET)
    run = run_of(fresh_space, "mk1")
    assert (run.epoch, run.complete, run.whole) == (0, True, False)
    with pytest.raises(MrictError, match=r"training collapsed in epoch 1.*nothing to score"):
        evaluate_variant(MK1, TWO, fresh_space, **QUIET)


def test_a_finished_model_says_complete(fresh_space, monkeypatch):
    """Also where its best epoch was not its last."""
    maes = iter([1.0, 2.0])
    plain = Validator.scores
    monkeypatch.setattr(Validator, "scores", lambda self, g: plain(self, g) | {"val_mae_hu": next(maes)})
    run = train(MK1, TWO, fresh_space, FEW, **QUIET).run
    assert (run.best_epoch, run.val_mae_hu) == (1, 1.0)
    evaluate_variant(MK1, TWO, fresh_space, device="cpu", **QUIET)
    facts = load_facts_and_weights(find("mk1"))[0]
    assert (facts.epoch, facts.epochs, facts.complete) == (1, 2, True)


# ---------------------------------------------------------------------------------------------------------------- seeds


def test_seeds_stand_side_by_side_and_children_start_from_their_own(fresh_space):
    for seed in (1, 2):
        train_variant(CHILD, SMOKE, fresh_space, seeded(seed), ancestors=lineage(CHILD.name)[:-1], **QUIET)
    children, parents = ({r.seed: r for r in runs_of(fresh_space, v.name)} for v in (CHILD, PARENT))
    assert children.keys() == parents.keys() == {1, 2}
    assert {s: c.trained["parent"] for s, c in children.items()} == {s: p.id for s, p in parents.items()}
    assert children[1].experiment == children[2].experiment
    record, _ = evaluate_variant(CHILD, SMOKE, fresh_space, device="cpu", **QUIET)
    assert record["seeds"]["values"] == [1, 2]
    own = [read_json(fresh_space.metrics / "seeds" / f"{CHILD.name}--seed{seed}.json") for seed in (1, 2)]
    means = [one["summary"]["all"]["mae_hu"]["mean"] for one in own]
    assert record["summary"]["all"]["mae_hu"]["mean"] == pytest.approx(sum(means) / 2)
    assert record["seeds"]["summary"]["mae_hu"]["sd"] == pytest.approx(pd.Series(means).std())
    assert [one["context"]["checkpoint_hash"] for one in own] == record["seeds"]["checkpoints"]
    assert len(entries()) == 2, "every seed's model is published"
    assert evaluate_variant(CHILD, SMOKE, fresh_space, seeds=[2], device="cpu", **QUIET)[0]["context"]["seed"] == 2
    with pytest.raises(MrictError, match=r"no finished training of seed 3 on these data; train it: .* --seeds 3"):
        evaluate_variant(CHILD, SMOKE, fresh_space, seeds=[2, 3], device="cpu", **QUIET)


def test_a_child_takes_the_only_seed_of_its_parent_and_never_one_of_several(fresh_space):
    lines: list[str] = []
    only = train(PARENT, SMOKE, fresh_space, seeded(1), **QUIET).run
    child = train(CHILD, SMOKE, fresh_space, seeded(5), report=lines.append).run
    assert child.trained["parent"] == only.id
    assert f"{PARENT.name} was trained only with seed 1" in lines[0]
    train(PARENT, SMOKE, fresh_space, seeded(2), **QUIET)
    with pytest.raises(MrictError, match=r"seeds 1, 2 only; train it with this seed too: .* --lineage --seed 6"):
        train(CHILD, SMOKE, fresh_space, seeded(6), **QUIET)


def test_trainings_of_other_settings_are_no_seeds_of_one_experiment(fresh_space):
    first = train(MK1, SMOKE, fresh_space, FEW, **QUIET).run
    train(MK1, SMOKE, fresh_space, dataclasses.replace(FEW, seed=2, max_pairs=9), **QUIET)
    said: list[str] = []
    record, _ = evaluate_variant(MK1, SMOKE, fresh_space, device="cpu", report=said.append)
    assert record["seeds"]["values"] == [2]
    assert any("left out: " in line and "other settings (settings.max_pairs)" in line for line in said)
    record, _ = evaluate_variant(MK1, SMOKE, fresh_space, like=first, device="cpu", **QUIET)
    assert record["context"]["run"] == first.folder.name


# -------------------------------------------------------------------------------------------------------- the commands


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def test_the_commands(fresh_space, cohort):
    common = ("--profile", "smoke", "--data", str(cohort), "--device", "cpu")
    assert invoke("runs").stdout.startswith("no training in ")
    result = invoke("train", "mk1", *common, "--max-pairs", "17", "--seeds", "1,2, 2")
    assert result.exit_code == 0, result.output
    first, second = runs_of(fresh_space, "mk1")
    assert result.stdout.splitlines()[-1] == f"best checkpoint: {second.best}"
    listed = invoke("runs").stdout
    assert all(str(run.folder) in listed for run in (first, second))
    assert listed.count("complete") == listed.count("today's") == 2
    assert invoke("evaluate", "mk1", *common).exit_code == 0
    assert read_json(fresh_space.metrics / "mk1.json")["seeds"]["values"] == [1, 2]
    (second.folder / "run.json").write_text("{")
    assert f"damaged: {second.folder}" in invoke("runs").stdout
    result = invoke("runs", "--remove", str(first.folder))
    assert result.stdout == f"removed: {first.folder} (mk1, seed 1, epoch 1 of 1)\n"
    assert not first.folder.exists()
    assert second.best.exists()
    assert "--seeds 1,x: expected whole numbers" in str(invoke("train", "mk1", *common, "--seeds", "1,x").exception)
    both = invoke("train", "mk1", *common, "--seeds", "4", "--seed", "5")
    assert "--seed 5 and --seeds 4: expected one of them" in str(both.exception)


def test_nothing_but_a_training_is_removed(fresh_space, tmp_path):
    run = train(MK1, SMOKE, fresh_space, FEW, **QUIET).run
    evaluate_variant(MK1, SMOKE, fresh_space, device="cpu", **QUIET)
    (tmp_path / "mine").mkdir()
    shutil.copy(run.best, tmp_path / "mine" / "best.pt")
    link = run.folder.with_name("seed9-00000000")
    link.symlink_to(run.folder)
    places = (
        fresh_space.checkpoints,
        run.folder.parent,
        find("mk1"),
        tmp_path / "mine",
        run.best,
        tmp_path / "none",
        link,
        "/",
    )
    before = files_of(tmp_path)
    for place in places:
        assert "not the folder of a training" in str(invoke("runs", "--remove", str(place)).exception), place
    assert files_of(tmp_path) == before
