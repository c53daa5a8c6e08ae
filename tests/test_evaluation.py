"""Scores, baselines, records and the leaderboard on a small real store."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mrict_core import evaluation, metrics
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.cache.store import SliceStore
from mrict_core.errors import MrictError
from mrict_core.evaluation import Predictions
from mrict_core.hu import AIR_FLOOR_HU

SHAPE = (40, 44, 10)
CANVAS = 48
TRAIN, TEST = ["1BA001", "1BB001"], ["1BA002", "1BC001"]


def write_patient(folder, seed: int, shape: tuple[int, int, int] = SHAPE) -> None:
    """An ellipsoid head: skull dark on MR and bright on CT, brain with two tissues, air around it."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 0.72) ** 2 + (y / (0.8 + 0.02 * seed)) ** 2 + (z / 1.3) ** 2)
    body, brain = radius < 1, radius < 0.72
    skull = (radius < 0.86) & ~brain
    bright = brain & (np.sin(7 * x + seed) + np.cos(6 * y) > 0)
    mr = 20 * rng.random(shape) + 420.0 * body + 260.0 * bright - 360.0 * skull
    ct = np.where(body, 30.0, -1000.0) + 20.0 * bright + 1000.0 * skull + body * rng.normal(0, 8, shape)
    affine = np.diag([-4.0, -4.0, 6.0, 1.0])
    folder.mkdir(parents=True)
    arrays = {"mr": mr.astype(np.float32), "ct": np.rint(ct).astype(np.int16), "mask": body.astype(np.uint8)}
    for role, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{role}.nii.gz")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SliceStore:
    root = tmp_path_factory.mktemp("evaluation")
    for seed, patient in enumerate([*TRAIN, *TEST]):
        write_patient(root / "in" / "Task1" / "brain" / patient, seed)
    return preprocess(root / "in", root / "store", region="brain", size=CANVAS, strict=True, workers=1)


@pytest.fixture(scope="module")
def thin_store(tmp_path_factory) -> SliceStore:
    root = tmp_path_factory.mktemp("thin")
    for seed, patient in enumerate(["1BA001", "1BB001"]):
        write_patient(root / "in" / patient, seed, shape=(*SHAPE[:2], 1))
    return preprocess(root / "in", root / "store", region="brain", size=CANVAS, strict=True, workers=1)


def perfect(store: SliceStore, patient: str) -> np.ndarray:
    return np.asarray(store.slices(patient).ct)


def biased(store: SliceStore, patient: str) -> np.ndarray:
    slices = store.slices(patient)
    return np.where(np.asarray(slices.mask) > 0, np.asarray(slices.ct, np.float32) + 150, AIR_FLOOR_HU)


