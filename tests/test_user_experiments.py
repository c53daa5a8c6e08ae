"""A user's own experiments: by --set, by a file, by name afterwards; and the how-to that tells of them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from howto import Howto, run
from typer.testing import CliRunner

from mrict_core import cli, experiments, parts
from mrict_core.errors import MrictError
from mrict_core.evaluation.records import read_metrics
from mrict_core.experiments import Experiment, get, user, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.registry import Registry
from mrict_core.experiments.schema import History
from mrict_core.losses import LOSSES
from mrict_core.methods import check, own_code
from mrict_core.models.catalogue import find
from mrict_core.networks import NETWORKS
from mrict_core.paths import workspace
from mrict_core.training.run import TrainSettings, prepare_run
from mrict_core.training.runs import runs_of


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    """Each test begins as another process would, with nothing trained."""
    forget(monkeypatch)
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))


def forget(monkeypatch) -> None:
    monkeypatch.setattr(experiments, "OF_USER", {})
    user.LOADED.clear()
    parts.RAN.clear()
    monkeypatch.setenv(parts.USERS_FILES, "")


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optimizer.G.lr=1e-4", "optimizer.G.lr", 1e-4),
        ("epochs=3", "epochs", 3),
        ("loss.perceptual=null", "loss.perceptual", None),
        ("optimizer.G.betas=[0, 9e-1]", "optimizer.G.betas", [0, 0.9]),
        ("method.conditional=true", "method.conditional", True),
        ("network.G=unet_b", "network.G", "unet_b"),
        ("data.view={name: slab, neighbours: 2}", "data.view", {"name": "slab", "neighbours": 2}),
        ("family=-odd", "family", "-odd"),
        ("why=a=b", "why", "a=b"),
    ],
)
def test_a_value_is_read_as_yaml_and_a_short_number_as_a_number(text, path, value):
    assert user.parse([text]) == {path: value}
    assert type(user.parse([text])[path]) is type(value)


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (["loss.l1.weight=20"], "mk1+l1.weight=20"),
        (["loss.l1.weight=20.0", "epochs=3"], "mk1+epochs=3+l1.weight=20"),
        (["epochs=3", "loss.l1.weight=20"], "mk1+epochs=3+l1.weight=20"),
        (["optimizer.G.betas=[0.0, 0.9]"], "mk1+G.betas=0.0--0.9"),
        (["optimizer.G.lr=1e-4", "network.G=unet_b"], "mk1+G=unet_b+G.lr=1e-4"),
        (["loss.l1.weight=-5"], "mk1+l1.weight=-5"),
        (["epochs=1000000000000"], "mk1+epochs=1e12"),
        (["loss.perceptual=null", "loss.l1.weight=1"], "mk1+l1.weight=1+perceptual=None"),
    ],
)
def test_a_changed_variant_is_another_one_with_a_name_for_folders(sets, name):
    (changed,) = user.chosen("mk1", sets)
    assert (changed.name, changed.parent, changed.init_from) == (name, "mk1", get("mk1").init_from)
    assert changed.why.startswith("mk1 with ")
    assert get(name) is changed
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert get("mk1") == experiments.REGISTRY.get("mk1")


def test_a_long_name_becomes_a_hash_and_a_chosen_one_is_taken():
    many = [f"optimizer.{role}.schedule.{name}" for role in "GD" for name in ("patience", "t_0", "t_mult")]
    (long,) = user.chosen("mk1", [f"{path}=17" for path in many])
    assert re.fullmatch(r"mk1\+[0-9a-f]{8}", long.name)
    assert user.chosen("mk1", ["epochs=3"], name="mine")[0].name == "mine"


def test_a_change_starts_from_the_same_weights_and_applies_to_each_named_variant():
    found = user.chosen("mk6_1_0,mk2", ["epochs=3"])
    assert [one.name for one in found] == ["mk6_1_0+epochs=3", "mk2+epochs=3"]
    chain = experiments.with_ancestors(found)
    assert [one.name for one in chain] == ["mk3_1_2_v4_50", "mk6_1_0+epochs=3", "mk2+epochs=3"]


@pytest.mark.parametrize(
    ("name", "change", "profile", "words"),
    [
        ("mk1", "data.batch_size=4", {}, "data.batch_size is 4, but profile smoke trains with batches of 8"),
        ("mk1", "data.batch_size=8", {}, ""),
        ("mk1", "data.batch_size=4", {"batch_size": None}, ""),
        ("mk1", "epochs=3", {}, "epochs is 3, but profile smoke trains for 1 epoch"),
        ("mk1", "epochs=3", {"minutes": 2.0}, "epochs is 3, but profile smoke trains for 2 minutes"),
        ("mk7_1", "steps=9", {}, "steps is 9, but profile smoke trains for 4 steps"),
        ("mk7_1", "steps=9", {"steps": None}, ""),
        ("mk7_1", "epochs=9", {}, "epochs is 9, but profile smoke trains in 1 round"),
        ("mk7_1", "epochs=9", {"epochs_max": None, "epoch_fraction": 1.0}, ""),
        ("mk8_0", "data.batch_size=3", {}, ""),
        ("mk1", "optimizer.G.lr=1e-3", {}, ""),
    ],
)
def test_a_value_that_the_profile_replaces_is_reported(name, change, profile, words, space):
    (variant,), lines = user.chosen(name, [change]), []
    profile = dataclasses.replace(get_profile("smoke"), **profile)
    prepare_run(variant, profile, space, TrainSettings(), report=lines.append)
    assert [line for line in lines if "but profile" in line] == ([f"{variant.name}: {words}"] if words else [])


@pytest.mark.parametrize(
    ("text", "sets", "name", "message"),
    [
        ("mk1", ["los.l1.weight=2"], "", "unknown value 'los.l1.weight': did you mean one of loss."),
        ("mk1", ["epochs=15"], "", "epochs: 15 is already the value of mk1; leave it out"),
        ("mk1", ["epochs=many"], "", "--set: epochs is 'many', expected int"),
        ("mk1", ["epochs"], "", "--set epochs: expected PATH=VALUE"),
        ("mk1", ["=3"], "", "--set =3: expected PATH=VALUE"),
        ("mk1", ["epochs=["], "", "--set epochs=[: the value is not yaml"),
        ("mk1", ["name=x"], "", "--set name: names an experiment and does not change it"),
        ("mk1", [], "x", "--name x: names one variant changed by --set"),
        ("mk1,mk2", ["epochs=3"], "x", "--name x: names one variant changed by --set"),
        ("mk1", ["epochs=3"], "mk2", "experiment 'mk2': a declared variant has that name"),
        ("mk1", ["epochs=3"], "mk6_4_3", "experiment 'mk6_4_3': a declared variant has that name"),
        ("mk1", ["epochs=3"], "../x", "experiment '../x': not a name for folders"),
        ("mk1", ["epochs=3"], "baseline_x", "experiment 'baseline_x': not a name for folders"),
        ("mk7_9", ["epochs=3"], "", "unknown variant 'mk7_9'"),
        ("", [], "", "no variant in ''"),
    ],
)
def test_what_cannot_be_is_refused(text, sets, name, message):
    with pytest.raises(MrictError, match=re.escape(message)) as caught:
        user.chosen(text, sets, name=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [["--set", "loss.l2.weight=1"], ["--set", "network.G=unet_z"]])
def test_a_name_that_no_registry_knows_is_refused_before_anything_is_written(option, tmp_path):
    result = CliRunner().invoke(cli.app, ["train", "mk1", "--profile", "smoke", *option])
    assert isinstance(result.exception, MrictError)
    assert "did you mean" in str(result.exception)
    assert not (tmp_path / "checkpoints").exists()


YAML = """
parent: mk1
name: mine
why: Why not?
loss.l1.weight: 20
optimizer: {G: {lr: 1e-4, schedule: {patience: 9}}}
network: {G: {name: unet_b, slope: 0.2}}
"""


def written(folder: Path, content: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_a_yaml_file_states_what_it_changes_by_path_or_nested(tmp_path):
    (mine,) = user.load(written(tmp_path, YAML))
    assert (mine.name, mine.parent, mine.why, mine.init_from) == ("mine", "mk1", "Why not?", None)
    assert (mine.loss["l1"].weight, mine.optimizer["G"].lr) == (20.0, 1e-4)
    assert mine.optimizer["G"].schedule == dataclasses.replace(get("mk1").optimizer["G"].schedule, patience=9)
    assert mine.network["G"].options == {"slope": 0.2}, "a part with a name replaces what was there"
    assert mine.network["D"] == get("mk1").network["D"]


def test_an_experiment_without_a_parent_states_everything(tmp_path):
    whole = "{name: own, method: pix2pix, network: {G: unet_a, D: patch4}, optimizer: {G: {lr: 1e-3}}, epochs: 2}"
    (own,) = user.load(written(tmp_path, whole))
    assert (own.parent, own.network["G"].name, own.optimizer["G"].lr) == (None, "unet_a", 1e-3)


def test_a_python_file_defines_or_derives(tmp_path):
    code = """
        from mrict_core.experiments import get, with_values
        from mrict_core.experiments.user import derive
        base = get("mk2")
        for k in (1, 2):
            derive("mk1", f"steps_{k}x", {"epochs": k}, why="-")
        derive("steps_1x", "child", {"epochs": 9})
        both = [with_values(base, {"epochs": 7}, name="listed", parent="mk2")]
    """
    found = user.load(written(tmp_path, code.replace("\n        ", "\n"), "my.py"))
    assert [one.name for one in found] == ["steps_1x", "steps_2x", "child", "listed"]
    assert experiments.diff("child") == {"epochs": (1, 9)}
    assert [one.name for one in user.chosen("child", files=[tmp_path / "my.py"])] == ["child"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.json", "{}", "expected a file of experiments, .py, .yaml, .yml"),
        ("my.yaml", "", "defines no experiment"),
        ("my.yaml", "[a", "not yaml"),
        ("my.yaml", "hello", "expected named values"),
        ("my.yaml", "parent: mk1", "'name' is missing"),
        ("my.yaml", "{name: null, parent: mk1}", "'name' is missing"),
        ("my.yaml", "&a [*a]", "yaml with an alias"),
        ("my.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nname: bomb\nparent: mk1", "yaml with an alias"),
        ("my.yaml", f"{{name: x, parent: mk1, epochs: {'9' * 5000}}}", "not yaml"),
        ("my.yaml", "[{name: x, parent: mk1, epochs: 2}, {name: x, parent: mk1, epochs: 3}]", "two experiments of one"),
        ("my.yaml", "{name: x, parent: mk99}", "unknown variant 'mk99'"),
        ("my.yaml", "{name: x, parent: mk1, epoch: 3}", "unknown field 'epoch': did you mean 'epochs'"),
        (
            "my.yaml",
            "{name: x, parent: mk1, network: {G: {dropou: 1, name: 3}}}",
            "network.G.name is '3', expected str",
        ),
        ("my.yaml", "{name: x, parent: mk1, init_from: y}", "unknown variant 'y'"),
        ("my.yaml", "{name: x, method: pix2pix}", "'network' is missing and cannot be guessed"),
        ("my.yaml", "{name: x, epochz: 3}", "unknown field 'epochz': did you mean 'epochs'"),
        ("my.py", "x = 1", "defines no experiment"),
        ("my.py", "x = 1\n1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("my.py", "def (", "SyntaxError"),
        ("my.py", "import sys\nsys.exit(3)", "line 2: SystemExit"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_its_name(name, content, message, tmp_path):
    path = written(tmp_path, content, name)
    with pytest.raises(MrictError, match=re.escape(message)) as caught:
        user.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named_once(tmp_path):
    with pytest.raises(MrictError, match=r"nope\.yaml: ") as caught:
        user.load(tmp_path / "nope.yaml")
    assert str(caught.value).count("nope.yaml") == 1


# --------------------------------------------------------------------------------------------------- parts of one's own

LOSS = """
    from mrict_core.losses import LOSSES

    @LOSSES.register("{name}")
    def term(out, batch, *, power: float = 2.0):
        return ((out.fake_B - batch.real_B).abs() ** power).mean()
