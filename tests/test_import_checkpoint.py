"""The predecessor's weights: recognised, refused where wrong or unsafe, equal in output to the plain network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Part
from mrict_core.hu import WINDOWS
from mrict_core.inference import load_synthesizer
from mrict_core.legacy import importing
from mrict_core.legacy.importing import NETWORKS, import_checkpoint
from mrict_core.models.catalogue import entries, find
from mrict_core.models.folder import CARD, load_discriminators, load_facts_and_weights, read_model
from mrict_core.networks import build_network

TINY = dataclasses.replace(get_profile("full"), width=4)  # the predecessor's networks, a sixteenth as wide
SLOPE = {1: 0.14, 3: 0.15}  # by channels: practice had 0.15


class Plain(nn.Module):
    """The predecessor's generator written out as its notebooks had it, on torch's own layers."""

    def __init__(self, wide: bool, channels: int = 1, width: int = 4, dropout: float = 0.05) -> None:
        super().__init__()

        def block(conv: type, c_in: int, c_out: int) -> nn.Sequential:
            act = nn.LeakyReLU(SLOPE[channels])
            return nn.Sequential(conv(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), act, nn.Dropout(dropout))

        w, down, up = width, nn.Conv2d, nn.ConvTranspose2d
        self.wide = wide
        self.enc1, self.enc2 = block(down, channels, w), block(down, w, 2 * w)
        self.enc3, self.enc4 = block(down, 2 * w, 4 * w), block(down, 4 * w, 8 * w)
        deep, d4, d3, d2 = (16 * w, 8 * w, 4 * w, 2 * w) if wide else (8 * w, 4 * w, 2 * w, w)
        self.bottleneck = block(down, 8 * w, deep)
        self.dec4 = block(up, deep, d4)
        self.dec3 = block(up, d4 + 8 * w, d3)
        self.dec2 = block(up, d3 + 4 * w, d2)
        self.dec1 = block(up, d2 + 2 * w, w) if wide else up(d2 + 2 * w, w, 4, 2, 1)
        self.final_upsample = up(2 * w if wide else w, channels, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(e1)
        e3 = self.enc3(e2)
        e4 = self.enc4(e3)
        d = self.dec4(self.bottleneck(e4))
        d = self.dec3(torch.cat([d, e4], 1))
        d = self.dec2(torch.cat([d, e3], 1))
        d = self.dec1(torch.cat([d, e2], 1))
        return torch.tanh(self.final_upsample(torch.cat([d, e1], 1) if self.wide else d))


def plain(wide: bool = True, channels: int = 1, width: int = 4, seed: int = 0) -> Plain:
    """A plain generator that looks trained: no running mean is 0, no running variance 1."""
    torch.manual_seed(seed)
    network = Plain(wide, channels, width).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, channels, 64, 64))
    return network.eval()


def discriminator(name: str = "patch4", channels: int = 1, width: int = 4) -> dict:
    return build_network(Part(name), width=width, in_channels=channels).state_dict()


def saved(folder: Path, content: object, name: str = "best_generator.pth", **options: object) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def run(files: Path | list[Path], variant: str, root: Path, *roles: str):
    return import_checkpoint(
        [files] if isinstance(files, Path) else files, get(variant), roles, root=root, profile=TINY
    )


# ----------------------------------------------------------------------------------------------------------- equal bits


@pytest.mark.parametrize(
    ("variant", "wide", "channels", "name"),
    [
        ("mk6_3_4", True, 1, "final_generator_6.3.4_CP3.pth"),
        ("mk1", False, 1, "best_generator.pth"),
        ("practice_mk5", False, 3, "best_generator.pth"),
        ("cyclegan_mk1", True, 1, "best_G_MRI2CT.pth"),
    ],
)
def test_the_imported_network_computes_what_the_plain_one_does_bit_for_bit(variant, wide, channels, name, tmp_path):
    own = plain(wide, channels)
    imported = run(saved(tmp_path, own.state_dict(), name), variant, tmp_path / "root")
    synthesizer = load_synthesizer(imported.path, variant, device="cpu")
    x = torch.rand(3, channels, 96, 64) * 2 - 1
    with torch.inference_mode():
        own.enc1[0].to(memory_format=torch.channels_last)  # as load_synthesizer does
        assert torch.equal(synthesizer.generator(x), own(x))
        for network in (synthesizer.generator, own):
            network.to(memory_format=torch.contiguous_format)
        assert torch.equal(synthesizer.generator(x), own(x))
    weights = load_facts_and_weights(imported.path)[1]
    assert all(torch.equal(v, own.state_dict()[k]) for k, v in weights[next(iter(imported.networks))].items())


def test_its_images_are_the_plain_networks_in_hu_of_the_predecessors_window(tmp_path):
    own = plain()
    imported = run(saved(tmp_path, own.state_dict()), "mk6_3_4", tmp_path / "root")
    synthesizer = load_synthesizer(imported.path, device="cpu")
    assert synthesizer.window == WINDOWS["predecessor"]
    assert (synthesizer.facts.protocol, synthesizer.facts.size) == ("predecessor", 256)
    mr = torch.rand(2, 64, 64) * 2 - 1
    own.enc1[0].to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = own(mr[:, None])[:, 0] * 1000
    found = torch.from_numpy(synthesizer.slices_to_hu(mr.numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # the mapping to HU rounds
    assert found.std() > 1


# ----------------------------------------------------------------------------------------------------- wrong and unsafe


class Unsafe:
    """Makes the folder `ran` when it is unpickled by a reader that runs code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


