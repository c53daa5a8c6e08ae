"""The predecessor's procedure against plain loops, its printed values, the twins, and what the controls show."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference.validate import slice_ssim
from skimage.metrics import structural_similarity

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation import Predictions, metrics_record, score_patients
from mrict_core.evaluation.controls import CONTROLS, blindness, control_predictions
from mrict_core.experiments import get
from mrict_core.hu import WINDOWS
from mrict_core.legacy.protocol import (
    UNIT,
    Translation,
    augment,
    control_translation,
    predecessor_table,
    predecessor_validation,
)
from mrict_core.legacy.published import BLACK, PRINTED
from mrict_core.modalities import MR
from mrict_core.paths import ROOT

WINDOW = WINDOWS["patient"]
ABSENT = MrictError("weights 'x': not here; put the file into a folder")


class Store:
    """Two patients, 20 and 17 slices of 24 x 24: 37 slices make batches of 32 and 5."""

    modality = MR
    window = WINDOW
    patients = ("1BA001", "1BB001")

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.data = {}
        for patient, count in zip(self.patients, (20, 17), strict=True):
            body = np.zeros((count, 24, 24), bool)
            body[:, 5:19, 6:17] = True
            ct = np.where(body, rng.uniform(-900, 1800, body.shape), -1024).round().astype(np.float32)
            mr = np.where(body, rng.uniform(-1, 1, body.shape), -1).astype(np.float16)
            self.data[patient] = SimpleNamespace(mr=mr, ct=ct, mask=body.astype(np.uint8))

    def slices(self, patient: str) -> SimpleNamespace:
        return self.data[patient]


def translation(real_A: torch.Tensor, real_B: torch.Tensor) -> torch.Tensor:
    """A model that looks at the MR it is given."""
    return (real_A * 0.5 - 0.2).clamp(-1, 1)


def test_it_is_the_mean_of_batch_means_of_augmented_slices():
    store = Store()
    pairs = [
        (mr.astype(np.float32), np.clip(ct, -1000, 1000) / 1000)
        for patient in store.patients
        for mr, ct in zip(store.slices(patient).mr, store.slices(patient).ct, strict=True)
    ]
    generator = torch.Generator().manual_seed(7)
    mse, ssim = [], []
    for start in (0, 32):
        batch = [torch.from_numpy(np.stack([p[k] for p in pairs[start : start + 32]]))[:, None] for k in (0, 1)]
        real_A, real_B = augment(*(b.float() for b in batch), generator)
        fake = translation(real_A, real_B)
        mse.append(float(((fake - real_B) ** 2).mean()))
        ssim.append(slice_ssim(real_B[:, 0].double().numpy(), fake[:, 0].double().numpy()))
    found = predecessor_validation(store, store.patients, Translation(translation), seed=7, fid=ABSENT, vgg=ABSENT)
    assert found["mse"] == pytest.approx(np.mean(mse), rel=1e-5)  # the batch of 5 weighs as much as that of 32
    assert found["ssim"] == pytest.approx(np.mean(ssim), rel=1e-5)
    assert found["n_slices"] == 37
    assert (found["fid"], found["vgg"]) == (None, None)
    assert found["reasons"] == {"fid": str(ABSENT), "vgg": str(ABSENT)}
    again = predecessor_validation(store, store.patients, Translation(translation), seed=7, fid=ABSENT, vgg=ABSENT)
    assert again == found
    assert (
        predecessor_validation(store, store.patients, Translation(translation), seed=8, fid=ABSENT, vgg=ABSENT)["mse"]
        != found["mse"]
    )


def test_the_same_transform_moves_both_images_and_fills_with_background():
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.uniform(-1, 1, (40, 1, 24, 24))).float()
    moved_A, moved_B = augment(image, image * 0.5, torch.Generator().manual_seed(0))
    inside = moved_A > -1
    assert torch.equal(moved_A[inside] * 0.5, moved_B[inside])
    assert (moved_B[~inside] == -1).all()
    assert set(moved_A[inside].tolist()) <= set(image.flatten().tolist())  # nearest neighbour: no new value
    untouched = sum(torch.equal(a, b) for a, b in zip(image, moved_A, strict=True))
    assert untouched < 4
    corners = moved_A[:, 0, 0, 0]
    assert (corners == -1).any()  # turned


def test_feature_numbers_pool_all_slices_and_name_their_network():
    store, seen = Store(), []

    class Pool(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape))
            return images.float().flatten(2).mean(dim=2) + torch.arange(3) * images.float().flatten(1).std(1)[:, None]

    found = predecessor_validation(
        store, store.patients, Translation(translation), seed=0, fid=("pool", Pool()), vgg=("demo_features", Pool())
    )
    assert found["networks"] == {"fid": "pool", "vgg": "demo_features"}
    assert found["reasons"] == {}
    assert found["fid"] > 0
    assert found["vgg"] > 0
    assert all(shape[2:] == (24, 24) for shape in seen)  # the resize to 224 belongs to VGG16


def test_corrected_twins_by_hand():
    real = np.full((2, 12, 12), -1000.0)
    mask = np.zeros(real.shape, bool)
    mask[0, 4:8, 4:8] = True
    real[0, 4:8, 4:8] = 500.0
    fake = real.copy()
    fake[0, 4:8, 4:8] = 700.0
    fake[1] = 1000.0  # outside the mask: nobody's business
    assert metrics.corrected_mse(real, fake, mask) == pytest.approx(0.2**2, rel=1e-5)
    assert metrics.predecessor_scores(real, fake)["mse"] > 1  # the whole slice
    masked = [np.where(mask, np.clip(a, -1000, 1000) / 1000, -1.0)[0] for a in (real, fake)]
    _, values = structural_similarity(*masked, data_range=2.0, full=True)
    assert metrics.corrected_ssim(real, fake, mask) == pytest.approx(values[mask[0]].mean(), rel=1e-5)
    with pytest.raises(MrictError, match="the mask must have"):
        metrics.corrected_mse(real, fake, mask[:1])


def test_twins_do_not_see_the_background_that_the_originals_reward():
    store = Store()
    slices = store.slices("1BA001")
    wide = [
        np.pad(a, ((0, 0), (40, 40), (40, 40)), constant_values=v) for a, v in ((slices.ct, -1024), (slices.mask, 0))
    ]
    black = np.full(wide[0].shape, -1000.0)
    assert metrics.predecessor_scores(wide[0], black)["ssim"] > 0.85
    assert metrics.corrected_ssim(wide[0], black, wide[1]) < 0.2
    narrow = metrics.corrected_ssim(slices.ct, np.full(slices.ct.shape, -1000.0), slices.mask)
    assert metrics.corrected_ssim(wide[0], black, wide[1]) == pytest.approx(narrow, rel=1e-5)


def test_a_bias_that_a_range_per_image_hides():
    """With both images scaled by their own minimum and maximum, 150 HU more are no difference at all."""
    ct = np.clip(Store().slices("1BA001").ct[0], -800, 800)

    def minmax(image: np.ndarray) -> np.ndarray:
        return (image - image.min()) / (image.max() - image.min())

    assert structural_similarity(minmax(ct), minmax(ct + 150), data_range=1.0) == pytest.approx(1.0)
    assert metrics.mae_hu(ct[None], ct[None] + 150, np.ones((1, 24, 24))) == pytest.approx(150, abs=1e-3)


def test_controls_are_what_their_names_say():
    store = Store()
    slices = store.slices("1BA001")
    images = {name: predictions.slices("1BA001") for name, predictions in control_predictions(store).items()}
    assert list(images) == list(CONTROLS)
    assert (images["control_black"] == -1000).all()
    assert images["control_copy_of_mr"] == pytest.approx(WINDOW.to_hu(slices.mr.astype(np.float32)), abs=0.5)
    assert np.array_equal(images["control_bias_150"], slices.ct + 150)
    assert np.array_equal(images["control_shift_1"][..., 1:], slices.ct[..., :-1])
    real_A = torch.from_numpy(slices.mr.astype(np.float32))[:, None]
    real_B = torch.from_numpy(UNIT.to_unit(slices.ct))[:, None]
    for name, image in images.items():
        found = UNIT.to_hu(control_translation(name, WINDOW).run(real_A, real_B))[:, 0].numpy()
        known = np.abs(slices.ct) < 1000 if "copy" not in name else np.ones(slices.ct.shape, bool)
        if name == "control_shift_1":
            known[..., 1:] = known[..., :-1].copy()
        rounding = 0.51 if "copy" in name else 1e-2  # the MR's values are not whole HU
        assert found[known] == pytest.approx(np.clip(image, -1000, 1000)[known], abs=rounding), name


@pytest.fixture(scope="module")
def records(space):
    from mrict_core.data.cache.store import SliceStore

    store = SliceStore(space.store)
    patients = store.patients[:3]

    def poor(store, patient):
        return np.asarray(store.slices(patient).ct, np.float32) * 0.3

    scores = score_patients(store, patients, Predictions(store, poor))
    made = [metrics_record("mk1", scores, label="demo", context={"data": "here"})]
    for name, predictions in control_predictions(store).items():
        scores = score_patients(store, patients, predictions)
        made.append(metrics_record(name, scores, label="demo", kind="control", context={}))
    return made


def test_controls_expose_what_a_metric_does_not_see(records):
    by_name = {r["name"]: {m: s["mean"] for m, s in r["summary"]["all"].items()} for r in records}
    assert by_name["control_bias_150"]["me_hu"] == pytest.approx(150, abs=1e-3)
    assert by_name["control_bias_150"]["continuity"] == pytest.approx(1.0, abs=1e-4)  # blind to a bias
    assert by_name["control_shift_1"]["mae_shift_hu"] < 0.2 * by_name["control_shift_1"]["mae_hu"]
    assert by_name["control_black"]["dice_bone_250"] == 0.0
    table = blindness(records).set_index("metric")
    assert table.loc["continuity", "does not see"].startswith("150 HU of bias (0 % of a black image's error)")
    assert "a shift by one pixel" in table.loc["mae_shift_hu", "does not see"]
    assert table.loc["mae_hu", "does not see"] == ""
    assert table.loc["mae_hu", "control_bias_150"] == pytest.approx(150, abs=1e-3)
    assert table.loc["mae_hu", "best variant"] == by_name["mk1"]["mae_hu"]


def test_a_metric_that_rewards_black_is_told_on():
    def fake(name: str, kind: str, mae: float, ssim: float) -> dict:
        means = {m: {"mean": ssim} for m in metrics.recorded()} | {"mae_hu": {"mean": mae}}
        return {"name": name, "kind": kind, "summary": {"all": means}}

    records = [fake("control_black", "control", 1000.0, 0.69), fake("control_copy_of_mr", "control", 90.0, 0.69)]
    records += [fake(n, "control", 150.0, 0.5) for n in ("control_bias_150", "control_shift_1")]
    records += [fake(f"mk{k}", "variant", 100.0, v) for k, v in enumerate((0.3, 0.6, 0.7))]
    table = blindness(records).set_index("metric")
    # the copy beats all three by MAE as well: bad models, not a blind metric
    assert table.loc["predecessor_ssim", "does not see"] == "rewards a black image: better than 2 of 3 variants"
    assert table.loc["mae_hu", "does not see"] == ""


def test_the_table_reads_printed_and_ours_side_by_side(records):
    record = records[0] | {
        "name": "mk6_3_4",
        "context": {"data": "phantoms", "profile": "demo", "training_pairs": 288, "epochs": 3},
        "features": [{"name": "fid", "value": 80.0}, {"name": "corrected_vgg", "value": None}],
        "predecessor": {
            "mse": 0.5,
            "ssim": 0.25,
            "fid": None,
            "vgg": 2.0,
            "networks": {"vgg": "demo_features"},
            "reasons": {"fid": "no weights"},
        },
    }
    black = records[1] | {"predecessor": {"mse": 0.4, "ssim": 0.5, "fid": None, "vgg": None}}
    table = predecessor_table([record, black]).set_index("variant")
    assert list(table.index) == [*(row.variant for row in PRINTED), "control_black"]
    assert (table.loc["control_black", "printed_ssim"], table.loc["control_black", "ours_ssim"]) == (0.6884, 0.5)
    assert "not a model" in table.loc["control_black", "why"]
    own = table.loc["mk6_3_4"]
    assert (own["printed_ssim"], own["ours_ssim"], own["readme"]) == (0.917649, 0.25, "MK6.4.3_CP3")
    assert np.isnan(own["ours_fid"])
    assert own["corrected_fid"] == 80.0
    assert np.isnan(own["corrected_vgg"])
    assert own["corrected_mse"] == record["summary"]["all"]["corrected_mse"]["mean"]
    for part in (
        "288 slices of phantoms (theirs 5849)",
        "VGG through demo_features",
        "FID absent: no weights",
        "held-out",
    ):
        assert part in own["why"]
    assert table.loc["mk6_1_0", "why"].startswith("not run here")
    assert np.isnan(table.loc["mk6_1_0", "mae_hu"])


def test_printed_values_are_those_of_the_documents():
    text = (ROOT / "docs" / "lineage.md").read_text(encoding="utf-8")
    section = text.split("## 3. ")[1].split("\n## ")[0]
    for row in PRINTED:
        get(row.variant)
        (line,) = (line for line in section.splitlines() if line.startswith(f"| `{row.variant}` |"))
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+\.\d+", line)]
        for value in (row.mse, row.ssim, row.fid, row.vgg):
            near = [n for n in numbers if n == pytest.approx(value, rel=5e-3)]
            assert near, f"{row.variant}: {value} is not in: {line}"
    assert f"{BLACK.ssim:.3f}"[:4] in section or f"{BLACK.ssim}" in text
