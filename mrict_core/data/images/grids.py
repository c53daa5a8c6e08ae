"""Grids: the distance between two of them, and the tolerance within which they are one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mrict_core.data.images.orders import spacing_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_GRID = 0.05  # of a voxel at the corners: rounded headers differ by a hundredth or two, another grid by far more
UNITS = {"voxel size": " mm", "axes along": "", "first voxel at": " mm"}
Shape = tuple[int, ...]


def corner_gap_mm(affine: np.ndarray, other: np.ndarray, shape: Shape) -> float:
    """Return the largest distance, in mm along an axis, between the corner voxels of two affines."""
    return float(np.abs(_corner_steps(affine, other, shape)).max())


def corner_gap_voxels(affine: np.ndarray, other: np.ndarray, shape: Shape) -> float:
    """Return the same in voxels of the first affine, along one of its axes."""
    inverse = np.linalg.inv(np.asarray(affine)[:3, :3])
    return float(np.abs(inverse @ _corner_steps(affine, other, shape)).max())


def _corner_steps(affine: np.ndarray, other: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the steps (3, 8) in mm from one affine's corner voxels to the other's."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return (np.asarray(other) - affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])


def differ(affine: np.ndarray, other: np.ndarray, shape: Shape) -> bool:
    """Return whether two affines place a voxel more than `SAME_GRID` of a voxel apart."""
    return corner_gap_voxels(affine, other, shape) > SAME_GRID


def is_same(shape: Shape, affine: np.ndarray, other_shape: Shape, other_affine: np.ndarray) -> bool:
    """Return whether two grids are one: equal shapes, and every voxel within `SAME_GRID` of a voxel."""
    return tuple(shape) == tuple(other_shape) and not differ(affine, other_affine, shape)


def straightened(affine: np.ndarray) -> np.ndarray:
    """Return the nearest affine with orthogonal axes, and the same voxel size and first voxel."""
    spacing, straight = np.array(spacing_of(affine)), np.array(affine)
    left, _, right = np.linalg.svd(straight[:3, :3] / spacing)
    straight[:3, :3] = left @ right * spacing
    return straight


def in_words(shape: Shape, affine: np.ndarray) -> str:
    """Return a grid in words: shape, voxel size, directions of its axes, position of its first voxel."""
    spacing = "×".join(f"{v:.4g}" for v in spacing_of(affine))
    origin = ", ".join(f"{v:.4g}" for v in np.asarray(affine)[:3, 3])
    axes = "".join(nib.orientations.aff2axcodes(affine))
    return f"{'×'.join(map(str, shape))} voxels of {spacing} mm, axes {axes}, from ({origin}) mm"


def difference(shape: Shape, affine: np.ndarray, other_shape: Shape, other_affine: np.ndarray) -> tuple[str, str, str]:
    """Return two grids in words that never read alike, and how far apart they are.

    For grids of one shape only the differences are named, with as many digits as needed.
    """
    if tuple(shape) != tuple(other_shape):
        return in_words(shape, affine), in_words(other_shape, other_affine), "different numbers of voxels"
    parts = [_parts(np.asarray(a, np.float64)) for a in (affine, other_affine)]
    scales = {"voxel size": max(shape) / parts[0]["voxel size"], "axes along": max(shape)}
    weight = {name: np.abs(scales.get(name, 1) * (parts[0][name] - parts[1][name])).max() for name in parts[0]}
    named = [name for name in weight if weight[name] >= max(weight.values()) / 10]
    texts = [_unlike(parts[0][name], parts[1][name]) for name in named]
    ours, theirs = (
        ", ".join(f"{name} {text[k]}{UNITS[name]}" for name, text in zip(named, texts, strict=True)) for k in (0, 1)
    )
    gap_mm, gap = corner_gap_mm(affine, other_affine, shape), corner_gap_voxels(affine, other_affine, shape)
    return ours, theirs, f"up to {gap_mm:.3g} mm ({gap:.2g} of a voxel) apart"


def _parts(affine: np.ndarray) -> dict[str, np.ndarray]:
    spacing = np.array(spacing_of(affine))
    return {"voxel size": spacing, "axes along": (affine[:3, :3] / spacing).T.ravel(), "first voxel at": affine[:3, 3]}


def _unlike(values: np.ndarray, others: np.ndarray) -> tuple[str, str]:
    """Return two rows of numbers with as many digits as needed to distinguish them."""
    for digits in range(4, 18):
        ours, theirs = ("(" + ", ".join(f"{v:.{digits}g}" for v in row) + ")" for row in (values, others))
        if ours != theirs:
            break
    return ours, theirs


def check_same_grid(grids: dict[str, tuple[Shape, np.ndarray, Path]]) -> None:
    """Raise `MrictError` unless all `{role: (shape, affine, path)}` share one grid."""
    (role, (shape, affine, path)), *others = grids.items()
    for other, (other_shape, other_affine, other_path) in others:
        if not is_same(shape, affine, other_shape, other_affine):
            ours, theirs, apart = difference(shape, affine, other_shape, other_affine)
            raise MrictError(
                f"{shown(other_path)}: {other} has {theirs}, {role} ({path.name}) has {ours}: {apart}; "
                "expected one grid; resample one onto the other's"
            )
