"""Published models: what is stored, that tampering and damage are noticed, and which model a name means."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tiny_models import run_of
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import load_split, make_split, save_split
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import atomic_folder, read_json, write_json
from mrict_core.inference import load_synthesizer
from mrict_core.models import folder as folders
from mrict_core.models.card import card_text
from mrict_core.models.catalogue import entries, find, read_card
from mrict_core.models.folder import (
    CARD,
    DISCRIMINATOR,
    FACTS,
    SAMPLE,
    SCORES,
    WEIGHTS,
    load_discriminators,
    load_facts_and_weights,
    model_hash,
    read_model,
    write_model,
)
from mrict_core.paths import Workspace, checkpoints_root
from mrict_core.pipeline import evaluate, evaluate_baselines, evaluate_variant, open_data, train_variant
from mrict_core.reporting import images
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.facts import ModelFacts
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

SMOKE = get_profile("smoke")
FEW = TrainSettings(max_pairs=17, device="cpu")
QUIET = {"report": lambda line: None}


@pytest.fixture(scope="module")
def evaluated(space: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints with mk1 trained, evaluated and so published."""
    root = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRICT_CHECKPOINTS", str(root / "checkpoints"))
        patch.setenv("MRICT_REPORTS", str(root / "reports"))
        train(get("mk1"), SMOKE, space, FEW, **QUIET)
        evaluate_variant(get("mk1"), SMOKE, space, device="cpu")
    return root


@pytest.fixture
def published(evaluated: Path, fresh_space: Workspace, tmp_path: Path) -> Path:
    """The same in folders of the test's own; the published folder."""
    for name in ("checkpoints", "reports"):
        shutil.copytree(evaluated / name, tmp_path / name, dirs_exist_ok=True)
    (folder,) = (p for p in (tmp_path / "checkpoints" / "mk1").iterdir() if p.name[0] != ".")
    return folder


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def another(root: Path, published: Path, seed: int = 1, **changes: object) -> Path:
    """Publish the same network with other weights."""
    facts, networks = load_facts_and_weights(published)
    torch.manual_seed(seed)
    networks["G"]["final_upsample.bias"] = torch.randn_like(networks["G"]["final_upsample.bias"])
    told = {"kind": "trained", "label": "full", "demo": False, "generator": "G", "data": {"name": "SynthRAD2023"}}
    return write_model(root, dataclasses.replace(facts, seed=seed), networks, **told | changes)[0]


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


# ------------------------------------------------------------------------------------------------------- what is stored


def test_a_published_model_is_the_best_checkpoint(published, fresh_space):
    best = run_of(fresh_space, "mk1").best
    payload = load_checkpoint(best)
    facts, networks = load_facts_and_weights(published, "mk1")
    assert networks.keys() == {"G"}  # a CT needs no discriminator
    networks |= load_discriminators(published)
    assert facts == ModelFacts.of_payload(payload, best)
    assert networks.keys() == payload["networks"].keys() == {"G", "D"}
    for name, state in payload["networks"].items():
        assert networks[name].keys() == state.keys()
        assert all(torch.equal(networks[name][k], v) and networks[name][k].dtype == v.dtype for k, v in state.items())
    assert load_facts_and_weights(best)[0] == facts
    for file, network in ((WEIGHTS, "G"), (DISCRIMINATOR, "D")):  # any reader of safetensors finds them
        assert {name.split("/")[0] for name in safetensors.torch.load_file(published / file)} == {network}
    store, split = SliceStore(fresh_space.store), load_split(fresh_space.split_file)
    hu = [load_synthesizer(path, "mk1", "cpu")(store, split.test[0]) for path in (best, published)]
    assert (hu[0] == hu[1]).all()
    assert hu[0].std() > 0


