"""What is killed, replaced or broken while a batch runs: the next run completes, and nothing wrong is kept."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_files import write_mr_series
from test_challenge import write_input
from test_cli import error_of
from tiny_models import files_in, head_array, untrained_checkpoint, with_network, write_head

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.volumes import load_volume
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference.synthesizer import check_weights
from mrict_core.inference.volume import SynthesisOptions, synthesize_volume
from mrict_core.methods import build_method
from mrict_core.pipeline.cases import find_cases, synthesize_cases
from mrict_core.pipeline.submission import run_challenge
from mrict_core.pipeline.synthesis import is_current, load_models, source_hash, synthesize_case

SHAPE = (24, 28, 4)
RENAMES = ("replace", "rename")


def killed(work, at: int, before: bool) -> bool:
    """Run `work` in a process of its own that dies by SIGKILL at its n-th rename; return whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            _die_at(at, before)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _die_at(at: int, before: bool) -> None:
    done = [0]

    def counted(rename):
        def run(*args, **kwargs):
            done[0] += 1
            if done[0] == at and before:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args, **kwargs)
            if done[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

        return run

    for name in RENAMES:
        setattr(os, name, counted(getattr(os, name)))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no other threads
    yield
    torch.set_num_threads(threads)


def batch(root: Path, models, page: bool = False, **options):
    found = find_cases(root / "in", root / "out", uncertainty=root / "sd", qa=root / "qa" if page else None)
    return synthesize_cases(found, models, root / "out" / "summary.csv", **options)


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_in(root) if not name.startswith("in/")}


def test_a_batch_killed_at_any_rename_is_completed_by_the_next_run(tmp_path, models):
    undisturbed = tmp_path / "undisturbed"
    for root in (undisturbed, tmp_path):
        (root / "in").mkdir(parents=True)
        for name in ("a", "b"):
            write_head(root / "in" / f"{name}.nii", SHAPE)
    assert list(batch(undisturbed, models)["status"]) == ["written", "written"]
    expected = contents(undisturbed)
    assert len(expected) == 7
    points = 0
    for at in range(1, 40):
        for before in (True, False):
            root = tmp_path / f"{at}-{before}"
            (root / "in").parent.mkdir()
            (root / "in").symlink_to(undisturbed / "in")
            if not killed(lambda root=root: batch(root, models), at, before):
                assert points == 22  # before and after the renames of 4 files of each case and 3 tables
                return
            points += 1
            table = batch(root, models)
            assert set(table["status"]) <= {"written", "kept"}, (at, before, list(table["reason"]))
            found = contents(root)
            found.pop("out/summary.csv")
            assert found == {name: content for name, content in expected.items() if name in found}
            assert len(found) == 6, "nothing is missing, no temporary file is left"
            assert set(batch(root, models)["status"]) == {"kept"}
    pytest.fail("the batch never ended")


def test_a_page_is_completed_too(tmp_path, models):
    (tmp_path / "in").mkdir()
    write_head(tmp_path / "in" / "a.nii", SHAPE)
    assert killed(lambda: batch(tmp_path, models, page=True), 3, before=True)  # json and CT are there
    assert [name for name in files_in(tmp_path / "out") if name[0] != "."] == ["a_sct.json", "a_sct.nii"]
    assert list(batch(tmp_path, models, page=True)["status"]) == ["written"]
    assert files_in(tmp_path / "qa") == ["a_sct.html"]


