"""Views of the dataset cache, and batches of paired or unpaired slices for training."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler

from mrict_core.data.augment import JointTransform
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.orders import PLANES
from mrict_core.data.planes import Cut
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import Part
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.parts import Parts
from mrict_core.ranks import ALONE, Ranks

CPU = torch.device("cpu")
WIDTH = 0.125  # of the Gaussian weights of a patch, as a share of its side
OVERLAP = 0.5  # of neighbouring patches, as a share of their sides
WINDOWS = 2  # patches that a network predicts at once
VIEWS = Parts("view")


class View:
    """What a network sees of a patient at once, in training, validation and inference; here a single slice.

    planes: of the training slices, cut from the axial ones of the dataset cache; empty: as a patient was prepared.
    """

    dimensions: ClassVar[int] = 2  # of what the network sees: slices, or patches of a volume
    in_channels: int = 1
    planes: Sequence[str] = ()
    radius: int = 0  # neighbours that it sees on either side, at most

    @staticmethod
    def check_options(*, planes: Sequence[str] = (), **_: object) -> None:
        check_planes(planes)

    def gather(self, stack: np.ndarray, position: int) -> np.ndarray:
        """Return the channels for one slice of a stack of MR slices.  # (N, H, W) => (C, H, W)"""
        return stack[position][None]

    def widened(self, real_A: Tensor) -> Tensor:
        """Return the network's input from gathered and augmented channels.  # (B, C, H, W) => (B, in_channels, H, W)"""
        return real_A

    def applied(self, network: Callable[[Tensor], Tensor], real_A: Tensor, overlap: float = OVERLAP) -> Tensor:
        """Return a network's output for a gathered batch.  # (B, C, H, W) => (B, C', H, W)

        overlap: of neighbouring patches, where the network sees a volume in patches.
        """
        return network(self.widened(real_A))

    def sides(self, canvas: int) -> tuple[int, ...]:
        """Return the sides of what the network sees in training, of slices of `canvas` pixels."""
        return canvas, canvas


@VIEWS.register("slice")
@dataclass(frozen=True)
class Slice(View):
    """One slice, repeated `copies` times as channels."""

    copies: int = 1
    planes: Sequence[str] = ()

    @staticmethod
    def check_options(*, copies: int = 1, planes: Sequence[str] = ()) -> None:
        check_planes(planes)
        if copies < 1:
            raise MrictError(f"copies is {copies}, expected at least 1")

    @property
    def in_channels(self) -> int:
        return self.copies

    def widened(self, real_A: Tensor) -> Tensor:
        """Repeat the slice (a view, no copy)."""
        return real_A.expand(-1, self.copies, -1, -1)


@VIEWS.register("slab")
@dataclass(frozen=True)
class Slab(View):
    """A slice between its neighbours; at the ends of a volume the last slice is repeated."""

    radius: int = 2  # slices on either side
    planes: Sequence[str] = ()

    @staticmethod
    def check_options(*, radius: int = 2, planes: Sequence[str] = ()) -> None:
        check_planes(planes)
        if radius < 0:
            raise MrictError(f"radius is {radius}, expected at least 0")

    @property
    def in_channels(self) -> int:
        return 2 * self.radius + 1

    def gather(self, stack: np.ndarray, position: int) -> np.ndarray:
        rows = np.arange(position - self.radius, position + self.radius + 1)
        return stack[rows.clip(0, len(stack) - 1)]