"""


def loss_file(folder: Path, name: str, more: str = "") -> Path:
    text = LOSS.format(name=name).replace("\n    ", "\n") + more
    return written(folder, text, f"{name}.py")


def test_a_file_may_register_parts_alone(tmp_path):
    path = loss_file(tmp_path, "lonely")
    (changed,) = user.chosen("mk1", ["loss.lonely.weight=2"], [path], check=check)
    assert changed.loss["lonely"].weight == 2
    assert own_code(changed) == {"lonely.py": parts.RAN[str(path)]}
    assert own_code(get("mk1")) == {}
    with pytest.raises(MrictError, match=r"lonely.py: defines no experiment; name the variant that uses its parts"):
        user.chosen(files=[path])


def test_two_files_cannot_register_one_name(tmp_path):
    first, second = (loss_file(tmp_path / folder, "twice") for folder in "ab")
    user.load(first)
    user.load(first)  # the same again
    with pytest.raises(MrictError, match=rf"{second}: loss 'twice' is already registered in {first}"):
        user.load(second)


def test_processes_that_follow_run_the_named_files_when_they_miss_a_part_or_a_name(tmp_path, monkeypatch):
    more = "from mrict_core.experiments.user import derive\nderive('mk1', 'followed', {'loss.later.weight': 1})\n"
    user.load(loss_file(tmp_path, "later", more))
    named = os.environ[parts.USERS_FILES]
    child = [sys.executable, "-c", CHILD]
    assert subprocess.run(child, check=True, capture_output=True, text=True).stdout == "followed {'later': 1.0}\n"
    monkeypatch.setenv(parts.USERS_FILES, "")
    assert "unknown variant 'followed'" in subprocess.run(child, capture_output=True, text=True).stderr
    forget(monkeypatch)
    monkeypatch.setenv(parts.USERS_FILES, named)
    monkeypatch.delitem(LOSSES, "later")
    check(with_values(get("mk1"), {"loss.later.weight": 1}, name="by_part"))


CHILD = """
from mrict_core.experiments import get
from mrict_core.methods import check
one = get("followed")
check(one)
print(one.name, {name: term.weight for name, term in one.loss.items() if name == "later"})
"""


def test_a_file_is_not_run_because_a_model_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path / "reports"))
    path = written(tmp_path, NETWORK, "net.py")
    own = ["mk1", "--set", "network.G=own_net", "--name", "with_net", "--experiment", str(path), "--profile", "smoke"]
    for name in ("train", "evaluate"):
        run(["python", "-m", "mrict_core", name, *own])
    (trained,) = runs_of(workspace("smoke"), "with_net")
    assert trained.versions["net.py"] == parts.RAN[str(path)]
    assert trained.todays
    volume = next((tmp_path / "data").glob("phantom/**/mr.nii.gz"))
    synthesize = ["synthesize", str(volume), "--output", str(tmp_path / "ct.nii.gz"), "--model", "with_net"]
    path.write_text(NETWORK + "# changed\n")
    forget(monkeypatch)
    monkeypatch.delitem(NETWORKS, "own_net")
    for arguments in (synthesize, ["train", "with_net", "--profile", "smoke"]):
        with pytest.raises(MrictError, match=r"unknown network 'own_net'.*; .*add --experiment net\.py$"):
            CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    run(["python", "-m", "mrict_core", *synthesize, "--experiment", str(path)])
    assert not runs_of(workspace("smoke"), "with_net")[0].todays


NETWORK = """
from torch import nn
from mrict_core.networks import NETWORKS