def test_a_perfect_prediction_scores_perfectly(store):
    frame = evaluation.score_patients(store, TEST, Predictions(store, perfect)).frame
    assert tuple(frame.columns) == evaluation.columns()
    assert frame["patient"].tolist() == TEST
    assert frame["centre"].tolist() == ["A", "C"]
    assert frame["n_slices"].tolist() == [store.counts()[p] for p in TEST]
    assert frame["mae_hu"].tolist() == [0.0, 0.0]
    assert np.isinf(frame["psnr_db"]).all()
    assert frame["ssim"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert frame["ssim_dimensionality"].tolist() == ["3D", "3D"]
    assert frame["predecessor_mse"].tolist() == [0.0, 0.0]
    assert frame["predecessor_ssim"].tolist() == [1.0, 1.0]
    for patient, count in zip(TEST, frame["n_voxels"], strict=True):
        assert count == np.count_nonzero(store.reference(patient)[1])


def test_a_bias_of_150_hu_shows_as_150(store):
    frame = evaluation.score_patients(store, TEST, Predictions(store, biased)).frame
    assert frame["mae_hu"].to_numpy() == pytest.approx(150.0, abs=1e-3)
    assert (frame["psnr_db"].to_numpy() > 28).all()
    assert frame["psnr_db"].to_numpy() == pytest.approx(20 * np.log10(4024 / 150), abs=0.01)


def test_voxels_left_off_the_canvas_count_as_air(tmp_path):
    write_patient(tmp_path / "in" / "1BA001", 0)
    cropped = preprocess(tmp_path / "in", tmp_path / "store", region="brain", size=24, strict=True, workers=1)
    frame = evaluation.score_patients(cropped, ["1BA001"], Predictions(cropped, perfect)).frame
    ct, mask, _ = cropped.reference("1BA001")
    seen = cropped.to_volume("1BA001", np.ones_like(cropped.slices("1BA001").ct)) == 1
    expected = np.abs(ct.array - AIR_FLOOR_HU)[mask & ~seen].sum() / mask.sum()
    assert expected > 100
    assert frame["mae_hu"][0] == pytest.approx(expected, rel=1e-6)


def test_single_slice_volumes_are_scored_in_2d_and_say_so(thin_store):
    scores = evaluation.score_patients(thin_store, thin_store.patients, Predictions(thin_store, biased))
    assert scores.frame["ssim_dimensionality"].tolist() == ["2D", "2D"]
    record = evaluation.metrics_record("thin", scores, label="demo", context={})
    assert record["cards"]["ssim_2d"]["dimensionality"] == "2D"
    assert record["cards"]["ssim_2d"]["n"] == 2
    assert record["summary"]["all"]["continuity"]["mean"] is None  # one slice has no neighbour
    baselines = evaluation.baseline_predictions(thin_store, ["1BA001"])
    assert all(p.slices("1BB001").shape == (1, CANVAS, CANVAS) for p in baselines.values())


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda store, patient: np.zeros((1, CANVAS, CANVAS)), r"1BA002: the prediction has shape \(1, 48, 48\)"),
        (lambda store, patient: np.full(store.slices(patient).ct.shape, np.nan), "1BA002: .* NaN"),
    ],
)
def test_a_bad_prediction_names_the_patient(store, predict, message):
    with pytest.raises(MrictError, match=message):
        evaluation.score_patients(store, TEST, Predictions(store, predict))


def test_progress_hears_of_every_patient(store):
    heard = []
    evaluation.score_patients(store, TEST, Predictions(store, perfect), lambda *report: heard.append(report))
    assert heard == [(1, 2, TEST[0]), (2, 2, TEST[1])]


def test_baselines_see_training_patients_only_and_keep_to_the_body(store):
    baselines = evaluation.baseline_predictions(store, TRAIN)
    assert list(baselines) == ["baseline_water_body", "baseline_mean_ct", "baseline_rank_map"]
    patient = TEST[0]
    slices = store.slices(patient)
    body = np.asarray(slices.body) > 0
    images = {name: own.slices(patient) for name, own in baselines.items()}
    for name, hu in images.items():
        assert hu.shape == slices.ct.shape, name
        assert hu.dtype == np.int16
        assert (hu[~body] == AIR_FLOOR_HU).all(), name
    assert (images["baseline_water_body"][body] == 0).all()


@pytest.mark.parametrize("others", [[], TRAIN[1:]], ids=["alone", "beside patients of another plane"])
def test_mean_ct_is_the_mean_over_training_slices_of_the_same_height_and_plane(store, others, monkeypatch):
    monkeypatch.setattr(type(store), "plane", lambda self, patient: "coronal" if patient == "1BA001" else "axial")
    own = evaluation.baseline_predictions(store, ["1BA001", *others])["baseline_mean_ct"].slices("1BA001")
    slices = store.slices("1BA001")
    assert len(slices.ct) <= 16  # every slice has a bin of its own
    body = np.asarray(slices.body) > 0
    assert own[body] == pytest.approx(np.asarray(slices.ct, np.float32)[body])


def test_rank_map_keeps_the_order_of_the_mr_and_the_histogram_of_the_ct(store):
    predictions = evaluation.baseline_predictions(store, TRAIN)["baseline_rank_map"]
    slices = store.slices(TEST[0])
    body = np.asarray(slices.body) > 0
    mr, hu = np.asarray(slices.mr, np.float32)[body], predictions.slices(TEST[0])[body]
    order = np.argsort(mr, kind="stable")
    assert (np.diff(hu[order]) >= 0).all()
    training = [store.slices(p) for p in TRAIN]
    ct = np.concatenate([np.asarray(s.ct)[(np.asarray(s.body) > 0) & (np.asarray(s.mask) > 0)] for s in training])
    assert np.percentile(hu, [25, 50, 75]) == pytest.approx(np.percentile(ct, [25, 50, 75]), abs=15)
    assert ct.min() <= hu.min()
    assert hu.max() <= ct.max()