def pickled(folder: Path, content: object) -> Path:
    path = folder / "best_generator.pth"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def cut(folder: Path) -> Path:
    path = saved(folder, plain().state_dict())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def one_byte(folder: Path) -> Path:
    path = saved(folder, plain().state_dict())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def text(folder: Path, content: str) -> Path:
    path = folder / "best_generator.pth"
    path.write_text(content)
    return path


def optimizer(folder: Path) -> Path:
    return saved(folder, torch.optim.Adam(plain().parameters()).state_dict())


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "best_generator.pth", "w") as file:
        file.writestr("weights.pth", "inside")
    return folder / "best_generator.pth"


def changed(**changes: object):
    """A whole state dict with entries replaced, or left out where None."""

    def make(folder: Path) -> Path:
        state = plain().state_dict() | {key.replace("__", "."): value for key, value in changes.items()}
        return saved(folder, {key: value for key, value in state.items() if value is not None})

    return make


BAD = {
    "absent": (lambda f: f / "best_generator.pth", "no such file; checkpoints/README.md says where"),
    "a folder": (lambda f: f, "no such file"),
    "empty": (lambda f: text(f, ""), "not a readable weights file"),
    "text": (lambda f: text(f, "hello, world\n" * 9), "not a readable weights file"),
    "git-LFS pointer": (lambda f: text(f, "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "web page": (lambda f: text(f, "<!DOCTYPE html><title>Sign in</title>"), "a web page, not the file"),
    "zip of something": (archive, "not a readable weights file"),
    "truncated": (cut, "not a readable weights file"),
    "one byte wrong": (one_byte, "wrong checksum"),
    "runs code": (lambda f: saved(f, {"enc1.0.weight": Unsafe(f)}), "could run code.*no code was run"),
    "runs code, plain pickle": (lambda f: pickled(f, Unsafe(f)), "could run code.*no code was run"),
    "runs code, old format": (
        lambda f: saved(f, {"enc1.0.weight": Unsafe(f)}, _use_new_zipfile_serialization=False),
        "could run code",
    ),
    "whole module": (lambda f: saved(f, plain()), "a pickled module or an unsafe file"),
    "optimiser": (optimizer, "the state of an optimiser.*give the generator's file"),
    "tensor": (lambda f: saved(f, torch.ones(3)), "contains a Tensor; expected the plain state dict"),
    "list": (lambda f: saved(f, [torch.ones(3)]), "contains a list"),
    "empty dict": (lambda f: saved(f, {}), "contains an empty dict"),
    "training checkpoint": (
        lambda f: saved(f, {"epoch": 3, "generator": plain().state_dict(), "discriminator": discriminator()}),
        "'epoch' is a int, not a tensor",
    ),
    "another network": (lambda f: saved(f, nn.Linear(3, 3).state_dict()), "match no network of the predecessor"),
    "odd first tensor": (changed(enc1__0__weight=torch.ones(4)), "match no network of the predecessor"),
    "wrong shape": (
        changed(dec2__0__weight=torch.zeros(32, 8, 3, 3)),
        r"1 tensors differ from the closest, unet_b: 'dec2\.0\.weight' is \(32, 8, 3, 3\) in the file, expected",
    ),
    "one missing": (changed(dec3__1__running_var=None), r"'dec3\.1\.running_var' is absent in the file"),
    "one too many": (changed(attention__weight=torch.zeros(3)), r"'attention\.weight' is \(3,\) in the file"),
    "NaN": (changed(enc2__0__bias=torch.full((8,), torch.nan)), r"'enc2\.0\.bias' has 8 values that are NaN"),
    "infinite": (changed(dec1__1__running_mean=torch.full((4,), torch.inf)), "NaN or infinite"),
    "negative variance": (changed(enc3__1__running_var=-torch.ones(16)), "negative values, expected none"),
    "half precision": (
        changed(enc1__0__weight=torch.zeros(4, 1, 4, 4, dtype=torch.float16)),
        "is float16, expected float32",
    ),
    "another width": (lambda f: saved(f, plain(width=8).state_dict()), "width 8, but the G of mk6_3_4 .* width 4"),
    "G-A": (lambda f: saved(f, plain(wide=False).state_dict()), "contains unet_a .* the G of mk6_3_4 is unet_b"),
    "three channels": (lambda f: saved(f, plain(channels=3).state_dict()), r"3 channel\(s\)"),
    "D-3": (lambda f: saved(f, discriminator("patch3")), "contains patch3 .* the D of mk6_3_4 is patch4"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_and_unsafe_files_are_refused_and_nothing_is_written(case, tmp_path):
    make, message = BAD[case]
    path = make(tmp_path)
    with pytest.raises(MrictError, match=message) as caught:
        run(path, "mk6_3_4", tmp_path / "root")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "ran").exists()


def test_the_unsafe_pickle_of_these_tests_would_run(tmp_path):
    """Else the tests above would show nothing."""
    pickle.loads(pickle.dumps(Unsafe(tmp_path)))
    assert (tmp_path / "ran").is_dir()


# ----------------------------------------------------------------------------------------------- what is a file of what


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"state_dict": state}, "read from its entry 'state_dict'"),
        (lambda state: {"model_state_dict": state, "epoch": 3}, "read from its entry 'model_state_dict'"),
        (lambda state: {f"module.{key}": value for key, value in state.items()}, "prefix 'module.' removed"),
    ],
)
def test_common_wrappings_are_taken_off_and_said(wrap, note, tmp_path):
    own = plain().state_dict()
    imported = run(saved(tmp_path, wrap(own)), "mk6_3_4", tmp_path / "root")
    assert imported.notes == (f"best_generator.pth: {note}",)
    found = load_facts_and_weights(imported.path)[1]["G"]
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], own[key]) for key in own)


