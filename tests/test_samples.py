"""The suite on sample data (tests/README.md): real pairs of single slices, and two whole simulated volumes."""

from __future__ import annotations

import numpy as np
import pytest
from samples import sample

from mrict_core.errors import MrictError
from mrict_core.evaluation import baseline_predictions
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.pipeline import Prepared, evaluate_baselines, evaluate_variant, open_data, prepare_data, train_variant
from mrict_core.training.run import TrainSettings


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> Prepared:
    """Nine real patients, three per centre, as links, so that the samples are not changed."""
    source = sample("synthrad_brain_axial") / "Task1" / "brain"
    folder = tmp_path_factory.mktemp("real") / "Task1" / "brain"
    folder.mkdir(parents=True)
    for centre in "ABC":
        for patient in sorted(source.glob(f"1B{centre}*"))[:3]:
            (folder / patient.name).symlink_to(patient)
    return prepare_data("smoke", str(folder.parent.parent))


def test_real_slices_are_prepared_whole(slices):
    store = slices.store
    assert slices.problem == ""
    assert store.skipped == []
    assert list(store.counts().values()) == [1] * 9
    assert [store.centre(patient) for patient in store.patients] == list("AAABBBCCC")
    assert sorted((*slices.split.train, *slices.split.val, *slices.split.test)) == store.patients
    for patient in store.patients:
        one = store.slices(patient)
        assert one.mr.shape == one.ct.shape == (1, 64, 64)
        assert one.mask.any()
        assert (one.mr[one.body == 0] == -1).all()
        assert len(np.unique(one.mr[one.body > 0])) > 100


def test_real_pairs_train_and_are_scored_in_2d(slices, tmp_path, monkeypatch):
    for name in ("MRICT_CHECKPOINTS", "MRICT_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    profile, space = get_profile("smoke"), slices.workspace
    result = train_variant(get("mk1"), profile, space, TrainSettings(device="cpu"), report=lambda line: None)
    assert result.complete
    assert result.stopped == ""
    record, _ = evaluate_variant(get("mk1"), profile, space, device="cpu")
    records = [record, *evaluate_baselines(profile, space)]
    assert {r["name"] for r in records} == {"mk1", *baseline_predictions(slices.store, slices.split.train)}
    for each in records:
        assert [row["patient"] for row in each["patients"]] == list(slices.split.test)
        for row in each["patients"]:
            assert row["ssim_dimensionality"] == "2D"
            assert 0 < row["mae_hu"] < 4024
            assert np.isfinite([row["psnr_db"], row["predecessor_mse"], row["predecessor_ssim"]]).all()
            assert -1 <= row["ssim"] < 1
        assert "ssim_2d" in each["cards"]


@pytest.mark.parametrize(("name", "region"), [("brainweb_head", "brain"), ("pelvis_bulk", "pelvis")])
def test_volume_is_prepared_and_returns_exactly(name, region):
    """Use the smallest canvas that holds the whole patient, so that nothing is cropped."""
    prepared = prepare_data("demo", str(sample(name)), region)
    store = prepared.store
    (patient,) = store.patients
    assert store.skipped == []
    assert store.region == region
    assert store.size == {"brain": 224, "pelvis": 256}[region]
    assert store.meta(patient)["mask_voxels_cropped"] == 0
    ct, mask, _ = store.reference(patient)
    volume = store.to_volume(patient, store.slices(patient).ct)
    assert volume.shape == ct.array.shape
    assert mask.sum() > 100_000
    assert np.array_equal(volume[mask], ct.array[mask])

    assert prepared.split is None
    assert "1 usable patient" in prepared.problem
    assert "3" in prepared.problem
    with pytest.raises(MrictError, match=r"no split: 1 usable patient.*need at least 3.*add patients"):
        open_data(prepared.workspace)