@pytest.mark.parametrize(
    ("embedded", "data", "said"),
    [
        (True, "embedded phantoms", "mk7 makes the synthetic CT of a held-out phantom; data: embedded phantoms."),
        (False, "clinic_a", "mk7 makes the synthetic CT of a held-out person; data: clinic_a."),
    ],
)
def test_the_sample_picture_says_which_model_whose_slice_and_which_data(monkeypatch, embedded, data, said):
    titles = []
    monkeypatch.setattr(evaluate, "sample_rows", lambda *_: [{}])
    monkeypatch.setattr(images, "sample_figure", lambda rows, *, title, **_: titles.append(title) or Figure())
    store, split = SimpleNamespace(protocol="patient"), SimpleNamespace(test=("1BA001",))
    space, profile = SimpleNamespace(embedded=embedded, data_name=data), SimpleNamespace(label="cpu")
    bench = SimpleNamespace(store=store, split=split, space=space, profile=profile)
    assert evaluate._sample_picture(bench, None, "mk7").startswith(b"\x89PNG")
    assert titles == [said]


def test_the_card_holds_what_a_user_must_know(published, fresh_space):
    card, record = (published / CARD).read_text(encoding="utf-8"), read_json(fresh_space.metrics / "mk1.json")
    mae = record["summary"]["all"]["mae_hu"]
    store, split = SliceStore(fresh_space.store), load_split(fresh_space.split_file)
    counted = Counter(sorted(store.centre(patient) for patient in split.train))
    centres = ", ".join(f"{centre}: {count}" for centre, count in counted.items())
    expected = (
        *(f"# mk1@{published.name}", "**Demo model.**", "Not for clinical use", get("mk1").why, split.hash),
        *(f"| MAE (HU) | {mae['mean']:.1f} ± {mae['sd']:.1f} |", record["cards"]["mae_hu"]["mask"], "## Intended use"),
        *(f"| training | {len(split.train)} |", centres, "`loss.perceptual.weight` | 30 |"),
        *(f"torch {torch.__version__.split('+')[0]}", "`precision` | float32", read_json(published / FACTS)["hash"]),
    )
    assert [part for part in expected if part not in card] == []
    assert "no fingerprint" not in card
    everything = card + "".join((published / name).read_text(encoding="utf-8") for name in (FACTS, SCORES))
    patients = (*split.train, *split.val, *split.test)
    assert [word for word in (*patients, str(fresh_space.data_dir.parent)) if word in everything] == []
    assert read_card("mk1") == card
    assert "(sample.png)" in card
    assert (published / SAMPLE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (None, "Not compared with the trivial baselines"),
        (
            {"name": "baseline_mean_ct", "mae_hu": 1.5},
            "**It does not beat** the best trivial baseline, `baseline_mean_ct`: 1.5",
        ),
        (
            {"name": "baseline_mean_ct", "mae_hu": 9e3},
            "It beats the best trivial baseline, `baseline_mean_ct`: 9000.0 HU",
        ),
    ],
)
def test_the_card_says_whether_it_beats_the_trivial_baselines(baseline, said, published):
    card = card_text(read_model(published), read_json(published / SCORES) | {"baseline": baseline})
    assert said in card


def test_the_best_baseline_of_the_same_patients_is_compared(published, fresh_space):
    scored = {r["name"]: r["summary"]["all"]["mae_hu"]["mean"] for r in evaluate_baselines(SMOKE, fresh_space)}
    best = min(scored, key=scored.get)
    evaluate_variant(get("mk1"), SMOKE, fresh_space, device="cpu")
    assert read_json(published / SCORES)["baseline"] == {"name": best, "mae_hu": scored[best]}
    for name in scored:  # of another split: no comparison
        path = fresh_space.metrics / f"{name}.json"
        record = read_json(path)
        record["context"]["split_hash"] = "0123"
        write_json(path, record)
    evaluate_variant(get("mk1"), SMOKE, fresh_space, device="cpu")
    assert read_json(published / SCORES)["baseline"] is None


def test_evaluating_again_writes_nothing_new(published, fresh_space):
    before, said = files_of(published), []
    evaluate_variant(get("mk1"), SMOKE, fresh_space, device="cpu", report=said.append)
    assert files_of(published) == before
    assert said == [f"model mk1@{published.name} (already published): {published}"]
    assert len(entries()) == 1