def test_files_of_torchs_old_format_are_read(tmp_path):
    path = saved(tmp_path, plain().state_dict(), _use_new_zipfile_serialization=False)
    assert run(path, "mk6_3_4", tmp_path / "root").networks == {"G": "unet_b"}


@pytest.mark.parametrize(
    ("variant", "side", "content", "name", "role", "expected"),
    [
        ("mk6_3_4", "D", discriminator, "final_discriminator.pth", "", {"D": "patch4"}),
        ("mk6_3_4", "D", discriminator, "odd.pth", "D", {"D": "patch4"}),
        ("mk3_5", "D", lambda: discriminator("patch3"), "final_discriminator.pth", "", {"D": "patch3"}),
        ("practice_mk2", "D", lambda: discriminator("scalar", 3), "final_discriminator.pth", "", {"D": "scalar"}),
        ("cyclegan_mk2", "G", lambda: plain().state_dict(), "best_G_CT2MRI.pth", "", {"G_CT2MRI": "unet_b"}),
        ("cyclegan_mk2", "G", lambda: plain().state_dict(), "x.pth", "G_MRI2CT", {"G_MRI2CT": "unet_b"}),
        ("cyclegan_mk2", "D", discriminator, "final_D_CT.pth", "D", {"D_CT": "patch4"}),
    ],
)
def test_the_role_of_a_file(variant, side, content, name, role, expected, tmp_path):
    imported = run(saved(tmp_path, content(), name), variant, tmp_path / "root", *([role] if role else []))
    assert imported.networks == expected
    assert NETWORKS[get(variant).method.name][next(iter(expected))] == side


