"""Export: ONNX and MONAI bundles of published models give equal HU, also without this suite, or are not written."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from howto import Howto, run
from test_cli import error_of, ok
from tiny_models import files_in, untrained_checkpoint, with_network, write_head

from mrict_core.data.cache.patient import body_of
from mrict_core.data.images.volumes import load_volume
from mrict_core.files import read_json
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.inference import load_synthesizer
from mrict_core.inference.volume import SynthesisOptions, synthesize_volume
from mrict_core.models import export as exporting
from mrict_core.models.export import Original, example_of
from mrict_core.models.export_onnx import write_onnx
from mrict_core.models.folder import load_facts_and_weights, read_model, write_model
from mrict_core.paths import ROOT

LICENCE = "CC BY-NC 4.0"
LAS = np.array([[-5.0, 0, 0, 80], [0, 5, 0, -95], [0, 0, 6, -20], [0, 0, 0, 1.0]])
MANDATORY = (  # keys of metadata.json and of a tensor in it, by MONAI's bundle specification
    {"version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright"},
    {"type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"},
)
WITHOUT_US = (  # `python -m monai.bundle` in an environment without mrict_core
    "import runpy, sys; sys.modules['mrict_core'] = None; sys.argv[0] = 'monai.bundle'; "
    "runpy.run_module('monai.bundle', run_name='__main__')"
)


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.chdir(tmp_path)


def publish(name: str, *, half: bool = False, protocol: str = "patient") -> Path:
    """Publish an untrained model of profile smoke; return its folder."""
    path = untrained_checkpoint(Path("best.pt"), name=name, protocol=protocol)
    facts, networks = load_facts_and_weights(path)
    for weights in networks.values():
        if "flow_steps" in weights:
            weights["flow_steps"] += 1  # an untrained flow draws no samples
    told = {"kind": "trained", "label": "full", "demo": True, "generator": next(iter(networks))}
    about = exporting.about_of({"about": {"licence": LICENCE, "label": "for tests"}})
    data = {"name": "hospital", "region": "brain"}
    return write_model(Path("checkpoints"), facts, networks, data=data, about=about, half=half, **told)[0]


def monai_bundle(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------------------------------------------------------- ONNX


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "half", "stored"),
    [("mk7", 5, True, "float16"), ("mk6_3_4", 1, False, "float32"), ("cyclegan_mk2", 1, False, "float32")],
)
def test_onnx_gives_the_models_hu_at_other_sizes_too(name, channels, half, stored):
    folder = publish(name, half=half)
    said = ok("export", name, "--onnx", "model.onnx")
    assert f"weights published in {stored}, exported and computed in float32" in said
    assert "0.1 HU allowed" in said
    session = onnxruntime.InferenceSession("model.onnx")
    model = load_synthesizer(folder, device="cpu")
    network = exporting.HuNetwork(model.method, model.window).eval()
    for rows, cols in ((64, 64), (96, 128)):
        mr = np.random.default_rng(0).uniform(-1, 1, (3, channels, rows, cols)).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(mr)).numpy()
        assert np.abs(session.run(["hu"], {"mr": mr})[0] - expected).max() < 0.1
    meta = session.get_modelmeta().custom_metadata_map
    assert (meta["licence"], meta["label"], meta["planes"]) == (LICENCE, "for tests", "axial")
    assert (meta["window_hu"], meta["model"]) == ("-1024 to 3000", f"{name}@{folder.name}")
    assert "percentiles 0.5 and 99.5" in meta["normalisation"]
    assert str(channels // 2) in meta["channels"] or channels == 1


class Fixed(torch.nn.Module):
    """A network for slices of 64 x 64 pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(64 * 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, 64 * 64) * self.scale).reshape(-1, 1, 64, 64)


def original(folder: Path, network: torch.nn.Module | None = None) -> Original:
    model = load_synthesizer(folder, device="cpu")
    model = with_network(model, network) if network else model
    return Original(model.method, model.facts, read_model(folder))


