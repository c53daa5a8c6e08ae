"""The predecessor's validation procedure, and its printed numbers next to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mrict_core import metrics
from mrict_core.data.batches import Slice, View
from mrict_core.errors import MrictError
from mrict_core.evaluation.controls import CONTROLS
from mrict_core.evaluation.records import seeds_of
from mrict_core.hu import PREDECESSOR, HuRange
from mrict_core.inference import Synthesizer
from mrict_core.legacy.published import BLACK, PRINTED, TRAINING_SLICES, TRAINING_SLICES_MOST, Printed
from mrict_core.metrics.predecessor import NUMBERS, VGG_SIDE, Features, slice_scores

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

BATCH = 32
ONE_SLICE = Slice()
ROTATION_DEGREES = 10.0
UNIT = PREDECESSOR  # its [-1, 1] is [-1000, 1000] HU
Look = tuple[str, Features] | MrictError  # a feature network's name and features, or why it is unavailable


@dataclass(frozen=True)
class Translation:
    """A predictor: run(real_A gathered by the view, real_B) => fake_B; (B, 1, H, W) CTs in the predecessor's unit."""

    run: Callable[[Tensor, Tensor], Tensor]
    view: View = ONE_SLICE

    @property
    def misfit(self) -> str:
        """Return why the procedure does not fit the predictor, "" if it does."""
        if self.view.dimensions == 2:
            return ""
        return "the procedure turns every slice by a random angle of its own; this model sees whole volumes"


def synthesizer_translation(synthesizer: Synthesizer, window: HuRange) -> Translation:
    """Return a trained model as a predictor; `window` is the HU range of its [-1, 1]."""
    method = synthesizer.method

    def run(real_A: Tensor, _: Tensor) -> Tensor:
        return UNIT.to_unit(window.to_hu(method.predict(real_A.to(synthesizer.device)).cpu()))

    return Translation(run, method.view)


def control_translation(name: str, window: HuRange) -> Translation:
    """Return a control as a predictor; `window` is the HU range of the dataset cache's [-1, 1]."""

    def run(real_A: Tensor, real_B: Tensor) -> Tensor:
        mr, ct = (part[:, 0].numpy() for part in (window.to_hu(real_A), UNIT.to_hu(real_B)))
        return torch.from_numpy(UNIT.to_unit(CONTROLS[name](mr, ct)))[:, None]

    return Translation(run)


@torch.inference_mode()
def predecessor_validation(
    store: SliceStore,
    patients: Sequence[str],
    translation: Translation,
    *,
    seed: int,
    fid: Look,
    vgg: Look,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
) -> dict[str, Any]:
    """Return {mse, ssim, fid, vgg} of the patients' slices by the predecessor's own procedure.

    Its loader's random flips and rotation, the same for MR and CT, are applied also in evaluation; whole slices in
    [-1, 1] of [-1000, 1000] HU; SSIM in the range of each real slice; unweighted mean of batch means; FID over all
    slices, clamped below 0 HU. A number is None if its network is unavailable, with the reason in `reasons`; all four
    are for a model of volumes. Also `networks`, `n_slices` and `seed`.
    """
    if reason := translation.misfit:
        unknown = dict.fromkeys(NUMBERS)
        return unknown | {"networks": {}, "reasons": dict.fromkeys(NUMBERS, reason), "n_slices": 0, "seed": seed}
    means: dict[str, list[float]] = {"mse": [], "ssim": [], "vgg": []}
    frechet = None if isinstance(fid, MrictError) else metrics.FrechetDistance(fid[1], device)
    count = 0
    generator = torch.Generator().manual_seed(seed)
    for real_A, real_B in _batches(store, patients, batch_size, translation.view):
        real_A, real_B = augment(real_A, real_B, generator)
        real, fake = (part[:, 0].numpy() for part in (real_B, translation.run(real_A, real_B)))
        for name, values in zip(("mse", "ssim"), slice_scores(real, fake), strict=True):
            means[name].append(float(values.mean()))
        if not isinstance(vgg, MrictError):
            side = VGG_SIDE if vgg[0].startswith("vgg16") else None  # the resize to 224 belongs to VGG16
            means["vgg"].append(metrics.predecessor_vgg(real, fake, vgg[1], side=side, device=device))
        if frechet:
            frechet.update(real, fake)
        count += len(real)
    looks = {"fid": fid, "vgg": vgg}
    return {
        **{name: float(np.mean(values)) if values else None for name, values in means.items()},
        "fid": frechet.compute() if frechet else None,
        "networks": {name: look[0] for name, look in looks.items() if not isinstance(look, MrictError)},
        "reasons": {name: str(look) for name, look in looks.items() if isinstance(look, MrictError)},
        "n_slices": count,
        "seed": seed,
    }


