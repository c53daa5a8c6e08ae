"""Checkpoints: one file with all that resuming needs, and its provenance.

Written atomically; read with `weights_only=True` only, so a file can never run code.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrict_core import ranks
from mrict_core.errors import MrictError, passing
from mrict_core.files import atomic_path, hash_bytes, unavailable, unwritable
from mrict_core.paths import shown
from mrict_core.training.runs import RESUME, TENSORS

FORMAT = 1
REQUIRED = ("format", "key", "variant", "fields", "profile", "networks", "size", "protocol", "window_hu", "epoch")
UNREADABLE = "not a readable checkpoint (truncated, damaged or unsafe: {}); delete it and train the variant again"


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors and plain values only) atomically."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a path, torch would write its random name into the file
                torch.save({"format": FORMAT, **payload}, file)
        except RuntimeError as error:  # of torch's writer, on a full disk
            raise unwritable(path, f"disk full? {str(error).splitlines()[0][:120]}") from None


def load_checkpoint(path: Path, expect_variant: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises MrictError if the file is missing, truncated, unsafe, not a checkpoint of this suite, or of another variant
    than expected.
    """
    return read_checkpoint(path, expect_variant)[0]


def read_checkpoint(path: Path, expect_variant: str | None = None) -> tuple[dict[str, Any], str]:
    """Return a checkpoint, as `load_checkpoint`, and the hash of the bytes it was read from."""
    with _refusing(path):
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as parts:  # torch does not verify the checksums
            if damaged := parts.testzip():
                raise ValueError(f"wrong checksum of {damaged}")
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return _checked(payload, path, expect_variant), hash_bytes(content)


def checkpoint_facts(path: Path) -> dict[str, Any]:
    """Return a checkpoint without its tensors; only a few kilobytes are read."""
    with _refusing(path):
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {key: value for key, value in _checked(payload, path).items() if key not in TENSORS}


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn any error of reading into one line; for damaged bytes torch raises nearly anything."""
    try:
        yield
    except FileNotFoundError:
        raise MrictError(f"{shown(path)}: no such checkpoint; train the variant first") from None
    except Exception as error:
        if passing(error):
            raise unavailable(path, error) from None
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MrictError(f"{shown(path)}: {UNREADABLE.format(reason)}") from None


def _checked(payload: Any, path: Path, expect_variant: str | None = None) -> dict[str, Any]:
    missing = [key for key in REQUIRED if key not in payload] if isinstance(payload, dict) else list(REQUIRED)
    if missing:
        raise MrictError(
            f"{shown(path)}: not a complete checkpoint of this suite, {', '.join(missing)} missing; "
            "delete it and train the variant again"
        )
    if payload["format"] != FORMAT:
        raise MrictError(f"{shown(path)}: checkpoint format {payload['format']}, expected {FORMAT}; train again")
    if expect_variant and payload["variant"] != expect_variant:
        raise MrictError(
            f"{shown(path)}: checkpoint of variant '{payload['variant']}', expected '{expect_variant}'; "
            "give the file of that variant, or name the other variant"
        )
    return dict(payload)


def check_key(payload: Mapping[str, Any], key: str, path: Path) -> None:
    """Raise MrictError unless a checkpoint belongs to the training of its folder."""
    if payload["key"] != key:
        raise MrictError(
            f"{shown(path)}: of training {payload['key']}, but its folder is of training {key}; files were mixed up; "
            "remove the folder (python -m mrict_core runs --remove) and train again"
        )


def check_resumable(payload: dict[str, Any], path: Path) -> None:
    """Raise MrictError unless the checkpoint can be resumed, as last.pt can."""
    if missing := [key for key in RESUME if key not in payload]:
        raise MrictError(
            f"{shown(path)}: no {', '.join(missing)} to resume from (a copy of best.pt?); delete it, train again"
        )
    if (epochs := len(payload.get("history", ()))) != payload["epoch"]:
        raise MrictError(
            f"{shown(path)}: a history of {epochs} epochs after epoch {payload['epoch']}; delete it, train again"
        )


def check_shapes(network: nn.Module, state: Mapping[str, torch.Tensor], name: str, path: Path) -> None:
    """Raise MrictError, with the first tensor and both shapes, for a state dict that does not fit."""
    own = network.state_dict()
    for key in sorted(own.keys() | state.keys()):
        have = tuple(own[key].shape) if key in own else "absent"
        came = tuple(state[key].shape) if key in state else "absent"
        if have != came:
            raise MrictError(
                f"{shown(path)}: does not fit network {name}: '{key}' is {came} in the file and {have} in the network; "
                "use the variant, width and channels it was trained with"
            )


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> None:
    """Load `state` into `network`; see `check_shapes`."""
    check_shapes(network, state, name, path)
    network.load_state_dict(state)


def rng_state(generators: dict[str, torch.Generator]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Return all random states of a training; of several ranks, those of this one."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        alone = ranks.current().count == 1
        state["cuda"] = torch.cuda.get_rng_state_all() if alone else [torch.cuda.get_rng_state()]
    return state | {name: generator.get_state() for name, generator in generators.items()}


def restore_rng(state: dict[str, Any], generators: dict[str, torch.Generator]) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        if ranks.current().count > 1:
            for saved in state.get("cuda", [])[:1]:
                torch.cuda.set_rng_state(saved)
        else:
            for index, saved in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(saved, index)
    for name, generator in generators.items():
        generator.set_state(state[name])
