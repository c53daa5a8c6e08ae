"""Other forms of a published model, what it says of itself, and which one `synthesize` takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from dicom_files import write_mr_series
from samples import sample
from test_cli import error_of, ok
from tiny_models import files_in, head_array, untrained_checkpoint, write_head

from mrict_core.data.cache.fingerprint import of_single_slices, orientation, summarise, volume_features
from mrict_core.data.fetch.synthrad2023 import DATA_SETS
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_json
from mrict_core.inference import load_synthesizer
from mrict_core.inference.gate import NOTE, REFUSE, before, check_input
from mrict_core.inference.input_files import read_input, region_of
from mrict_core.methods import build_method
from mrict_core.models.about import About, read_about
from mrict_core.models.card import NO_SAMPLE
from mrict_core.models.catalogue import entries, find, for_region, read_card, why_first
from mrict_core.models.folder import (
    CARD,
    DISCRIMINATOR,
    SAMPLE,
    WEIGHTS,
    load_discriminators,
    load_facts_and_weights,
    read_model,
    write_model,
)
from mrict_core.models.publish import by_plane, publish_again
from mrict_core.paths import ROOT
from mrict_core.training.checkpoint import load_weights

OLD = Path(__file__).parent / "data" / "formats" / "2026-11" / "models" / "6fb6b344d431cc9f"
SLICES = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64))
SAID = {"data_set": "synthrad2023-task1", "label": "of middle slices", "command": "python -m mrict_core train mk4_1"}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder of checkpoints."""
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


def published(root: Path, mae_hu: float | None = 90.0, *, region: str = "brain", seed: int = 0, **told) -> Path:
    """Publish an untrained mk6_3_4 with its discriminator; mae_hu: mean error over four patients, None: not scored."""
    checkpoint = untrained_checkpoint(root.parent / "best.pt", seed=seed)
    facts, networks = load_facts_and_weights(checkpoint)
    networks["D"] = build_method(get("mk6_3_4"), get_profile("smoke")).networks["D"].state_dict()
    scores = read_json(OLD / "scores.json")
    scores["summary"]["all"]["mae_hu"] |= {"mean": mae_hu, "n": 4}
    named = {"kind": "trained", "label": "full", "demo": False, "generator": "G"}
    data = {"name": "hospital"} | ({"region": region} if region else {})
    scored = {} if mae_hu is None else {"scores": scores, "sample": b"\x89PNG of a slice"}
    return write_model(root, facts, networks, **named | scored | {"data": data} | told)[0]


def card_file(folder: Path, **values: object) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# --------------------------------------------------------------------------------------------------- half precision


