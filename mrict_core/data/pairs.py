"""Paired and unpaired slices for training, read from the memory-mapped store in whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrict_core.data.store import SliceStore
from mrict_core.data.transforms import JointTransform
from mrict_core.errors import MrictError

Batch = tuple[Tensor, Tensor, Tensor]  # real_A, real_B, mask: each (B, 1, S, S)
CPU = torch.device("cpu")


class PairedSlices(Dataset):
    """Slices of the given patients as (real_A, real_B, mask), float32 in [-1, 1] and a 0/1 mask.

    `keep` limits a patient to some of its slices ({patient: positions}); patients without an entry keep all.
    """

    def __init__(self, store: SliceStore, patients: Sequence[str], keep: dict[str, np.ndarray] | None = None) -> None:
        unknown = sorted(set(patients) - set(store.patients))
        if unknown:
            raise MrictError(f"patients {', '.join(unknown)} are not in the slice store; run preprocess again")
        counts, keep = store.counts(), keep or {}
        self.store = store
        self.index = [(p, int(k)) for p in patients for k in keep.get(p, range(counts[p]))]
        if not self.index:
            raise MrictError(f"no slice to train on in patients {', '.join(patients) or '(none)'}")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        real_A, real_B, mask = self.__getitems__([item])
        return real_A[0], real_B[0], mask[0]

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """Return a whole batch (DataLoader calls this one): real_A, real_B, mask, each (B, 1, S, S)."""
        rows = [self._row(*self.index[i]) for i in items]
        mr, ct, mask = (np.stack(column) for column in zip(*rows, strict=True))
        real_A = torch.from_numpy(mr.astype(np.float32))[:, None]
        real_B = torch.from_numpy(self.store.window.to_unit(ct).astype(np.float32))[:, None]
        return real_A, real_B, torch.from_numpy(mask.astype(np.float32))[:, None]

    def _row(self, patient: str, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slices = self.store.slices(patient)
        return slices.mr[position], slices.ct[position], slices.mask[position]


def in_turns(patients: Sequence[str], store: SliceStore) -> list[str]:
    """Return the patients in turns over the centres (first of A, first of B, …), so that a few stand for all."""
    turns: dict[str, int] = {}
    ranked = []
    for patient in patients:
        centre = store.centre(patient)
        turns[centre] = turns.get(centre, 0) + 1
        ranked.append((turns[centre], centre, patient))
    return [patient for _, _, patient in sorted(ranked)]


def _same(batch: Batch) -> Batch:
    return batch  # __getitems__ has collated already


def loader(
    dataset: PairedSlices, batch_size: int, generator: torch.Generator | None = None, *, pinned: bool = False
) -> DataLoader:
    """Return batches of `dataset`: shuffled by `generator`, or in order when it is None.

    A last batch of one slice is dropped when shuffling: its batch statistics would be those of a single slice.
    `pinned`: in memory that a GPU copies from while it works.
    """
    drop_last = generator is not None and len(dataset) % batch_size == 1 and len(dataset) > 1
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=generator is not None,
        generator=generator,
        collate_fn=_same,
        drop_last=drop_last,
        pin_memory=pinned,
    )


def ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the same batches, each read in a thread while the caller still works on the one before."""
    source = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield batch


def _epoch(dataset: PairedSlices, batch_size: int, generator: torch.Generator, device: torch.device) -> Iterator[Batch]:
    """Yield one shuffled epoch on `device`; for a GPU, reading and copying go on beside its work."""
    if device.type == "cpu":
        return iter(loader(dataset, batch_size, generator))
    batches = ahead(loader(dataset, batch_size, generator, pinned=device.type == "cuda"))
    return (tuple(part.to(device, non_blocking=True) for part in batch) for batch in batches)


def _beside(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Make the batches of a CPU in a thread, beside the caller's work on the one before; a GPU makes its own."""
    return ahead(batches) if device.type == "cpu" else batches


def paired_batches(
    dataset: PairedSlices,
    batch_size: int,
    transform: JointTransform | None,
    generator: torch.Generator,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yield one epoch of shuffled pairs, augmented on `device`."""

    def augmented() -> Iterator[Batch]:
        for batch in _epoch(dataset, batch_size, generator, device):
            yield transform(*batch) if transform else batch

    return _beside(augmented(), device)


def unpaired_batches(
    dataset: PairedSlices,
    batch_size: int,
    transform: JointTransform | None,
    generator: torch.Generator,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yield one epoch of MR and CT slices shuffled and augmented independently of each other.

    The mask belongs to real_B. Both halves come from the same patients, as in the predecessor's CycleGAN.
    """
    # Two generators: for a GPU the halves are read in two threads, and each must draw the same numbers every time.
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    halves = (_epoch(dataset, batch_size, torch.Generator().manual_seed(seed), device) for seed in seeds)

    def augmented() -> Iterator[Batch]:
        for (real_A, other_B, mask_A), (other_A, real_B, mask_B) in zip(*halves, strict=True):
            if transform:
                real_A, _, _ = transform(real_A, other_B, mask_A)
                _, real_B, mask_B = transform(other_A, real_B, mask_B)
            yield real_A, real_B, mask_B

    return _beside(augmented(), device)
