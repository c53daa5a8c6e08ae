"""Predict a synthetic CT of an MR volume on its grid, with one model or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrict_core.data.augment import AugmentSettings
from mrict_core.data.cache.patient import (
    PreparedMr,
    body_of,
    otsu_body_of,
    prepare_mr,
    prepare_mr_predecessor,
    unpadded,
)
from mrict_core.data.images.orders import PLANES, SliceOrder, own_plane
from mrict_core.data.images.resample import in_plane_grid, is_sheared, resample_to
from mrict_core.data.images.volumes import Volume
from mrict_core.data.intensity import input_range
from mrict_core.data.masks import outline
from mrict_core.data.planes import FULL_MM, Cut, full_planes
from mrict_core.errors import MrictError, unknown_name
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.inference.synthesizer import Synthesizer, merged
from mrict_core.inference.tiles import slices_to_hu
from mrict_core.metrics.uncertainty import calibrated
from mrict_core.paths import shown

ROWS, COLS = 1, 2  # axes of (N, rows, cols)
FAR = 1.5  # times the training pixel size, or ratio of a pixel's sides: the network has not seen such anatomy
RESAMPLE_MM = (0.05, 50.0)
Progress = Callable[[int, int, str], None]  # passes done, total passes, model name


@dataclass(frozen=True)
class SynthesisOptions:
    """Options of a synthesis."""

    tta: bool = False  # mean over the flips of the training augmentation
    uncertainty: bool = False  # also the standard deviation over models, flips and planes, or over samples
    overlap: float = 0.5  # of neighbouring tiles, as a share of their side
    resample_to_mm: float | None = None  # the network's pixel; None: native unless far from training; 0: native

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise MrictError(f"overlap {self.overlap:g}: expected 0 or more and less than 1")
        low, high = RESAMPLE_MM
        if self.resample_to_mm and not low <= self.resample_to_mm <= high:
            raise MrictError(f"a pixel of {self.resample_to_mm:g} mm: expected {low:g} to {high:g} mm, or 0 for native")


@dataclass(frozen=True)
class Synthesis:
    """A synthetic CT in file order on the grid of its MR, and how it was made."""

    hu: np.ndarray  # (nx, ny, nz) float32; -1024 outside the outline
    sd_hu: np.ndarray | None  # (nx, ny, nz) float32; 0 outside the outline
    body: np.ndarray  # (nx, ny, nz) bool
    facts: dict[str, Any]  # plain json values
    warnings: tuple[str, ...]


class _Moments:
    """Running mean and, with `spread`, standard deviation of volumes (Welford)."""

    def __init__(self, spread: bool) -> None:
        self.count, self.spread = 0, spread
        self.mean = self.squares = np.float32(0)

    def add(self, volume: np.ndarray) -> None:
        self.count += 1
        step = volume - self.mean
        self.mean = self.mean + step / np.float32(self.count)
        if self.spread:
            self.squares = self.squares + step * (volume - self.mean)

    def sd(self) -> np.ndarray:
        return np.sqrt(self.squares / np.float32(self.count - 1))


def planes_of(models: Sequence[Synthesizer], volume: Volume | None = None) -> dict[str, list[Synthesizer]]:
    """Return {plane: the models trained on it}; of a volume one voxel thick its plane, with those trained on it or all.

    Protocol `predecessor` has one plane.
    """
    found: dict[str, list[Synthesizer]] = {}
    for model in models:
        for plane in model.facts.all_planes:
            if plane not in PLANES:
                raise unknown_name("plane", plane, PLANES)
            found.setdefault(plane, []).append(model)
    own = own_plane(volume.shape, volume.affine, "") if volume is not None else ""
    if not own or models[0].facts.protocol == "predecessor":
        return found
    return {own: found.get(own, list(models))}


def draws(models: Sequence[Synthesizer]) -> bool:
    """Return whether the passes of these models are samples: of one that draws them. Of several, each gives its CT."""
    return len(models) == 1 and models[0].method.draws > 0


def flips_of(model: Synthesizer, plane: str) -> list[tuple[int, ...]]:
    """Return the flips of a model's training augmentation as axes of (N, rows, cols)."""
    augment = dataclasses.replace(AugmentSettings(), **model.variant.data.augment)
    across = [(), (COLS,)] if augment.flip_horizontal and plane != "sagittal" else [()]
    return [(*rows, *cols) for rows in ([(), (ROWS,)] if augment.flip_vertical else [()]) for cols in across]


