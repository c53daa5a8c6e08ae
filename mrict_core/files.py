"""Files: atomic writing, locks, hashes, csv and json; faults of the file system as errors for the user."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrict_core.errors import MrictError, UnavailableError
from mrict_core.paths import shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LOCK = ".lock"
PART = ".part-"  # prefix of the lock of a part
LOCK_WAIT_S = 1.0
CODE_SUFFIXES = (".py", ".j2", ".css", ".js")
NEW = ".new-"  # prefix of a file or folder that is still being written
OLD = ".old"  # suffix of a folder that is being replaced
# A formula to a spreadsheet, with any number of quotes before it: reading removes the one that writing added.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_digest = partial(hashlib.blake2b, digest_size=8)


def unavailable(path: Path, error: BaseException) -> UnavailableError:
    """Return the error for a fault of the machine (`errors.passing`) at `path`."""
    cause = error.strerror or error if isinstance(error, OSError) else "too little memory, or too many processes"
    part = str(getattr(error, "filename", None) or path)  # such as a file in a folder, or the voxels of a header
    what = f"{cause}: {shown(part)}" if part != str(path) else cause
    return UnavailableError(f"{shown(path)}: cannot be read ({what}); check that it exists and is readable, run again")


@contextlib.contextmanager
def available(path: Path) -> Iterator[None]:
    """Raise `UnavailableError` for a fault of the machine while `path` is read."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise unavailable(path, error) from None


def unwritable(path: Path, error: OSError | str) -> MrictError:
    """Return the error for a file or folder that cannot be written."""
    cause = getattr(error, "strerror", None) or error
    return MrictError(
        f"{shown(path)}: cannot be written ({cause}); free space, make it writable or choose another folder"
    )


def hash_of(value: Any) -> str:
    """Return a short hash of plain values, the same on every machine."""
    return hash_bytes(json.dumps(value, sort_keys=True, default=str).encode())


def hash_array(array: np.ndarray) -> str:
    """Return a short hash of an array's shape, type and values; a view is copied plane by plane."""
    import numpy as np

    digest = _digest(f"{array.shape} {array.dtype}".encode())
    for plane in array:
        digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return a short hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _digest).hexdigest()


def hash_bytes(content: bytes) -> str:
    """Return the hash that `hash_file` gives a file of this content."""
    return _digest(content).hexdigest()


