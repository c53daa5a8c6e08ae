"""Output of the notebooks: figures, saved and displayed; a variant's line and changes; the source of its step."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.display import HTML, Image, Markdown
from matplotlib.figure import Figure

from mrict_core.experiments import Experiment, lineage, listing, parent_of
from mrict_core.experiments.profiles import Profile
from mrict_core.experiments.schema import Optimizer, Part
from mrict_core.networks import count_parameters
from mrict_core.reporting import style
from mrict_core.reporting.figures import curves_figure, sample_figure

if TYPE_CHECKING:
    import pandas as pd
    import SimpleITK as sitk
    from torch import nn

    from mrict_core.methods import Method


def show(figure: Figure, path: Path, width: int = 900) -> Image:
    """Save a figure as png (200 dpi) and pdf and return it for display, at most `width` pixels wide."""
    saved = style.save(figure, path, pdf=True)
    return Image(filename=str(saved), width=min(width, int(figure.get_figwidth() * 130)))


def curves(name: str, history: pd.DataFrame, folder: Path, label: str) -> Image:
    """Draw the training curves of a variant, see `curves_figure`; saved as <folder>/<name>_curves.png."""
    return show(curves_figure(history, name, label=label), folder / f"{name}_curves.png")


def held_out(
    name: str, rows: Sequence[Mapping[str, Any]], folder: Path, label: str, *, orientation: bool = True
) -> Image:
    """Draw MR, synthetic CT, CT and error, see `sample_figure`; saved as <folder>/<name>_samples.png."""
    patients = {row["patient"] for row in rows}
    title = "held-out patient" if len(patients) == 1 else "held-out patients"
    figure = sample_figure(rows, title=f"{name}: {title}", label=label, orientation=orientation)
    return show(figure, folder / f"{name}_samples.png")


def pair_pictures(mr: sitk.Image, ct: sitk.Image, planes: Sequence[str] = ("axial", "sagittal")) -> HTML:
    """Return the pictures of a pair on one grid, as on the page of pairs, a row for each plane."""
    from mrict_core.pairing.bodies import ct_body, mr_body
    from mrict_core.reporting.pair_pictures import KINDS, pictures

    found = pictures(mr, ct, mr_body(mr), ct_body(ct))
    rows = []
    for plane in planes:
        cells = [
            f'<figure style="margin:4px;width:calc({100 / len(KINDS):g}% - 8px);max-width:{one.width}px">'
            f'<img alt="{one.plane}, {one.kind}" style="width:100%" src="data:image/jpeg;base64,{one.data}">'
            f"<figcaption>{one.kind}</figcaption></figure>"
            for one in found
            if one.plane == plane
        ]
        rows.append(f'<div style="display:flex">{"".join(cells)}</div>')
    return HTML("".join(rows))


def network_sizes(networks: Mapping[str, nn.Module]) -> str:
    """Return a line for each network: its name in the checkpoint and its number of parameters."""
    return "\n".join(f"{name}: {count_parameters(network):,} parameters" for name, network in networks.items())


def step_source(method: type[Method]) -> Markdown:
    """Return the source of a method's training step, and of its parts if it has several (`<part>_step`)."""
    parts = [name for name in vars(method) if name.endswith("_step") and name != "train_step"]
    sources = [textwrap.dedent(inspect.getsource(getattr(method, name))) for name in ("train_step", *parts)]
    return Markdown("```python\n{}```".format("\n".join(sources)))


def changes(variant: Experiment) -> Markdown:
    """Return a variant's question, its starting weights and its changes from the parent."""
    chain = " → ".join(f"`{v.name}`" for v in lineage(variant))
    lines = [
        f"**{variant.name}** — {variant.why}",
        "",
        f"Weights: {chain if variant.init_from else 'from scratch'}.",
        "",
    ]
    if variant.parent:
        lines += [f"| changed from `{variant.parent}` | before | here |", "|---|---|---|"]
        lines += [f"| {path} | {old} | {new} |" for path, old, new in listing.changes(variant)]
    return Markdown("\n".join(lines))


def development(variants: Sequence[Experiment]) -> Markdown:
    """Return the line of experiments that leads to these variants, each with its parent and its purpose."""
    line: dict[str, Experiment] = {}
    for variant in variants:
        chain = [variant]
        while parent := parent_of(chain[0]):
            chain.insert(0, parent)
        line |= {one.name: one for one in chain}
    told = {variant.name for variant in variants}
    lines = ["| stage | derived from | why |", "|---|---|---|"]
    for one in line.values():
        name = f"**{one.name}** (told here)" if one.name in told else one.name
        lines.append(f"| {name} | {one.parent or '–'} | {one.why} |")
    return Markdown("\n".join(lines))


def recipe(variant: Experiment, profile: Profile) -> str:
    """Return networks, losses, optimisers and duration of a variant in a profile, as lines of text."""
    v = variant
    widths = {role: profile.widths.get(part.name, profile.width) for role, part in v.network.items()}
    facts = {
        "view": _part(profile.view(v)),
        **{f"network {role}": f"{_part(part)}; width {widths[role]}" for role, part in v.network.items()},
        "L_G": listing.losses(v),
        "method": _part(v.method),
        "features": (_features(v) and profile.feature_network) or ", ".join(_features(v)) or "none",
        **{f"optimiser {role}": _optimizer(optimizer) for role, optimizer in v.optimizer.items()},
        "score": listing.score(v.score) or "none",
        "batch": f"{profile.batch(v)}",
        "epochs": f"{profile.epochs(v)} here ({profile.label}), {v.epochs} declared",
    }
    if profile.minutes or v.steps:
        facts["length"] = f"{profile.length(v)}, in rounds that end with a validation"
    longest = max(map(len, facts))
    return "\n".join(f"{name:<{longest}}  {value}" for name, value in facts.items())


def _part(part: Part) -> str:
    return ", ".join([part.name, *(f"{name} {listing.value_text(value)}" for name, value in part.options.items())])


def _features(variant: Experiment) -> list[str]:
    return [term.options["features"] for term in variant.loss.values() if "features" in term.options]


def _optimizer(optimizer: Optimizer) -> str:
    plan = optimizer.schedule
    watching = f", watching {plan.watch}" if plan.kind == "plateau" else ""
    named = _part(Part(optimizer.name, optimizer.options))
    return f"{named}; rate {listing.number(optimizer.lr)}, {listing.schedule(plan)}{watching}"
