"""Artefacts of earlier versions stay readable: tests/data/formats holds one folder per format, kept as it was written.

The folder 2026-11 is of version 1.0: a finished training of mk4_1 and an unfinished one of cyclegan_mk1 (networks of
width 1, three tiny patients), the model published of the first, its scores, and the store's descriptions without
arrays; in `runs` trainings in folders of their own, described by flat values, of two seeds and a child, one of them
with its checkpoints; in `images.npz` what that version made of random slices. Checkpoints are packed with xz.
"""

from __future__ import annotations

import dataclasses
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mrict_core.data.cache.store import ARRAYS, INDEX, META, SliceStore
from mrict_core.data.splits import load_split
from mrict_core.evaluation.records import read_record
from mrict_core.experiments import get
from mrict_core.experiments.flat import is_flat
from mrict_core.files import read_json, write_json
from mrict_core.inference import load_synthesizer
from mrict_core.models.card import card_text
from mrict_core.models.folder import check_weights, load_facts_and_weights, read_model, read_scores, write_model
from mrict_core.training.checkpoint import check_resumable, load_checkpoint

FORMATS = sorted((Path(__file__).parent / "data" / "formats").iterdir())


def unpacked(artefacts: Path, folder: Path) -> Path:
    """Copy one format's artefacts, checkpoints unpacked."""
    shutil.copytree(artefacts, folder)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


@pytest.fixture(params=FORMATS, ids=lambda folder: folder.name)
def old(request, tmp_path) -> Path:
    return unpacked(request.param, tmp_path / "old")


def test_every_checkpoint_makes_a_ct(old):
    mr = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64))
    found = sorted(old.glob("checkpoints/*/*.pt"))
    assert len(found) >= 3
    for path in found:
        synthesizer = load_synthesizer(path, path.parent.name, device="cpu")
        hu = synthesizer.slices_to_hu(mr)
        assert hu.shape == mr.shape
        assert synthesizer.window.low <= hu.min() < hu.max() <= synthesizer.window.high


def test_models_of_before_give_the_images_of_before(old):
    mr = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64))
    (model,), (run,) = old.glob("models/*"), old.glob("runs/*/*/best.pt")
    with np.load(old / "images.npz") as images:
        for path, name in ((model, "2026-11"), (run, "runs")):
            made = load_synthesizer(path, "mk4_1", device="cpu").slices_to_hu(mr)
            assert np.abs(made - images[name]).max() < 0.05  # HU; sums are taken in another order
            assert np.ptp(images[name]) > 100


def test_facts_of_before_are_read_into_todays_form(old):
    (folder,) = (old / "models").iterdir()
    before, facts = read_model(folder)["facts"], load_facts_and_weights(folder)[0]
    assert is_flat(before["fields"])
    assert facts.experiment == get("mk4_1")
    plain = facts.as_plain()
    assert all(plain[key] == value for key, value in before.items() if key not in ("fields", "profile", "format"))


def test_a_model_of_before_is_not_published_again(old, tmp_path):
    (folder,) = (old / "models").iterdir()
    there = shutil.copytree(folder, tmp_path / "root" / "mk4_1" / folder.name)
    facts, networks = load_facts_and_weights(there)
    told = {key: read_model(there)[key] for key in ("kind", "label", "demo", "generator", "data")}
    assert write_model(tmp_path / "root", facts, networks, **told) == (there, False)
    other, new = write_model(tmp_path / "root", dataclasses.replace(facts, epochs=99), networks, **told)
    assert new
    assert other != there
    assert load_facts_and_weights(other)[0].epochs == 99


def test_last_checkpoints_hold_what_it_takes_to_go_on(old):
    found = sorted(old.glob("checkpoints/*/last.pt"))
    assert found
    for path in found:
        check_resumable(load_checkpoint(path), path)


def test_the_published_model_is_read_and_computes_what_its_checkpoint_does(old):
    (folder,) = (old / "models").iterdir()
    description = read_model(folder)
    assert check_weights(folder, description)
    assert "Not for clinical use" in card_text(description, read_scores(folder))
    networks = load_facts_and_weights(old / "checkpoints" / description["facts"]["variant"] / "best.pt")[1]
    for name, state in load_facts_and_weights(folder)[1].items():
        assert all(torch.equal(value, networks[name][key]) for key, value in state.items())


def test_records_are_read(old):
    record = read_record(old / "metrics", "mk4_1")
    assert record["summary"]["all"]["mae_hu"]["mean"] == pytest.approx(record["patients"][0]["mae_hu"])
    assert record["context"]["seed"] == 42


def restored_store(old: Path) -> SliceStore:
    """Put arrays beside the store's descriptions, which were kept without them."""
    index, meta = read_json(old / "store" / INDEX), read_json(next(old.glob(f"store/*/{META}")))
    for number, (patient, entry) in enumerate(index["patients"].items()):
        shape = (entry["slices"], index["settings"]["size"], index["settings"]["size"])
        random = np.random.default_rng(number)
        folder = old / "store" / patient
        folder.mkdir(exist_ok=True)
        write_json(folder / META, meta | {"patient": patient, "centre": entry["centre"]})
        arrays = dict.fromkeys(ARRAYS, np.ones(shape, np.uint8))
        arrays["mr"] = random.uniform(-1, 1, shape).astype(np.float16)
        arrays["ct"] = random.integers(-1000, 1000, shape).astype(np.int16)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
    return SliceStore(old / "store")


def test_the_store_and_its_split_are_read(old):
    store, split = restored_store(old), load_split(old / "store" / "split.json")
    record = read_record(old / "metrics", "mk4_1")
    assert (store.key, split.hash) == (record["context"]["store_key"], record["context"]["split_hash"])
    assert {*split.train, *split.val, *split.test} == set(store.patients)
    assert store.slices(split.train[0]).mr.shape == (store.counts()[split.train[0]], store.size, store.size)
