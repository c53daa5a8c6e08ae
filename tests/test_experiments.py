"""Experiments: the declared ones have the values of before; values by path; files of other versions."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mrict_core import experiments, paths
from mrict_core.errors import MrictError
from mrict_core.experiments import README_VARIANTS, all_variants, diff, get, lineage, listing, select
from mrict_core.experiments.flat import is_flat, upgraded
from mrict_core.experiments.registry import Registry
from mrict_core.experiments.schema import Experiment, Schedule, as_plain, from_plain, with_values

NAMES = [v.name for v in all_variants()]
FROZEN = json.loads((Path(__file__).parent / "data" / "variants.json").read_text())  # `variants --json` of 2026-11


OF_SCHEDULE = {
    "plateau": ("factor", "patience", "mode"),
    "cosine": ("t_0", "t_mult", "eta_min"),
    "linear": (),
    "warmup_cosine": ("warmup", "eta_min"),
}


@pytest.mark.parametrize("flat", FROZEN["variants"], ids=lambda flat: flat["name"])
def test_a_declared_experiment_has_every_value_of_before(flat):
    assert is_flat(flat)
    before = from_plain(Experiment, upgraded(flat, flat["name"]), flat["name"], strict=True)
    assert experiments.get(flat["name"]) == before


def test_names_order_aliases_and_set_are_those_of_before():
    before = [flat["name"] for flat in FROZEN["variants"]]
    assert [name for name in NAMES if name in before] == before, "a new one may be declared beside its parent"
    assert FROZEN["aliases"].items() <= experiments.REGISTRY.aliases().items()
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


@pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.name)
def test_an_entry_is_well_formed(variant):
    assert re.fullmatch(r"[A-Z0-9m][^\n]{20,}[.?]", variant.why), "why is one sentence"
    above = NAMES[: NAMES.index(variant.name)]
    assert variant.parent is None or variant.parent in above
    assert variant.init_from is None or variant.init_from in above
    assert variant.epochs <= (variant.history.epochs_planned or variant.epochs)
    for optimizer in variant.optimizer.values():
        given = {name for name, value in as_plain(optimizer.schedule).items() if value is not None}
        assert given == {"kind", "watch", *OF_SCHEDULE[optimizer.schedule.kind]}


@pytest.mark.parametrize(("name", "stage"), [("mk6_3_3", "6.3.3.1"), ("mk6_3_4", "917")])
def test_a_start_from_an_unpublished_stage_is_said(name, stage):
    assert stage in get(name).why
    assert "nearest published" in get(name).why


def test_only_the_root_of_the_predecessor_has_no_parent():
    assert "practice_mk2" in [v.name for v in all_variants() if v.parent is None]
    assert diff("practice_mk2") == {}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mk3_1_2_v4_50", {"epochs": (40, 50), "history.epochs_planned": (40, 50)}),
        ("mk6_3_2", {"init_from": ("mk6_3_0", "mk6_3_1"), "optimizer.D.lr": (4.52e-4, 4.5e-4)}),
        (
            "mk3_5_1",
            {"network.D.name": ("patch3", "patch4"), "method.generator_steps": (2, 3), "epochs": (30, 27)},
        ),
    ],
)
def test_diff_gives_old_and_new(name, changes):
    assert diff(name) == changes


def test_lineage_is_the_chain_of_weights():
    chain = "mk3_1_2_v4_50 mk6_1_1 mk6_2_1 mk6_3_0 mk6_3_1 mk6_3_2 mk6_3_3 mk6_3_4".split()  # noqa: SIM905
    assert [v.name for v in lineage("mk6_3_4")] == [v.name for v in lineage(get("mk6_3_4"))] == chain
    assert [v.name for v in lineage("mk3_5")] == ["mk3_5"]


def test_alias_stands_for_the_variant():
    assert get("mk6_4_3") is get("mk6_3_4")
    assert diff("mk6_4_3") == diff("mk6_3_4")
    assert "mk6_4_3" not in NAMES


@pytest.mark.parametrize(
    ("wrong", "near"), [("mk6_3_5", "mk6_3_"), ("mk3_1_2_v4-50", "mk3_1_2_v4_50"), ("cyclgan_mk1", "cyclegan_mk1")]
)
@pytest.mark.parametrize("call", [get, diff, lineage, select, listing.diff_text])
def test_a_misspelt_name_is_an_error_with_the_nearest(call, wrong, near):
    with pytest.raises(MrictError, match=f"unknown variant '{wrong}': did you mean '{near}"):
        call(wrong)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mk1", ["mk1"]),
        (" mk2 , mk1, ", ["mk1", "mk2"]),
        ("mk6_2_0", ["mk3_1_2_v4_50", "mk6_1_1", "mk6_2_0"]),
        ("mk6_2_1,mk6_2_0,mk6_2_1", ["mk3_1_2_v4_50", "mk6_1_1", "mk6_2_0", "mk6_2_1"]),
        ("mk6_4_3,mk6_3_4", [v.name for v in lineage("mk6_3_4")]),
        ("all", NAMES),
        ("readme", [n for n in NAMES if n in {*README_VARIANTS, "mk6_3_2", "mk6_3_3"}]),
        ("readme,mk4", [n for n in NAMES if n in {*README_VARIANTS, "mk6_3_2", "mk6_3_3", "mk4"}]),
    ],
)
def test_select_adds_ancestors_and_keeps_parents_first(text, names):
    assert [v.name for v in select(text)] == names


@pytest.mark.parametrize("text", ["", "  ", ",,"])
def test_select_of_nothing_is_an_error(text):
    with pytest.raises(MrictError, match="give readme, all, or names"):
        select(text)


# ------------------------------------------------------------------------------------------------------ the registry


@pytest.fixture
def registry() -> Registry:
    own = Registry()
    own.add(dataclasses.replace(get("practice_mk2"), name="root"))
    return own


def test_derive_changes_only_what_it_states(registry):
    child = registry.derive("root", "child", {"network.G.dropout": 0.0}, why="Less dropout.")
    assert (child.parent, child.why, child.init_from) == ("root", "Less dropout.", None)
    assert experiments.differing(registry.get("root"), child) == {"network.G.dropout": (0.1, 0.0)}


def test_weights_are_never_inherited(registry):
    registry.derive("root", "child", {}, why="-", init_from="root")
    assert registry.derive("child", "grandchild", {"epochs": 3}, why="-").init_from is None


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"los.l1.weight": 5.0}, {}, "unknown value 'los.l1.weight': did you mean one of loss."),
        ({"epochs": 20}, {}, "'child': epochs does not differ from 'root'; leave it out"),
        ({"epochs": 3}, {"init_from": "later"}, "init_from 'later' must be declared above it"),
    ],
)
def test_derive_refuses(registry, changes, more, message):
    with pytest.raises(MrictError, match=re.escape(message)):
        registry.derive("root", "child", changes, why="-", **more)


def test_a_parent_must_be_declared_above(registry):
    with pytest.raises(MrictError, match="unknown variant 'later'"):
        registry.derive("later", "child", {}, why="-")
    with pytest.raises(MrictError, match="parent 'later' must be declared above it"):
        registry.add(dataclasses.replace(get("mk1"), name="child", parent="later"))


def test_a_name_is_declared_once(registry):
    registry.alias("other", "root")
    for name in ("root", "other"):
        with pytest.raises(MrictError, match=f"'{name}' is declared twice"):
            registry.derive("root", name, {"epochs": 3}, why="-")


def test_an_experiment_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("mk1").epochs = 1


# -------------------------------------------------------------------------------------------------- text, json, docs


def test_table_has_a_line_per_variant_and_fits_the_terminal():
    lines = listing.table().splitlines()
    assert max(map(len, lines)) <= 170
    assert [line.split()[0] for line in lines[2 : 2 + len(NAMES)]] == NAMES
    row = next(line for line in lines if line.startswith("mk6_3_0 "))
    cells = re.split(r"\s{2,}", row)
    assert cells[:6] == ["mk6_3_0", "mk6", "mk6_2_1", "unet_b", "patch4", "GAN + 4.4 P + 5.6 L1"]
    assert cells[6:] == ["1", "6", "2.1e-4/4.55e-4", "3", "0.5/4", "13/13", "brain-new-36"]
    assert "mk6_4_3 = mk6_3_4" in lines[-1]


def test_table_of_a_selection():
    assert [line.split()[0] for line in listing.table(select("mk6_2_0")).splitlines()[2:5]] == [
        "mk3_1_2_v4_50", "mk6_1_1", "mk6_2_0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("mk1", {}, "GAN + 30 P"),
        ("mk3_6", {}, "GAN + 0.1 P3"),
        ("mk4_1", {}, "GAN + 29±3 P"),
        ("mk6_1_0", {}, "GAN + 5 P + 5 L1"),
        ("cyclegan_mk1", {}, "GAN + 0.7 P + 10 cyc + 5 idt"),
        ("mk1", {"loss.gradient_l1.weight": 2.0, "loss.gan": None}, "30 P + 2 gradient_l1"),
        ("mk6_1_0", {"loss.perceptual.weight": 0.0}, "GAN + 5 L1"),
        ("mk6_1_0", {"loss.l1.masked": True}, "GAN + 5 P + 5 masked L1"),
        ("pix2pix_paper", {}, "GAN + 100 L1"),
        ("cyclegan_paper", {}, "LSGAN + 10 cyc + 5 idt"),
        ("unet_l1", {}, "masked L1"),
    ],
)
def test_losses_leave_out_terms_of_weight_zero(name, changes, text):
    assert listing.losses(with_values(get(name), changes)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.1e-4, "3.1e-4"), (4.55e-4, "4.55e-4"), (1e-6, "1e-6"), (0.0, "0"), (0.05, "0.05"), (30.0, "30")],
)
def test_numbers_are_written_short(value, text):
    assert listing.number(value) == text
    assert float(text) == value


def test_json_holds_every_value():
    content = json.loads(listing.as_json())
    assert [from_plain(Experiment, v, "json", strict=True) for v in content["variants"]] == all_variants()
    aliases = {"mk6_4_3": "mk6_3_4", "mk7": "mk7_1", "mk8": "mk8_0", "mk9": "mk9_0", "mk10": "mk10_0"}
    assert content["aliases"] == aliases


@pytest.mark.parametrize("name", NAMES)
def test_diff_text_names_every_change(name):
    lines = listing.diff_text(name).splitlines()
    assert lines[0] == f"{name}: {get(name).why}"
    shown = [line.split()[0] for line in lines if " -> " in line and line.startswith("  ")]
    paths = [path for path in diff(name) if not path.endswith(".function")]
    assert all(any(path.startswith(head) for head in shown) for path in paths)
    assert all(any(path.startswith(head) for path in paths) for head in shown)


def test_a_schedule_is_one_change():
    (line,) = [line for line in listing.diff_text("mk4_1").splitlines() if "G.schedule" in line]
    assert line.split(maxsplit=1)[1] == "plateau 0.5/5 -> plateau 0.4/4"
    assert with_values(get("mk1"), {"optimizer.G.schedule": Schedule()}).optimizer["G"].schedule == Schedule()


def test_diff_text_of_an_alias_says_so():
    assert listing.diff_text("mk6_4_3").startswith("mk6_3_4 (asked for as mk6_4_3): ")


def test_listing_variants_needs_no_heavy_import():
    code = "import sys, mrict_core.experiments.listing as t; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def lineage_page() -> str:
    return (paths.ROOT / "docs" / "lineage.md").read_text(encoding="utf-8")


def test_docs_are_in_step_with_the_code():
    page = lineage_page()
    committed = page.split(listing.BEGIN_MARK)[1].split(listing.END_MARK)[0].strip()
    assert committed == listing.markdown(), "paste: python -m mrict_core.experiments.listing --markdown"


def test_docs_give_the_reported_values_of_every_variant_of_the_predecessor_once():
    section = lineage_page().split("## 3. ")[1].split("## 4. ")[0]
    of_it = [flat["name"] for flat in FROZEN["variants"]]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == sorted(of_it)


def test_docs_name_only_paths_and_variants_that_exist():
    page = lineage_page()
    known = {*NAMES, "mk6_4_3", "mk6_1_2", "practice_mk3"}
    known |= {path for variant in all_variants() for path in experiments.schema.paths_of(variant)}
    known |= {"method.conditional", "method.generator_eval_after_first_validation"}  # in no entry: off
    quoted = set(re.findall(r"`((?:mk|practice|cyclegan)\w*|(?:loss|optimizer|network|method)\.[\w.]+)`", page))
    quoted = {path for path in quoted if not path.endswith(".schedule")}
    assert quoted <= known
    assert quoted >= {"mk6_4_3", "loss.l1.weight"}


def test_markdown_module_prints_the_section(capsys):
    assert listing.main(["--markdown"]) == 0
    assert capsys.readouterr().out.strip() == listing.markdown()
    assert listing.main([]) == 2
    assert "usage" in capsys.readouterr().err
