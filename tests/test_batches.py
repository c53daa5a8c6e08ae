"""Batches of pairs: what they hold, pairing, shuffling, unpaired sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrict_core.data.augment import AugmentSettings, JointTransform
from mrict_core.data.batches import PairedSlices, loader, paired_batches, unpaired_batches
from mrict_core.data.cache.store import SliceStore
from mrict_core.errors import MrictError


@pytest.fixture(scope="module")
def store(space) -> SliceStore:
    return SliceStore(space.store)


@pytest.fixture(scope="module")
def dataset(store) -> PairedSlices:
    return PairedSlices(store, store.patients[:3])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_holds_the_slices_of_the_store(dataset, store):
    patient, _, position = dataset.index[7]
    real_A, real_B, mask, mirrors = (part[0] for part in dataset[7].parts)
    assert mirrors, "an axial slice may be flipped"
    slices = store.slices(patient)
    assert real_A.shape == real_B.shape == mask.shape == (1, store.size, store.size)
    assert real_A.dtype == real_B.dtype == mask.dtype == torch.float32
    np.testing.assert_array_equal(real_A[0], slices.mr[position].astype(np.float32))
    np.testing.assert_allclose(store.window.to_hu(real_B)[0], slices.ct[position], atol=1e-3)
    np.testing.assert_array_equal(mask[0], slices.mask[position])


def test_every_slice_once_an_epoch(dataset, store):
    in_order = torch.cat([batch.real_A for batch in loader(dataset, 4)])
    assert len(in_order) == len(dataset) == sum(store.counts()[p] for p in store.patients[:3])
    shuffled = torch.cat([batch.real_A for batch in loader(dataset, 4, generator())])
    assert not torch.equal(in_order[: len(shuffled)], shuffled)
    sums = in_order.flatten(1).sum(1)
    assert set(shuffled.flatten(1).sum(1).tolist()) <= set(sums.tolist())


@pytest.mark.parametrize(("size", "batches"), [(7, [7, 7, 7]), (10, [10, 10]), (19, [19]), (20, [20])])
def test_a_last_batch_of_one_is_dropped_in_training_only(store, size, batches):
    dataset = PairedSlices(store, store.patients[:2] + store.patients[2:3], {store.patients[2]: np.array([0])})
    dataset.index = dataset.index[: sum(batches) + (1 if sum(batches) % size == 0 and size < 19 else 0)]
    assert [len(b) for b in loader(dataset, size, generator())] == batches
    assert sum(len(b) for b in loader(dataset, size)) == len(dataset)


def test_keep_limits_a_patient(store):
    patient = store.patients[0]
    dataset = PairedSlices(store, [patient], {patient: np.array([1, 4])})
    assert dataset.index == [(patient, "axial", 1), (patient, "axial", 4)]


def test_paired_batches_are_pairs_and_unpaired_are_not(dataset):
    """Each real_B of a paired batch is the CT of its real_A; the unpaired halves come in different orders."""
    every = [dataset[i] for i in range(len(dataset))]
    truth = {round(float(one.real_A.sum()), 2): round(float(one.real_B.sum()), 2) for one in every}

    def matches(batches):
        rows = [(a, b) for batch in batches for a, b in zip(batch.real_A, batch.real_B, strict=True)]
        return sum(truth[round(float(a.sum()), 2)] == round(float(b.sum()), 2) for a, b in rows), len(rows)

    paired, total = matches(paired_batches(dataset, 5, None, generator()))
    assert paired == total
    unpaired, total = matches(unpaired_batches(dataset, 5, None, generator()))
    assert unpaired < total / 2


def test_unpaired_halves_are_augmented_independently(dataset):
    flips = AugmentSettings(0.5, 0.5, 0, 0, 0, 0, 0, 0)
    transform = JointTransform(flips, generator(1))
    plain = next(unpaired_batches(dataset, 30, None, generator(2)))
    moved = next(unpaired_batches(dataset, 30, transform, generator(2)))
    changed_A, changed_B = (
        [not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain.parts[k], moved.parts[k], strict=True)]
        for k in (0, 1)
    )
    assert changed_A != changed_B


def test_unknown_patient_is_named(store):
    with pytest.raises(MrictError, match="1BZ999"):
        PairedSlices(store, ["1BZ999"])
    with pytest.raises(MrictError, match="no slice"):
        PairedSlices(store, [store.patients[0]], {store.patients[0]: np.array([], int)})
