"""Odd slices, misplaced CT, padded MR: tables of faults of a phantom."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from samples import sample
from scipy import ndimage

from benchmarks.check_kinds import POSES, SLICES
from mrict_core.data import intensity
from mrict_core.data.checks.hu_values import check_hu
from mrict_core.data.checks.pairing import check_pair, overlap
from mrict_core.data.checks.slice_levels import check_slices
from mrict_core.data.phantom import PhantomSpec, make_patient
from mrict_core.errors import MrictError

PHANTOM = make_patient("1BA001", 3, PhantomSpec("brain", 3.6, 5.0, 1))
MR, CT = np.asarray(PHANTOM.mr, np.float32), np.asarray(PHANTOM.ct, np.float32)
BODY, AFFINE = np.asarray(PHANTOM.mask) > 0, PHANTOM.affine
SPACING_MM = tuple(np.linalg.norm(AFFINE[:3, :3], axis=0))
MISSED = ("turned by 5 degrees", "turned by 10 degrees")


@pytest.mark.parametrize("kind", SLICES)
def test_odd_slices_are_refused_or_named(kind: str) -> None:
    change, outcome = SLICES[kind]
    ct = change(CT, BODY)
    if outcome == "refused":
        with pytest.raises(MrictError, match=r"ct\.nii\.gz: slices .* HU from their neighbours .*export the CT again"):
            check_slices(ct, BODY, AFFINE, "ct.nii.gz")
    elif outcome == "named":
        found = check_slices(ct, BODY, AFFINE, "ct.nii.gz") if kind != "one -1024" else odd(ct)
        changed = np.flatnonzero(np.any(ct != CT, axis=(0, 1)))
        assert any(f"slices {', '.join(map(str, changed[:3]))}" in line for line in found), found


def odd(ct: np.ndarray) -> list[str]:
    """Return the lines, or the refusal: a slice below all others may be either."""
    try:
        return check_slices(ct, BODY, AFFINE, "ct.nii.gz")
    except MrictError as error:
        return [str(error)]


def test_the_numbers_of_many_slices_are_counted_from_0() -> None:
    ct = CT.copy()
    ct[:, :, ::3] += 1024
    used = np.count_nonzero(BODY, axis=(0, 1)) > 0.2 * np.count_nonzero(BODY, axis=(0, 1)).max()
    count = np.count_nonzero(used[::3])
    with pytest.raises(MrictError, match=rf"slices 0, 3, 6, .*\({count} of {CT.shape[2]}, axis 2, counted from 0\)"):
        check_slices(ct, BODY, AFFINE, "ct.nii.gz")


@pytest.mark.parametrize("axis", range(3))
def test_sound_slices_pass_without_a_word(axis: int) -> None:
    ct, mask = np.moveaxis(CT, axis, 2), np.moveaxis(BODY, axis, 2)
    for inside in (mask, mask & (ct > -300), mask & (np.indices(ct.shape)[0] > ct.shape[0] // 2)):
        assert check_slices(ct, inside, AFFINE, "ct.nii.gz") == []
    assert check_slices(np.full_like(ct, 40), mask, AFFINE, "ct.nii.gz") == []  # said of the whole image


def test_slices_that_hold_no_air_are_named_also_beside_each_other() -> None:
    ct = CT.copy()
    ct[:, :, 9:12] *= 0.01
    assert check_slices(ct, BODY, AFFINE, "ct.nii.gz")[0].startswith("slices 9, 10, 11 (3 of ")


def test_an_sct_on_a_background_of_0_has_no_odd_slices() -> None:
    """The darkest part of a slice is then gas or fat, which differ from slice to slice."""
    assert check_slices(np.where(BODY, CT, 0), BODY, AFFINE, "sct.nii.gz") == []


@pytest.mark.parametrize("kind", POSES)
def test_a_ct_that_does_not_lie_on_its_mr_is_said(kind: str) -> None:
    found = check_pair(MR, np.asarray(POSES[kind](CT, SPACING_MM)), SPACING_MM)
    if kind in MISSED:  # rotations are not looked for
        return
    assert len(found) == 1
    words = "moved by about" if "moved" in kind else "slices" if "slice" in kind else "mirrored"
    assert words in found[0]
    assert "more mutual information" in found[0]


def test_a_pair_that_fits_is_not_warned_of() -> None:
    assert check_pair(MR, CT, SPACING_MM) == []
    assert check_pair(MR.max() - MR, CT, SPACING_MM) == []  # any contrast
    air, tissue = overlap(CT, BODY, BODY)
    assert 0 < air < 0.2
    assert tissue == 0


@pytest.mark.parametrize("name", ["brainweb_head/Task1/brain/BW04", "pelvis_bulk/Task1/pelvis/P3"])
def test_real_anatomy_passes_without_a_word(name: str) -> None:
    folder = sample(name)
    mr, ct, mask = (nib.load(folder / f"{role}.nii.gz").get_fdata(dtype=np.float32) for role in ("mr", "ct", "mask"))
    affine = nib.load(folder / "ct.nii.gz").affine
    assert check_hu(ct, "ct.nii.gz", mask > 0) == []
    assert check_slices(ct, mask > 0, affine, "ct.nii.gz") == []
    assert check_pair(mr, ct, tuple(np.linalg.norm(affine[:3, :3], axis=0))) == []


@pytest.mark.parametrize("value", [-1, -100, -1000, -1024, -2000, -32768])
def test_padding_of_an_mr_is_background(value: float) -> None:
    padded = np.where(BODY, MR, value).astype(np.float32)
    intensity.check_mr(padded, "mr.nii.gz")
    clean = intensity.without_padding(padded)
    assert clean.min() >= 0
    np.testing.assert_allclose(clean[BODY], MR[BODY], atol=0.02 * MR.max())
    plain = intensity.robust_mr_range(np.where(BODY, MR, 0), BODY)
    assert intensity.robust_mr_range(clean, BODY) == pytest.approx(plain, rel=1e-3)


def test_an_mr_without_padding_stays_as_it_is_and_a_ct_is_named() -> None:
    eight_bit = np.round(MR / MR.max() * 255).astype(np.float32)
    noisy = (MR + np.random.default_rng(0).normal(0, 30, MR.shape)).astype(np.float32)
    for mr in (MR, eight_bit, noisy, (noisy - noisy.mean()) / noisy.std()):
        intensity.check_mr(mr, "mr.nii.gz")
        assert intensity.without_padding(mr) is mr
    for ct in (CT, np.where(BODY, CT, -1024), np.where(BODY, CT, -1000)):
        with pytest.raises(MrictError, match="look like a CT in HU"):
            intensity.check_mr(ct.astype(np.float32), "mr.nii.gz")
    with pytest.raises(MrictError, match=r"constant value 7|only the values 0 and 7"):
        intensity.check_mr(np.where(BODY, 7, -1024).astype(np.float32), "mr.nii.gz")


@pytest.mark.parametrize("value", [-1000, -32768])
def test_a_padded_mr_gives_the_same_network_input(tmp_path: Path, value: float) -> None:
    """Padding four voxels from the body, where there is only the noise of air."""
    from mrict_core.data.cache.patient import prepare_mr
    from mrict_core.data.images.volumes import Volume

    around = ndimage.binary_dilation(BODY, iterations=4)
    plain, padded = (
        prepare_mr(Volume(mr.astype(np.float32), AFFINE, tmp_path / "mr.nii.gz"), 64)
        for mr in (MR, np.where(around, MR, value))
    )
    assert np.mean(plain.body != padded.body) < 2e-3
    np.testing.assert_allclose(plain.mr[plain.body & padded.body], padded.mr[plain.body & padded.body], atol=0.02)
