"""Variants as text, json and markdown, for the command line and docs/lineage.md (`--markdown` prints its section)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from mrict_core.variant import FIELDS, Schedule, Score, Variant, as_dict
from mrict_core.variants import README_VARIANTS, REGISTRY, all_variants, diff, get, lineage

BEGIN_MARK = "<!-- begin: printed by python -m mrict_core.variant_tables --markdown -->"
END_MARK = "<!-- end -->"

_PERCEPTUAL_SYMBOL = {"vgg19_pool5_mse": "P", "vgg19_relu3_3_l1": "P3"}
_HEAD = (
    *("name", "family", "init_from", "G", "D", "losses of G", "label", "gp"),
    *("lr G/D", "k", "schedule", "epochs", "data"),
)
_LEGEND = (
    "P: VGG19 pool5 MSE; P3: VGG19 relu3_3 L1; L1: pixels; cyc, idt: cycle and identity L1. "
    "label: of real patches. gp: gradient penalty.\n"
    "k: G steps per D step. schedule: of G, plateau factor/patience or cosine T0xTmult in epochs. "
    "epochs: run/planned by the predecessor."
)


def number(value: float) -> str:
    """Return the shortest text: 0.05, 30, 3.1e-4."""
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.6g}"


def losses(variant: Variant) -> str:
    """Return the generator's loss, terms of weight zero left out: 'GAN + 5 P + 5 L1'."""
    perceptual = number(variant.lambda_perceptual)
    if variant.lambda_perceptual_step:
        perceptual += f"±{number(variant.lambda_perceptual_step)}"
    terms = (
        (variant.lambda_gan, number(variant.lambda_gan), "GAN"),
        (variant.lambda_perceptual, perceptual, _PERCEPTUAL_SYMBOL.get(variant.perceptual, variant.perceptual)),
        (variant.lambda_l1, number(variant.lambda_l1), "L1"),
        (variant.lambda_cycle, number(variant.lambda_cycle), "cyc"),
        (variant.lambda_identity, number(variant.lambda_identity), "idt"),
    )
    return " + ".join(symbol if text == "1" else f"{text} {symbol}" for weight, text, symbol in terms if weight)


def schedule(value: Schedule, *, short: bool = False) -> str:
    """Return 'plateau 0.5/4' (factor/patience), 'cosine 3x2, down to 1e-6', 'constant'; short: what fits a column."""
    if value.kind == "plateau":
        mode = " max" if value.mode == "max" else ""
        return f"{'' if short else 'plateau '}{number(value.factor or 0)}/{value.patience}{mode}"
    if value.kind == "cosine":
        return f"cosine {value.t_0}x{value.t_mult}" + ("" if short else f", down to {number(value.eta_min or 0)}")
    return value.kind


def score(value: Score) -> str:
    """Return '(0.9 FID + 300 (1-SSIM)) (1 + epoch/12)'."""
    weights = ((value.fid, "FID"), (value.vgg, "VGG"), (value.ssim, "(1-SSIM)"), (value.loss_g, "L_G"))
    total = " + ".join(name if weight == 1 else f"{number(weight)} {name}" for weight, name in weights if weight)
    return f"({total}) (1 + epoch/{number(value.boost_epochs)})" if value.boost_epochs else total


def value_text(value: Any) -> str:
    """Return a field's value as a reader would write it."""
    if isinstance(value, Schedule):
        return schedule(value)
    if isinstance(value, Score):
        return score(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def table(variants: Iterable[Variant] | None = None) -> str:
    """Return a text table, one line per variant (all of them by default), at most 160 columns wide."""
    rows = [
        (
            v.name,
            v.family,
            v.init_from or "-",
            v.generator,
            v.discriminator,
            losses(v),
            number(v.real_label),
            number(v.lambda_gp),
            f"{number(v.lr_generator)}/{number(v.lr_discriminator)}",
            str(v.generator_steps),
            schedule(v.schedule, short=True),
            f"{v.epochs}/{v.epochs_planned}",
            v.dataset,
        )
        for v in (all_variants() if variants is None else variants)
    ]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (_HEAD, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    aliases = ", ".join(f"{alias} = {name}" for alias, name in REGISTRY.aliases().items())
    return "\n".join(line.rstrip() for line in (*lines, "", _LEGEND, f"Other names: {aliases}."))


def as_json() -> str:
    """Return every variant with all its fields, the aliases and the readme set, as json text."""
    content = {
        "variants": [as_dict(v) for v in all_variants()],
        "aliases": REGISTRY.aliases(),
        "readme": list(README_VARIANTS),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def diff_text(name: str) -> str:
    """Return what a variant changes from its parent and why, one field per line. Unknown name: MrictError."""
    variant = get(name)
    shown = variant.name if variant.name == name else f"{variant.name} (asked for as {name})"
    chain = " -> ".join(v.name for v in lineage(name))
    lines = [f"{shown}: {variant.why}", f"weights: {chain if variant.init_from else 'from scratch'}"]
    if variant.parent is None:
        return "\n".join([*lines, "no parent: it is the root, every value is its own"])
    changes = diff(name)
    width = max(map(len, changes), default=0)
    lines.append(f"changes from {variant.parent}:")
    lines += [f"  {field:<{width}}  {value_text(old)} -> {value_text(new)}" for field, (old, new) in changes.items()]
    return "\n".join(lines)


def tree(role: str) -> str:
    """Return the tree of `role` ("parent": configuration, "init_from": weights) as indented text.

    The tree of weights leaves out variants that start from scratch and that nothing starts from.
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


def _family_markdown(family: str, variants: list[Variant]) -> list[str]:
    lines = [f"### Family {family}", "", "| variant | from | weights of | changes | why |", "|---|---|---|---|---|"]
    for variant in variants:
        changes = {f: pair for f, pair in diff(variant.name).items() if f not in ("family", "init_from")}
        text = "; ".join(f"`{f}` {value_text(old)} → {value_text(new)}" for f, (old, new) in changes.items())
        if variant.parent is None:
            text = "root: values below"
        cells = (f"`{variant.name}`", variant.parent or "–", variant.init_from or "–", text or "–", variant.why)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def markdown() -> str:
    """Return the generated section of docs/lineage.md: both trees, the root's values, a table per family."""
    root = next(v for v in all_variants() if v.parent is None)
    lines = ["### Configuration: who was derived from whom", "", "```", tree("parent"), "```", ""]
    lines += ["### Weights: who starts from whose checkpoint", "", "```", tree("init_from"), "```", ""]
    lines += ["Every variant that is not in this tree starts from scratch.", ""]
    families = dict.fromkeys(v.family for v in all_variants())
    for family in families:
        lines += _family_markdown(family, [v for v in all_variants() if v.family == family])
    lines += [f"### All values of the root, `{root.name}`", "", "| field | value |", "|---|---|"]
    skip = ("name", "why", "parent", "init_from")
    lines += [f"| `{field}` | {value_text(getattr(root, field))} |" for field in FIELDS if field not in skip]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the markdown section. Returns the exit status."""
    if arguments != ["--markdown"]:
        print("usage: python -m mrict_core.variant_tables --markdown", file=sys.stderr)
        return 2
    print(markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