def synthesize_volume(
    synthesizers: Synthesizer | Sequence[Synthesizer],
    volume: Volume,
    options: SynthesisOptions = SynthesisOptions(),
    progress: Progress | None = None,
    *,
    body: np.ndarray | None = None,
) -> Synthesis:
    """Return the synthetic CT of an MR volume of any orientation, spacing and size, on the volume's own grid.

    Models of one plane are averaged, and so are the flips of `tta`; planes are merged, see `merged`. The uncertainty of
    one model that draws samples is their SD, calibrated if the model was evaluated. A volume one voxel thick is
    predicted as one slice of its plane, a thin stack in its full planes. Outside `body` (file order, bool) is air; by
    default, outside the body found on the MR and a margin, `masks.outline`. The network always sees the MR's own body,
    as in training.
    """
    models = [synthesizers] if isinstance(synthesizers, Synthesizer) else list(synthesizers)
    check_models(models, options)
    modality = models[0].facts.modality
    volume = unpadded(volume, modality)
    possible = planes_of(models, volume)
    order = SliceOrder.axial(volume.affine)
    stack = order.to_slices(volume.array).shape
    full = full_planes(possible, np.multiply(stack, order.spacing_mm(volume.affine)))
    planes = {plane: possible[plane] for plane in full}
    predecessor = models[0].facts.protocol == "predecessor"
    own = otsu_body_of(volume) if predecessor else body_of(volume, modality)
    moments = {plane: _Moments(options.uncertainty) for plane in planes}
    every = _Moments(True) if options.uncertainty and len(planes) > 1 else None
    passes = [
        (model, plane, axes, sample)
        for plane, own_models in planes.items()
        for model in own_models
        for axes in (flips_of(model, plane) if options.tta else [()])
        for sample in (range(model.method.draws) if options.uncertainty and draws(models) else [None])
    ]
    if options.uncertainty and len(passes) < 2:
        raise MrictError(
            f"{shown(volume.path)}: one model gives one prediction of its {', '.join(planes)} slices, uncertainty "
            f"needs several; give several models{'' if options.tta else ', or use test-time augmentation'}"
        )
    facts: dict[str, Any] = {"planes": list(planes), "passes": len(passes)}
    warnings: list[str] = []
    if narrow := [plane for plane in possible if plane not in planes]:
        warnings.append(
            f"its {' and '.join(narrow)} slices are narrower than {FULL_MM:g} mm: predicted in its "
            f"{' and '.join(planes)} ones alone"
        )
    tiled: set[int] = set()
    each_pass = _predicted(passes, volume, own, options, body, warnings)
    for done, (model, plane, prepared, spacing_mm, hu) in enumerate(each_pass, start=1):
        for each in (moments[plane], every):
            if each is not None:
                each.add(hu)
        if prepared.crop.size != model.facts.size and not model.volumes:
            tiled.add(model.facts.size)
        facts = _facts(prepared, spacing_mm) | facts  # keeps those of the first plane
        if progress:
            progress(done, facts["passes"], model.variant.name)
    hu = merged([m.mean for m in moments.values()])
    inside = outline(own, volume.spacing_mm) if body is None else body
    hu = np.where(inside, hu, np.float32(AIR_FLOOR_HU))
    sd = None
    if options.uncertainty:
        sd = np.where(inside, (every or moments[facts["planes"][0]]).sd(), np.float32(0))
        factors = models[0].facts.calibration if len(models) == 1 and not options.tta else {}
        if factors:
            sd = calibrated(sd, hu, factors)
        facts["sd"] = "of samples, calibrated" if factors else "of the passes"
    facts["tiled"] = bool(tiled)
    if tiled:
        sizes = ", ".join(map(str, sorted(tiled)))
        warnings.append(f"the body is larger than the network's canvas ({sizes} px): predicted in overlapping tiles")
    return Synthesis(hu, sd, np.array(own if body is None else body), facts, tuple(warnings))


