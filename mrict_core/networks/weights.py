"""Pretrained weights by name: from the user's folder, else downloaded once, with a hash check.

Order: the folder `MRICT_WEIGHTS`, torch hub's cache, a download into that cache from the official address (or a mirror:
`MRICT_WEIGHTS_URL` replaces the address up to the file name). Missing weights are an error that names the file and the
remedy; they are never replaced by random values.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mrict_core.errors import MrictError, unknown_name
from mrict_core.files import held
from mrict_core.paths import shown
from mrict_core.web import Web

FOLDER = "MRICT_WEIGHTS"
MIRROR = "MRICT_WEIGHTS_URL"
_downloads: ContextVar[bool] = ContextVar("downloads", default=True)
LOCK_WAIT_S = 600.0  # for another process that downloads the same file


@dataclass(frozen=True)
class WeightsFile:
    """One weights file; by torch's convention its name ends with the start of its sha256."""

    name: str
    address: str | None  # folder it is published in; None: no download
    alternate: str = ""  # another name in the user's folder: the same weights without the classifier

    @property
    def sha256_prefix(self) -> str:
        return Path(self.name).stem.rpartition("-")[2]

    @property
    def url(self) -> str | None:
        """Address to download from, on the mirror if one is set."""
        if self.address is None:
            return None
        return (os.environ.get(MIRROR) or self.address).rstrip("/") + "/" + self.name


FILES = {
    "vgg19": WeightsFile("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models"),
    "vgg16": WeightsFile("vgg16-397923af.pth", "https://download.pytorch.org/models"),
    "inception_fid": WeightsFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0",
    ),
    "squeezenet1_1": WeightsFile(
        "squeezenet1_1-b8a52dc0.pth", "https://download.pytorch.org/models", alternate="squeezenet1_1_features.pth"
    ),
    "vgg19_normalised": WeightsFile("vgg19_normalised_conv1_1_to_conv3_1.pth", None),
}


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Disable downloads inside this block."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def load_into(module: nn.Module, name: str, found: tuple[Path, str] | None = None) -> str:
    """Load the weights `name` into `module`, which may be on the meta device; return the sha256 of the file.

    found: the result of an earlier `locate`. Extra keys are ignored (`module` may be the first layers of the file's
    network). Raises MrictError for absent, damaged or altered files, and for a missing key or one of another shape.
    """
    path, digest = found or locate(name)
    state = _read(path)
    fitting = {}
    for key, wanted in module.state_dict().items():
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=torch.long)  # absent in old files, not used in evaluation
        if key not in state:
            raise MrictError(f"{shown(path)}: has no '{key}'; expected the weights of {name}; replace the file")
        if state[key].shape != wanted.shape:
            raise MrictError(
                f"{shown(path)}: '{key}' has shape {tuple(state[key].shape)}, expected {tuple(wanted.shape)}; "
                f"replace the file with the weights of {name}"
            )
        fitting[key] = state[key].to(wanted.dtype)
    module.load_state_dict(fitting, assign=True)
    return digest


def locate(name: str) -> tuple[Path, str]:
    """Return the path of a weights file and its sha256; download it if it is not on this machine.

    Files in the user's folder may differ from the official hash (a features-only file must); the returned hash records
    the file used. Call it before slow imports, to report missing weights early.
    """
    if name not in FILES:
        raise unknown_name("weights", name, FILES)
    file = FILES[name]
    folder = os.environ.get(FOLDER)
    if folder:
        local = Path(folder).expanduser()
        if not local.is_dir():
            raise MrictError(f"{FOLDER}={folder}: no such folder; set it to the folder that holds {file.name}")
        for candidate in filter(None, (file.name, file.alternate)):
            if (local / candidate).is_file():
                return local / candidate, sha256_of(local / candidate)
    if file.url is None:
        raise MrictError(
            f"weights '{name}': {file.name} is not in {folder or 'a local folder'} and is not published for download; "
            f"put the file into a folder and set {FOLDER} to it"
        )
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file.name
    if not cached.is_file() and not _downloads.get():
        raise MrictError(
            f"weights '{name}': {file.name} is not on this machine and this profile downloads nothing; "
            f"put the file into a folder and set {FOLDER} to it"
        )
    if not cached.is_file():
        _download(name, file, cached)
    digest = sha256_of(cached)
    if not digest.startswith(file.sha256_prefix):
        raise MrictError(
            f"{shown(cached)}: sha256 starts with {digest[:8]}, expected {file.sha256_prefix}; delete it, "
            f"or put your own file of that name into a folder and set {FOLDER} to it"
        )
    return cached, digest


def _download(name: str, file: WeightsFile, target: Path) -> None:
    """Download to `target`, resuming an earlier call; the file gets its name only if its hash is right."""
    from tqdm import tqdm

    part = target.with_name(f"{target.name}.part")
    try:
        with held(target.parent, "downloads weights to it", LOCK_WAIT_S):
            if target.is_file():  # downloaded by another process
                return
            with tqdm(desc=file.name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:

                def progress(done: int, total: int, _: str) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                Web(say=bar.write).fetch(file.url, part, progress=progress)
            digest = sha256_of(part)
            if not digest.startswith(file.sha256_prefix):
                part.unlink()
                raise MrictError(f"{file.url}: sha256 starts with {digest[:8]}, expected {file.sha256_prefix}")
            part.rename(target)
    except (MrictError, OSError) as error:
        folder = os.environ.get(FOLDER)
        where = f"not in {FOLDER}={folder}" if folder else f"in no local folder ({FOLDER} is not set)"
        raise MrictError(
            f"weights '{name}': {file.name} is {where} and cannot be downloaded ({error}); "
            f"put the file into a folder and set {FOLDER} to it"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    """Return a state dict on the CPU, without classifier and prefix `features.`, like a features-only file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MrictError(f"{shown(path)}: not a readable weights file ({reason}); replace the file") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MrictError(
            f"{shown(path)}: contains {type(state).__name__}, expected a plain state dict of tensors; replace the file"
        )
    return {key.removeprefix("features."): value for key, value in state.items() if not key.startswith("classifier.")}


def sha256_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MrictError(f"{shown(path)}: cannot be read ({error.strerror}); make it readable") from None