def test_other_scores_of_the_same_model_renew_its_card_alone(published):
    facts, networks = load_facts_and_weights(published)
    description, scores = read_model(published), read_json(published / SCORES)
    scores["summary"]["all"]["mae_hu"]["mean"] = 12.34
    told = {key: description[key] for key in ("kind", "label", "demo", "generator", "data")}
    before = files_of(published)
    networks |= load_discriminators(published)
    assert write_model(checkpoints_root(), facts, networks, **told, scores=scores) == (published, False)
    after = files_of(published)
    assert {name for name in before if before[name] != after[name]} == {SCORES, CARD}
    assert "| MAE (HU) | 12.3 ±" in (published / CARD).read_text(encoding="utf-8")


def test_epoch_times_make_no_other_model_and_everything_else_does(published):
    description = read_model(published)
    facts = description["facts"]
    later = {"published": "2031-01-01", "facts": facts | {"history": [r | {"seconds": 99.0} for r in facts["history"]]}}
    assert model_hash(description | later) == model_hash(description) == published.name
    for other in ({"seed": 1}, {"history": [facts["history"][0] | {"loss_g": 0.5}]}, {"window_hu": [-1000, 1000]}):
        assert model_hash(description | {"facts": facts | other}) != published.name
    for other in ({"demo": False}, {"label": "full"}, {"kind": "imported"}, {"generator": "D"}, {"more": 1}):
        assert model_hash(description | other) != published.name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from((FACTS, WEIGHTS)))
def test_no_flipped_bit_changes_what_is_loaded(published, place, bit, name):
    """It is refused, or stands where it makes no difference: in the date, in how long an epoch took, in white space."""
    whole, (facts, networks) = read_model(published), load_facts_and_weights(published)
    path, content = published / name, (published / name).read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        found, other = read_model(published), load_facts_and_weights(published)[1]
    except MrictError:
        pass
    else:
        assert name == FACTS
        assert model_hash(found) == model_hash(whole)
        assert ModelFacts.from_plain(found["facts"], "it").experiment == facts.experiment
        assert all(torch.equal(other[n][k], v) for n, state in networks.items() for k, v in state.items())
    finally:
        path.write_bytes(content)


def test_retraining_publishes_beside_the_old_model(published, fresh_space):
    train(get("mk1"), SMOKE, fresh_space, TrainSettings(seed=7, max_pairs=17, device="cpu"), **QUIET)
    evaluate_variant(get("mk1"), SMOKE, fresh_space, device="cpu")
    old, new = entries()
    assert old.path == published
    assert find("mk1") == new.path
    assert load_facts_and_weights(find(old.name))[0].seed == 42


def test_what_is_unfinished_or_lacks_a_centre_is_not_published(fresh_space):
    two = dataclasses.replace(SMOKE, epochs_min=2, epochs_max=2)
    train(get("mk1"), two, fresh_space, FEW, stop_after=1, **QUIET)
    evaluate_variant(get("mk1"), two, fresh_space, device="cpu")
    fold, store = fresh_space.of_fold("leave_out_A"), SliceStore(fresh_space.store)
    save_split(fold.split_file, make_split({p: store.centre(p) for p in store.patients}, 42, "leave_out_A"))
    train(get("mk1"), SMOKE, fold, FEW, **QUIET)
    evaluate_variant(get("mk1"), SMOKE, fold, device="cpu")
    fold.split_file.unlink()  # the store is shared with other tests
    assert entries() == []
    assert find("mk1") == run_of(fresh_space, "mk1").best  # and not that of a fold


# ------------------------------------------------------------------------------------------------ damage and tampering


def edit(name: str, change):
    def damage(folder: Path) -> None:
        content = read_json(folder / name)
        change(content)
        write_json(folder / name, content)

    return damage


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 0xFF
    (folder / WEIGHTS).write_bytes(content)