def _nearest(mask: np.ndarray, volume: Volume, seen: Volume) -> np.ndarray:
    if seen is volume:
        return mask
    grey = Volume(np.asarray(mask, np.float32), volume.affine, volume.path)
    return resample_to(grey, seen, nearest=True, fill=0).array > 0


def check_models(models: Sequence[Synthesizer], options: SynthesisOptions) -> None:
    """Raise MrictError unless these models can form an ensemble with these options."""
    if not models:
        raise MrictError("no model given; name at least one")
    protocols = sorted({model.facts.protocol for model in models})
    planes_of(models)
    if len(protocols) > 1:
        raise MrictError(f"models of protocols {' and '.join(protocols)} in one ensemble; expected one protocol")
    if len(inputs := sorted({model.facts.modality.word for model in models})) > 1:
        raise MrictError(f"models of {' and '.join(inputs)} in one ensemble; expected one kind of input")
    if len(regions := sorted({region for model in models if (region := model.facts.region)})) > 1:
        raise MrictError(f"models of {' and '.join(regions)} in one ensemble; expected one region; choose others")
    turned = [model.variant.name for model in models if model.facts.all_planes != ["axial"]]
    if turned and protocols == ["predecessor"]:
        raise MrictError(f"{turned[0]}: protocol predecessor has only axial slices; expected plane axial")
    several = sum(map(len, planes_of(models).values())) > 1 or options.tta or draws(models)
    if options.uncertainty and not several:
        raise MrictError("uncertainty needs several predictions; give several models or use test-time augmentation")


def trained_spacing_mm(model: Synthesizer) -> float | None:
    """Return the typical pixel size of a model's training slices in mm, None if unknown."""
    features = (model.facts.fingerprint or {}).get("features") or {}
    logarithms = [features[f"spacing_{side}"]["centre"] for side in ("rows", "cols") if f"spacing_{side}" in features]
    return float(np.exp(np.mean(logarithms))) if logarithms else None


def _working_volume(plane: str, model: Synthesizer, volume: Volume, options: SynthesisOptions) -> tuple[Volume, str]:
    """Return the volume whose slices of a plane the network sees: the input, its pixels resampled if requested or
    needed, not the distance of its slices; and a remark."""
    order, target, remark = SliceOrder.toward(volume.affine, PLANES[plane]), options.resample_to_mm, ""
    if target is None:
        target, remark = _needed_mm(order.spacing_mm(volume.affine)[1:], trained_spacing_mm(model))
        if target and is_sheared(volume):
            return volume, f"{remark}, but its axes are not at right angles: not resampled"
        if target:
            remark = f"{remark}: synthesised at {target:.3g} mm"
    if not target:
        return volume, remark
    grid = in_plane_grid(volume, order.axes[1:], target)
    return resample_to(volume, grid, fill=float(volume.array.min())), remark


def _needed_mm(pixel_mm: Sequence[float], trained_mm: float | None) -> tuple[float, str]:
    """Return the pixel size that the network needs, 0 if the native one fits, and why."""
    rows, cols = pixel_mm
    came = f"pixels of {rows:.3g} x {cols:.3g} mm"
    if trained_mm and max(rows / trained_mm, cols / trained_mm, trained_mm / rows, trained_mm / cols) > FAR:
        return trained_mm, f"{came}, the network was trained on {trained_mm:.3g} mm"
    if max(rows / cols, cols / rows) > FAR:
        return min(rows, cols), f"{came}, the network was trained on square ones"
    return 0.0, ""


