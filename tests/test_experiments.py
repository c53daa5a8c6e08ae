"""Experiments: the declared ones have the values of before; values by path; files of other versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrict_core import experiments
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment, as_plain, from_plain, with_values
from mrict_core.legacy.flat_variant import is_flat, upgraded

FROZEN = json.loads((Path(__file__).parent / "data" / "variants.json").read_text())  # `variants --json` of 2026-11


@pytest.mark.parametrize("flat", FROZEN["variants"], ids=lambda flat: flat["name"])
def test_a_declared_experiment_has_every_value_of_before(flat):
    assert is_flat(flat)
    before = from_plain(Experiment, upgraded(flat), flat["name"], strict=True)
    assert experiments.get(flat["name"]) == before


def test_names_order_aliases_and_set_are_those_of_before():
    assert [e.name for e in experiments.all_variants()][: len(FROZEN["variants"])] == [
        flat["name"] for flat in FROZEN["variants"]
    ]
    assert experiments.REGISTRY.aliases() == FROZEN["aliases"]
    assert list(experiments.README_VARIANTS) == FROZEN["readme"]


@pytest.mark.parametrize("experiment", experiments.all_variants(), ids=lambda e: e.name)
def test_plain_values_and_back(experiment):
    plain = json.loads(json.dumps(as_plain(experiment)))
    assert from_plain(Experiment, plain, "here", strict=True) == experiment


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("loss.l1.weight", 20, lambda e: e.loss["l1"].weight),
        ("loss.gradient_l1.weight", 5.0, lambda e: e.loss["gradient_l1"].weight),
        ("network.G", "unet_b", lambda e: e.network["G"].name),
        ("network.G.dropout", 0.3, lambda e: e.network["G"].options["dropout"]),
        ("optimizer.D.schedule.patience", 7, lambda e: e.optimizer["D"].schedule.patience),
        ("data.view", "slab", lambda e: e.data.view.name),
        ("method.generator_steps", 4, lambda e: e.method.options["generator_steps"]),
        ("early_stop_patience", None, lambda e: e.early_stop_patience),
    ],
)
def test_a_value_by_path(path, value, read):
    before = experiments.get("mk1")
    assert read(with_values(before, {path: value})) == value
    assert experiments.get("mk1") == before == experiments.get("mk1")


def test_a_term_is_taken_away():
    assert "perceptual" not in with_values(experiments.get("mk1"), {"loss.perceptual": None}).loss


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("los.l1.weight", 1.0, "los"),
        ("epochz", 1, "epochs"),
        ("epochs", "many", "epochs"),
        ("data.batchsize", 3, "batch_size"),
        ("optimizer.G.schedule.kindd", "cosine", "kind"),
        ("loss.l1.weight", "much", "loss.l1.weight"),
        ("epochs.two", 1, "epochs"),
    ],
)
def test_a_wrong_path_or_value_is_refused(path, value, message):
    with pytest.raises(MrictError, match=message):
        with_values(experiments.get("mk1"), {path: value})


def test_a_field_at_its_default_does_not_decide():
    assert "early_stop_patience" not in experiments.deciding(experiments.get("mk3_1_2_v4"))
    assert experiments.deciding(experiments.get("mk1"))["loss"] == {
        "gan": {},
        "perceptual": {"weight": 30.0, "features": "vgg19_pool5", "distance": "mse"},
    }
