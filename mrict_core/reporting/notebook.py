"""What the notebooks show: figures saved and displayed at once, what a variant changes, the source of its step."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from mrict_core.networks import count_parameters
from mrict_core.reporting import style
from mrict_core.reporting.figures import curves_figure, sample_figure
from mrict_core.variant import Variant
from mrict_core.variant_tables import losses, schedule, score, value_text
from mrict_core.variants import diff, lineage

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from mrict_core.methods import Method


def show(figure: Figure, path: Path, width: int = 900) -> Image:
    """Save a figure as png (200 dpi) and pdf and return it for display, at most `width` pixels wide."""
    saved = style.save(figure, path, pdf=True)
    return Image(filename=str(saved), width=min(width, int(figure.get_figwidth() * 110)))


def curves(name: str, history: pd.DataFrame, folder: Path, label: str) -> Image:
    """Draw the training curves of a variant, see `curves_figure`; saved as <folder>/<name>_curves.png."""
    return show(curves_figure(history, name, label=label), folder / f"{name}_curves.png")


def held_out(
    name: str, rows: Sequence[Mapping[str, Any]], folder: Path, label: str, *, orientation: bool = True
) -> Image:
    """Draw MR, synthetic CT, CT and error, see `sample_figure`; saved as <folder>/<name>_samples.png."""
    figure = sample_figure(rows, title=f"{name}: held-out patients", label=label, orientation=orientation)
    return show(figure, folder / f"{name}_samples.png")


def network_sizes(networks: Mapping[str, nn.Module]) -> str:
    """Return a line for each network: its name in the checkpoint and its number of parameters."""
    return "\n".join(f"{name}: {count_parameters(network):,} parameters" for name, network in networks.items())


def step_source(method: type[Method]) -> Markdown:
    """Return the source of a method's training step, as it is run."""
    return Markdown(f"```python\n{textwrap.dedent(inspect.getsource(method.step))}```")


def changes(variant: Variant) -> Markdown:
    """Return what a variant asks, starts from and changes from its parent, straight from `variants.py`."""
    chain = " → ".join(f"`{v.name}`" for v in lineage(variant.name))
    lines = [
        f"**{variant.name}** — {variant.why}",
        "",
        f"Weights: {chain if variant.init_from else 'from scratch'}.",
        "",
    ]
    if variant.parent:
        lines += [f"| changed from `{variant.parent}` | before | here |", "|---|---|---|"]
        lines += [f"| {f} | {value_text(a)} | {value_text(b)} |" for f, (a, b) in diff(variant.name).items()]
    return Markdown("\n".join(lines))


def recipe(variant: Variant, profile: Any) -> str:
    """Return the losses, optimisation and duration of a variant in a profile, as lines of text."""
    v = variant
    facts = {
        "generator": f"{v.generator}, width {profile.width}, dropout {v.generator_dropout:g}",
        "discriminator": f"{v.discriminator}, dropout {v.discriminator_dropout:g}",
        "L_G": losses(v),
        "L_D": f"GAN (real label {v.real_label:g}) + {v.lambda_gp:g} GP",
        "perceptual network": profile.feature_network or v.perceptual,
        "learning rates": f"G {v.lr_generator:g}, D {v.lr_discriminator:g}, Adam betas ({v.beta1:g}, {v.beta2:g})",
        "steps per batch": f"1 D, {v.generator_steps} G, batches of {profile.batch(v)}",
        "schedule": f"{schedule(v.schedule)}, watching {score(v.score)}",
        "epochs": f"{profile.epochs(v)} here ({profile.label}), {v.epochs} in the predecessor",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