def test_killed_while_it_replaces_never_passes_the_old_for_the_new(tmp_path, checkpoints):
    """With --overwrite, the old CT of another model must not stay under the new json."""
    old, new = (load_models([str(checkpoints / f"{x}.pt")], device="cpu") for x in "ab")
    (tmp_path / "in").mkdir()
    write_head(tmp_path / "in" / "a.nii", SHAPE)
    wanted = tmp_path / "wanted.nii"
    synthesize_case(tmp_path / "in/a.nii", wanted, new)
    for at in range(1, 12):
        for before in (True, False):
            synthesize_case(tmp_path / "in/a.nii", tmp_path / "out.nii", old, overwrite=True)
            work = lambda: synthesize_case(tmp_path / "in/a.nii", tmp_path / "out.nii", new, overwrite=True)  # noqa: E731
            if not killed(work, at, before):
                assert at == 4
                return
            if is_current(tmp_path / "in/a.nii", tmp_path / "out.nii", new, SynthesisOptions()) is None:
                if json.loads((tmp_path / "out.json").read_text())["finished"]:
                    continue  # the old case is whole: nothing had begun to be replaced
                synthesize_case(tmp_path / "in/a.nii", tmp_path / "out.nii", new)
            assert (tmp_path / "out.nii").read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_series_is_completed(overwrite, tmp_path, models):
    series, out = tmp_path / "in", tmp_path / "out"
    write_mr_series(series, np.rint(head_array(SHAPE)).astype(np.uint16), np.diag([-5.0, -5.0, 6.0, 1.0]))
    for at in range(1, 12):
        if overwrite:
            synthesize_case(series, out, models, overwrite=True)
        work = lambda: synthesize_case(series, out, models, overwrite=overwrite)  # noqa: E731
        if not killed(work, at, before=True):
            assert at > 3
            return
        synthesize_case(series, out, models, overwrite=overwrite)
        assert len(list(out.iterdir())) == SHAPE[2]
        assert [name for name in files_in(tmp_path) if "/." in f"/{name}"] == []
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
        (tmp_path / "out.json").unlink()


def test_a_killed_challenge_is_completed(tmp_path, checkpoints):
    source, out, model = write_input(tmp_path / "input"), tmp_path / "out", str(checkpoints / "a.pt")
    run = lambda: run_challenge(source, out, [model], device="cpu", report=lambda line: None)  # noqa: E731
    for at in (2, 3, 5):
        assert killed(run, at, before=True)
    assert run() == {}
    assert len(files_in(out)) == 4


def test_an_unfinished_case_of_other_making_is_not_replaced(tmp_path, models, checkpoints):
    write_head(tmp_path / "a.nii", SHAPE)
    assert killed(lambda: synthesize_case(tmp_path / "a.nii", tmp_path / "ct.nii", models), 2, before=False)
    before = contents(tmp_path)
    other = load_models([str(checkpoints / "b.pt")], device="cpu")
    with pytest.raises(MrictError, match="exists already"):
        synthesize_case(tmp_path / "a.nii", tmp_path / "ct.nii", other)
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------- what changes meanwhile


@pytest.mark.parametrize("kind", ["file", "series", "detached data"])
def test_an_mr_that_is_replaced_meanwhile_is_not_kept(kind, tmp_path, models):
    if kind == "series":
        source = tmp_path / "in"
        write_mr_series(source, np.rint(head_array(SHAPE)).astype(np.uint16), np.diag([-5.0, -5.0, 6.0, 1.0]))
        part = sorted(source.iterdir())[0]
    else:
        source = tmp_path / ("mr.nii" if kind == "file" else "mr.mhd")
        sitk.WriteImage(sitk.GetImageFromArray(head_array(SHAPE).T), str(source))
        part = source if kind == "file" else tmp_path / "mr.raw"

    def check(volume, facts):
        content = bytearray(part.read_bytes())
        content[-9] ^= 1
        part.write_bytes(content)
        return []

    with pytest.raises(UnavailableError, match="was replaced or removed while it was read"):
        synthesize_case(source, tmp_path / "out" / "ct.nii", models, check=check)
    assert not (tmp_path / "out").exists()