def test_a_network_of_one_size_is_exported_for_it():
    source = original(publish("mk6_3_4"), Fixed())
    difference, dynamic = write_onnx(source, example_of(source, None), Path("model.onnx"))
    assert not dynamic
    assert difference < 1e-3
    assert onnxruntime.InferenceSession("model.onnx").get_inputs()[0].shape[1:] == [1, 64, 64]


# -------------------------------------------------------------------------------------------------------- MONAI bundle


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mk7", "mk6_3_4"])
def test_a_bundle_run_by_monai_alone_makes_the_ct_of_the_suite(name):
    """On a volume whose file axes are not those of the slices, off the centre of the canvas."""
    folder = publish(name)
    said = ok("export", name, "--bundle", "bundle")
    assert "bundle: MONAI bundle, axial slices; largest difference from the model 0 HU" in said
    volume = load_volume(write_head(Path("mr.nii.gz"), affine=LAS))
    body = body_of(volume)
    nib.save(nib.Nifti1Image(body.astype(np.uint8), LAS), "mask.nii.gz")
    monai_bundle("run", "--config_file", "bundle/configs/inference.json", "--bundle_root", "bundle")
    made = nib.load("bundle/eval/mr_sct.nii.gz")
    expected = synthesize_volume(load_synthesizer(folder, device="cpu"), volume).hu
    assert np.allclose(made.affine, LAS)
    assert made.shape == expected.shape
    assert np.abs(made.get_fdata() - expected)[body].max() < 0.01
    assert (made.get_fdata()[~body] == AIR_FLOOR_HU).all()


def test_a_bundle_says_what_monai_asks_for():
    publish("mk7")
    ok("export", "mk7", "--bundle", "bundle")
    metadata = read_json(Path("bundle/configs/metadata.json"))
    tensors = metadata["network_data_format"]["inputs"]["image"], metadata["network_data_format"]["outputs"]["pred"]
    assert MANDATORY[0] <= metadata.keys()
    assert all(
        MANDATORY[1] <= tensor.keys() and len(tensor["channel_def"]) == tensor["num_channels"] for tensor in tensors
    )
    assert metadata["copyright"] == LICENCE
    assert "finds none itself" in metadata["description"]
    assert LICENCE in Path("bundle/docs/license.txt").read_text()
    from monai.bundle import verify_net_in_out

    verify_net_in_out(
        net_id="network_def",
        meta_file="bundle/configs/metadata.json",
        config_file="bundle/configs/inference.json",
        bundle_root="bundle",
        device="cpu",
        any=8,  # for "*"
    )


def test_a_body_larger_than_the_canvas_gets_a_larger_one():
    publish("mk6_3_4")
    ok("export", "mk6_3_4", "--bundle", "bundle")
    model = torch.jit.load("bundle/models/model.ts")
    mr = torch.from_numpy(np.random.default_rng(0).uniform(0, 900, (1, 1, 3, 90, 100)).astype(np.float32))
    with torch.inference_mode():
        hu = model(torch.cat([mr, torch.ones_like(mr)], dim=1))
    assert hu.shape == mr.shape
    assert bool((hu > AIR_FLOOR_HU).any(dim=(1, 2, 3)).all())
    assert float(hu.std()) > 0


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "mk6_3_4: no format given; expected --onnx FILE, --bundle DIR or both"),
        (["--onnx", "there.onnx"], "there.onnx: exists already"),
        (["--bundle", "there", "--overwrite"], "there: not a bundle, not replaced"),
        (["--onnx", "new.onnx", "--mr", "no.nii.gz"], "no.nii.gz: "),
        (["--onnx", "new.onnx", "--bundle", "new", "--copies"], "differs from the model by up to"),
    ],
)
def test_errors_leave_nothing(arguments, expected, monkeypatch):
    publish("mk6_3_4")
    Path("there.onnx").touch()
    Path("there").mkdir()
    if "--copies" in arguments:  # as if no copy were equal
        arguments = arguments[:-1]
        monkeypatch.setattr(exporting, "TOLERANCE_HU", -1.0)
    before = files_in(Path())
    assert expected in error_of("export", "mk6_3_4", *arguments)
    assert files_in(Path()) == before