def swap(folder: Path) -> None:
    """Other weights of the same size, by the ordinary tools."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file(
        {k: v + 1 if v.is_floating_point() else v for k, v in tensors.items()}, folder / WEIGHTS
    )


def cut(name: str):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


DAMAGE = {  # how => (what the loader says, whether a listing sees it without reading the weights)
    "weights flipped": (flip, "weights were changed or damaged", False),
    "weights swapped": (swap, "weights were changed or damaged", False),
    "weights cut": (cut(WEIGHTS), r"bytes, expected \d+ bytes of weights of mk1", True),
    "weights gone": (lambda f: (f / WEIGHTS).unlink(), "no such file, expected", True),
    "facts cut": (cut(FACTS), r"model\.json: not valid json", True),
    "facts gone": (lambda f: (f / FACTS).unlink(), r"model\.json: not found", True),
    "facts a list": (lambda f: (f / FACTS).write_text("[]"), "not the facts of a model, format, hash", True),
    "window edited": (edit(FACTS, lambda c: c["facts"].update(window_hu=[-1, 1])), "edited or damaged", True),
    "data edited": (edit(FACTS, lambda c: c["data"].update(name="real")), "edited or damaged", True),
    "hash edited": (edit(FACTS, lambda c: c.update(hash="0" * 16)), "edited or damaged", True),
    "no facts in it": (edit(FACTS, lambda c: c.update(facts=None)), "not the facts of a model", True),
    "newer format": (edit(FACTS, lambda c: c.update(format=2)), "model format 2, this version reads 1", True),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_model_is_refused_and_listed_with_the_reason(how, published):
    damage, message, seen = DAMAGE[how]
    whole = another(checkpoints_root(), published)
    damage(published)
    with pytest.raises(MrictError, match=message) as caught:
        load_synthesizer(published, device="cpu")
    assert "\n" not in str(caught.value)
    assert published.name in str(caught.value)
    listed = {entry.path: entry.problem for entry in entries(verify=True)}
    assert listed.keys() == {published, whole}
    assert listed[whole] == ""
    assert listed[published] in str(caught.value)
    assert bool({e.path: e.problem for e in entries()}[published]) is seen
    result = invoke("models")
    assert result.exit_code == 0
    assert whole.name[:8] in result.stdout
    assert (f"damaged: mk1@{published.name[:8]}: " in result.stdout) is seen
    assert invoke("models", "--check").exit_code == 1


def test_damaged_scores_are_listed_and_do_not_stop_the_network(published):
    (published / SCORES).write_text("{")
    assert "not valid json" in entries()[0].problem
    assert load_synthesizer(published, device="cpu").variant == get("mk1")


def test_a_damaged_model_is_not_published_over_and_never_stands_behind_a_bare_name(published, fresh_space):
    other = another(checkpoints_root(), published)
    flip(published)
    with pytest.raises(MrictError, match="changed or damaged; delete the folder"):
        evaluate_variant(get("mk1"), SMOKE, fresh_space, device="cpu")
    cut(WEIGHTS)(published)
    with pytest.raises(MrictError, match=rf"mk1: the newest model is unknown, mk1@{published.name[:8]} is damaged"):
        find("mk1")
    assert find(f"mk1@{other.name[:6]}") == other
    with pytest.raises(MrictError, match=r"expected \d+ bytes of weights"):
        find(f"mk1@{published.name}")


def test_a_folder_under_another_name_is_said_and_still_loads_by_path(published, tmp_path):
    renamed = published.rename(published.with_name("best"))
    assert f"rename the folder to mk1/{read_json(renamed / FACTS)['hash']}" in entries()[0].problem
    elsewhere = Path(shutil.copytree(renamed, tmp_path / "sent by mail"))
    assert load_synthesizer(find(str(elsewhere)), device="cpu").facts.variant == "mk1"


def test_a_model_of_another_variant_names_both(published):
    with pytest.raises(MrictError, match="model of variant 'mk1', expected 'mk2'"):
        load_facts_and_weights(published, "mk2")


TOLD = {"kind": "trained", "label": "full", "demo": False, "generator": "G", "data": {"name": "x"}}


def test_facts_of_other_versions_are_kept_and_missing_ones_have_their_default(published, tmp_path):
    """Only what the generator is made of cannot be guessed."""
    content, networks = read_model(published)["facts"], load_facts_and_weights(published)[1]
    kept = ("key", "variant", "size", "protocol", "window_hu", "epoch")
    fields = {key: content["fields"][key] for key in ("name", "method", "network")} | {"of_tomorrow": 1.0}
    fields["optimizer"] = {"G": {"lr": 0.1, "schedule": {"kind": "warm", "of_tomorrow": 1}}}
    profile = {"width": content["profile"]["width"], "of_tomorrow": 2}
    old = {key: content[key] for key in kept} | {"fields": fields, "profile": profile, "of_tomorrow": 3}
    facts = ModelFacts.from_plain(old, "it")
    assert (facts.precision, facts.plane, facts.epochs, facts.history) == ("float32", "axial", 0, [])
    folder, _ = write_model(tmp_path / "old", facts, networks, **TOLD)
    slices = torch.linspace(-1, 1, 2 * 64 * 64).reshape(2, 64, 64).numpy()
    before, after = (load_synthesizer(path, device="cpu") for path in (published, folder))
    assert (before.slices_to_hu(slices) == after.slices_to_hu(slices)).all()
    assert read_model(folder)["facts"]["of_tomorrow"] == after.facts.others["of_tomorrow"] == 3
    assert entries(tmp_path / "old")[0].problem == ""


UNTRUE = {  # what a model says of itself => what the one line names
    "width": ({"profile": {"width": 100_000}}, "width is 100000, expected a whole number from 1 to 1024"),
    "width text": ({"profile": {"width": "4"}}, "profile.width is '4', expected int"),
    "another width": ({"profile": {"width": 1024}}, "does not fit network G"),
    "no width": ({"profile": {}}, "'profile.width' is missing and cannot be guessed"),
    "no profile": ({"profile": None}, "profile is 'None', expected named values"),
    "size": ({"size": 10**9}, "size is 1000000000, expected"),
    "size nan": ({"size": float("nan")}, "size is "),
    "size true": ({"size": True}, "size is 'True', expected int"),
    "protocol": ({"protocol": "mine"}, "unknown protocol 'mine'"),
    "protocol a list": ({"protocol": ["patient"]}, "protocol is .*, expected str"),
    "window": ({"window_hu": [3000, -1000]}, "window_hu is .*rising"),
    "window endless": ({"window_hu": [-1000, 1e30]}, "window_hu is "),
    "window one": ({"window_hu": 5}, "window_hu is '5', expected list"),
    "method": ({"fields": {"method": {"name": "guess"}}}, "unknown method 'guess'"),
    "generator": ({"fields": {"network": {"G": "unet_z", "D": "patch4"}}}, "unknown .* 'unet_z'"),
    "epoch 0": ({"epoch": 0}, "epoch is 0, expected a trained network"),
    "channels": (
        {"fields": {"network": {"G": {"name": "unet_a", "slope": 0.1, "out_channels": 10**6}, "D": "patch4"}}},
        "does not fit network G",
    ),
    "rate": ({"fields": {"optimizer": {"G": {"lr": "fast"}}}}, "fields.optimizer.G.lr is 'fast', expected float"),
    "schedule": (
        {"fields": {"optimizer": {"G": {"lr": 1.0, "schedule": 3}}}},
        "fields.optimizer.G.schedule is '3', expected named values",
    ),
    "flat": ({"fields": {"generator": "unet_a", "lambda_l1": 1.0}}, "'channels' is missing or unknown"),
}


@pytest.mark.parametrize("what", UNTRUE)
def test_facts_that_cannot_be_are_one_line_before_a_network_is_built(what, published):
    change, message = UNTRUE[what]
    content = read_json(published / FACTS)
    for name, value in change.items():
        merged = content["facts"][name] | value if name == "fields" else value
        content["facts"][name] = merged
    folder = published.rename(published.with_name(model_hash(content)))
    write_json(folder / FACTS, content | {"hash": folder.name})
    with pytest.raises(MrictError, match=message) as caught:
        load_synthesizer(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert folder.name in str(caught.value)
    assert invoke("models").exit_code == 0
    assert isinstance(invoke("models", "--card", f"mk1@{folder.name}").exception, MrictError | None)


HOSTILE = {
    "brackets": (FACTS, b"[" * 100_000),
    "braces": (FACTS, b'{"a":' * 100_000),
    "endless number": (FACTS, b"9" * 10_000),
    "no text": (FACTS, b"\xff\xfe\x00"),
    "null": (FACTS, b"null"),
    "scores in brackets": (SCORES, b"[" * 100_000),
    "scores of words": (SCORES, b'{"summary": {"all": {"mae_hu": {"mean": "low", "n": "many"}}}}'),
    "scores of lists": (SCORES, b'{"summary": {"all": [[]]}}'),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_one_bad_folder_is_listed_and_hides_no_other(what, published, capsys):
    name, content = HOSTILE[what]
    whole = another(checkpoints_root(), published)
    (published / name).write_bytes(content)
    listed = {entry.path: entry.problem for entry in entries()}
    assert listed[whole] == ""
    assert listed[published]
    result = invoke("models")
    assert result.exit_code == 0
    assert f"damaged: mk1@{published.name[:8]}: " in result.stdout
    assert whole.name[:8] in result.stdout
    assert invoke("models", "--json").exit_code == 0


# ------------------------------------------------------------------------------------------------- whole or not at all


def full_disk(self: Path, content: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing(published, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(MrictError, match=r"cannot be written \(No space left on device\); free space"):
        another(tmp_path / "root", published)
    assert [p.name for p in (tmp_path / "root" / "mk1").iterdir() if p.name != ".lock"] == []
    assert entries(tmp_path / "root") == []


def test_a_place_that_cannot_be_written_is_named(published, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mk1").write_text("a file where the variant's folder should be")
    with pytest.raises(MrictError, match=r"root/mk1: cannot be written"):
        another(tmp_path / "root", published)


def test_leftovers_of_a_killed_publication_are_no_models_and_are_swept(published):
    leftover = Path(shutil.copytree(published, published.with_name(".new-0123-abc")))
    assert [entry.path for entry in entries()] == [published]
    another(checkpoints_root(), published)
    assert not leftover.exists()


def test_two_publications_of_a_variant_wait_for_each_other(published, monkeypatch):
    monkeypatch.setattr(folders, "WAIT_S", 0.05)
    lock = filelock.FileLock(published.parent / ".lock")
    with lock, pytest.raises(MrictError, match="another process publishes a model of mk1"):
        another(checkpoints_root(), published)


def test_atomic_folder_never_replaces(tmp_path):
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "a").write_text("first")
    with (
        pytest.raises(MrictError, match="made: exists already and is not replaced"),
        atomic_folder(tmp_path / "made") as temporary,
    ):
        (temporary / "a").write_text("second")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "a").read_text() == "first"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755


# --------------------------------------------------------------------------------------------------- what a name means


def test_names(published, fresh_space, tmp_path):
    root, best = checkpoints_root(), run_of(fresh_space, "mk1").best
    first = another(root, published, seed=1)
    second = another(root, published, seed=2)
    demo = another(root, published, seed=3, demo=True, label="demo")
    judge = another(root, published, seed=4, generator="G_MRI2CT")  # it holds no network of that name
    assert [e.path for e in entries()] == [published, first, second, demo, judge]
    assert [e.path for e in entries() if not e.makes_ct] == [judge]
    expected = {
        "mk1": second,  # the newest, before the newer demo
        f"mk1@{first.name}": first,
        f"mk1@{first.name[:8]}": first,
        f"mk1@{demo.name[:8].upper()}": demo,
        str(best): best,
        str(demo): demo,
        str(demo / FACTS): demo,
        str(demo / WEIGHTS): demo,
    }
    assert {spec: find(spec) for spec in expected} == expected
    assert find(best) == best
    shutil.rmtree(second)
    shutil.rmtree(first)
    assert find("mk1") == demo


def test_an_alias_is_its_variant(published):
    facts, networks = load_facts_and_weights(published)
    told = {"kind": "trained", "label": "full", "demo": False, "generator": "G", "data": {"name": "x"}}
    folder, _ = write_model(checkpoints_root(), dataclasses.replace(facts, variant="mk6_3_4"), networks, **told)
    assert find("mk6_4_3") == find("mk6_3_4") == find(f"mk6_4_3@{folder.name[:4]}") == folder


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mk11", "unknown model 'mk11': did you mean 'mk1'?"),
        ("mk1@zz", r"mk1@zz: no such model in .*; published of mk1: mk1@"),
        ("mk1@", "mk1@: no such model"),
        ("mk2", r"mk2: no model in .*train mk2 --lineage.*import-checkpoint FILE --as mk2"),
        ("no/such/model", "no/such/model: not a model; give a checkpoint"),
        ("gone.pt", r"gone\.pt: not a model; give a checkpoint"),
        ("{root}/mk1", "not a model; give a checkpoint"),
        ("{root}/plain.pth", "python -m mrict_core import-checkpoint FILE --as VARIANT"),
        ("x" * 5000, "unknown model"),
        ("a\0b", "unknown model"),
    ],
)
def test_names_that_mean_nothing(spec, message, published):
    (checkpoints_root() / "plain.pth").write_bytes(b"weights")
    with pytest.raises(MrictError, match=message):
        find(spec.format(root=checkpoints_root()))


def test_a_hash_that_begins_two_models_is_refused(published):
    twins = [another(checkpoints_root(), published, seed=k) for k in range(1, 20)]
    start = next(a for a in "0123456789abcdef" if sum(t.name[0] == a for t in twins) > 1)
    with pytest.raises(MrictError, match=rf"mk1@{start}: matches \d+ models .*give more digits"):
        find(f"mk1@{start}")


def test_what_was_trained_and_not_published_is_found_unless_it_is_ambiguous(fresh_space):
    root = checkpoints_root()
    train_variant(get("mk1"), SMOKE, fresh_space, FEW, **QUIET)
    best = run_of(fresh_space, "mk1").best
    assert find("mk1") == best
    with pytest.raises(MrictError, match="trained and not published"):
        read_card("mk1")
    shutil.copytree(best.parent.parent, root / "another-run" / "mk1")
    with pytest.raises(MrictError, match="mk1: trained in 2 runs, none published"):
        find("mk1")


# ---------------------------------------------------------------------------------------------------- the command line


def test_the_commands(fresh_space, cohort):
    assert invoke("models").stdout.startswith("no published model in ")
    assert json.loads(invoke("models", "--json").stdout) == []
    open_data(fresh_space)
    arguments = ("--profile", "smoke", "--data", str(cohort))
    assert invoke("train", "mk1", *arguments, "--device", "cpu").exit_code == 0
    result = invoke("evaluate", "mk1", *arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    (entry,) = entries()
    assert f"model mk1@{entry.hash}: {entry.path}" in result.stdout
    line = invoke("models").stdout.splitlines()[2]
    assert [w for w in (entry.name, "smoke test (demo)", f"{entry.mae_hu:.1f}", str(entry.path)) if w not in line] == []
    (listed,) = json.loads(invoke("models", "--json").stdout)
    assert (listed["name"], listed["kind"], listed["demo"], listed["problem"]) == (entry.name, "trained", True, "")
    assert invoke("models", "--card", entry.name).stdout == (entry.path / CARD).read_text(encoding="utf-8")
    assert invoke("models", "--check").exit_code == 0
    assert "unknown model" in str(invoke("models", "--card", "mk11").exception)