def test_the_hash_of_an_input_leaves_out_what_is_hidden_alone(tmp_path):
    (tmp_path / ".hidden" / "in").mkdir(parents=True)
    folder = tmp_path / ".hidden" / "in"
    (folder / "a").write_text("a")
    first = source_hash(folder)
    (folder / ".DS_Store").write_text("of a Mac")
    assert source_hash(folder) == first
    (folder / "b").write_text("b")
    assert source_hash(folder) != first


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MemoryError(), "MemoryError"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "allocate memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
def test_a_passing_fault_fails_that_case_for_that_run_alone(fault, message, tmp_path, models):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_head(tmp_path / "in" / f"{name}.nii", SHAPE)

    def check(volume, facts):
        if volume.path.name == "a.nii":
            raise fault
        return []

    table = batch(tmp_path, models, check=check).set_index("case")
    assert table["status"].to_dict() == {"a": "failed", "b": "written"}
    assert message in table.loc["a", "reason"]
    assert "says nothing about the MR" in table.loc["a", "reason"]
    assert batch(tmp_path, models).set_index("case")["status"].to_dict() == {"a": "written", "b": "kept"}


# --------------------------------------------------------------------------------------- networks that are no networks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
def test_a_model_with_one_broken_weight_is_refused_wherever_it_is(value, tmp_path):
    generator = build_method(get("mk6_3_4"), get_profile("smoke"), training=False).generator
    names = [name for name, values in generator.state_dict().items() if values.is_floating_point()]
    assert len(names) > 10
    check_weights(generator, tmp_path / "m.pt")
    for name in names:
        kept = generator.state_dict()[name].clone()
        generator.state_dict()[name][(-1,) * kept.ndim] = value
        with pytest.raises(MrictError, match=rf"m\.pt: {name} has weights"):
            check_weights(generator, tmp_path / "m.pt")
        generator.state_dict()[name].copy_(kept)


class Broken(torch.nn.Module):
    """A network whose output is `value` in a share of every slice's rows, and plausible elsewhere."""

    def __init__(self, value: float, share: float = 1.0) -> None:
        super().__init__()
        self.value, self.share = value, share

    def forward(self, x):
        out = torch.zeros_like(x[:, :1]) + 0.01 * x[:, :1]
        out[:, :, : round(self.share * x.shape[2])] = self.value
        return out


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Broken(float("nan"), 0.1), "are NaN or infinite"),
        (Broken(float("inf"), 0.1), "are NaN or infinite"),
        (Broken(1.0), "saturated: 100% of the body"),
        (Broken(-1.0), "saturated: 100% of the body"),
        (Broken(1.0, 0.7), "saturated"),
        (Broken(1.0, 0.3), None),
        (Broken(0.2), None),
    ],
)
def test_output_of_no_working_network_is_refused_everywhere(network, message, tmp_path, models, space):
    store = SliceStore(space.store)
    facts = dataclasses.replace(models[0].synthesizer.facts, size=store.size)
    broken = dataclasses.replace(with_network(models[0].synthesizer, network), facts=facts, path="broken.pt")
    volume = load_volume(write_head(tmp_path / "mr.nii", SHAPE))
    calls = [lambda: synthesize_volume(broken, volume), lambda: broken(store, store.patients[0])]
    for call in calls:
        if message is None:
            call()
            continue
        with pytest.raises(MrictError, match=message) as error:
            call()
        assert str(error.value).startswith("broken.pt: ")


def test_the_commands_refuse_a_broken_model(tmp_path):
    path = untrained_checkpoint(tmp_path / "m.pt")
    content = torch.load(path, weights_only=False)
    next(iter(next(iter(content["networks"].values())).values())).fill_(float("nan"))
    torch.save(content, path)
    mr, source = write_head(tmp_path / "mr.nii", SHAPE), write_input(tmp_path / "input")
    before = files_in(tmp_path)
    assert "weights that are NaN" in error_of(
        "synthesize", str(mr), "-o", str(tmp_path / "ct.nii"), "--model", str(path)
    )
    arguments = ["--input", str(source), "--output", str(tmp_path / "out"), "--model", str(path)]
    assert "weights that are NaN" in error_of("challenge", *arguments)
    assert files_in(tmp_path) == before
