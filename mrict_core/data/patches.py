"""Three-dimensional training samples: random patches of patients' volumes; and whole volumes, for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler

from mrict_core.data.batches import Batch, PairedSlices, Patch3d, View
from mrict_core.data.cache.store import SliceStore
from mrict_core.hu import AIR_FLOOR_HU

MIDDLE = 0.5  # of the voxels of a slice's mask
Item = int | tuple[int, float]  # a slice, and the place of the centre among the voxels of its mask


def training_set(
    store: SliceStore, patients: Sequence[str], keep: dict[str, np.ndarray] | None, view: View
) -> PairedSlices:
    """Return the training samples that a view asks for; `keep`: see `PairedSlices`."""
    kind = PairedPatches if isinstance(view, Patch3d) else PairedSlices
    return kind(store, patients, keep, view)


class PairedPatches(PairedSlices):
    """Patches of the MR of the given patients with CT and mask, each centred on a voxel of the mask.

    An item is a slice of `index` and the place of the centre among its mask's voxels, from 0 to 1; a slice alone means
    the middle one. Slices are drawn evenly, so that the ends of a body count as much as its middle. A patch that would
    leave the volume is moved inside, as the patches of a prediction are; see `patch_of` for smaller volumes.
    `keep` limits the centres, not what a patch shows.
    """

    view: Patch3d

    def _rows(self, patient: str, kept: np.ndarray | None) -> Iterator[tuple[str, str, int]]:
        masked = np.flatnonzero(self.store.slices(patient).mask.any(axis=(1, 2)))
        plane = self.store.plane(patient)
        yield from ((patient, plane, int(k)) for k in (masked if kept is None else np.intersect1d(masked, kept)))

    def sampler(self, count: int | None, generator: torch.Generator) -> Sampler:
        return Places(super().sampler(count, generator), generator)

    def __getitem__(self, item: Item) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Return a whole batch (called by the loader).  # images (B, 1, D, H, W)"""
        placed = [item if isinstance(item, tuple) else (int(item), MIDDLE) for item in items]
        parts = [self._patches(*self.index[row][::2], place) for row, place in placed]
        mr, ct, mask = (torch.from_numpy(np.stack(column))[:, None] for column in zip(*parts, strict=True))
        return Batch(mr, ct, mask, torch.tensor([self.index[row][1] != "sagittal" for row, _ in placed]))

    def _patches(self, patient: str, position: int, place: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slices = self.store.slices(patient)
        rows, cols = np.nonzero(slices.mask[position])
        chosen = min(int(place * len(rows)), len(rows) - 1)
        centre = (position, int(rows[chosen]), int(cols[chosen]))
        ct = patch_of(slices.ct, centre, self.view.patch, AIR_FLOOR_HU)
        return (
            patch_of(slices.mr, centre, self.view.patch, -1),
            self.store.window.to_unit(ct).astype(np.float32),
            patch_of(slices.mask, centre, self.view.patch, 0),
        )


def patch_of(volume: np.ndarray, centre: Sequence[int], sides: Sequence[int], fill: float) -> np.ndarray:
    """Return the patch around a voxel, moved inside the volume.  # (N, H, W) => sides, float32

    Along an axis where the volume is smaller, it is centred and padded with `fill`, as MONAI's sliding window pads.
    """
    made = np.full(sides, fill, np.float32)
    source, target = [], []
    for at, length, side in zip(centre, volume.shape, sides, strict=True):
        first, before = min(max(at - side // 2, 0), max(length - side, 0)), max(side - length, 0) // 2
        source.append(slice(first, first + min(length, side)))
        target.append(slice(before, before + min(length, side)))
    made[tuple(target)] = volume[tuple(source)]
    return made


class Places(Sampler):
    """Slices in the order of another sampler, each with a random place."""

    def __init__(self, rows: RandomSampler, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        for row in self.rows:
            yield row, float(torch.rand((), generator=self.generator, dtype=torch.float64))


class WholeVolume(PairedSlices):
    """One patient's volume as a single item, or its slices from `first` to before `last`."""

    def __init__(self, store: SliceStore, patient: str, rows: range, view: View) -> None:
        self.rows = rows
        super().__init__(store, [patient], None, view)

    def _rows(self, patient: str, kept: np.ndarray | None) -> Iterator[tuple[str, str, int]]:
        yield patient, self.store.plane(patient), self.rows.start

    @property
    def slices(self) -> int:
        return len(self.rows)

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """Return the volume as a batch (called by the loader).  # images (1, 1, N, S, S)"""
        patient, plane, _ = self.index[0]
        slices, at = self.store.slices(patient), slice(self.rows.start, self.rows.stop)
        ct = self.store.window.to_unit(np.asarray(slices.ct[at], np.float32))
        images = (
            torch.from_numpy(np.array(part, np.float32))[None, None] for part in (slices.mr[at], ct, slices.mask[at])
        )
        return Batch(*images, torch.tensor([plane != "sagittal"]))


def middle(count: int, most: int | None, least: int) -> range:
    """Return the middle rows of `count`, at most `most` of them but no fewer than `least`; None: all."""
    kept = min(count, max(most or count, least))
    return range((count - kept) // 2, (count - kept) // 2 + kept)