@pytest.mark.parametrize(
    ("variant", "name", "roles", "message"),
    [
        ("mk6_3_4", "best_generator.pth", ["D"], "recognised as unet_b, which is a G, not a D"),
        ("mk6_3_4", "best_generator.pth", ["X"], "role 'X': mk6_3_4 has the networks G, D"),
        ("mk6_3_4", "best_generator.pth", ["G", "D"], "2 roles for 1 files"),
        ("cyclegan_mk1", "best_generator.pth", [], "may be G_MRI2CT or G_CT2MRI.*give --role"),
        ("cyclegan_mk1", "best_generator.pth", ["G"], "may be G_MRI2CT or G_CT2MRI"),
        ("cyclegan_mk1", "best_G_MRI2CT.pth", ["D_CT"], "is a G, not a D_CT"),
    ],
)
def test_a_role_that_does_not_fit_is_refused(variant, name, roles, message, tmp_path):
    with pytest.raises(MrictError, match=message):
        run(saved(tmp_path, plain().state_dict(), name), variant, tmp_path / "root", *roles)


def test_a_published_file_is_known_by_its_hash(tmp_path, monkeypatch):
    path = saved(tmp_path, plain().state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(importing.KNOWN, digest, ("mk6_3_4", "final generator of MK6.3.4"))
    with pytest.raises(
        MrictError, match=r"the published final generator of MK6\.3\.4, not of mk6_3_3; give --as mk6_3_4"
    ):
        run(path, "mk6_3_3", tmp_path / "root")
    notes = run(path, "mk6_4_3", tmp_path / "root").notes
    assert notes == ("best_generator.pth: the published final generator of MK6.3.4, unchanged",)


def test_two_files_of_one_role_are_refused(tmp_path):
    files = [saved(tmp_path, plain(seed=k).state_dict(), f"{k}.pth") for k in (1, 2)]
    with pytest.raises(MrictError, match=r"2\.pth: a second G of mk6_3_4"):
        run(files, "mk6_3_4", tmp_path / "root")


# ---------------------------------------------------------------------------------------------------- the stored model


def test_generator_and_discriminator_make_one_model_and_twice_the_same_is_one(tmp_path):
    root = tmp_path / "root"
    files = [saved(tmp_path, plain().state_dict()), saved(tmp_path, discriminator(), "final_discriminator.pth")]
    first = run(files, "mk6_3_4", root)
    assert (first.new, first.networks, first.notes) == (True, {"G": "unet_b", "D": "patch4"}, ())
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in first.path.iterdir()}
    renamed = files[0].rename(tmp_path / "best_generator (1).pth")
    again = run([renamed, files[1]], "mk6_3_4", root)
    assert (again.new, again.path) == (False, first.path)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in first.path.iterdir()} == before
    other = run(saved(tmp_path, plain(seed=1).state_dict()), "mk6_3_4", root)
    assert other.path != first.path
    assert [e.path for e in entries(root)] == [first.path, other.path]
    assert find("mk6_3_4", root) == other.path


