"""Variants as text, json and markdown, for the command line and docs/lineage.md (`--markdown` prints its section)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from mrict_core.experiments import README_VARIANTS, REGISTRY, all_variants, diff, get, lineage, parent_of
from mrict_core.experiments.schema import Experiment, Part, Schedule, Score, Term, as_plain, flattened

BEGIN_MARK = "<!-- begin: printed by python -m mrict_core.experiments.listing --markdown -->"
END_MARK = "<!-- end -->"

_SYMBOL = {"gan": "GAN", "perceptual": "P", "l1": "L1", "cycle": "cyc", "identity": "idt", "feature_matching": "FM"}
_HEAD = (
    *("name", "family", "init_from", "G", "D", "losses of G", "label", "gp"),
    *("lr G/D", "k", "schedule", "epochs", "data"),
)
_LEGEND = (
    "P: VGG19 pool5 MSE; P3: VGG19 relu3_3 L1; L1: pixels; cyc, idt: cycle and identity L1; "
    "FM: features of D; "
    "LSGAN: least squares GAN. label: of real patches.\n"
    "gp: gradient penalty. k: G steps per D step. schedule: of G, plateau factor/patience, cosine T0xTmult in epochs, "
    "linear to 0 in the second half, or warmup_cosine.\n"
    "epochs: run/planned by the predecessor."
)


def number(value: float) -> str:
    """Return a number as short text: 0.05, 30, 3.1e-4."""
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.6g}"


def losses(variant: Experiment) -> str:
    """Return the generator's loss without terms of weight zero: 'GAN + 5 P + 5 L1'."""
    text = " + ".join(_term(name, term) for name, term in variant.loss.items() if term.weight)
    return text.replace("GAN", "LSGAN") if variant.method.options.get("gan") == "least_squares" else text


def _term(name: str, term: Term) -> str:
    symbol = _SYMBOL.get(name, name)
    if name == "perceptual" and term.options.get("features") == "vgg19_relu3_3":
        symbol = "P3"
    if term.options.get("masked"):
        symbol = f"masked {symbol}"
    step = term.options.get("weight_step")
    weight = number(term.weight) + (f"±{number(step)}" if step else "")
    return symbol if weight == "1" else f"{weight} {symbol}"


def schedule(value: Schedule, *, short: bool = False) -> str:
    """Return 'plateau 0.5/4 on loss_d' (factor/patience), 'cosine 3x2, down to 1e-6', 'constant'; short: for a column.

    A plateau watches the score unless it names another column.
    """
    if value.kind == "plateau":
        text = f"{number(value.factor or 0)}/{value.patience}{' max' if value.mode == 'max' else ''}"
        watch = f" on {value.watch}" if value.watch != "score" else ""
        return text if short else f"plateau {text}{watch}"
    if value.kind == "cosine":
        return f"cosine {value.t_0}x{value.t_mult}" + ("" if short else f", down to {number(value.eta_min or 0)}")
    return value.kind


def score(value: Score) -> str:
    """Return '(0.9 FID + 300 (1-SSIM)) (1 + epoch/12)'."""
    weights = ((value.fid, "FID"), (value.vgg, "VGG"), (value.ssim, "(1-SSIM)"), (value.loss_g, "L_G"))
    total = " + ".join(name if weight == 1 else f"{number(weight)} {name}" for weight, name in weights if weight)
    return f"({total}) (1 + epoch/{number(value.boost_epochs)})" if value.boost_epochs else total or "none"


