"""A public data set from its Zenodo record to a folder that `discover` reads: fetch, verify, unpack, check.

Downloads are kept in `DEST/<name>.partial/`; `DEST/<folder>/` appears by one rename, complete. Its receipt names the
record and the files, so that a second run has nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from mrict_core.data.discovery import TASK, Discovery, discover
from mrict_core.data.fetch.unpack import need_space, readable, unpack
from mrict_core.data.fetch.zenodo import RemoteFile, Zenodo
from mrict_core.errors import MrictError, unknown_name
from mrict_core.files import LOCK_WAIT_S, atomic_folder, available, held, read_json, unwritable, write_json
from mrict_core.modalities import CBCT, MR, Modality
from mrict_core.paths import shown
from mrict_core.web import Progress

RECEIPT = "download.json"
BLOCK = 1 << 20


@dataclass(frozen=True)
class DataSet:
    """One archive of a Zenodo record; `folder` is the folder inside it that holds `regions`."""

    name: str
    title: str
    record: int
    archive: str
    folder: str
    regions: tuple[str, ...]
    licence: str
    citation: str
    modality: Modality = MR

    @property
    def source(self) -> dict[str, int | str]:
        """The origin of the files, as in a receipt. The files of a published record never change."""
        return {"data_set": self.name, "record": self.record, "archive": self.archive}


DATA_SETS = {
    "synthrad2023-task1": DataSet(
        name="synthrad2023-task1",
        title="SynthRAD2023 Grand Challenge dataset, training set, Task 1 (MR to CT)",
        record=7260705,
        archive="Task1.zip",
        folder=TASK,
        regions=("brain", "pelvis"),
        licence="CC BY-NC 4.0: cite it, no commercial use (https://creativecommons.org/licenses/by-nc/4.0/)",
        citation="A. Thummerer et al., SynthRAD2023 Grand Challenge dataset: Generating synthetic CT for radiotherapy, "
        "Medical Physics 2023, https://doi.org/10.1002/mp.16529; data: https://doi.org/10.5281/zenodo.7260705",
    )
}
DATA_SETS["synthrad2023-task2"] = replace(
    DATA_SETS["synthrad2023-task1"],
    name="synthrad2023-task2",
    title="SynthRAD2023 Grand Challenge dataset, training set, Task 2 (CBCT to CT)",
    archive="Task2.zip",
    folder=CBCT.task,
    modality=CBCT,
)


@dataclass(frozen=True)
class Downloaded:
    """A data set on disk; `fresh` is False if it already existed. Regions without patients are omitted."""

    folder: Path
    fresh: bool
    found: dict[str, Discovery]


def data_set(name: str) -> DataSet:
    """Return the data set of that name; MrictError lists the known ones."""
    if name not in DATA_SETS:
        raise unknown_name("data set", name, DATA_SETS)
    return DATA_SETS[name]


def download(
    name: str, dest: Path | str, server: Zenodo, keep_archive: bool = False, progress: Progress | None = None
) -> Downloaded:
    """Download the data set `name` to `dest`, resuming an earlier call; do nothing if it is complete.

    Needs twice the archive's size. An archive in `dest` with the right checksum is used and kept.
    `progress(done, total, step)` counts bytes. Nothing existing is overwritten: that raises MrictError.
    """
    wanted, dest = data_set(name), _resolved(dest)
    final, partial = dest / wanted.folder, _partial(wanted, dest)
    whole = _complete(final, wanted)
    if whole and not partial.exists():  # without a lock: the folder may be read-only
        return Downloaded(final, False, _check(wanted, final))
    remote = None if whole else _archive_of(wanted, server)
    with held(dest, f"downloads to it ({name})", LOCK_WAIT_S):
        fresh = remote is not None and not _complete(final, wanted)
        try:
            if fresh:
                _bring(wanted, remote, dest, server, keep_archive, progress)
            shutil.rmtree(partial, ignore_errors=True)  # also after a run killed after its last rename
        except OSError as error:
            raise unwritable(dest, error) from None
        finally:
            with contextlib.suppress(OSError):  # what was fetched stays for the next run
                partial.rmdir()
    return Downloaded(final, fresh, _check(wanted, final))


def _bring(
    wanted: DataSet, remote: RemoteFile, dest: Path, server: Zenodo, keep_archive: bool, progress: Progress | None
) -> None:
    """Fetch and verify the archive, and unpack it atomically."""
    own = dest / wanted.archive
    if not own.exists():
        archive = _verified(remote, _partial(wanted, dest), server, progress)
    elif own.stat().st_size == remote.size and _md5(own, progress) == remote.md5:
        archive = own
    else:
        raise MrictError(
            f"{shown(own)}: is not the file of record {wanted.record} ({readable(remote.size)}, md5 {remote.md5}); "
            "move it away, or choose another --dest"
        )
    with atomic_folder(dest / wanted.folder) as unpacked:
        files = unpack(archive, unpacked, wanted.folder, progress)
        _check(wanted, unpacked)
        receipt = {**wanted.source, "md5": remote.md5, "licence": wanted.licence, "citation": wanted.citation}
        write_json(unpacked / RECEIPT, {**receipt, "files": files})
        if keep_archive and archive != own:  # before the last step: a run killed here unpacks again
            archive.rename(own)


def _verified(remote: RemoteFile, partial: Path, server: Zenodo, progress: Progress | None) -> Path:
    """Return the verified archive in `partial`; one with a wrong checksum is removed."""
    part = partial / f"{remote.name}.part"
    there = part.stat().st_size if part.exists() else 0
    if there < remote.size:
        # volumes are already gzipped, so unpacking needs the archive's size once more
        need_space(partial.parent, 2 * remote.size - there, f"to fetch and unpack {remote.name}")
    partial.mkdir(exist_ok=True)
    server.fetch(remote.url, part, remote.size, progress)
    digest = _md5(part, progress)
    if digest != remote.md5:
        shutil.rmtree(partial)
        raise MrictError(
            f"{remote.url}: md5 {digest}, the record says {remote.md5}; the download was deleted; run again, "
            "or try another mirror"
        )
    return part


def _archive_of(wanted: DataSet, server: Zenodo) -> RemoteFile:
    files = {file.name: file for file in server.files(wanted.record)}
    if wanted.archive not in files:
        raise MrictError(
            f"{server.url}, record {wanted.record}: has no {wanted.archive}, but {', '.join(sorted(files))[:200]}; "
            "check the address"
        )
    return files[wanted.archive]


def _complete(final: Path, wanted: DataSet) -> bool:
    """Return whether `final` is the complete data set; MrictError if it is something else or files are missing."""
    if not os.path.lexists(final):
        return False
    receipt = read_json(final / RECEIPT) if (final / RECEIPT).is_file() else {}
    if not isinstance(receipt, dict) or not wanted.source.items() <= receipt.items():
        raise MrictError(f"{shown(final)}: exists and is not from this command; move it away, or choose another --dest")
    files = receipt.get("files")
    files = files if isinstance(files, dict) else {}
    paths = {name: final.parent / name for name in files}
    wrong = [name for name, path in paths.items() if not path.is_file() or path.stat().st_size != files[name]]
    if wrong or not files:
        first = wrong[0] if wrong else RECEIPT
        raise MrictError(
            f"{shown(final)}: {len(wrong)} of its {len(files)} files are missing or changed, first {first}; "
            "move the folder away and run again"
        )
    return True


def _check(wanted: DataSet, folder: Path) -> dict[str, Discovery]:
    """Return the patients of each region in `folder`; MrictError if there are none at all."""
    found = {
        region: discover(folder, region, modality=wanted.modality.name)
        for region in wanted.regions
        if (folder / region).is_dir()
    }
    if not any(discovery.patients for discovery in found.values()):
        raise MrictError(
            f"{shown(folder)}: no usable patient in {' or '.join(wanted.regions)}; expected <region>/<patient>/ with "
            f"{wanted.modality.name}, ct and mask; is it the right archive?"
        )
    return found


def _md5(path: Path, progress: Progress | None) -> str:
    """Return the md5 of a file, Zenodo's checksum: it detects damage, not an attack."""
    digest, total, done = hashlib.md5(usedforsecurity=False), path.stat().st_size, 0
    with available(path), open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done, total, "verify")
    return digest.hexdigest()


def _partial(wanted: DataSet, dest: Path) -> Path:
    return dest / f"{wanted.name}.partial"


def _resolved(dest: Path | str) -> Path:
    try:
        if str(dest).strip():
            return Path(dest).expanduser().resolve()
        problem = "is empty"
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, unknown users, null bytes
        problem = f"is not a usable folder ({getattr(error, 'strerror', None) or error})"
    raise MrictError(f"--dest '{str(dest)[:200]}' {problem}; give a folder to download to")