@VIEWS.register("patch3d")
@dataclass(frozen=True)
class Patch3d(View):
    """Patches of the volume of a patient's slices: one channel, three dimensions.

    Training samples are random patches, see `patches.PairedPatches`. A volume is predicted in patches that overlap,
    with Gaussian weights. Where a volume is smaller than a patch, it is centred and padded with background.
    """

    patch: Sequence[int] = (32, 160, 160)  # slices, rows, columns

    dimensions: ClassVar[int] = 3

    @staticmethod
    def check_options(*, patch: Sequence[int] = (32, 160, 160)) -> None:
        if not isinstance(patch, list | tuple) or len(patch) != 3 or not all(type(n) is int and n > 0 for n in patch):
            raise MrictError(f"patch is {str(patch)[:40]}, expected three whole numbers: slices, rows, columns")

    def gather(self, stack: np.ndarray, position: int) -> np.ndarray:
        raise MrictError("view patch3d gives a network a volume, not slices; choose a model of view slice or slab")

    def applied(self, network: Callable[[Tensor], Tensor], real_A: Tensor, overlap: float = OVERLAP) -> Tensor:
        """Return a network's output for whole volumes, on the CPU.  # (B, 1, N, H, W) => (B, C', N, H, W) float32

        The network holds `WINDOWS` patches at a time; sums are float32.
        """
        from monai.inferers import sliding_window_inference

        return sliding_window_inference(
            real_A.float(),
            tuple(self.patch),
            WINDOWS,
            lambda patches: network(patches).float(),
            overlap=overlap,
            roi_weight_map=self.weights(),
            padding_mode="constant",
            cval=-1,  # background; MONAI's default 0 would be half-bright tissue
            sw_device=real_A.device,
            device="cpu",
        )

    def weights(self) -> Tensor:
        """Return the Gaussian weights of a patch's voxels, of MONAI's width.  # => sides, float32

        MONAI's own are 0.001 at least. Where the corners of patches meet, up to 5 % of a voxel would come in at once
        with the next patch: a step of 5 HU where two patches differ by 100. Here it is 0.3 %.
        """
        sides = [torch.arange(n) - (n - 1) / 2 for n in self.patch]
        slices, rows, cols = (torch.exp(-(x.square()) / (2 * (WIDTH * len(x)) ** 2)) for x in sides)
        return slices[:, None, None] * rows[:, None] * cols

    def sides(self, canvas: int) -> tuple[int, ...]:
        return tuple(self.patch)


def check_planes(planes: Sequence[str]) -> None:
    """Raise MrictError for an unknown plane, or one given twice."""
    names = [str(plane) for plane in planes] if isinstance(planes, list | tuple) else []
    if not isinstance(planes, list | tuple) or len(set(names)) < len(names):
        raise MrictError(f"planes is {planes}, expected a list of different planes, such as [axial, coronal]")
    if unknown := [name for name in names if name not in PLANES]:
        raise unknown_name("plane", unknown[0], PLANES)


def make_view(view: Part) -> View:
    return VIEWS.build(view.name, view.options)


@dataclass(frozen=True)
class Batch:
    """Corresponding slices, or patches of volumes (B, C, D, H, W), float32: images in [-1, 1]; the mask is 0 or 1."""

    real_A: Tensor  # (B, C, H, W): MR, the channels of the view
    real_B: Tensor  # (B, 1, H, W): CT
    mask: Tensor  # (B, 1, H, W): of real_B
    mirrors: Tensor = field(default_factory=lambda: torch.tensor(True))  # (B,) bool: flipped columns mirror a patient
    people: tuple[int, ...] = ()  # whose slices they are: positions in `PairedSlices.people`; (): not known
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)  # see `once`

    def __len__(self) -> int:
        return len(self.real_A)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; copies from pinned memory are asynchronous."""
        return Batch(*(part.to(device, non_blocking=True) for part in self.parts), people=self.people)

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory (called by the loader)."""
        return Batch(*(part.pin_memory() for part in self.parts), people=self.people)

    def with_ct(self, real_B: Tensor) -> Batch:
        """Return the batch with another CT."""
        return Batch(self.real_A, real_B, self.mask, self.mirrors, self.people)

    def rows(self, rows: Sequence[int]) -> Batch:
        """Return some of the slices."""
        chosen = torch.tensor(rows, device=self.real_A.device)
        people = tuple(self.people[k] for k in rows) if self.people else ()
        mirrors = self.mirrors[chosen] if self.mirrors.ndim else self.mirrors
        return Batch(*(part[chosen] for part in self.parts[:3]), mirrors, people)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return `make()`, computed once per batch."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.real_A, self.real_B, self.mask, self.mirrors