def value_text(value: Any) -> str:
    """Return a value as text for readers."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def changes(variant: Experiment) -> list[tuple[str, str, str]]:
    """Return (path, parent's value, own value) of a variant's changes, as text; a schedule or score is one value."""
    rows: dict[str, tuple[str, str]] = {}
    parent = parent_of(variant)
    for path, (old, new) in diff(variant).items():
        head, found, _ = path.partition(".schedule.")
        if path.startswith("score."):
            rows["score"] = score(parent.score), score(variant.score)
        elif found:
            rows[f"{head}.schedule"] = tuple(_schedule(one, head.partition(".")[2]) for one in (parent, variant))
        elif old or new:  # both empty: a term's default function
            rows[path] = value_text(old), value_text(new)
    return [(path, old, new) for path, (old, new) in rows.items()]


def _schedule(variant: Experiment, role: str) -> str:
    return schedule(variant.optimizer[role].schedule) if role in variant.optimizer else "none"


def table(variants: Iterable[Experiment] | None = None) -> str:
    """Return a text table, one line per variant (default: all), at most 170 columns wide."""
    rows = [_row(variant) for variant in (all_variants() if variants is None else variants)]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (_HEAD, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    aliases = ", ".join(f"{alias} = {name}" for alias, name in REGISTRY.aliases().items())
    return "\n".join(line.rstrip() for line in (*lines, "", _LEGEND, f"Other names: {aliases}."))


def _row(v: Experiment) -> tuple[str, ...]:
    none, option = Part("-"), v.method.options.get
    first = next(iter(v.optimizer.values()))
    return (
        v.name,
        v.family,
        v.init_from or "-",
        *(v.network.get(role, none).name.removeprefix("monai.") for role in ("G", "D")),
        losses(v),
        *(
            value_text(option(name, default)) if "D" in v.network else "-"
            for name, default in (("real_label", 1.0), ("gradient_penalty", option("r1", 0.0)))
        ),
        "/".join(number(optimizer.lr) for optimizer in v.optimizer.values()),
        value_text(option("generator_steps", 1)),
        schedule(first.schedule, short=True),
        f"{v.epochs}/{v.history.epochs_planned or v.epochs}",
        v.history.dataset,
    )


def as_json(variants: Iterable[Experiment] | None = None) -> str:
    """Return variants (default: all) with all values, the aliases and the readme set, as json text."""
    content = {
        "variants": [as_plain(v) for v in (all_variants() if variants is None else variants)],
        "aliases": REGISTRY.aliases(),
        "readme": list(README_VARIANTS),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def diff_text(name: str) -> str:
    """Return a variant's changes from its parent and their purpose, one value per line."""
    variant = get(name)
    shown = variant.name if variant.name == name else f"{variant.name} (asked for as {name})"
    chain = " -> ".join(v.name for v in lineage(variant))
    lines = [f"{shown}: {variant.why}", f"weights: {chain if variant.init_from else 'from scratch'}"]
    if variant.parent is None:
        return "\n".join([*lines, "no parent: it is the root, every value is its own"])
    rows = changes(variant)
    width = max((len(path) for path, *_ in rows), default=0)
    lines.append(f"changes from {variant.parent}:")
    lines += [f"  {path:<{width}}  {old} -> {new}" for path, old, new in rows]
    return "\n".join(lines)


def tree(role: str) -> str:
    """Return the tree of `role` ("parent": configuration, "init_from": weights) as indented text.

    The tree of weights omits variants that start from scratch and have no descendants.
    """
    children: dict[str | None, list[str]] = {}
    for variant in all_variants():
        children.setdefault(getattr(variant, role), []).append(variant.name)

    def branch(name: str, indent: str) -> list[str]:
        below = children.get(name, [])
        lines = []
        for child in below:
            last = child == below[-1]
            lines.append(f"{indent}{'└─ ' if last else '├─ '}{child}")
            lines += branch(child, indent + ("   " if last else "│  "))
        return lines

    roots = [root for root in children[None] if role == "parent" or root in children]
    return "\n".join(line for root in roots for line in (root, *branch(root, "")))


def _family_markdown(family: str, variants: list[Experiment]) -> list[str]:
    lines = [f"### Family {family}", "", "| variant | from | weights of | changes | why |", "|---|---|---|---|---|"]
    for variant in variants:
        rows = changes(variant) if variant.parent else []
        text = "; ".join(f"`{p}` {old} → {new}" for p, old, new in rows if p not in ("family", "init_from"))
        if variant.parent is None:
            text = "a root: all values below"
        cells = (f"`{variant.name}`", variant.parent or "–", variant.init_from or "–", text or "–", variant.why)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def markdown() -> str:
    """Return the generated section of docs/lineage.md: both trees, a table per family, the values of the roots."""
    lines = ["### Configuration: which variant is derived from which", "", "```", tree("parent"), "```", ""]
    lines += ["### Weights: which variant starts from which checkpoint", "", "```", tree("init_from"), "```", ""]
    lines += ["Every variant that is not in this tree starts from scratch.", ""]
    families = dict.fromkeys(v.family for v in all_variants())
    for family in families:
        lines += _family_markdown(family, [v for v in all_variants() if v.family == family])
    for root in (v for v in all_variants() if v.parent is None):
        lines += _root_markdown(root)
    return "\n".join(lines).rstrip()


def _root_markdown(root: Experiment) -> list[str]:
    skip = ("name", "why", "parent", "init_from")
    values = ((path, value) for path, value in flattened(as_plain(root)) if path not in skip and value not in ("", {}))
    lines = [f"### All values of the root `{root.name}`", "", "| field | value |", "|---|---|"]
    return [*lines, *(f"| `{path}` | {value_text(value)} |" for path, value in values), ""]


def main(arguments: list[str]) -> int:
    """Print the markdown section; return the exit status."""
    if arguments != ["--markdown"]:
        print("usage: python -m mrict_core.experiments.listing --markdown", file=sys.stderr)
        return 2
    print(markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
