"""Tables and figures: what they say, that they are saved whole and equal, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from benchmarks import quality, scaling
from mrict_core import evaluation, metrics
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.experiments import REGISTRY
from mrict_core.modalities import MR
from mrict_core.reporting import figures, style, text_tables
from mrict_core.reporting.case_page import case_figure
from mrict_core.reporting.lineage_figure import layout

SCORED = {"name": "mk1", "summary": {"all": {"mae_hu": {"mean": 190.24}}}, "context": {"seed": 1}}


def make_row(seed: int = 0, size: int = 48) -> dict:
    """A disc with a bright rim, as seen on one slice, and noise outside the mask."""
    y, x = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(y / 0.9, x + seed)
    ct = np.where(radius < 18, 40.0, -1000.0) + 900.0 * ((radius > 14) & (radius < 17))
    rng = np.random.default_rng(seed)
    outside = radius >= 20  # of the mask: noise that no figure may show
    ct[outside], noise = 300.0, rng.normal(0, 0.1, ct.shape).astype(np.float32)
    return {
        "patient": f"1BA{seed:03d}",
        "z": 10 + seed,
        "spacing_mm": (1.0, 1.0),
        "mr": np.where(radius < 18, 0.3, np.where(outside, 0.2, -1.0)).astype(np.float16),
        "ct": ct.astype(np.int16),
        "sct": (ct + 100).astype(np.float32) + noise,
        "mask": (radius < 20).astype(np.uint8),
        "body": (radius < 18).astype(np.uint8),
    }


class Store:
    """What the figures ask of a slice store."""

    modality = MR
    patients = ("1BA001", "1BA002", "1BB001", "1BC001")

    def centre(self, patient: str) -> str:
        return patient[2]

    def counts(self) -> dict[str, int]:
        return {patient: 3 + index for index, patient in enumerate(self.patients)}

    def slices(self, patient: str) -> SimpleNamespace:
        row = make_row(self.patients.index(patient))
        return SimpleNamespace(**{role: row[role][None] for role in ("mr", "ct", "mask", "body")})


def make_history(epochs: int = 6, **absent: float) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = ("loss_g", "loss_g_gan", "loss_g_l1", "loss_d", "loss_d_gan", "loss_gp", "d_real", "d_fake", "val_ssim")
    frame = pd.DataFrame({"epoch": epoch, **{c: 1.0 / (epoch + i) for i, c in enumerate(columns)}})
    frame["val_mae_hu"] = 100 + (epoch - 4.0) ** 2
    frame["lr_generator"], frame["lr_discriminator"] = 2e-4, 1e-4
    frame["is_best"] = epoch <= 4
    return frame.assign(**absent)


def make_records() -> list[dict]:
    def record(name: str, values: list[float], kind: str = "variant", dimensionality: str = "3D") -> dict:
        rows = [
            dict.fromkeys(metrics.recorded(), 0.51239)
            | {"patient": p, "centre": p[2], "n_slices": 3, "n_voxels": 9, "mae_hu": v, "flags": ""}
            | {"n_air": 1, "n_soft": 2, "n_bone": 3, "ssim_dimensionality": dimensionality}
            for p, v in zip(Store.patients, values, strict=True)
        ]
        edges = [-1000.0, 0.0, 1000.0, 2000.0]
        curves = [
            {"patient": p, "count": [1, 1, 0], "mean_hu": [-900.0, 50, None], "sd_hu": [9.0, 9, None]}
            for p in Store.patients
        ]
        beams = [{"patient": p, "ct_mm": [180.0, 150.0], "error_mm": [2.0, -1.0]} for p in Store.patients]
        details = {
            "calibration": {"edges_hu": edges, "patients": curves},
            "wepl": {"angles_deg": [0.0, 90.0], "patients": beams},
        }
        frame = pd.DataFrame(rows, columns=list(evaluation.columns()))
        scores = evaluation.Scores(frame, details)
        return evaluation.metrics_record(name, scores, label="demo", kind=kind, context={"stopped": "a|b"})

    missing = float("nan")
    return [
        record("mk6_3_4", [60.0, 70.0, 80.0, 90.0]),
        record("mk1", [260.0, 270.0, 280.0, 290.0]),
        record("baseline_water_body", [160.0, 170.0, 180.0, 190.0], "baseline"),
        record("mk2", [missing] * 4, dimensionality="2D"),
    ]


def make_comparison(count: int = 3) -> Figure:
    row = make_row()
    scts = {f"variant_{i}": row["sct"] + 10 * i for i in range(count)}
    return figures.comparison_figure(row, scts, label="demo")


def make_slab() -> Figure:
    rows = [make_row(i) for i in range(5)]
    return figures.slab_figure(rows[2], np.stack([row["mr"] for row in rows]), title="Five channels", label="demo")


def make_steps(*columns: str) -> Figure:
    step = np.arange(1, 7)
    mae = {f"{name}_mae_hu": np.where(step % 2, np.nan, 300.0 / step) for name in ("raw", "averaged")}
    numbers = {"fraction": step / 7, "lr": 1e-3 / step, "loss_g": 1.0 / step, "grad_norm": 2.0 / step}
    frame = pd.DataFrame({"step": step, **numbers, **mae})
    return figures.steps_figure(frame[list(columns or frame)], title="Six steps", label="demo")


def make_case() -> Figure:
    """A head in noise, and a synthetic CT and an uncertainty with noise everywhere."""
    z, y, x = np.mgrid[:24, :32, :28] - np.array([12, 16, 14])[:, None, None, None]
    body = (z / 10) ** 2 + (y / 13) ** 2 + (x / 11) ** 2 < 1
    noise = np.random.default_rng(0).uniform(50, 150, body.shape).astype(np.float32)
    volume = Volume(
        np.where(body, 300, noise).astype(np.float32).transpose(2, 1, 0), np.diag([2.0, 2, 3, 1]), Path("mr.nii")
    )
    hu, sd, body = (array.transpose(2, 1, 0) for array in (np.where(body, 40, noise), noise, body))
    return case_figure(volume, hu, sd, body, mr_range=(0.0, 400.0), label="demo")


def make_joint() -> Figure:
    mr = np.linspace(0, 100, 500)
    return figures.joint_histogram_figure(mr, 40 * mr - 1000, np.ones(500, bool), label="demo")


def make_scaling() -> Figure:
    shared = {"case": "training step, width 64, one image", "seconds": 1.0, "peak_mib": 30.0}
    rows = [{"axis": axis, "value": 2**k, **shared} for axis in scaling.AXES for k in range(1, 4)]
    return scaling.figure(rows)


def make_ablation() -> Figure:
    shared = {"data": "middle slices of real heads (approximate HU), 20 minutes of CPU time for each training"}
    seeds = {"mae_hu": 71.0, "seeds_mae_hu": [70.0, 72.0]}
    return quality.figure([{**shared, "case": case, **seeds} for case in ("mk7_0", "no EMA", "test-time flips")])


MAKERS = {
    "sample": lambda: figures.sample_figure([make_row(0), make_row(3)], title="mk1: held-out patients", label="demo"),
    "comparison": make_comparison,
    "one sample": lambda: figures.sample_figure([make_row()], title="a long title " * 9, label="demo"),
    "narrow comparison": lambda: make_comparison(1),
    "wide comparison": lambda: make_comparison(19),
    "case": make_case,
    "scaling": make_scaling,
    "ablation": make_ablation,
    "joint": make_joint,
    "one step panel": lambda: make_steps("step", "raw_mae_hu", "averaged_mae_hu"),
    "pairs": lambda: figures.pairs_figure([make_row(i) for i in range(3)], title="Three pairs", label="demo"),
    "slab": make_slab,
    "steps": make_steps,
    "curves": lambda: figures.curves_figure(make_history(), "mk1", label="demo"),
    "leaderboard": lambda: figures.leaderboard_figure(make_records(), label="demo"),
    "calibration": lambda: figures.calibration_figure(make_records(), label="demo"),
    "clinical": lambda: figures.clinical_figure(make_records(), label="demo"),
    "centres": lambda: figures.centres_figure(make_records(), label="demo"),
    "histogram": lambda: figures.histogram_figure(Store(), label="demo"),
    "cohort": lambda: figures.cohort_figure(
        Store(), SimpleNamespace(train=("1BA001", "1BB001"), val=("1BA002",), test=("1BC001",)), label="demo"
    ),
    "lineage": lambda: figures.lineage_figure(REGISTRY.all(), label="demo", records=[SCORED]),
}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", MAKERS)
def test_figures_are_saved_whole_and_carry_the_label(name, tmp_path):
    figure = MAKERS[name]()
    assert {"profile: demo", "benchmark", "ablation"} & set(texts(figure))
    path = figures.save(figure, tmp_path / "sub" / f"{name}.png")
    assert [p.name for p in path.parent.iterdir()] == [f"{name}.png"]
    with Image.open(path) as image:
        image.load()
        assert image.size == pytest.approx(figure.get_size_inches() * style.DPI, abs=1)
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert "Software" not in image.info
        assert np.asarray(image.convert("L")).std() > 5
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", ["sample", "leaderboard"])
def test_equal_data_give_equal_bytes_whatever_the_callers_style(name, tmp_path):
    first = figures.save(MAKERS[name](), tmp_path / "a.png", pdf=name == "leaderboard").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "savefig.dpi": 50}):
        second = figures.save(MAKERS[name](), tmp_path / "b.png", pdf=name == "leaderboard").read_bytes()
    assert first == second
    if name == "leaderboard":
        assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_the_error_panel_is_signed_in_hu_on_a_fixed_scale_and_only_inside_the_mask():
    row = make_row()
    figure = figures.sample_figure([row], title="t", label="demo")
    found = texts(figure)
    assert {"sCT − CT (HU)", "HU", "HU, soft tissue", "1BA000\nslice 10", "R", "L", "A", "P", "10 mm"} <= set(found)
    assert "signed error\nslice MAE 100 HU" in found
    errors = [image for axis in figure.axes for image in axis.get_images() if image.cmap.name == style.ERROR_MAP]
    assert len(errors) == 1
    assert errors[0].get_clim() == (-500.0, 500.0)
    shown = errors[0].get_array()
    assert np.isnan(np.ma.filled(shown, np.nan)).any()
    assert np.nanmean(np.ma.filled(shown, np.nan)) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    ("plane", "expected"),
    [("axial", {"R", "L", "A", "P"}), ("coronal", {"R", "L", "S", "I"}), ("sagittal", {"A", "P", "S", "I"})],
)
def test_orientation_marks_are_those_of_the_plane(plane, expected):
    found = texts(figures.sample_figure([make_row() | {"plane": plane}], title="t", label="demo"))
    assert {text for text in found if text in set("RLAPSI")} == expected


def test_orientation_marks_can_be_left_out():
    assert "L" not in texts(figures.sample_figure([make_row()], title="t", label="demo", orientation=False))


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_the_comparison_shows_every_variant_once(count):
    found = texts(make_comparison(count))
    named = [text.split("\n") for text in found if text.startswith("variant_")]
    assert [name for name, _ in named] == [f"variant_{i}" for i in range(count)]
    assert all(mae.startswith("slice MAE") for _, mae in named)
    assert found.count("sCT − CT (HU)") == 1


def test_masks_on_the_border_and_empty_masks_are_drawn():
    row = make_row()
    full = row | {"mask": np.ones_like(row["mask"])}
    empty = row | {"mask": np.zeros_like(row["mask"])}
    assert "no mask in this slice" in texts(figures.sample_figure([full, empty], title="t", label="demo"))


def test_curves_leave_out_what_a_method_lacks_and_mark_the_best_epoch():
    found = texts(figures.curves_figure(make_history(loss_g_l1=np.nan).drop(columns="loss_gp"), "mk1", label="demo"))
    assert "adversarial" in found
    assert "L1" not in found
    assert "gradient penalty" not in found
    assert "best: 100.0 HU, epoch 4" in found
    single = texts(figures.curves_figure(make_history(1), "mk1", label="demo"))
    assert "best: 109.0 HU, epoch 1" in single


def test_the_leaderboard_figure_is_in_order_of_rank():
    figure = figures.leaderboard_figure(make_records(), label="demo")
    axis = next(a for a in figure.axes if a.get_xlabel())
    assert [t.get_text() for t in axis.get_yticklabels()] == ["mk6_3_4", "baseline_water_body", "mk1", "mk2"]
    assert {"75.0", "175.0", "275.0", "no score"} <= set(texts(figure))


def test_every_variant_has_a_place_of_its_own_in_the_lineage():
    places, headers = layout(REGISTRY.all())
    assert set(places) == {variant.name for variant in REGISTRY.all()}
    rows = [row for _, row in places.values()] + list(headers.values())
    assert sorted(rows) == list(range(len(rows)))
    assert set(headers) == {variant.family for variant in REGISTRY.all()}
    found = texts(figures.lineage_figure(REGISTRY.all(), label="demo", records=[SCORED], epochs={"mk1": 4}))
    assert {"4 epochs", "190.2"} <= set(found)
    assert {variant.name for variant in REGISTRY.all()} <= set(found)


def test_the_lineage_can_be_drawn_of_a_part():
    mk6 = [variant for variant in REGISTRY.all() if variant.family == "mk6"]
    odd = dataclasses.replace(mk6[0], name="other_1", family="other", parent=mk6[-1].name, init_from=mk6[-1].name)
    assert "other_1" in texts(figures.lineage_figure([*mk6, odd], label="demo"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: figures.sample_figure([], title="t", label="demo"), "at least one slice"),
        (lambda: figures.sample_figure([make_row() | {"ct": np.zeros((3, 3))}], title="t", label="demo"), "1BA000"),
        (lambda: style.window_hu("sof"), "did you mean 'soft'"),
        (lambda: make_comparison(0), "at least one variant"),
        (lambda: figures.curves_figure(pd.DataFrame(), "mk1", label="demo"), "mk1"),
        (lambda: figures.leaderboard_figure([], label="demo"), "evaluate a variant first"),
    ],
)
def test_nothing_to_draw_is_a_one_line_error(make, message):
    with pytest.raises(MrictError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_tables_round_every_metric_in_its_own_way():
    board = evaluation.leaderboard(make_records())
    lines = text_tables.text_table(board).splitlines()
    assert "MAE (HU)" in lines[0]
    assert "mae_hu_sd" not in lines[0]
    assert "75.0 ± 12.9  " in lines[2]  # of four patients: no interval
    assert "75.0 ± 12.9 [65.0, 85.0]" in text_tables.text_table(board.assign(n=5)).splitlines()[2]
    assert "0.51 ± 0.00" in lines[2]
    assert "0.5124 ± 0.0000" in lines[2]
    assert [line.split()[1] for line in lines[2:]] == ["mk6_3_4", "baseline_water_body", "mk1", "mk2"]
    assert lines[5].split()[0] == text_tables.NOTHING
    assert lines[2].index("mk6_3_4") == lines[0].index("name")


def test_tables_of_anything_else():
    frame = pd.DataFrame({"name": ["a|b", None], "ok": [True, False], "value": [0.00012345, 3.0], "count": [1, 20]})
    assert text_tables.markdown_table(frame).splitlines() == [
        "| name | ok | value | count |",
        "| --- | --- | ---: | ---: |",
        "| a\\|b | yes | 0.0001234 | 1 |",
        "| – | no | 3 | 20 |",
    ]
    assert text_tables.text_table(frame.head(0)).splitlines()[0].split() == ["name", "ok", "value", "count"]


def test_the_written_leaderboard_holds_numbers_and_their_definitions(tmp_path):
    board = evaluation.leaderboard(make_records())
    csv, markdown = text_tables.write_leaderboard(tmp_path / "reports", board, "demo")
    assert (csv.name, markdown.name) == ("leaderboard.csv", "leaderboard.md")
    assert pd.read_csv(csv)["mae_hu"].tolist()[:3] == [75.0, 175.0, 275.0]
    text = Path(markdown).read_text()
    assert text.startswith("# Leaderboard (demo)")
    assert "a\\|b" in text
    for name in ("mae_hu", "psnr_db", "ssim", "ssim_2d", "me_hu", "mae_bone_hu", "wepl_mae_mm", "continuity"):
        assert metrics.metric(name).card()["range"] in text