class PairedSlices(Dataset):
    """MR slices of the given patients, gathered by a view, with CT and mask.

    `keep` limits patients to some of their slices ({patient: positions}), without other planes; those without an entry
    keep all. A single slice has no other plane. index: (patient, plane, position) of every slice; planes that are cut
    keep only their slices with mask. people: the persons of these patients, sorted.
    """

    def __init__(
        self,
        store: SliceStore,
        patients: Sequence[str],
        keep: dict[str, np.ndarray] | None = None,
        view: View = Slice(),
    ) -> None:
        unknown = sorted(set(patients) - set(store.patients))
        if unknown:
            raise MrictError(f"patients {', '.join(unknown)} are not in the dataset cache; run preprocess again")
        self.store, self.view = store, view
        self.cuts: dict[tuple[str, str], Cut] = {}
        self.index = [row for patient in patients for row in self._rows(patient, (keep or {}).get(patient))]
        if not self.index:
            raise MrictError(f"no slice to train on in patients {', '.join(patients) or '(none)'}")
        subjects = store.subjects()
        self._subjects = [subjects[patient] for patient, *_ in self.index]
        self.people = sorted(set(self._subjects))

    def _rows(self, patient: str, kept: np.ndarray | None) -> Iterator[tuple[str, str, int]]:
        own, count = self.store.plane(patient), self.store.counts()[patient]
        planes = self.view.planes or (own,)
        if own in planes:
            yield from ((patient, own, int(k)) for k in (range(count) if kept is None else kept))
        if count == 1 or (kept is not None and len(kept) < count):
            return
        for plane in planes:
            if plane != own:
                cut = Cut(plane, count, self.store.spacing_mm(patient))
                self.cuts[patient, plane] = cut
                masked = cut.stack(self.store.slices(patient).mask).any(axis=2).T  # rows of each slice
                shown = cut.canvas(masked[None], self.store.size, 0, nearest=True)[0].any(axis=0)
                yield from ((patient, plane, int(k)) for k in np.flatnonzero(shown))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def slices(self) -> int:
        """Number of slices in all items."""
        return len(self.index)

    def sampler(self, count: int | None, generator: torch.Generator) -> Sampler:
        """Return the order of shuffled items: of one pass, or of `count` items."""
        return RandomSampler(self, num_samples=count, generator=generator)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """Return a whole batch (called by the loader)."""
        rows = [self._slice(*self.index[i]) for i in items]
        mr, ct, mask = (np.stack(column) for column in zip(*rows, strict=True))
        real_A = torch.from_numpy(mr.astype(np.float32))
        real_B = torch.from_numpy(self.store.window.to_unit(ct).astype(np.float32))[:, None]
        mirrors = torch.tensor([self.index[i][1] != "sagittal" for i in items])
        people = tuple(bisect_left(self.people, self._subjects[i]) for i in items)
        return Batch(real_A, real_B, torch.from_numpy(mask.astype(np.float32))[:, None], mirrors, people)

    def _slice(self, patient: str, plane: str, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slices, cut = self.store.slices(patient), self.cuts.get((patient, plane))
        if cut is None:
            return self.view.gather(slices.mr, position), slices.ct[position], slices.mask[position]
        mr, ct, mask = (cut.stack(part) for part in (slices.mr, slices.ct, slices.mask))
        at, size = slice(position, position + 1), self.store.size
        return (
            cut.canvas(self.view.gather(mr, position), size, -1),
            cut.canvas(ct[at], size, AIR_FLOOR_HU)[0],
            cut.canvas(mask[at], size, 0, nearest=True)[0],
        )


def in_turns(patients: Sequence[str], store: SliceStore) -> list[str]:
    """Return the patients alternating between centres (first of A, first of B, …), so that a few represent all."""
    turns: Counter[str] = Counter()
    ranked = []
    for patient in patients:
        turns[centre := store.centre(patient)] += 1
        ranked.append((turns[centre], centre, patient))
    return [patient for *_, patient in sorted(ranked)]


def as_slices(images: Tensor) -> Tensor:
    """Return a batch of slices unchanged, and a whole volume as slices.  # (1, C, N, H, W) => (N, C, H, W)"""
    return images if images.ndim == 4 else images[0].transpose(0, 1)


def _same(batch: Batch) -> Batch:
    return batch  # __getitems__ has already collated


def batches_of_pass(slices: int, batch_size: int, ranks: Ranks = ALONE) -> int:
    """Return the number of shuffled batches of a pass over so many slices; 0: too few for the ranks."""
    full, left = divmod(slices, batch_size)
    count = full + (left >= _least_last(batch_size, ranks))
    return max(1, count) if ranks == ALONE else count


def _least_last(batch_size: int, ranks: Ranks) -> int:
    """Return the slices that a last batch needs: two for each rank, since batch statistics of one say little."""
    return ranks.count * min(2, max(1, batch_size // ranks.count)) if ranks.count > 1 else 2


class OwnPart(Sampler[list[int]]):
    """This rank's equal part of every batch. All ranks draw the same batches, those of one process.

    What is left of a last batch that cannot be divided equally is nobody's, so no slice is repeated.
    """

    def __init__(self, batches: BatchSampler, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            if len(batch) >= _least_last(self.batches.batch_size, self.ranks):
                yield batch[self.ranks.own(len(batch))]


def loader(
    dataset: PairedSlices,
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    pinned: bool = False,
    steps: int | None = None,
    ranks: Ranks = ALONE,
) -> DataLoader:
    """Return batches of `dataset`, shuffled by `generator`, or in order if it is None; `pinned`: in pinned memory.

    steps: number of batches, from as many shuffled passes as needed; None: one pass. When shuffling, a last batch of
    one slice is dropped: its batch statistics would be those of a single slice. ranks: give this rank's part of each.
    """
    sampler = dataset.sampler(steps and steps * batch_size, generator) if generator is not None else None
    if ranks.count > 1:
        own = OwnPart(BatchSampler(sampler, batch_size, drop_last=False), ranks)
        return DataLoader(dataset, batch_sampler=own, generator=generator, collate_fn=_same, pin_memory=pinned)
    drop_last = generator is not None and len(dataset) % batch_size == 1 and len(dataset) > 1
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        generator=generator,
        collate_fn=_same,
        drop_last=drop_last,
        pin_memory=pinned,
    )


def ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the same batches, prefetching one in a thread."""
    source = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield batch


def _epoch(
    dataset: PairedSlices,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
    steps: int | None,
    ranks: Ranks,
) -> Iterator[Batch]:
    """Yield shuffled batches on `device`; for a GPU, reading and copying overlap with its work."""
    pinned = device.type == "cuda"
    batches = loader(dataset, batch_size, generator, pinned=pinned, steps=steps, ranks=ranks)
    return iter(batches) if device.type == "cpu" else (batch.to(device) for batch in ahead(batches))


def _beside(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Prepare the batches of a CPU in a thread, one ahead of the caller; a GPU augments its own."""
    return ahead(batches) if device.type == "cpu" else batches


def paired_batches(
    dataset: PairedSlices,
    batch_size: int,
    transform: JointTransform | None,
    generator: torch.Generator,
    device: torch.device = CPU,
    steps: int | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yield shuffled pairs, augmented on `device`: one pass, or as many batches as `steps`.

    ranks: yield this rank's part of each batch; `transform` must know them too.
    """

    def augmented() -> Iterator[Batch]:
        for batch in _epoch(dataset, batch_size, generator, device, steps, ranks):
            real_A, real_B, mask = transform(*batch.parts) if transform else batch.parts[:3]
            yield Batch(dataset.view.widened(real_A), real_B, mask, people=batch.people)

    return _beside(augmented(), device)


def unpaired_batches(
    dataset: PairedSlices,
    batch_size: int,
    transform: JointTransform | None,
    generator: torch.Generator,
    device: torch.device = CPU,
    steps: int | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yield MR and CT slices of the same patients, shuffled and augmented independently; see `paired_batches`."""
    # Two generators: for a GPU the halves are read in two threads, and each must be reproducible.
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    halves = (_epoch(dataset, batch_size, half, device, steps, ranks) for half in generators)

    def augmented() -> Iterator[Batch]:
        for of_mr, of_ct in zip(*halves, strict=True):
            moved = [transform(*half.parts) if transform else half.parts[:3] for half in (of_mr, of_ct)]
            yield Batch(dataset.view.widened(moved[0][0]), *moved[1][1:])

    return _beside(augmented(), device)