def _source(model: Synthesizer, plane: str, volume: Volume) -> str:
    """Return the plane in which a volume is prepared: axial where a model's slices are cut from axial ones (`Cut`)."""
    cut = plane in model.facts.planes and not own_plane(volume.shape, volume.affine, "")
    return "axial" if cut else plane


def _predicted(
    passes: Sequence[tuple[Synthesizer, str, tuple[int, ...], int | None]],
    volume: Volume,
    body: np.ndarray,
    options: SynthesisOptions,
    wanted: np.ndarray | None,
    warnings: list[str],
) -> Iterator[tuple[Synthesizer, str, PreparedMr, tuple[float, ...], np.ndarray]]:
    """Yield (model, plane, input, its spacing, HU on the grid of `volume`) per pass, one input in memory at a time.

    Remarks on the input are added to `warnings`.
    """
    key, prepared, seen = None, None, volume
    mr_range = input_range(volume.array, body, volume.path, passes[0][0].facts.modality)
    for model, plane, axes, sample in passes:
        source = _source(model, plane, volume)
        if key != (key := (model.facts.size, source, trained_spacing_mm(model))):
            seen, remark = _working_volume(source, model, volume, options)
            warnings += [remark] if remark and remark not in warnings else []
            kept = None if wanted is None else _nearest(wanted, volume, seen)
            prepared = _prepare(model, source, seen, _nearest(body, volume, seen), kept, mr_range)
        spacing_mm = prepared.order.spacing_mm(seen.affine)
        remark = _thin(model, len(prepared.mr))
        warnings += [remark] if remark and remark not in warnings else []

        def predict(
            mr: np.ndarray,
            model: Synthesizer = model,
            axes: tuple[int, ...] = axes,
            sample: int | None = sample,
        ) -> np.ndarray:
            return np.flip(slices_to_hu(model, np.flip(mr, axes), options.overlap, sample), axes)

        if source == plane:
            hu = predict(prepared.mr)
        else:
            hu = model.through(Cut(plane, len(prepared.mr), spacing_mm), prepared.mr, predict)
        model.check_hu(hu, prepared.body)
        hu = prepared.to_volume(hu)
        hu = hu if seen is volume else resample_to(Volume(hu, seen.affine, volume.path), volume).array
        yield model, plane, prepared, spacing_mm, hu


def _thin(model: Synthesizer, count: int) -> str:
    """Return a remark on a volume of fewer slices than the patches that the network was trained on, or ""."""
    least = model.method.view.sides(model.facts.size)[0] if model.volumes else 0
    if count >= least:
        return ""
    slices = f"{count} slice{'s' * (count != 1)}"
    return f"{slices}, the network was trained on patches of {least}: padded with background, less certain"


def _prepare(
    model: Synthesizer,
    plane: str,
    mr: Volume,
    body: np.ndarray,
    wanted: np.ndarray | None,
    mr_range: tuple[float, float],
) -> PreparedMr:
    size = model.facts.size
    if model.facts.protocol == "predecessor":
        return prepare_mr_predecessor(mr, size, whole=True, body=body)
    keep = None if wanted is None else SliceOrder.toward(mr.affine, PLANES[plane]).to_slices(wanted)
    return prepare_mr(
        mr, size, keep, plane=plane, whole=True, body=body, mr_range=mr_range, modality=model.facts.modality
    )


def _facts(prepared: PreparedMr, spacing_mm: Sequence[float]) -> dict[str, Any]:
    return {
        "mr_range": list(prepared.mr_range),
        "canvas_px": int(prepared.crop.size),
        "slices": len(prepared.z),
        "network_spacing_mm": [round(v, 6) for v in spacing_mm],
    }
