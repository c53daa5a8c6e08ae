"""The SynthRAD container: its folders, its regions, its entry point."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_cli import invoke, ok
from tiny_models import head_array

from mrict_core.errors import MrictError
from mrict_core.paths import ROOT
from mrict_core.pipeline.submission import models_for, region_of_input

DOCKERFILE = ROOT / "docs" / "docker" / "Dockerfile"


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing((5, 5, 6))
    image.SetOrigin((-80.5, -90.25, 10))
    return image


def write_input(folder: Path, names=("case1", "case2"), region: str | None = "Brain", bodies=None) -> Path:
    for part in ("mri", "body"):
        (folder / "images" / part).mkdir(parents=True)
    for k, name in enumerate(names):
        array = head_array((34, 40, 7 - k))
        sitk.WriteImage(image_of(array), str(folder / "images/mri" / f"{name}.mha"))
        body = np.zeros(array.shape, np.uint8)
        body[2:32, 3:37] = 1
        sitk.WriteImage(image_of(body), str(folder / "images/body" / f"{(bodies or names)[k]}.mha"))
    if region is not None:
        (folder / "region.json").write_text(json.dumps(region))
    return folder


def test_every_case_is_written_under_its_name_on_its_grid(tmp_path, checkpoints):
    source = write_input(tmp_path / "input")
    ok("challenge", "--input", str(source), "--output", str(tmp_path / "output"), "--model", str(checkpoints / "a.pt"))
    folder = tmp_path / "output" / "images" / "synthetic-ct"
    assert sorted(p.name for p in folder.iterdir()) == ["case1.mha", "case2.mha"]
    assert sorted(p.name for p in (tmp_path / "output/mrict").iterdir()) == ["case1.json", "case2.json"]
    for name in ("case1", "case2"):
        mr, body, ct = (
            sitk.ReadImage(str(p))
            for p in (source / f"images/mri/{name}.mha", source / f"images/body/{name}.mha", folder / f"{name}.mha")
        )
        for get in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
            assert getattr(ct, get)() == getattr(mr, get)()
        assert ct.GetPixelID() == sitk.sitkInt16
        hu, inside = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(body) > 0
        assert (hu[~inside] == -1024).all()
        assert hu[inside].std() > 1
        assert (hu[0][inside[0]] != -1024).any()  # a slice without body of its own is wanted where the mask says so


def test_a_case_that_fails_does_not_stop_the_others(tmp_path, checkpoints):
    source = write_input(tmp_path / "input", names=("case1", "case2", "case3"))
    (source / "images/mri/case1.mha").write_bytes(b"nothing")
    sitk.WriteImage(image_of(np.ones((5, 5, 5), np.uint8)), str(source / "images/body/case3.mha"))
    arguments = ["--input", str(source), "--output", str(tmp_path / "output"), "--model", str(checkpoints / "a.pt")]
    result = invoke("challenge", *arguments)
    assert result.exit_code == 1
    assert re.search(r"case1: failed: .*cannot be read", result.output)
    assert re.search(r"case3: failed: .*expected one grid", result.output)
    assert [p.name for p in (tmp_path / "output/images/synthetic-ct").glob("*.mha")] == ["case2.mha"]


def test_what_is_left_out_of_the_input_is_listed_and_counted(tmp_path, checkpoints):
    source = write_input(tmp_path / "input")
    image = source / "images/mri/case1.mha"
    for name in ("images/body/case9.mha", "images/mri/deeper/case8.mha", "images/ct/case1.mha", "images/other.mha"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, source / name)
    (source / "images/mri/notes.txt").write_text("no image")
    (source / "images/mri/scan.mgz").write_text("not read")
    arguments = ["--input", str(source), "--output", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    result = invoke("challenge", *arguments)
    assert result.exit_code == 1
    for line in (
        "images/body/case9.mha: left out: a body without an MR",
        "images/mri/deeper/case8.mha: left out: not in images/mri",
        "images/other.mha: left out: not in images/mri",
        "images/mri/scan.mgz: left out: not a readable type",
        "images/ct/case1.mha: not an MR: in a folder named ct",
        "images/mri/notes.txt: not an MR: not an image",
    ):
        assert line in result.output
    last = result.output.strip().splitlines()[-1]
    assert re.search(r"^8 found in .*: 2 written, 0 kept, 0 failed, 4 left out, 2 no MR$", last)
    again = invoke("challenge", *arguments).output.strip().splitlines()[-1]
    assert ": 0 written, 2 kept, 0 failed" in again


@pytest.mark.parametrize("change", ["mr", "body", "model"])
def test_a_case_of_other_making_is_neither_kept_nor_replaced(change, tmp_path, checkpoints):
    source, model = write_input(tmp_path / "input", names=("x",)), str(checkpoints / "a.pt")
    arguments = ["challenge", "--input", str(source), "--output", str(tmp_path / "out"), "--model"]
    ok(*arguments, model)
    if change == "model":
        model = str(checkpoints / "b.pt")
    else:
        path = source / f"images/{'mri' if change == 'mr' else 'body'}/x.mha"
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image * 2 if change == "mr" else sitk.BinaryErode(image), str(path))
    result = invoke(*arguments, model)
    assert result.exit_code == 1
    assert "exists already" in result.output
    ok(*arguments, model, "--overwrite")


def test_the_only_body_belongs_to_the_only_mr(tmp_path, checkpoints):
    source = write_input(tmp_path / "input", names=("uuid1",), bodies=("uuid2",))
    ok("challenge", "--input", str(source), "--output", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt"))
    assert (tmp_path / "out/images/synthetic-ct/uuid1.mha").is_file()


def test_the_region_chooses_the_model(tmp_path, checkpoints):
    models = ["--model", f"brain={checkpoints / 'a.pt'}", "--model", f"pelvis={checkpoints / 'b.pt'}"]
    made = {}
    for region in ("brain", "pelvis"):
        source = write_input(tmp_path / region, names=("x",), region=region)
        ok("challenge", "--input", str(source), "--output", str(tmp_path / f"{region}-out"), *models)
        made[region] = json.loads((tmp_path / f"{region}-out/mrict/x.json").read_text())["models"][0]
    assert made["brain"]["key"] == "untrained-0"
    assert made["pelvis"]["key"] == "untrained-1"
    source = write_input(tmp_path / "th", names=("x",), region="Thorax")
    result = invoke("challenge", "--input", str(source), "--output", str(tmp_path / "th-out"), *models)
    assert "no model for region TH; given: brain, pelvis" in str(result.exception)


@pytest.mark.parametrize(
    ("content", "region"),
    [
        ('"Brain"', "brain"),
        ('"Head and Neck"', "HN"),
        ('"head_neck"', "HN"),
        ('"AB"', "AB"),
        ('{"region": "thorax"}', "TH"),
        (None, ""),
    ],
)
def test_spellings_of_regions(content, region, tmp_path):
    if content is not None:
        (tmp_path / "region.json").write_text(content)
    assert region_of_input(tmp_path) == region


@pytest.mark.parametrize("content", ['"leg"', "[1]", "brain", "null"])
def test_regions_that_are_none_are_refused(content, tmp_path):
    (tmp_path / "region.json").write_text(content)
    with pytest.raises(MrictError, match=r"region\.json: "):
        region_of_input(tmp_path)


def test_models_without_a_region_serve_every_region():
    assert models_for("brain", ["x.pt", "pelvis=y.pt"]) == ["x.pt"]
    assert models_for("pelvis", ["x.pt", "pelvis=y.pt", "pelvis=coronal=z.pt"]) == ["y.pt", "coronal=z.pt"]
    assert models_for("", ["coronal=x.pt"]) == ["coronal=x.pt"]
    with pytest.raises(MrictError, match="no model for region unknown"):
        models_for("", ["pelvis=y.pt"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [("images/mri", "mri: no such folder"), ("images/body", "body: no such folder"), ("files", "mri: no image")],
)
def test_a_layout_that_is_none_is_refused(missing, message, tmp_path, checkpoints):
    (tmp_path / "images/mri").mkdir(parents=True)
    (tmp_path / "images/body").mkdir(parents=True)
    if missing != "files":
        (tmp_path / missing).rmdir()
        if missing == "images/body":
            sitk.WriteImage(image_of(head_array((20, 20, 3))), str(tmp_path / "images/mri/x.mha"))
    result = invoke("challenge", "--input", str(tmp_path), "--output", str(tmp_path / "o"), "--model", "x.pt")
    assert message in str(result.exception)


def test_the_containers_entry_point_runs(tmp_path, checkpoints):
    """The very command of the Dockerfile, with its folders moved here."""
    text = DOCKERFILE.read_text()
    command = [part for key in ("ENTRYPOINT", "CMD") for part in json.loads(re.search(rf"^{key} (.*)$", text, re.M)[1])]
    assert command[:4] == ["python", "-m", "mrict_core", "challenge"]
    source = write_input(tmp_path / "input", names=("x",))
    places = {
        "python": sys.executable,
        "/input": str(source),
        "/output": str(tmp_path / "output"),
        "/opt/mrict/model.pt": str(checkpoints / "a.pt"),
    }
    assert set(places) <= set(command)
    done = subprocess.run([places.get(c, c) for c in command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/images/synthetic-ct/x.mha").is_file()
    for place in re.findall(r"^COPY ([^$].*) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in place.split()), place