def test_baselines_need_training_patients(store):
    with pytest.raises(MrictError, match="at least one training patient"):
        evaluation.baseline_predictions(store, [])


def rows(mae: dict[str, float], **others: float) -> pd.DataFrame:
    base = dict.fromkeys(metrics.recorded(), 0.5) | {"n_slices": 9, "n_voxels": 100, "psnr_db": 30.0, "ssim": 0.9}
    base |= {"n_air": 1, "n_soft": 1, "n_bone": 1, "ssim_dimensionality": "3D", "flags": ""} | others
    table = [{"patient": p, "centre": p[2], **base, "mae_hu": value} for p, value in mae.items()]
    return pd.DataFrame(table, columns=list(evaluation.columns()))


def test_summary_by_hand():
    summary = evaluation.summarise(rows({"1BA001": 80.0, "1BA002": 100.0, "1BB001": 150.0}))
    found = summary["all"]["mae_hu"]
    assert (found["mean"], found["median"], found["n"]) == (110.0, 100.0, 3)
    assert found["sd"] == pytest.approx(36.0555, abs=1e-4)
    assert 80 <= found["low"] < 110 < found["high"] <= 150
    assert summary["centres"]["A"]["mae_hu"]["mean"] == 90.0
    nothing = dict.fromkeys(("sd", "low", "high"))
    assert summary["centres"]["B"]["mae_hu"] == {"mean": 150.0, "median": 150.0, "n": 1} | nothing
    empty = evaluation.summarise(rows({"1BA001": 80.0}, psnr_db=float("inf")))
    assert empty["all"]["psnr_db"] == {"mean": None, "median": None, "n": 0} | nothing


def record(name: str, values: list[float], kind: str = "variant", **context: object) -> dict:
    frame = rows({f"1BA{index:03d}": value for index, value in enumerate(values)})
    return evaluation.metrics_record(name, evaluation.Scores(frame, {}), label="demo", kind=kind, context=context)


def test_a_record_survives_its_files(tmp_path, store):
    scores = evaluation.score_patients(store, TEST, Predictions(store, perfect))
    versions = {"numpy": np.__version__}
    context = {"seed": np.int64(3), "split_hash": "ab", "stopped": "collapsed at epoch 2", "versions": versions}
    made = evaluation.metrics_record("mk1", scores, label="demo", context=context, more={"features": [{"name": "fid"}]})
    json_path, csv_path = evaluation.write_metrics(tmp_path / "metrics", made)
    assert (json_path.name, csv_path.name) == ("mk1.json", "mk1.csv")
    assert "Infinity" not in json_path.read_text()
    assert json.loads(json_path.read_text())["patients"][0]["psnr_db"] is None
    assert evaluation.read_metrics(tmp_path / "metrics") == [made]
    assert evaluation.read_record(tmp_path / "metrics", "mk1") == made
    assert evaluation.read_record(tmp_path / "metrics", "mk2") is None
    assert (made["note"], made["label"], made["context"]["seed"]) == ("collapsed at epoch 2", "demo", 3)
    table = pd.read_csv(csv_path)
    assert table["patient"].tolist() == TEST
    assert table["mae_hu"].tolist() == [0.0, 0.0]
    assert table["split_hash"].tolist() == ["ab", "ab"]  # every row says where it comes from
    assert table["cards"].nunique() == 1
    definitions = pd.read_csv(tmp_path / "metrics" / "cards.csv").set_index("name")
    assert set(metrics.recorded()) <= set(definitions.index)
    assert not definitions.isna().any().any()
    assert set(made["cards"]) == set(metrics.recorded())
    assert made["cards"]["mae_hu"]["n"] == 2
    assert made["cards"]["mae_hu"]["split_hash"] == "ab"
    assert made["cards"]["psnr_db"]["n"] == 0  # infinite for both
    assert made["features"] == [{"name": "fid"}]
    assert len(made["details"]["calibration"]["patients"]) == 2
    assert made["details"]["calibration"]["patients"][0]["patient"] == TEST[0]