def test_a_discriminator_alone_is_no_model_to_synthesise_with(tmp_path):
    imported = run(saved(tmp_path, discriminator(), "final_discriminator.pth"), "mk6_3_4", tmp_path / "root")
    assert imported.notes == ("has no G: it cannot predict a CT",)
    with pytest.raises(MrictError, match="has no network G, so it cannot predict a CT"):
        load_synthesizer(imported.path, device="cpu")
    with pytest.raises(MrictError, match="mk6_3_4: no model in"):
        find("mk6_3_4", tmp_path / "root")


@pytest.mark.parametrize(
    ("variant", "wide", "said"),
    [
        ("mk6_3_4", True, "36 patients of SynthRAD2023 Task 1 brain, centre A alone; cropped and padded"),
        ("mk2", False, "stretched to 256 × 256 px; this suite crops and pads"),
        ("mk1", False, "raw HU, which its output in [-1, 1] cannot reach"),
    ],
)
def test_the_card_says_what_is_not_known(variant, wide, said, tmp_path):
    imported = run(saved(tmp_path, plain(wide).state_dict()), variant, tmp_path / "root")
    card = (imported.path / CARD).read_text(encoding="utf-8")
    parts = ("Not for clinical use", "imported unchanged", "has not scored it", "no fingerprint", said)
    assert [part for part in parts if part not in card] == []
    assert "Demo" not in card
    assert str(tmp_path) not in card + json.dumps(read_model(imported.path))
    (entry,) = entries(tmp_path / "root")
    assert (entry.kind, entry.label, entry.demo, entry.mae_hu, entry.problem) == (
        *("imported", "predecessor", False, None),
        "",
    )


OF_THE_PREDECESSOR = [
    flat["name"] for flat in json.loads((Path(__file__).parent / "data" / "variants.json").read_text())["variants"]
]


@pytest.mark.parametrize("variant", OF_THE_PREDECESSOR)
def test_every_variant_has_a_record_of_its_data(variant, tmp_path):
    experiment = get(variant)
    G = experiment.network["G"]
    own = plain(G.name == "unet_b", G.options.get("out_channels", 1)).state_dict()
    role = "G" if experiment.method.name == "pix2pix" else "G_MRI2CT"
    imported = run(saved(tmp_path, own), variant, tmp_path / "root", role)
    assert load_synthesizer(imported.path, variant, "cpu").variant == experiment


def test_the_command_on_files_of_the_real_size(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    files = [
        saved(tmp_path, Plain(False, width=64).state_dict()),
        saved(tmp_path, discriminator(width=64), "final_discriminator.pth"),
    ]
    result = CliRunner().invoke(cli.app, ["import-checkpoint", *map(str, files), "--as", "mk1"])
    assert result.exit_code == 0, result.output
    folder = find("mk1")
    assert f"model mk1@{folder.name}: " in result.stdout
    networks = load_facts_and_weights(folder, "mk1")[1] | load_discriminators(folder)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counts = {n: sum(t.numel() for k, t in s.items() if not k.endswith(buffers)) for n, s in networks.items()}
    assert counts == {"G": 11_214_529, "D": 2_764_481}  # measured on the predecessor's
    listed = CliRunner().invoke(cli.app, ["models"]).stdout
    assert f"mk1@{folder.name[:8]}" in listed
    assert "predecessor" in listed


def test_the_command_refuses_a_tiny_network(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    path = saved(tmp_path, plain().state_dict())
    result = CliRunner().invoke(cli.app, ["import-checkpoint", str(path), "--as", "mk6_3_4"])
    assert isinstance(result.exception, MrictError)
    assert "width 4, but the G of mk6_3_4 is unet_b of 1 channel(s) and width 64" in str(result.exception)
    result = CliRunner().invoke(cli.app, ["import-checkpoint", str(path), "--as", "mk6_3_5"])
    assert "did you mean 'mk6_3_4'" in str(result.exception)
