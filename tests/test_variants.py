"""The experiments against a second transcription of the predecessor's tables, and the rules of the registry."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from mrict_core import paths, variant_tables
from mrict_core.errors import MrictError
from mrict_core.variant import FIELDS, Registry, Schedule, Score, Variant
from mrict_core.variants import README_VARIANTS, all_variants, diff, get, lineage, select

NAMES = [v.name for v in all_variants()]

# One row per experiment, typed from the record of the predecessor and not from variants.py; nothing is inherited.
# G: network, dropout, slope. D: network, dropout. P*: the relu3_3 L1 form. score: Fid, Vgg, Ssim, L_G, xBOOST.
FACTS = """
name           ch G  drop slp D      drop P    L1  y   gp   lr_G    lr_D    b1 k  bat sched   score          es run pln dataset         pairs init
practice_mk2   3  a  .1  .15 scalar .38  45    0   .85 10   2e-4    4.5e-5  .5 2  16  .5/5    L1             10 20  20  processed       570   -
practice_mk4   3  a  .1  .15 scalar .35  45    0   .95 15   2e-4    5.5e-5  .5 2  16  .5/5    F.5,V.5        10 13  60  processed       570   -
practice_mk5   3  a  .1  .15 scalar .34  45    0   .95 15   1.8e-4  5.5e-5  .5 2  16  .5/5    F.5,V.5        10 34  60  processed       570   -
mk1            1  a  .1  .14 patch4 .35  30    0   .95 14   2e-4    5.5e-5  .5 2  30  .5/5    F.5,V.5        10 15  15  Brain_processed 5849  -
mk2            1  a  .1  .14 patch4 .35  30    0   .95 13   2e-4    5.5e-5  .5 3  30  .5/5    F.5,V.5        10 2   2   brain           5849  -
mk3_0          1  b  .1  .14 patch4 .35  30    0   .95 13   2e-4    5.5e-5  .5 3  30  .5/5    F.5,V.5        10 5   5   brain           5849  -
mk3            1  b  .1  .14 patch4 .32  30    0   .95 12   2.5e-4  5e-5    .5 3  30  .5/5    F.5,V.5        10 10  10  brain-10        1610  -
mk4            1  a  .1  .14 patch4 .34  29    0   1   12.2 2e-4    5.5e-5  .5 3  30  .5/5    F.5,V.5        10 19  50  brain-10        1610  -
mk4_1          1  a  .1  .14 patch4 .34  29±3  0   1   12.2 2.2e-4  5.9e-5  .5 3  30  .4/4    F.5,V.5        10 49  50  brain-10        1610  -
mk3_1          1  b  .1  .14 patch3 .34  .1    0   .95 12   2.5e-4  5e-5    .5 3  30  .5/5    F.5,V.5        10 18  30  brain-10        1610  -
mk3_2          1  b  .1  .14 patch3 .35  .2    0   .95 12   2.6e-4  5e-5    .5 3  30  .5/5    F.5,V.5        10 15  25  brain-10        1610  -
mk3_3          1  b  .2  .14 patch3 .34  .3    0   .95 12   3e-4    2e-5    .5 4  30  .5/5    F.5,V.5        10 11  30  brain-10        1610  -
mk3_4          1  b  .1  .14 patch3 .25  .1    0   .95 12   1e-4    2e-5    .5 2  30  .5/5    F.5,V.5        10 21  25  brain-10        1610  -
mk3_5          1  b  .1  .14 patch3 .2   .1    0   .95 12   1e-4    5e-5    .5 2  30  .5/5    F.5,V.5        10 30  30  brain-10        1610  -
mk3_5_1        1  b  .1  .14 patch4 .2   .1    0   .95 12   1e-4    5e-5    .5 3  30  .5/5    F.5,V.5        10 27  30  brain-10        1610  -
mk3_1_1        1  b  .1  .14 patch4 .35  .1    0   .90 12   3e-4    7e-5    .5 4  30  .5/4    F.5,V.5        10 11  50  brain-10        1610  -
mk3_1_2        1  b  .1  .14 patch4 .32  .7    0   .90 12   3.1e-4  6e-5    .5 4  30  .5/4    F.5,V.5        10 50  50  brain-10        1610  -
mk3_1_2_copy1  1  b  .1  .14 patch4 .32  .1    0   .90 12   3.1e-4  6e-5    .5 4  30  .5/4    F.5,V.5        10 11  50  brain-36        5849  -
mk3_1_2_copy2  1  b  .1  .14 patch4 .32  .7    0   .90 12   3.1e-4  6e-5    .5 4  30  .5/4    F.5,V.5        10 16  50  brain-36        5849  -
mk3_6          1  b  .1  .14 patch4 .32  .1*   0   .90 12   3.1e-4  6e-5    .5 2  30  .5/4    F1             10 14  50  brain-36        5849  -
mk3_6_1        1  b  .1  .14 patch4 .4   .1*   0   .90 12   3.1e-4  6e-5    .5 3  30  .5/4    F1             10 28  50  brain-10        1610  -
cyclegan_mk1   1  b  .1  .14 patch4 .32  .7    0   .90 12   3.1e-4  6e-5    .5 1  20  .5/4    F.25,V.25      10 25  25  brain-new-10    1610  -
cyclegan_mk2   1  b  .1  .14 patch4 .32  .7    0   .90 12   3.1e-4  6e-5    .5 1  20  .5/4    F.25,V.25      10 10  10  brain-new-10    1610  -
mk3_1_2_v2     1  b  .1  .14 patch4 .32  .7    0   .90 12   3.1e-4  6e-5    .5 4  30  .5/4    F.5,V.5        10 16  35  brain-new-36    5849  -
mk3_1_2_v3     1  b  .1  .14 patch4 .2   .7    0   .90 12   3.1e-4  2e-5    .5 4  30  .5/4    F.5,V.5        10 15  30  brain-new-10    1610  -
mk3_1_2_v4     1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  40  40  brain-new-36    5849  -
mk3_1_2_v4_30  1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  30  30  brain-new-36    5849  -
mk3_1_2_v4_50  1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  50  50  brain-new-36    5849  -
mk3_1_2_v4_60  1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  60  60  brain-new-36    5849  -
mk3_1_2_v4_100 1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  100 100 brain-new-36    5849  -
mk3_1_2_v4_200 1  b  .05 .14 patch4 .1   10    0   .90 5    1e-4    2e-4    0  3  32  .5/4    F.5,V.5        -  200 200 brain-new-36    5849  -
mk6_0_0        1  b  .05 .14 patch4 .1   10    0   .9  5    1.5e-4  3.5e-4  0  3  32  .5/4    F1,V1          -  10  10  brain-new-36    5849  mk3_1_2_v4_50
mk6_0_1        1  b  .05 .14 patch4 .1   10    0   .9  5    1.5e-4  3.5e-4  0  3  32  .5/4    F1,V1          -  11  11  brain-new-36    5849  mk3_1_2_v4_50
mk6_0_3        1  b  .05 .14 patch4 .1   10    0   .9  5    1.5e-4  3.5e-4  0  3  32  .5/4    F1,S100        -  14  20  brain-new-36    5849  mk3_1_2_v4_50
mk6_1_0        1  b  .05 .14 patch4 .1   5     5   .9  5    1.5e-4  3.5e-4  0  3  32  .5/4    F1,S200        -  12  14  brain-new-36    5849  mk3_1_2_v4_50
mk6_1_1        1  b  .05 .14 patch4 .1   5     5   .9  5    1.5e-4  3.6e-4  0  3  32  .5/4    F1,S200,x15    -  10  10  brain-new-36    5849  mk3_1_2_v4_50
mk6_2_0        1  b  .05 .14 patch4 .1   5     5   .9  5    1.5e-4  3.6e-4  0  3  32  .5/4    F1,S200,x15    -  7   8   brain-new-36    5849  mk6_1_1
mk6_2_1        1  b  .05 .14 patch4 .1   4.5   5.5 .9  5    1.6e-4  3.8e-4  0  3  32  .5/4    F1,S250,x12    -  13  13  brain-new-36    5849  mk6_1_1
mk6_3_0        1  b  .05 .14 patch4 .1   4.4   5.6 1   6    2.1e-4  4.55e-4 0  3  32  .5/4    F.9,S300,x12   -  13  13  brain-new-36    5849  mk6_2_1
mk6_3_1        1  b  .05 .14 patch4 .1   4.4   5.6 1   6    2.1e-4  4.52e-4 0  3  32  .5/4    F.9,S300,x12   -  13  13  brain-new-36    5849  mk6_3_0
mk6_3_2        1  b  .05 .14 patch4 .1   4.4   5.6 1   6    2.1e-4  4.5e-4  0  3  32  .5/4    F.9,S300,x12   -  13  13  brain-new-36    5849  mk6_3_1
mk6_3_3        1  b  .05 .14 patch4 .1   4.2   5.8 1   6    2.5e-4  4.9e-4  0  3  32  .8/4max F.7,S350,x15   -  13  13  brain-new-36    5849  mk6_3_2
mk6_3_4        1  b  .05 .14 patch4 .1   9     9   1   9    2e-5    3.9e-5  .5 3  32  cosine  F.7,S300,x10   -  13  13  brain-new-36    5849  mk6_3_3
"""  # noqa: E501
ROWS = [line.split() for line in FACTS.strip().splitlines()[1:]]
SCORE_KEYS = {"F": "fid", "V": "vgg", "S": "ssim", "L": "loss_g", "x": "boost_epochs"}


def expected_schedule(text: str) -> Schedule:
    if text == "cosine":
        return Schedule("cosine", t_0=3, t_mult=2, eta_min=1e-6)
    factor, patience, mode = re.fullmatch(r"([.\d]+)/(\d+)(max)?", text).groups()
    return Schedule("plateau", factor=float(factor), patience=int(patience), mode=mode or "min")


def expected(row: list[str]) -> dict[str, object]:
    name, ch, g, g_drop, slope, d, d_drop, p, l1, label, gp, lr_g, lr_d, beta1, k, batch, sched, score, *rest = row
    stop, run, planned, dataset, pairs, init = rest
    weight, step = re.fullmatch(r"([.\d]+)(?:±(\d+))?\*?", p).groups()
    cyclegan = name.startswith("cyclegan")
    return {
        "name": name,
        "method": "cyclegan" if cyclegan else "pix2pix",
        "channels": int(ch),
        "generator": f"unet_{g}",
        "generator_dropout": float(g_drop),
        "generator_slope": float(slope),
        "discriminator": d,
        "discriminator_dropout": float(d_drop),
        "conditional_discriminator": False,
        "lambda_gan": 1.0,
        "perceptual": "vgg19_relu3_3_l1" if p.endswith("*") else "vgg19_pool5_mse",
        "lambda_perceptual": float(weight),
        "lambda_perceptual_step": float(step or 0),
        "lambda_l1": float(l1),
        "lambda_cycle": 10.0 if cyclegan else 0.0,
        "lambda_identity": 5.0 if cyclegan else 0.0,
        "real_label": float(label),
        "lambda_gp": float(gp),
        "image_pool": 0,
        "lr_generator": float(lr_g),
        "lr_discriminator": float(lr_d),
        "beta1": float(beta1),
        "beta2": 0.999,
        "generator_steps": int(k),
        "batch_size": int(batch),
        "schedule": expected_schedule(sched),
        "schedule_discriminator": expected_schedule(sched if sched != ".8/4max" else ".5/4"),
        "score": Score(**{SCORE_KEYS[part[0]]: float(part[1:]) for part in score.split(",")}),
        "early_stop_patience": None if stop == "-" else int(stop),
        "epochs": int(run),
        "epochs_planned": int(planned),
        "dataset": dataset.replace("_", " "),
        "training_pairs": int(pairs),
        "init_from": None if init == "-" else init,
        "generator_eval_after_first_validation": False,
        "select_by": "mae_hu",
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_values_are_those_of_the_record(row):
    facts = expected(row)
    variant = get(row[0])
    assert {f: getattr(variant, f) for f in facts} == facts
    assert set(FIELDS) - set(facts) == {"why", "parent", "family"}


def test_every_experiment_is_declared_and_no_other():
    assert sorted(NAMES) == sorted(row[0] for row in ROWS)
    assert len(set(NAMES)) == len(NAMES) == 43


@pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.name)
def test_an_entry_is_well_formed(variant):
    assert variant.family == variant.name.split("_")[0]
    assert re.fullmatch(r"[A-Z0-9m][^\n]{20,}[.?]", variant.why), "why is one sentence"
    above = NAMES[: NAMES.index(variant.name)]
    assert variant.parent is None or variant.parent in above
    assert variant.init_from is None or variant.init_from in above
    assert variant.epochs <= variant.epochs_planned
    assert (variant.perceptual == "none") == (variant.lambda_perceptual == 0)
    assert variant.method == "cyclegan" or not (variant.lambda_cycle or variant.lambda_identity or variant.image_pool)
    for schedule in (variant.schedule, variant.schedule_discriminator):
        plateau = (schedule.factor, schedule.patience, schedule.mode)
        cosine = (schedule.t_0, schedule.t_mult, schedule.eta_min)
        given, left_out = (plateau, cosine) if schedule.kind == "plateau" else (cosine, plateau)
        assert None not in given
        assert set(left_out) == {None}


@pytest.mark.parametrize(("name", "stage"), [("mk6_3_3", "6.3.3.1"), ("mk6_3_4", "917")])
def test_a_start_from_an_unpublished_stage_is_said(name, stage):
    assert stage in get(name).why
    assert "nearest published" in get(name).why


def test_only_the_root_has_no_parent():
    assert [v.name for v in all_variants() if v.parent is None] == ["practice_mk2"]
    assert diff("practice_mk2") == {}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mk3_1_2_v4_50", {"epochs": (40, 50), "epochs_planned": (40, 50)}),
        ("mk6_3_2", {"init_from": ("mk6_3_0", "mk6_3_1"), "lr_discriminator": (4.52e-4, 4.5e-4)}),
        ("mk3_5_1", {"discriminator": ("patch3", "patch4"), "generator_steps": (2, 3), "epochs": (30, 27)}),
    ],
)
def test_diff_gives_old_and_new(name, changes):
    assert diff(name) == changes


def test_lineage_is_the_chain_of_weights():
    chain = "mk3_1_2_v4_50 mk6_1_1 mk6_2_1 mk6_3_0 mk6_3_1 mk6_3_2 mk6_3_3 mk6_3_4".split()  # noqa: SIM905
    assert [v.name for v in lineage("mk6_3_4")] == chain
    assert [v.name for v in lineage("mk3_5")] == ["mk3_5"]


def test_alias_stands_for_the_variant():
    assert get("mk6_4_3") is get("mk6_3_4")
    assert diff("mk6_4_3") == diff("mk6_3_4")
    assert "mk6_4_3" not in NAMES


@pytest.mark.parametrize(
    ("wrong", "near"), [("mk6_3_5", "mk6_3_"), ("mk3_1_2_v4-50", "mk3_1_2_v4_50"), ("cyclgan_mk1", "cyclegan_mk1")]
)
@pytest.mark.parametrize("call", [get, diff, lineage, select, variant_tables.diff_text])
def test_a_misspelt_name_is_an_error_with_the_nearest(call, wrong, near):
    with pytest.raises(MrictError, match=f"unknown variant '{wrong}': did you mean '{near}"):
        call(wrong)


def test_readme_set_holds_what_it_promises():
    readme_of_the_predecessor = {
        "mk6_3_4", "mk3_1_2", "mk3_1_2_v4_50", "mk6_0_1", "mk6_0_3", "mk6_1_0", "mk6_1_1", "mk6_2_0", "mk6_2_1",
        "mk6_3_0", "mk6_3_1",
    }  # fmt: skip
    others = {"cyclegan_mk1", "cyclegan_mk2", "mk1", "mk2", "mk3_5", "mk3_6"}
    assert set(README_VARIANTS) == readme_of_the_predecessor | others
    assert len(README_VARIANTS) == 17


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


# ------------------------------------------------------------------------------------------------ registry rules


@pytest.fixture
def registry() -> Registry:
    own = Registry()
    own.add(dataclasses.replace(get("practice_mk2"), name="root"))
    return own


def test_derive_changes_only_what_it_states(registry):
    child = registry.derive("root", "child", why="Less dropout.", generator_dropout=0.0)
    assert (child.parent, child.why, child.init_from) == ("root", "Less dropout.", None)
    assert registry.diff("child") == {"generator_dropout": (0.1, 0.0)}


def test_weights_are_never_inherited(registry):
    registry.derive("root", "child", why="-", init_from="root")
    assert registry.derive("child", "grandchild", why="-", epochs=3).init_from is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lamda_l1": 5.0}, "unknown variant field 'lamda_l1': did you mean 'lambda_l1'"),
        ({"beta1": 0.5}, "'child': beta1 does not differ from 'root'; leave it out"),
        ({"schedule": Schedule("plateau", factor=0.5, patience=5, mode="min")}, "schedule does not differ"),
        ({"init_from": "later"}, "init_from 'later' must be declared above it"),
    ],
)
def test_derive_refuses(registry, arguments, message):
    with pytest.raises(MrictError, match=re.escape(message)):
        registry.derive("root", "child", why="-", **arguments)


def test_a_parent_must_be_declared_above(registry):
    with pytest.raises(MrictError, match="unknown variant 'later'"):
        registry.derive("later", "child", why="-")
    with pytest.raises(MrictError, match="parent 'later' must be declared above it"):
        registry.add(dataclasses.replace(get("mk1"), name="child", parent="later"))


def test_a_name_is_declared_once(registry):
    registry.alias("other", "root")
    for name in ("root", "other"):
        with pytest.raises(MrictError, match=f"'{name}' is declared twice"):
            registry.derive("root", name, why="-", epochs=3)


def test_a_variant_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("mk1").epochs = 1


# ------------------------------------------------------------------------------------------------ text, json, docs


def test_table_has_a_line_per_variant_and_fits_the_terminal():
    lines = variant_tables.table().splitlines()
    assert max(map(len, lines)) <= 160
    assert [line.split()[0] for line in lines[2 : 2 + len(NAMES)]] == NAMES
    row = next(line for line in lines if line.startswith("mk6_3_0 "))
    cells = re.split(r"\s{2,}", row)
    assert cells[:6] == ["mk6_3_0", "mk6", "mk6_2_1", "unet_b", "patch4", "GAN + 4.4 P + 5.6 L1"]
    assert cells[6:] == ["1", "6", "2.1e-4/4.55e-4", "3", "0.5/4", "13/13", "brain-new-36"]
    assert "mk6_4_3 = mk6_3_4" in lines[-1]


def test_table_of_a_selection():
    assert [line.split()[0] for line in variant_tables.table(select("mk6_2_0")).splitlines()[2:5]] == [
        "mk3_1_2_v4_50", "mk6_1_1", "mk6_2_0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mk1", "GAN + 30 P"),
        ("mk3_6", "GAN + 0.1 P3"),
        ("mk4_1", "GAN + 29±3 P"),
        ("mk6_1_0", "GAN + 5 P + 5 L1"),
        ("cyclegan_mk1", "GAN + 0.7 P + 10 cyc + 5 idt"),
    ],
)
def test_losses_leave_out_terms_of_weight_zero(name, text):
    assert variant_tables.losses(get(name)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.1e-4, "3.1e-4"), (4.55e-4, "4.55e-4"), (1e-6, "1e-6"), (0.0, "0"), (0.05, "0.05"), (30.0, "30")],
)
def test_numbers_are_written_short(value, text):
    assert variant_tables.number(value) == text
    assert float(text) == value


def test_json_holds_all_fields():
    content = json.loads(variant_tables.as_json())
    assert [v["name"] for v in content["variants"]] == NAMES
    assert all(set(v) == set(FIELDS) for v in content["variants"])
    rebuilt = content["variants"][NAMES.index("mk6_3_3")]
    rebuilt |= {f: Schedule(**rebuilt[f]) for f in ("schedule", "schedule_discriminator")}
    rebuilt["score"] = Score(**rebuilt["score"])
    assert Variant(**rebuilt) == get("mk6_3_3")
    assert content["aliases"] == {"mk6_4_3": "mk6_3_4"}


@pytest.mark.parametrize("name", NAMES)
def test_diff_text_names_every_change(name):
    lines = variant_tables.diff_text(name).splitlines()
    assert lines[0] == f"{name}: {get(name).why}"
    assert [line.split()[0] for line in lines if " -> " in line and line.startswith("  ")] == list(diff(name))


def test_diff_text_of_an_alias_says_so():
    assert variant_tables.diff_text("mk6_4_3").startswith("mk6_3_4 (asked for as mk6_4_3): ")


def test_listing_variants_needs_no_heavy_import():
    code = "import sys, mrict_core.variant_tables; print({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def lineage_page() -> str:
    return (paths.ROOT / "docs" / "lineage.md").read_text(encoding="utf-8")


def test_docs_are_in_step_with_the_code():
    page = lineage_page()
    committed = page.split(variant_tables.BEGIN_MARK)[1].split(variant_tables.END_MARK)[0].strip()
    assert committed == variant_tables.markdown(), "paste: python -m mrict_core.variant_tables --markdown"


def test_docs_give_the_reported_values_of_every_variant_once():
    section = lineage_page().split("## 3. ")[1].split("## 4. ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == sorted(NAMES)


def test_docs_name_only_fields_and_variants_that_exist():
    page = lineage_page()
    known = {*NAMES, "mk6_4_3", "mk6_1_2", "practice_mk3", *FIELDS}
    quoted = set(re.findall(r"`((?:mk|practice|cyclegan)\w*|lambda_\w+|lr_\w+)`", page))
    assert quoted <= known
    assert quoted >= {"mk6_4_3", "lambda_l1"}


def test_markdown_module_prints_the_section(capsys):
    assert variant_tables.main(["--markdown"]) == 0
    assert capsys.readouterr().out.strip() == variant_tables.markdown()
    assert variant_tables.main([]) == 2
    assert "usage" in capsys.readouterr().err
