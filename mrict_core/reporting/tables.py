"""Tables as text and markdown, every metric with its own number of digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mrict_core import metrics
from mrict_core.evaluation.records import PROVENANCE, seeds_remark
from mrict_core.paths import printable, some
from mrict_core.runtime import write_csv, write_text

if TYPE_CHECKING:
    from mrict_core.evaluation.runs import RunComparison

DIGITS = {
    **dict.fromkeys(("mae_hu", "me_hu", "mae_core_hu", "mae_shift_hu", "shift_mm"), 1),
    **{f"{what}_{tissue}_hu": 1 for what in ("mae", "me") for tissue in ("air", "soft", "bone")},
    **dict.fromkeys(("mean_hu", "low_hu", "high_hu", "mean_difference_hu", "best_baseline_hu"), 1),
    **dict.fromkeys(("wepl_mae_mm", "wepl_max_mm", "wepl_me_mm", "continuity", "continuity_bone_edge", "psnr_db"), 2),
    **dict.fromkeys(("dice_bone_150", "dice_bone_250", "dice_bone_350", "dice_bone_500"), 3),
    **dict.fromkeys(("printed_fid", "ours_fid", "corrected_fid", "predecessor_fid"), 1),
    **dict.fromkeys(("printed_vgg", "ours_vgg", "corrected_vgg", "predecessor_vgg"), 3),
    **dict.fromkeys(("ssim", "ms_ssim", "predecessor_mse", "predecessor_ssim", "corrected_mse", "corrected_ssim"), 4),
}
HEADINGS = {
    "mae_hu": "MAE (HU)",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "ssim_2d": "SSIM",
    "ssim_dimensionality": "SSIM in",
    "me_hu": "bias (HU)",
    "mae_bone_hu": "bone MAE (HU)",
    **{f"mae_{tissue}_hu": f"{tissue} MAE (HU)" for tissue in ("air", "soft")},
    **{f"me_{tissue}_hu": f"{tissue} bias (HU)" for tissue in ("air", "soft", "bone")},
    **{f"dice_bone_{t}": f"bone Dice > {t}" for t in (150, 350, 500)},
    "dice_bone_250": "bone Dice",
    "wepl_mae_mm": "WEPL error (mm)",
    "wepl_max_mm": "WEPL, worst (mm)",
    "wepl_me_mm": "WEPL bias (mm)",
    "continuity_bone_edge": "continuity at bone",
    "mae_core_hu": "MAE, core (HU)",
    "mae_shift_hu": "MAE, best shift (HU)",
    "shift_mm": "that shift (mm)",
    "corrected_mse": "corr. MSE",
    "corrected_ssim": "corr. SSIM",
    "ms_ssim": "MS-SSIM",
    "predecessor_mse": "pred. MSE",
    "predecessor_ssim": "pred. SSIM",
    "beats_baselines": "beats baselines",
    "n_slices": "slices",
    "n_voxels": "voxels",
    "mean_hu": "MAE (HU)",
    "low_hu": "95 % from",
    "high_hu": "to",
    "left_out": "without centre",
    "mean_difference_hu": "a − b (HU)",
    "p_holm": "p (Holm)",
    "best_baseline_hu": "best baseline (HU)",
}
BETTER = {
    **{"lower": "lower is better", "higher": "higher is better"},
    **{"zero": "nearest 0 is best", "one": "nearest 1 is best", "none": "neither better nor worse"},
}
NOTHING = "–"
NAMES_SHOWN = 6  # in a remark
FACTS_SHOWN = 3  # records whose differing fact is spelt out


def text_table(frame: pd.DataFrame) -> str:
    """Return `frame` as aligned text.

    Columns `x_sd`, `x_seeds_sd`, `x_low`, `x_high` join `x` as "mean ± SD (± SD over seeds) [low, high]".
    """
    headings, rows, numeric = _cells(frame)
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    align = [f"{'>' if right else '<'}{width}" for width, right in zip(widths, numeric, strict=True)]
    return "\n".join("  ".join(map(format, line, align)).rstrip() for line in lines)


def markdown_table(frame: pd.DataFrame) -> str:
    """Return `frame` as a markdown table, rounded as in `text_table`."""
    headings, rows, numeric = _cells(frame)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[_markdown(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (escaped[0], rule, *escaped[1:]))


def _markdown(cell: str) -> str:
    """Escape a cell; a mean, its spread and its interval stay on one line each."""
    return cell.replace("|", "\\|").replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def remarks(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return what a reader of these metrics must know: several seeds, and what the dashes stand for."""
    return [*filter(None, [seeds_remark(records)]), *absent_remarks(records, names)]