def test_an_unequal_bundle_is_not_written(monkeypatch):
    publish("mk6_3_4")
    monkeypatch.setattr(exporting, "TOLERANCE_HU", -1.0)
    before = files_in(Path())
    assert "bundle: differs from the model by up to 0 HU on phantom 1BA001" in error_of(
        "export", "mk6_3_4", "--bundle", "bundle"
    )
    assert files_in(Path()) == before
    assert not Path("bundle").exists()


def test_what_a_bundle_cannot_hold_is_refused():
    publish("mk6_3_4", protocol="predecessor")
    assert "by protocol predecessor, expected patient for --bundle; use --onnx" in error_of(
        "export", "mk6_3_4", "--bundle", "bundle"
    )
    assert not Path("bundle").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mk8_0", "its network sees volumes in patches, expected one of slices"),
        ("mk10_0", "its network sees volumes in patches, expected one of slices"),
        ("mk9_0", "its CT is the mean of samples drawn from noise"),
        ("mk9_ddpm", "its CT is the mean of samples drawn from noise"),
    ],
)
@pytest.mark.parametrize("option", ["--onnx", "--bundle"])
def test_a_model_that_is_more_than_a_network_of_slices_is_refused(name, reason, option):
    publish(name)
    before = files_in(Path())
    text = error_of("export", name, option, "made")
    assert reason in text
    assert text.endswith("use the model itself (python -m mrict_core synthesize)")
    assert files_in(Path()) == before


def test_an_unpublished_model_is_refused():
    untrained_checkpoint(Path("best.pt"))
    assert "trained and not published" in error_of("export", "best.pt", "--onnx", "model.onnx")


@pytest.mark.parametrize(("option", "package"), [("--onnx", "onnxscript"), ("--bundle", "ignite")])
def test_a_missing_package_is_named(option, package, monkeypatch):
    publish("mk6_3_4")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a))
    text = error_of("export", "mk6_3_4", option, "made")
    assert text == f"package {package} is not installed; expected it here; pip install -r requirements.txt"
    assert not Path("made").exists()


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.mark.slow
def test_the_page_does_what_it_says(monkeypatch):
    """docs/howto/export.md, followed to the letter with the starter model."""
    Path("checkpoints").mkdir()
    (Path("checkpoints") / "starter-brain").symlink_to(ROOT / "checkpoints" / "starter-brain")
    volume = load_volume(write_head(Path("mr.nii.gz"), (60, 70, 6), affine=LAS))
    body = body_of(volume)
    nib.save(nib.Nifti1Image(body.astype(np.uint8), LAS), "mask.nii.gz")
    page = Howto("export")
    for command in page.commands():
        if command[:3] == ["python", "-m", "mrict_core"]:
            run(command)
        elif command[:3] == ["python", "-m", "monai.bundle"]:
            monai_bundle(*command[3:])
        else:
            assert command[:2] == ["pip", "install"]
    (code,) = page.blocks("python")
    exec(compile(code, "export.md", "exec"), {})
    by_onnx, by_monai = (nib.load(path).get_fdata() for path in ("sct.nii.gz", "starter-bundle/eval/mr_sct.nii.gz"))
    assert by_onnx.shape == by_monai.shape == volume.shape
    model = load_synthesizer(ROOT / "checkpoints" / "starter-brain", device="cpu")
    model = dataclasses.replace(model, facts=dataclasses.replace(model.facts, planes=["axial"]))
    expected = synthesize_volume(model, volume, SynthesisOptions(resample_to_mm=0)).hu
    for made in (by_onnx, by_monai):
        assert np.abs(made - expected)[body].max() < 0.1
    listed = re.findall(r"(?:starter-bundle/| {15})(\w+/\w+\.\w+) {2}", page.path.read_text(encoding="utf-8"))
    assert sorted(listed) == [name for name in files_in(Path("starter-bundle")) if not name.startswith("eval/")]