def test_half_precision_is_loaded_as_float32_and_keeps_what_is_small(root):
    full = published(root)
    half, new = publish_again(full, about=About(), half=True, folder=None)
    assert new
    assert half.parent == full.parent
    assert (half / WEIGHTS).stat().st_size < 0.6 * (full / WEIGHTS).stat().st_size
    for load in (lambda path: load_facts_and_weights(path)[1], load_discriminators):
        before, after = load(full), load(half)
        for name, state in before.items():
            assert state.keys() == after[name].keys()
            for key, value in state.items():
                found = after[name][key]
                assert found.dtype == value.dtype
                wanted = value.half().float() if value.ndim > 1 else value  # vectors: norms, biases, counters
                assert torch.equal(found, wanted)
    hu = [load_synthesizer(path, device="cpu").slices_to_hu(SLICES) for path in (full, half)]
    assert 0 < np.abs(hu[0] - hu[1]).max() < 5
    card = (half / CARD).read_text(encoding="utf-8")
    assert "Weights stored in half precision: " in card
    assert "half precision" not in (full / CARD).read_text(encoding="utf-8")
    assert (half / SAMPLE).read_bytes() == (full / SAMPLE).read_bytes()
    assert publish_again(half, about=About(), half=False, folder=None) == (half, False)  # digits are lost for good
    content = bytearray((half / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (half / WEIGHTS).write_bytes(content)
    with pytest.raises(MrictError, match="weights were changed or damaged"):
        load_facts_and_weights(half)


def test_a_weight_beyond_half_precision_is_refused_and_leaves_nothing(root):
    facts, networks = load_facts_and_weights(published(root))
    key = next(key for key, value in networks["G"].items() if value.ndim == 4)
    networks["G"][key][0, 0, 0, 0] = 7e4
    before = files_in(root)
    told = {"kind": "trained", "label": "full", "demo": False, "generator": "G", "data": {"name": "x"}}
    with pytest.raises(MrictError, match=rf"G/{key}: has weights up to 7e\+04, expected at most 65504"):
        write_model(root, facts, networks, **told, half=True)
    assert files_in(root) == before
    assert write_model(root, facts, networks, **told)[1]


# --------------------------------------------------------------------------------------- discriminator, sample picture


def test_a_discriminator_is_loadable_and_unused_in_prediction(root):
    folder = published(root)
    (discriminator,) = load_discriminators(folder).items()
    network = build_method(get("mk6_3_4"), get_profile("smoke")).networks[discriminator[0]]
    load_weights(network, discriminator[1], "D", folder)
    assert entries()[0].networks == ("G", "D")
    hu = load_synthesizer(folder, device="cpu").slices_to_hu(SLICES)
    content = bytearray((folder / DISCRIMINATOR).read_bytes())
    content[-5] ^= 1
    (folder / DISCRIMINATOR).write_bytes(content)
    assert (load_synthesizer(folder, device="cpu").slices_to_hu(SLICES) == hu).all()
    with pytest.raises(MrictError, match=r"discriminator\.safetensors: its sha256 is"):
        load_discriminators(folder)
    assert "discriminator.safetensors" in entries(verify=True)[0].problem


def test_models_of_before_have_neither_and_still_load(root):
    folder = Path(shutil.copytree(OLD, root / "mk4_1" / OLD.name))
    assert load_discriminators(folder) == {}
    assert load_facts_and_weights(folder)[1].keys() == {"G", "D"}
    assert NO_SAMPLE in read_card("mk4_1")
    (entry,) = entries(verify=True)
    assert (entry.problem, entry.region, entry.about) == ("", "brain", About())


def test_the_card_says_if_there_is_no_sample_picture(root):
    assert NO_SAMPLE in (published(root, None) / CARD).read_text(encoding="utf-8")
    assert f"({SAMPLE})" in (published(root) / CARD).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------- what a model says of itself


def test_what_a_model_says_reaches_every_place_that_shows_it(root, tmp_path):
    folder = root / "starter-brain"
    card = card_file(tmp_path, **SAID)
    assert "starter-brain, 0." in ok(
        *("publish", f"mk6_3_4@{published(root).name}", "--half", "--card", str(card), "--to", str(folder))
    )
    known = DATA_SETS["synthrad2023-task1"]
    text = (folder / CARD).read_text(encoding="utf-8")
    assert [
        word for word in (known.licence, known.citation, SAID["command"], "> **Of middle") if word not in text
    ] == []
    assert read_card("starter-brain") == text
    listed = ok("models").splitlines()
    assert listed[2].startswith("starter-brain ")
    assert any(line.startswith("starter-brain: of middle slices; weights CC BY-NC 4.0") for line in listed)
    (first, _) = json.loads(ok("models", "--json"))
    assert (first["name"], first["about"]["citation"]) == ("starter-brain", known.citation)
    mr, out = write_head(tmp_path / "mr.nii.gz"), tmp_path / "ct.nii.gz"
    ok("synthesize", str(mr), "-o", str(out), "--model", "starter-brain", "--qa", str(tmp_path / "qa.html"))
    facts = read_json(tmp_path / "ct.json")
    (model,) = facts["models"]
    assert (model["label"], model["licence"], model["citation"]) == (SAID["label"], known.licence, known.citation)
    assert any("of middle slices; weights CC BY-NC" in text for text in facts["warnings"])
    assert known.citation in (tmp_path / "qa.html").read_text(encoding="utf-8")
    again = ("publish", "starter-brain", "--to", str(folder))
    assert "already published" in ok(*again)
    card_file(tmp_path, label="another")
    assert "starter-brain: holds model" in error_of(*again, "--card", str(card))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label: [1", "not yaml"),
        ("- label", "no named values; expected label, licence"),
        ("lable: x", "unknown field 'lable': did you mean 'label'"),
        ("label: 3", "label is '3', expected str"),
        ("data_set: mine", "unknown data set 'mine'"),
        ("data_set: [mine]", "unknown data set"),
        ("{data_set: synthrad2023-task1, licence: MIT}", "licence and data_set are both given"),
    ],
)
def test_a_bad_card_file_is_one_line(text, message, tmp_path):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(MrictError, match=message) as caught:
        read_about(tmp_path / "card.yaml")
    assert "card.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_by_plane():
    planes = {"a": "axial", "b": "axial", "c": "sagittal"}
    store = SimpleNamespace(plane=planes.get)
    rows = [{"patient": p, "mae_hu": mae, "psnr_db": None} for p, mae in (("a", 60.0), ("b", 70.0), ("c", 90.0))]
    record = {"patients": rows, "summary": {"all": {"mae_hu": {}}}}
    found = by_plane(store, record)
    assert {plane: (own["mae_hu"]["mean"], own["mae_hu"]["n"]) for plane, own in found.items()} == {
        "axial": (65.0, 2),
        "sagittal": (90.0, 1),
    }
    assert by_plane(store, record | {"patients": rows[:2]}) == {}


def test_the_card_has_a_table_by_plane(root):
    scores = read_json(OLD / "scores.json")
    scores["summary"]["planes"] = dict.fromkeys(("axial", "coronal"), scores["summary"]["all"])
    text = (published(root, scores=scores) / CARD).read_text(encoding="utf-8")
    assert "| plane | MAE (HU) | PSNR (dB) | SSIM |" in text
    assert "| coronal | 892.1 |" in text


# ------------------------------------------------------------------------------------------------ the best for a region


def test_the_lowest_error_is_taken_before_unscored_models_and_demos(root):
    assert [entry.mae_hu for entry in entries()] == []
    with pytest.raises(MrictError, match=r"no published model for brain in .*run_all\.sh --data DIR --region brain"):
        for_region("brain")
    demo = published(root, 20.0, demo=True, seed=1)
    assert "the only model for brain, 20.0 HU on 4 held-out patients; a demo, as no" in why_first(
        *for_region("brain"), "brain"
    )
    unscored = published(root, None, seed=2)
    assert "the only model for brain, demos apart, not scored; others:" in why_first(*for_region("brain"), "brain")
    good, poor = published(root, 80.0, seed=3), published(root, 95.0, seed=4)
    pelvis, unknown = published(root, 1.0, region="pelvis", seed=5), published(root, 2.0, region="", seed=6)
    found, damaged = for_region("brain")
    assert [entry.path for entry in found] == [good, poor, unscored, demo]
    assert [entry.path for entry in for_region("pelvis")[0]] == [pelvis]
    assert damaged == []
    line = why_first(found, damaged, "brain")
    assert f"model: mk6_3_4@{good.name[:8]}: masked MAE 80.0 HU on 4 held-out patients, the lowest of 3 models" in line
    assert (
        f"others: mk6_3_4@{poor.name[:8]} 95.0 HU, mk6_3_4@{unscored.name[:8]} not scored, mk6_3_4@{demo.name[:8]} demo"
        in line
    )
    (good / WEIGHTS).write_bytes(b"")
    found, damaged = for_region("brain")
    assert found[0].path == poor
    assert f"damaged, not considered: mk6_3_4@{good.name[:8]}" in why_first(found, damaged, "brain")
    assert unknown.is_dir()


def test_synthesize_without_a_model(root, tmp_path):
    mr, out = write_head(tmp_path / "mr.nii.gz"), str(tmp_path / "ct.nii.gz")
    before = files_in(tmp_path)
    assert "no published model for brain" in error_of("synthesize", str(mr), "-o", out)
    assert files_in(tmp_path) == before
    brain, pelvis = published(root, 80.0, seed=1), published(root, 70.0, region="pelvis", seed=2)
    ok("synthesize", str(mr), "-o", out)
    assert read_json(tmp_path / "ct.json")["models"][0]["hash"] == read_model(brain)["hash"]
    ok("synthesize", str(mr), "-o", out, "--region", "pelvis", "--overwrite")
    assert read_json(tmp_path / "ct.json")["models"][0]["hash"] == pelvis.name
    for arguments, message in (
        (("--region", "leg"), "unknown region 'leg'"),
        (("--region", "brain", "--model", "mk6_3_4"), "--region and --model are both given"),
        (("--region", "TH"), "no published model for TH"),
    ):
        assert message in error_of("synthesize", str(mr), "-o", out, "--overwrite", *arguments)


def test_a_name_of_its_own_is_not_behind_a_variant(root):
    own = publish_again(published(root), about=About(), half=True, folder=root / "starter-brain")[0]
    assert find("starter-brain") == find(str(own)) == own
    assert find("mk6_3_4").parent.name == "mk6_3_4"
    assert find(f"mk6_3_4@{read_model(own)['hash']}") == own
    (own / WEIGHTS).write_bytes(b"")
    with pytest.raises(MrictError, match=r"starter-brain/model\.safetensors: 0 bytes"):
        find("starter-brain")


def test_git_keeps_the_starter_and_nothing_else_of_the_checkpoints():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    names = ["checkpoints/starter-brain/model.safetensors", "checkpoints/mk1/0123/model.safetensors"]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == names[1:]
    starter = ROOT / "checkpoints" / "starter-brain"
    assert sum(path.stat().st_size for path in starter.glob("*")) <= 12e6


# -------------------------------------------------------------------------------------------- what does not fit a model


@pytest.mark.parametrize(
    ("part", "region", "said"),
    [
        ("HEAD", "brain", ""),
        ("PELVIS", "pelvis", "the DICOM header names pelvis (BodyPartExamined), the model was trained on brain"),
        (
            "KNEE",
            "",
            "the DICOM header names another body part (BodyPartExamined), the model was trained on brain",
        ),
        (None, "", ""),
    ],
)
def test_the_body_part_of_a_dicom_series(part, region, said, tmp_path, models):
    stored = head_array((20, 24, 6)).astype(np.uint16)
    affine = np.diag([5.0, 5.0, 6.0, 1.0])
    write_mr_series(tmp_path / "mr", stored, affine, **({"BodyPartExamined": part} if part else {}))
    assert region_of(tmp_path / "mr") == region
    assert region_of(write_head(tmp_path / "mr.nii")) == ""
    facts = dataclasses.replace(models[0].synthesizer.facts, fingerprint={"region": "brain"})
    found = {finding.name: finding.text for finding in before(read_input(tmp_path / "mr"), facts)}
    assert found.get("body_part", "") == said


@pytest.fixture(scope="module")
def of_slices() -> dict:
    """The fingerprint of a model trained on the middle slices of twenty real heads."""
    folder = sample("synthrad_brain_axial/Task1/brain")
    volumes = [load_volume(path / "mr.nii.gz") for path in sorted(folder.iterdir())[::7]]
    found = [volume_features(volume, 224)[0] for volume in volumes]
    return summarise(found, 224, [orientation(volume.affine) for volume in volumes]) | {"region": "brain"}


def of_head(choose=lambda array: array) -> Volume:
    path = sample("brainweb_head/Task1/brain/BW04") / "mr.nii.gz"
    image = nib.load(path)
    return Volume(choose(np.asarray(image.dataobj, np.float32)), image.affine, path)


def test_a_model_of_single_slices_accepts_a_whole_head(of_slices):
    assert of_single_slices(of_slices)
    found = check_input(of_head(), of_slices)
    assert [finding.name for finding in found if finding.severity == NOTE] == ["single_slices"]
    assert [f.name for f in found if f.name.startswith(("spacing", "fov", "body", "area", "flat"))] == []


def test_a_model_of_single_slices_names_what_does_not_fit(of_slices):
    pelvis = sample("pelvis_bulk/Task1/pelvis/P3")
    found = check_input(load_volume(pelvis / "mr.nii.gz"), of_slices)
    assert {"body_area", "spacing_rows"} <= {finding.name for finding in found if finding.severity == REFUSE}
    few = check_input(of_head(lambda array: array[:, :, 90:92]), of_slices)
    assert "the MR has 2 axial slices; expected one slice or a whole volume" in next(
        finding.text for finding in few if finding.name == "few_slices"
    )
    one = check_input(of_head(lambda array: array[:, :, 90:91]), of_slices)
    assert not {"few_slices", "single_slices"} & {finding.name for finding in one}
    ct = check_input(load_volume(sample("brainweb_head/Task1/brain/BW04") / "ct.nii.gz"), of_slices)[0]
    assert (ct.name, ct.severity) == ("unusable", REFUSE)
