"""Checkpoints: one file that holds all it takes to go on, and to say where it came from.

Written to a temporary name and renamed; read with `weights_only=True` alone, so a file can never run code.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrict_core.errors import MrictError
from mrict_core.paths import Workspace, shown
from mrict_core.runtime import atomic_path

FORMAT = 1
REQUIRED = (
    *("format", "key", "variant", "fields", "profile", "networks", "epoch", "epochs", "complete", "stopped", "history"),
    *("seed", "size", "protocol", "window_hu", "store_key", "split_hash", "parent", "features", "training_pairs"),
    "versions",
)
RESUME = ("optimizers", "schedulers", "method_state", "rng")  # in last.pt alone


def checkpoint_path(workspace: Workspace, name: str, which: str = "best") -> Path:
    """Return where the `best` or `last` checkpoint of a variant lies."""
    return workspace.checkpoints / name / f"{which}.pt"


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors and plain values only) atomically."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a path, torch writes its (random) name into the file
                torch.save({"format": FORMAT, **payload}, file)
        except RuntimeError as error:  # what torch's own writer makes of a full disk
            reason = str(error).splitlines()[0][:120]
            raise MrictError(
                f"{shown(path)}: cannot be written (disk full? {reason}); free space or choose another folder"
            ) from None


def load_checkpoint(path: Path, expect_variant: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises MrictError when the file is absent, truncated, not a checkpoint of this suite, unsafe, or of another
    variant than expected; the message names both sides.
    """
    if not path.is_file():
        raise MrictError(f"{shown(path)}: no such checkpoint; train the variant first")
    try:
        with zipfile.ZipFile(path) as content:  # torch does not compare the check sums
            if damaged := content.testzip():
                raise ValueError(f"wrong check sum of {damaged}")
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MrictError(
            f"{shown(path)}: not a readable checkpoint (truncated, damaged or unsafe: {reason}); "
            "delete it and train the variant again"
        ) from None
    missing = [key for key in REQUIRED if key not in payload] if isinstance(payload, dict) else list(REQUIRED)
    if missing:
        raise MrictError(
            f"{shown(path)}: not a whole checkpoint of this suite, {', '.join(missing)} missing; "
            "delete it and train the variant again"
        )
    if payload["format"] != FORMAT:
        raise MrictError(
            f"{shown(path)}: checkpoint format {payload['format']}, this version reads {FORMAT}; train again"
        )
    if expect_variant and payload["variant"] != expect_variant:
        raise MrictError(
            f"{shown(path)}: checkpoint of variant '{payload['variant']}', expected '{expect_variant}'; "
            "give the file of that variant or name the other variant"
        )
    return payload


def check_resumable(payload: dict[str, Any], path: Path) -> None:
    """Raise MrictError unless the checkpoint holds what it takes to go on training, as last.pt does."""
    if missing := [key for key in RESUME if key not in payload]:
        raise MrictError(
            f"{shown(path)}: holds no {', '.join(missing)} to go on with (a copy of best.pt?); delete it, train again"
        )


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> None:
    """Load `state` into `network`; a mismatch names the first tensor and both shapes."""
    own = network.state_dict()
    for key in sorted(own.keys() | state.keys()):
        have = tuple(own[key].shape) if key in own else "absent"
        came = tuple(state[key].shape) if key in state else "absent"
        if have != came:
            raise MrictError(
                f"{shown(path)}: does not fit network {name}: '{key}' is {came} in the file and {have} in the network; "
                "variant, width and channels must be those it was trained with"
            )
    network.load_state_dict(state)


def rng_state(generators: dict[str, torch.Generator]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Return every random state that training draws from."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state | {name: generator.get_state() for name, generator in generators.items()}


def restore_rng(state: dict[str, Any], generators: dict[str, torch.Generator]) -> None:
    """Take back what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, saved in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, index)
    for name, generator in generators.items():
        generator.set_state(state[name])
