"""docs/howto: loss, network, method and view, followed to the letter: the code goes where the text says and trains."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import howto
import numpy as np
import pandas as pd
import pytest
import torch
from howto import Howto
from tiny_models import run_of, write_head
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.data.batches import VIEWS, Batch
from mrict_core.data.cache.store import SliceStore
from mrict_core.errors import MrictError
from mrict_core.evaluation.records import read_record
from mrict_core.inference import load_synthesizer
from mrict_core.inference.tiles import slices_to_hu
from mrict_core.legacy.protocol import predecessor_validation, synthesizer_translation
from mrict_core.losses import LOSSES
from mrict_core.methods import METHODS
from mrict_core.networks import NETWORKS
from mrict_core.paths import ROOT, Workspace
from mrict_core.reporting.figures import curves_figure
from mrict_core.training.checkpoint import load_checkpoint

REGISTRIES = (VIEWS, LOSSES, NETWORKS, METHODS)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Unregister the parts of the examples."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, known in zip(REGISTRIES, before, strict=True):
        for name in registry.keys() - known.keys():
            del registry[name]


def follow(name: str, folder: Path) -> list[list[str]]:
    """Apply every code block of a how-to, Python in memory; return the commands."""
    text = Howto(name)
    for path, code in text.files().items():
        if path.endswith(".py"):
            append(path, code)
        else:
            (folder / path).write_text(code, encoding="utf-8")
    return text.commands()


def append(path: str, code: str) -> None:
    """Run code as if it were at the end of that file, or in a new one."""
    name = ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
    if (ROOT / path).is_file():
        module = importlib.import_module(name)
    else:
        module = sys.modules[name] = types.ModuleType(name)
    exec(compile(code, path, "exec", dont_inherit=True, flags=annotations.compiler_flag), vars(module))


def run(command: list[str], space: Workspace) -> str:
    return howto.run(command, "--data", str(space.data_dir)).stdout


@pytest.mark.parametrize(
    ("name", "variant", "part"),
    [
        ("loss", "mk1+mean_error.weight=5", ("loss", "mean_error")),
        ("network", "mk1+", ("network", "G")),
        ("view", "mk1+", ("data", "view")),
    ],
)
def test_the_text_leads_to_a_trained_variant(name, variant, part, fresh_space, tmp_path):
    for command in follow(name, tmp_path):
        run(command, fresh_space)
        trained = next(p.name for p in sorted(fresh_space.checkpoints.iterdir()) if p.name.startswith(variant))
        payload = load_checkpoint(run_of(fresh_space, trained).best)
        assert part[1] in payload["fields"][part[0]]
        assert np.isfinite(payload["history"][0]["val_mae_hu"])


def test_a_new_loss_is_a_column_of_its_own_and_reads_the_mask(fresh_space, tmp_path):
    follow("loss", tmp_path)
    fake, real, mask = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    real[..., 2], real[..., 3], mask[..., :2] = 1.0, -0.5, 1.0
    out = types.SimpleNamespace(fake_B=fake)
    assert LOSSES["mean_error"](out, Batch(fake, real, mask)) == 0, "the errors are outside the mask"
    assert LOSSES["mean_error"](out, Batch(fake, real, torch.ones_like(mask))) == (1 - 0.5) * 4 / 16


def test_the_curves_show_terms_and_rates_that_nobody_listed():
    history = pd.DataFrame({"epoch": [1, 2], "loss_g": [2.0, 1.0], "loss_g_mean_error": [0.3, 0.2], "lr_E": [1.0, 0.5]})
    figure = curves_figure(history, "mk1", label="smoke")
    assert {"mean_error", "E"} <= {line.get_label() for axis in figure.axes for line in axis.lines}


def test_a_view_gathers_slices_at_a_distance_and_repeats_the_ends(tmp_path):
    follow("view", tmp_path)
    view, stack = VIEWS.build("triplet", {"radius": 2}), np.arange(5.0)[:, None, None] * np.ones((5, 2, 2))
    assert view.in_channels == 3
    for position, expected in ((0, [0, 0, 2]), (2, [0, 2, 4]), (4, [2, 4, 4])):
        assert view.gather(stack, position)[:, 0, 0].tolist() == expected
    with pytest.raises(MrictError, match="did you mean 'coronal'"):
        VIEWS.check("triplet", {"planes": ["coronel"]}, "data.view")


def test_a_new_view_is_seen_alike_in_training_scores_and_synthesis(fresh_space, tmp_path):
    command, of_planes = follow("view", tmp_path)
    run(command, fresh_space)
    (folder,) = fresh_space.checkpoints.iterdir()
    model, store = load_synthesizer(run_of(fresh_space, folder.name).best, device="cpu"), SliceStore(fresh_space.store)
    slices = store.slices(store.patients[0])
    before, moved = model(store, store.patients[0]), np.array(slices.mr)
    moved[3] = 0.5
    changed = (model.slices_to_hu(moved) != before).any(axis=(1, 2))
    assert changed.tolist() == [abs(k - 3) in (0, 2) for k in range(len(moved))]
    large = np.pad(np.float32(slices.mr[:3]), ((0, 0), (0, 16), (0, 16)), constant_values=-1)
    assert slices_to_hu(model, large).shape == large.shape
    absent = MrictError("left out")
    translation = synthesizer_translation(model, store.window)
    assert predecessor_validation(store, store.patients[:1], translation, seed=0, fid=absent, vgg=absent)["mse"] > 0
    run(of_planes, fresh_space)
    (other,) = (one for one in fresh_space.checkpoints.iterdir() if one != folder)
    found = load_synthesizer(run_of(fresh_space, other.name).best, device="cpu")
    assert found.facts.planes == ["axial", "coronal"]
    assert found(store, store.patients[0]).shape == slices.ct.shape


def test_a_method_without_a_discriminator_goes_all_the_way(fresh_space, tmp_path, monkeypatch):
    """Train, resume, score, publish and synthesise a CT; only the method's file is new."""
    monkeypatch.chdir(tmp_path)
    train, evaluate = follow("method", tmp_path)
    assert "loss_D" not in run(train, fresh_space)
    found = run_of(fresh_space, "plain_l1")
    history = load_checkpoint(found.last)["history"]
    assert {"lr_G", "loss_g", "loss_g_l1", "val_mae_hu"} <= set(history[0])
    assert not {"lr_D", "loss_d"} & set(history[0])
    assert "unchanged" in run(train, fresh_space)
    run(evaluate, fresh_space)
    assert read_record(fresh_space.metrics, "plain_l1")["summary"]["all"]["mae_hu"]["mean"] > 0
    mr = write_head(tmp_path / "mr.nii.gz")
    command = ["synthesize", str(mr), "-o", str(tmp_path / "ct.nii.gz"), "--model", "plain_l1"]
    result = CliRunner().invoke(cli.app, command)
    assert (tmp_path / "ct.nii.gz").is_file(), result.output
    assert list(load_synthesizer(found.best, device="cpu").method.networks) == ["G"]
