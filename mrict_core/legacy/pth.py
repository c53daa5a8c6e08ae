"""The predecessor's `.pth` files with plain state dicts: read without running code, recognised by shapes."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Part
from mrict_core.networks import DISCRIMINATORS, GENERATORS, build_network
from mrict_core.paths import shown

EXPECTED = "expected the plain state dict of one generator or discriminator"
WRAPPERS = ("state_dict", "model_state_dict")  # common keys of a nested state dict
PARALLEL = "module."  # prefix of torch's DataParallel
FIRST = {"enc1.0.weight": "G", "model.0.weight": "D"}  # first convolution => side
BEGINNINGS = {  # of files often saved by mistake
    b"version https://git-lfs": "a git-LFS pointer, not the file; fetch it with `git lfs pull`",
    b"<!doctype": "a web page, not the file; download it again",
    b"<html": "a web page, not the file; download it again",
}


@dataclass(frozen=True)
class Recognised:
    """The network of a state dict, by names and shapes."""

    side: str  # "G" | "D"
    kinds: tuple[str, ...]  # names of the networks it fits, several if their shapes are equal
    width: int  # channels of the first block
    channels: int  # of the input image


def read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return (state dict on the CPU, notes on unpacking) of a `.pth` file.

    Only tensors are read, so the file cannot run code. Raises MrictError unless it contains the finite float32 weights
    of one network.
    """
    content = _load(path)
    notes = []
    if isinstance(content, Mapping) and {"state", "param_groups"} <= set(content):
        raise MrictError(f"{shown(path)}: the state of an optimiser; {EXPECTED}; give the generator's file")
    if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if len(inner) == 1:
            content = content[inner[0]]
            notes.append(f"read from its entry '{inner[0]}'")
    if not isinstance(content, Mapping) or not content:
        raise MrictError(f"{shown(path)}: contains {_what(content)}; {EXPECTED}")
    if odd := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        raise MrictError(f"{shown(path)}: '{odd[0][:80]}' is {_what(content[odd[0]])}, not a tensor; {EXPECTED}")
    state = {str(key): value for key, value in content.items()}
    if all(key.startswith(PARALLEL) for key in state):
        state = {key.removeprefix(PARALLEL): value for key, value in state.items()}
        notes.append(f"prefix '{PARALLEL}' removed")
    for key, tensor in state.items():
        if problem := _wrong(key, tensor):
            raise MrictError(
                f"{shown(path)}: '{key[:80]}' {problem}; damaged, or not the predecessor's; download it again"
            )
    return state, notes


def _load(path: Path) -> Any:
    if not path.is_file():
        raise MrictError(f"{shown(path)}: no such file; checkpoints/README.md says where the predecessor's files are")
    remedy = "download the file again"
    try:
        with open(path, "rb") as file:
            head = file.read(64).lower()
        for beginning, what in BEGINNINGS.items():
            if head.startswith(beginning):
                raise MrictError(f"{shown(path)}: {what}")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not check checksums
                if damaged := archive.testzip():
                    raise ValueError(f"wrong checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except MrictError:
        raise
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):  # torch names the object it refused
            raise MrictError(
                f"{shown(path)}: contains {found[1][:80]}, not a tensor, which could run code: a pickled module or an "
                f"unsafe file; no code was run; {EXPECTED}, as saved by torch.save(network.state_dict(), path)"
            ) from None
        raise _unreadable(path, error, remedy) from None
    except OSError as error:
        raise MrictError(f"{shown(path)}: cannot be read ({error.strerror or error}); make it readable") from None
    except Exception as error:  # damaged bytes may raise any exception
        raise _unreadable(path, error, remedy) from None


def _unreadable(path: Path, error: Exception, remedy: str) -> MrictError:
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return MrictError(f"{shown(path)}: not a readable weights file (truncated or damaged: {reason}); {remedy}")


def _what(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(str(key)[:20] for key in list(value)[:4])}" if value else "an empty dict"
    return f"a {type(value).__name__}"


def _wrong(key: str, tensor: Tensor) -> str:
    """Return what is wrong with a tensor of a trained float32 network, or ""."""
    counter = key.endswith("num_batches_tracked")
    expected = torch.int64 if counter else torch.float32
    if tensor.dtype != expected or tensor.layout != torch.strided or tensor.is_quantized:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, expected {str(expected).removeprefix('torch.')}"
    if not counter and not torch.isfinite(tensor).all():
        return f"has {int((~torch.isfinite(tensor)).sum())} values that are NaN or infinite"
    if (counter or key.endswith("running_var")) and (tensor < 0).any():
        return "has negative values, expected none"
    return ""


def recognise(state: Mapping[str, Tensor], path: Path) -> Recognised:
    """Return the network of a state dict; raise MrictError with the first mismatch unless all names and shapes fit."""
    first = next((name for name in FIRST if name in state), None)
    if first is None or state[first].ndim != 4 or 0 in state[first].shape:
        raise MrictError(
            f"{shown(path)}: names such as {', '.join(sorted(state)[:3])} match no network of the predecessor; "
            f"expected {' or '.join(FIRST)}, a 4-D tensor; give one of its generators or discriminators"
        )
    side = FIRST[first]
    width, channels = state[first].shape[:2]
    misfits = {}
    for name in GENERATORS if side == "G" else DISCRIMINATORS:
        misfits[name] = _misfits(state, _shapes(name, width, channels))
    kinds = tuple(name for name, found in misfits.items() if not found)
    if not kinds:
        nearest = min(misfits, key=lambda name: len(misfits[name]))
        key, came, expected = misfits[nearest][0]
        raise MrictError(
            f"{shown(path)}: matches no network of the predecessor; {len(misfits[nearest])} tensors differ from the "
            f"closest, {nearest}: '{key}' is {came} in the file, expected {expected}; give an unchanged file"
        )
    return Recognised(side, kinds, width, channels)


def _shapes(name: str, width: int, channels: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes only, no memory
        network = build_network(Part(name), width=width, in_channels=channels, out_channels=channels)
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _misfits(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, Any, Any]]:
    """Return (name, shape in the file, expected shape) of each difference."""
    came = {key: tuple(tensor.shape) for key, tensor in state.items()}
    both = [(k, came.get(k, "absent"), shapes.get(k, "absent")) for k in sorted(came.keys() | shapes.keys())]
    return [(key, have, want) for key, have, want in both if have != want]