def code_hash(*rooms: str) -> str:
    """Return a hash of the source of these modules and packages of mrict_core, of all if none is named."""
    package = Path(__file__).resolve().parent
    files: list[Path] = []
    for room in rooms or (".",):
        place = package / room
        inside = sorted(p for p in place.rglob("*") if p.suffix in CODE_SUFFIXES)
        files += inside if place.is_dir() else [place.with_suffix(".py")]
    return hash_of([(str(f.relative_to(package)), hash_file(f)) for f in files])


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; rename it to `path` on success, remove it on any failure.

    Readers see the old file or the whole new one. Leftovers of killed writers in the folder are removed.
    """
    path = Path(path)
    if path.name.startswith(NEW):  # already a temporary name, and locked
        yield path
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _locked_file(path)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        sweep_files(path.parent)
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _locked_file(path: Path) -> tuple[int, Path]:
    """Return a new open, locked file in the folder of `path`. The system frees the lock when its writer dies."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f"{NEW}{path.name[:40]}.", suffix="".join(path.suffixes)[-12:], dir=path.parent
        )
        with contextlib.suppress(OSError):  # without locks nothing ever counts as a leftover
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else another process swept it before the lock
            return handle, Path(name)
        os.close(handle)


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder that nobody writes any more; OSError if somebody does."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sweep_files(folder: Path) -> None:
    """Remove temporary files of `atomic_path` in `folder` whose writers have died."""
    for leftover in Path(folder).glob(f"{NEW}*"):
        if leftover.is_file():
            with contextlib.suppress(OSError), _abandoned(leftover):
                leftover.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path, may_replace: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` on success, remove it on any failure.

    An existing `path` is replaced only if `may_replace(path)` is given and does not raise; it is restored on any
    failure. Leftovers of a killed writer of `path` are removed, or restored if `path` itself is missing.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{NEW}{path.name[:40]}-", dir=path.parent))
        handle = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise unwritable(path, error) from None
    old = temporary.with_name(f"{temporary.name}{OLD}")
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        _sweep_folders(path)
        yield temporary
        temporary.chmod(0o755)
        if os.path.lexists(path):
            if may_replace is None:
                raise MrictError(f"{shown(path)}: exists already and is not replaced; move it or choose another name")
            may_replace(path)
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if old.exists() and not os.path.lexists(path):
            old.rename(path)
        for leftover in (old, temporary):
            shutil.rmtree(leftover, ignore_errors=True)
        os.close(handle)


def _sweep_folders(path: Path) -> None:
    """Remove temporary folders of `atomic_folder(path)` whose writers have died."""
    own = re.compile(re.escape(f"{NEW}{path.name[:40]}-") + r"[a-z0-9_]{8}")
    for leftover in path.parent.glob(f"{NEW}*"):
        if own.fullmatch(leftover.name):
            with contextlib.suppress(OSError), _abandoned(leftover):
                old = leftover.with_name(f"{leftover.name}{OLD}")
                if old.exists() and not os.path.lexists(path):
                    old.rename(path)
                for folder in (old, leftover):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path, work: str, wait_s: float, part: str = "") -> Iterator[None]:
    """Lock `folder` for this process; the system frees the lock when the process dies.

    With `part`, the name of one, only that part of the folder's work: processes may hold different parts at the same
    time, and none holds the whole folder meanwhile.
    Raises MrictError, "another process `work`", if another still holds it after `wait_s` seconds.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        if part:
            stack.enter_context(_lock(folder / f"{PART}{part}{LOCK}", work, wait_s))
            with _lock(folder / LOCK, work, max(wait_s, LOCK_WAIT_S)):  # nobody has the whole; other parts look, too
                pass
        else:
            stack.enter_context(_lock(folder / LOCK, work, wait_s))
            for other in sorted(folder.glob(f"{PART}*{LOCK}")):
                stack.enter_context(_lock(other, work, wait_s))
                other.unlink(missing_ok=True)  # a part that starts now makes its own, and finds the whole held
        yield


@contextlib.contextmanager
def _lock(file: Path, work: str, wait_s: float) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(file, timeout=wait_s)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise MrictError(f"{shown(file.parent)}: another process {work}; wait until it ends, run again") from None
    except OSError as error:
        raise unwritable(file.parent, error) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def sole_writer(folder: Path, work: str, part: str = "") -> Iterator[None]:
    """Lock a folder, or a part of its work, that only lock holders write to; remove temporary files of killed writers.

    See `held`.
    """
    with held(folder, work, LOCK_WAIT_S, part):
        sweep_files(folder)
        yield


def write_text(path: Path, text: str) -> Path:
    """Write `text` atomically; return the path. Characters that are not valid UTF-8 are escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_csv(path: Path, frame: pd.DataFrame, float_format: str | None = None) -> Path:
    """Write a table atomically, without its index; floats are unrounded unless `float_format` is given.

    Text that a spreadsheet would run as a formula, such as a patient named `=HYPERLINK(1)`, gets a leading quote, which
    `read_csv` removes.
    """
    return write_text(path, csv_text(frame, float_format))


def csv_text(frame: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as the text that `write_csv` writes."""
    # pandas quotes cells only for characters of the line end; with "\n\r" it quotes both.
    text = _text_cells(frame, _inert).to_csv(index=False, float_format=float_format, lineterminator="\n\r")
    return text.replace("\n\r", "\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote. Errors of pandas are left to the caller."""
    import pandas as pd

    return _text_cells(pd.read_csv(path), lambda text: text[1:] if _is_formula(text) and text[0] == "'" else text)


def _text_cells(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Return `frame` with every text changed; numbers keep their types."""

    def cell(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    return frame.assign(**{name: frame[name].map(cell) for name in frame.select_dtypes(exclude=["number", "bool"])})


def _is_formula(text: str) -> bool:
    return bool(FORMULA.match(text)) and not NUMBER.fullmatch(text)


def _inert(text: str) -> str:
    return f"'{text}" if _is_formula(text) else text


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented json, atomically; return the path."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a json file. Raises MrictError, with its name, for a missing or damaged one."""
    try:
        with available(path):
            if not Path(path).exists():
                raise MrictError(f"{shown(path)}: not found; run the step that makes it first")
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: also wrong UTF-8 and huge integers
        raise MrictError(
            f"{shown(path)}: not valid json ({error}); delete it and run the step that makes it again"
        ) from None