def absent_remarks(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return what the dashes of a table stand for: for each reason the metrics, models and patients it concerns."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for metric in names:
        for record in records:
            lacking = [row["patient"] for row in record["patients"] if row.get(metric) is None or pd.isna(row[metric])]
            if not lacking:
                continue
            who = (
                f"all {len(lacking)} patients"
                if len(lacking) == len(record["patients"]) > 1
                else some(lacking, NAMES_SHOWN)
            )
            found.setdefault((metrics.card(metric).absent, who), {}).setdefault(
                HEADINGS.get(metric, metric), []
            ).append(record["name"])
    remarks = []
    for (why, who), own in found.items():
        models = {tuple(names) for names in own.values()}
        which = (
            f" ({some(max(models, key=len), NAMES_SHOWN)})"
            if any(len(names) < len(records) for names in models)
            else ""
        )
        remarks.append(f"Absent: {', '.join(own)} of {who}{which}: {why}.")
    return remarks


def write_leaderboard(
    folder: Path, frame: pd.DataFrame, label: str, context: Mapping[str, Any] | None = None, said: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Write folder/leaderboard.csv (unrounded) and folder/leaderboard.md with the metrics' definitions; return both.

    `context` (of a record of the table) adds the columns that say where the numbers come from; `said` stands above
    the table (see `remarks`).
    """
    csv = write_csv(Path(folder) / "leaderboard.csv", with_provenance(frame, context or {}))
    shown = frame.drop(columns="label") if (frame["label"] == label).all() else frame
    parts = [
        f"# Leaderboard ({label})",
        "Held-out patients; mean ± SD over patients, of the MAE also the 95 % patient bootstrap of the mean; ranked by "
        "masked MAE. Rows of kind *baseline* are the trivial predictors that a model must beat.",
        *said,
        markdown_table(shown),
        "## How the numbers are defined",
        definitions(_metrics_of(frame)),
    ]
    return csv, write_text(Path(folder) / "leaderboard.md", "\n\n".join(parts) + "\n")


def comparison_text(comparison: RunComparison) -> str:
    """Return what changed between two runs as text: facts, patients, numbers, then what only one of them has."""
    facts = _condensed(comparison.context)
    parts = ["What differs in how the numbers came about:"]
    parts += [text_table(facts) if len(facts) else "nothing that the records hold"]
    changes = comparison.changes.copy()
    for column in ("mean_a", "mean_b", "difference"):
        changes[column] = _each_in_its_digits(changes, column)
    low, high = (_each_in_its_digits(changes, bound) for bound in ("low", "high"))
    changes["95 % interval"] = [
        NOTHING if NOTHING in pair else f"[{', '.join(pair)}]" for pair in zip(low, high, strict=True)
    ]
    changes["metric"] = [HEADINGS.get(name, name) for name in changes["metric"]]
    shown = ["name", "metric", "n", "mean_a", "mean_b", "difference", "95 % interval", "p_holm", "verdict"]
    parts += ["", *_patient_lines(comparison.patients)]
    parts += [
        "",
        "What changed (difference b − a, mean over the patients in both, 95 % patient bootstrap):",
        text_table(changes[shown]),
    ]
    for which, names in (("a", comparison.only_a), ("b", comparison.only_b)):
        if names:
            parts += ["", f"Only in {which}: {', '.join(names)}"]
    return "\n".join(parts)


def _patient_lines(patients: pd.DataFrame) -> list[str]:
    """Return whom the numbers stand on, alike records in one line, and the seeds where a record has several."""
    lines: dict[str, list[str]] = {}
    for row in patients.to_dict(orient="records"):
        parts = [f"{len(row['common'])} in both runs"]
        for key, words in (
            ("only_a", "left out, only in a"),
            ("only_b", "left out, only in b"),
            ("other_images", "left out, the same name but other images"),
        ):
            if row[key]:
                parts.append(f"{len(row[key])} {words}: {', '.join(row[key])}")
        if max(len(row["seeds_a"]), len(row["seeds_b"])) > 1:
            a, b = (", ".join(map(str, row[key])) or "none" for key in ("seeds_a", "seeds_b"))
            parts.append(f"values are means over seeds (a: {a}; b: {b}), their spread is not in the intervals")
        lines.setdefault("; ".join(parts), []).append(row["name"])
    *few, (text, names) = sorted(lines.items(), key=lambda item: len(item[1]))
    rest = "the others" if few and len(names) > FACTS_SHOWN else ", ".join(names) if few else "all"
    return [f"Patients of {who}: {text}" for who, text in [*((", ".join(n), t) for t, n in few), (rest, text)]]


def _condensed(facts: pd.DataFrame) -> pd.DataFrame:
    """Return one row for a fact that differs in many records, each in its own way (hashes do)."""
    counts = facts.groupby("fact")["name"].transform("size")
    many = facts[counts > FACTS_SHOWN].groupby("fact").size().reset_index(name="name")
    many = many.assign(name=many["name"].map("{} records".format), a="differ", b="differ")
    return pd.concat([facts[counts <= FACTS_SHOWN], many[facts.columns]], ignore_index=True)


def _each_in_its_digits(changes: pd.DataFrame, column: str) -> list[str]:
    return [_text(value, metric) for value, metric in zip(changes[column], changes["metric"], strict=True)]


def with_provenance(frame: pd.DataFrame, context: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table with profile, protocol, split and code in every row: a pasted row still says where it is from.

    What its columns mean stands in cards.csv and summary.csv beside it.
    """
    own = ("seed", "checkpoint_hash")  # of each record, not of the table
    keys = [key for key in PROVENANCE if key not in own and key in context and key not in frame]
    return frame.assign(**{key: context[key] for key in keys})


def _metrics_of(frame: pd.DataFrame) -> list[str]:
    """Return the metrics behind the columns; SSIM stands for the one or two ways in which it was taken."""
    ways = set(frame["ssim_dimensionality"]) if "ssim_dimensionality" in frame else {"3D"}
    names = [column for column in DIGITS if column in frame]
    if any("2D" in way for way in ways):
        names.insert(names.index("ssim") + 1, "ssim_2d")
    if not any("3D" in way for way in ways):
        names.remove("ssim")
    return names


def definitions(columns: Sequence[str]) -> str:
    """Return the metric cards of the columns as a markdown list."""
    cards = [metrics.card(column) for column in columns]
    return "\n".join(
        f"- **{HEADINGS.get(card.name, card.name)}** ({card.dimensionality}, {BETTER[card.better]}). "
        f"Range: {card.range}. Mask: {card.mask}. Aggregation: {card.aggregation}. "
        f"{_sentence(card.note)}"
        for card in cards
    )


def _sentence(note: str) -> str:
    """Begin a note with a capital, unless its first word is a column's name."""
    first = note if "_" in note.split()[0] else note[0].upper() + note[1:]
    return f"{first}."


def _cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, rows of text, and which columns are numbers (set to the right)."""
    joined = {f"{c}{end}" for c in frame.columns for end in ("_sd", "_seeds_sd", "_low", "_high")}
    columns = [c for c in frame.columns if c not in joined]
    texts = []
    for column in columns:
        values = [_text(value, column) for value in frame[column]]
        if f"{column}_sd" in frame:
            values = [_with_spread(v, s, column) for v, s in zip(values, frame[f"{column}_sd"], strict=True)]
        if f"{column}_seeds_sd" in frame:
            values = [with_seeds(v, s, column) for v, s in zip(values, frame[f"{column}_seeds_sd"], strict=True)]
        if {f"{column}_low", f"{column}_high"} <= set(frame.columns):
            bounds = zip(values, frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
            values = [_with_interval(v, low, high, column) for v, low, high in bounds]
        texts.append(values)
    headings = [HEADINGS.get(str(column), str(column)) for column in columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c]) for c in columns]
    return headings, [list(row) for row in zip(*texts, strict=True)], numeric


def _text(value: Any, column: str) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return NOTHING
    if isinstance(value, bool) or pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_float(value):
        return f"{value:.{DIGITS[column]}f}" if column in DIGITS else f"{value:.4g}"
    return printable(" ".join(str(value).split()))


def _with_interval(mean: str, low: Any, high: Any, column: str) -> str:
    return (
        mean if pd.isna(low) or pd.isna(high) else f"{mean} [{_text(float(low), column)}, {_text(float(high), column)}]"
    )


def with_seeds(text: str, spread: Any, column: str) -> str:
    """Return a mean's text with the SD over seeds behind it, where there is one."""
    return text if text == NOTHING or pd.isna(spread) else f"{text} (± {_text(float(spread), column)} over seeds)"


def _with_spread(mean: str, spread: Any, column: str) -> str:
    return mean if mean == NOTHING or pd.isna(spread) else f"{mean} ± {_text(float(spread), column)}"