def test_a_person_with_images_in_several_folders_counts_once():
    """One person of three images and two of one, as if the first had a single image of the mean error."""
    images = {"1BA001": 60.0, "1BA001~coronal": 90.0, "1BA001~2": 120.0, "1BA002": 100.0, "1BA003": 50.0}
    several, single = (
        [
            evaluation.metrics_record(name, evaluation.Scores(rows(values), {}), label="demo", context={})
            for name, values in (("a", own), ("b", {patient: value + 7 for patient, value in own.items()}))
        ]
        for own in (images, {"1BA001": 90.0, "1BA002": 100.0, "1BA003": 50.0})
    )
    assert several[0]["summary"]["all"]["mae_hu"] == single[0]["summary"]["all"]["mae_hu"]
    assert several[0]["summary"]["all"]["mae_hu"]["n"] == 3
    assert len(several[0]["patients"]) == 5
    assert evaluation.leaderboard(several).equals(evaluation.leaderboard(single))
    assert evaluation.pairwise_table(several).equals(evaluation.pairwise_table(single))
    assert evaluation.leave_out_table(several).equals(evaluation.leave_out_table(single))


def test_damaged_and_foreign_files_are_named(tmp_path):
    assert evaluation.read_metrics(tmp_path / "none") == []
    (tmp_path / "odd.json").write_text("[1, 2]")
    with pytest.raises(MrictError, match=r"odd\.json: not a metrics record"):
        evaluation.read_metrics(tmp_path)
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(MrictError, match=r"odd\.json: not valid json"):
        evaluation.read_metrics(tmp_path)
    with pytest.raises(MrictError, match="allowed: variant, baseline, control"):
        record("mk1", [1.0], kind="model")


def test_leaderboard_ranks_by_mae_and_flags_what_loses_to_a_baseline():
    nothing = float("nan")
    board = evaluation.leaderboard(
        [
            record("mk6", [70.0, 90.0]),
            record("mk1", [190.0, 230.0]),
            record("water", [200.0, 210.0], kind="baseline"),
            record("mean", [150.0, 170.0], kind="baseline"),
            record("mk2", [nothing, nothing], stopped="collapsed at epoch 2"),
        ]
    )
    assert board["name"].tolist() == ["mk6", "mean", "water", "mk1", "mk2"]
    assert board["rank"].tolist()[:4] == [1, 2, 3, 4]
    assert board["rank"].isna().tolist() == [False] * 4 + [True]
    flags = dict(zip(board["name"], board["beats_baselines"], strict=True))
    assert flags["mk6"]
    assert not flags["mk1"]
    assert pd.isna(flags["mean"])
    assert board["mae_hu"][0] == 80.0
    assert board["mae_hu_sd"][0] == pytest.approx(14.1421, abs=1e-4)
    assert board["note"][3] == "does not beat the trivial baselines"
    assert board["note"][4] == "collapsed at epoch 2"


def test_a_single_patient_has_no_sd_and_other_patients_no_comparison():
    board = evaluation.leaderboard([record("mk6", [70.0]), record("water", [200.0, 210.0], kind="baseline")])
    assert np.isnan(board["mae_hu_sd"][0])
    assert pd.isna(board["beats_baselines"][0])
    assert "no baseline was scored on these patients" in board["note"][0]
    assert evaluation.leaderboard([]).empty


def test_the_cohort_table_lists_every_patient_once(space):
    from mrict_core.data.splits import load_split
    from mrict_core.evaluation.cohort_table import cohort_table

    store, split = SliceStore(space.store), load_split(space.split_file)
    table = cohort_table(store, split).set_index("patient")
    assert list(table.index) == store.patients
    assert table["set"].value_counts().to_dict() == {s: len(getattr(split, s)) for s in ("train", "val", "test")}
    assert table["slices"].sum() == sum(store.counts().values())
    assert (table["spacing_mm"] == "5.00 x 4.00 x 4.00").all()  # of the slices: apart, down, across
    assert (cohort_table(store)["set"] == "none").all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_no_score(space, value):
    from mrict_core.pipeline import open_data

    def diverged(store, patient):
        fake = np.zeros(store.slices(patient).ct.shape, np.float32)
        fake[0, 0, 0] = value
        return fake

    store, split = open_data(space)
    with pytest.raises(MrictError, match="has NaN or infinite values; the model has diverged"):
        evaluation.score_patients(store, split.test, Predictions(store, diverged))