def _batches(
    store: SliceStore, patients: Sequence[str], batch_size: int, view: View
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the patients' slices in order: MR as the view gathers it and CT in the predecessor's unit."""
    parts: list[tuple[Tensor, Tensor]] = []
    for patient in patients:
        slices = store.slices(patient)
        for position, ct in enumerate(slices.ct):
            unit = torch.from_numpy(UNIT.to_unit(np.asarray(ct, np.float32)))
            parts.append((torch.from_numpy(view.gather(slices.mr, position).astype(np.float32)), unit[None]))
            if len(parts) == batch_size:
                yield tuple(torch.stack(column) for column in zip(*parts, strict=True))
                parts = []
    if parts:
        yield tuple(torch.stack(column) for column in zip(*parts, strict=True))


def augment(real_A: Tensor, real_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch like the predecessor's loader: per pair a horizontal and a vertical flip, each with probability
    0.5, and a rotation by up to 10 degrees, nearest neighbour, filled with -1 (0 in its [0, 1])."""
    from torchvision.transforms import functional as F

    pairs = []
    for pair in torch.cat([real_A, real_B], dim=1):  # (C + 1, H, W): one transform for MR and CT
        flip_h, flip_v, turn = torch.rand(3, generator=generator).tolist()
        pair = F.hflip(pair) if flip_h < 0.5 else pair
        pair = F.vflip(pair) if flip_v < 0.5 else pair
        angle = (2 * turn - 1) * ROTATION_DEGREES
        pairs.append(F.rotate(pair, angle, interpolation=F.InterpolationMode.NEAREST, fill=[-1.0]))
    return torch.stack(pairs).split([real_A.shape[1], real_B.shape[1]], dim=1)


def predecessor_table(
    records: Sequence[Mapping[str, Any]], printed: Sequence[Printed] = (*PRINTED, BLACK)
) -> pd.DataFrame:
    """Return one row per printed variant: the predecessor's four numbers, ours by its procedure, ours corrected, why.

    Columns: variant, readme; mse, ssim, fid, vgg with the prefixes printed_, ours_ and corrected_; mae_hu; why.
    Variants without a record have printed values only. The last row is the black image.
    """
    by_name = {record["name"]: record for record in records}
    rows = []
    for row in printed:
        record = by_name.get(row.variant)
        found: dict[str, Any] = {"variant": row.variant, "readme": row.readme_name or "not in it"}
        found |= {f"printed_{name}": getattr(row, name) for name in NUMBERS}
        old = (record or {}).get("predecessor", {})
        found |= {f"ours_{name}": old.get(name) for name in NUMBERS}
        summary = record["summary"]["all"] if record else {}
        twins = {score["name"]: score["value"] for score in (record or {}).get("features", [])}
        found |= {name: summary[name]["mean"] if record else None for name in ("corrected_mse", "corrected_ssim")}
        found |= {"corrected_fid": twins.get("fid"), "corrected_vgg": twins.get("corrected_vgg")}
        found["mae_hu"] = summary["mae_hu"]["mean"] if record else None
        rows.append(found | {"why": _why(row, record)})
    numbers = [column for column in rows[0] if column not in ("variant", "readme", "why")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _why(row: Printed, record: Mapping[str, Any] | None) -> str:
    """Explain the difference between printed and ours from the record."""
    if record is None:
        return f"not run here; printed: {row.where}"
    context, old = record["context"], record.get("predecessor", {})
    if record["kind"] == "control":
        return f"{row.where}: not a model, but the reference for every number above"
    theirs = TRAINING_SLICES.get(row.variant, TRAINING_SLICES_MOST)
    parts = [
        f"printed on validation slices of training patients ({row.where}), ours on held-out patients",
        f"trained on {context.get('training_pairs', '?')} slices of {context.get('data', '?')} (theirs {theirs}), "
        f"profile {context.get('profile', '?')}, {context.get('epochs', '?')} epochs"
        + (f" in {context['budget']}" if "budget" in context else ""),
    ]
    if len(seeds_of(record)) > 1:
        parts.append(f"ours: mean over seeds {context['seed']}")
    for name, network in old.get("networks", {}).items():
        if network not in ("inception_fid", "vgg16_relu3_3"):
            parts.append(f"{name.upper()} through {network}: another scale, not comparable")
    parts += [f"{name.upper()} absent: {reason}" for name, reason in old.get("reasons", {}).items()]
    return "; ".join(parts)