@NETWORKS.register("own_net")
def own_net(in_channels: int, out_channels: int = 1, width: int = 8):
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, out_channels, 1), nn.Tanh())
"""


# ------------------------------------------------------------------------------------------------------- the how-to


@pytest.fixture
def followed(tmp_path, monkeypatch) -> list[str]:
    """Everything that docs/howto/variant.md says, done in profile smoke; returns what the commands printed."""
    for name in ("DATA", "REPORTS"):
        monkeypatch.setenv(f"MRICT_{name}", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    howto = Howto("variant")
    howto.write(tmp_path)
    printed = []
    for command in howto.commands():
        forget(monkeypatch)  # each is a process of its own
        more = [] if command[3] == "variants" else ["--profile", "smoke"]
        printed.append(run(command, *more).stdout)
    forget(monkeypatch)
    return printed


def test_the_how_to_is_followed_to_its_end(followed, tmp_path):
    space = workspace("smoke")
    changed = "mk1+l1.weight=20+G.lr=1e-4"
    names = {changed, "my_l1", "my_l1_polished", "my_l1_5"}
    assert {path.name for path in space.checkpoints.iterdir()} == names
    assert {record["name"] for record in read_metrics(space.metrics) if record["kind"] == "variant"} == {
        *(changed, "my_l1_polished"),
    }
    assert any("loss.l1.weight" in text and "-> 20" in text for text in followed)
    page = (space.reports / "index.html").read_text(encoding="utf-8")
    assert changed in page
    assert "Does a second round without a perceptual term help?" in page
    for name in names:  # without the files, from what was trained
        (trained,) = runs_of(space, name)
        assert experiments.from_plain(Experiment, trained.fields, name) == get(name)
    assert find("my_l1_polished").parent.name == "my_l1_polished"
    shutil.rmtree(space.checkpoints)
    assert get("my_l1_polished").init_from == "my_l1", "a published model holds the whole experiment"
    with pytest.raises(MrictError, match="unknown variant 'my_l1'"):
        get("my_l1")
    assert experiments.diff("my_l1_polished") == {}


def test_the_entry_of_the_how_to_is_an_entry():
    registry = Registry()
    for variant in experiments.all_variants():
        registry.add(variant)
    exec(Howto("variant").file("mrict_core/experiments/mk.py"), {"_derive": registry.derive})
    new = registry.all()[-1]
    assert experiments.differing(get("mk6_3_4"), new) == {
        "method.generator_eval_after_first_validation": (None, True),
    }


def test_a_users_variant_was_never_run_by_the_predecessor():
    assert get("mk1").history.dataset == "Brain processed"
    (own,) = user.chosen("mk1", sets=["loss.l1.weight=20"])
    assert own.history == user.derive("mk1", "own", {"epochs": 2}).history == History()
