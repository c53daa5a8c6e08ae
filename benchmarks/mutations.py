"""Mutated image files through every command that reads them: expect one-line errors and no silently wrong number.

Flipped bits, cuts and odd header fields, in every format. The stream's checksum detects flipped bits in compressed
voxels; uncompressed voxels and text headers have no checksum, so undetected changes there are counted separately.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from dicom_files import write_mr_series

from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import Volume, load_volume, save_nifti
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import CaseFiles, ScoreOptions, score_files
from mrict_core.inference.input_files import read_input
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.machine import cpu_count, end_with_parent

FORMATS = ("nii", "nii.gz", "mha", "mha, compressed", "mhd + raw", "nrrd", "nrrd, gzip", "dicom")
KINDS = ("bit", "bit", "cut", "header")
ROLES = ("mr", "ct")
ADDRESS_SPACE = 12 << 30  # bytes, the limit of a reader's memory
ODD = ("0", "-1", "1", "65535", "1e30", "nan", "inf", "", "x", "4294967296", "-32768", "1 1 1", "1 0 0 0 1 0 0 0 1")
Found = dict[str, str]  # reader or command => outcome


# ------------------------------------------------------------------------------------------------------------- files


def write(kind: str, folder: Path, role: str, volume: Volume) -> tuple[Path, Path]:
    """Write an image in a format; return the path for commands and the file to mutate."""
    import SimpleITK as sitk

    suffix = kind.split(",")[0].split(" ")[0]
    path = folder / f"{role}.{suffix}"
    if kind == "dicom":
        series = folder / f"{role}_dicom"
        files = write_mr_series(series, volume.array.astype(np.uint16), volume.affine)
        return series, files[len(files) // 2]
    if suffix.startswith("nii"):
        return (save_nifti(path, volume.array, volume.affine, dtype=np.int16),) * 2
    image = sitk.Cast(itk_image(volume), sitk.sitkInt16)
    sitk.WriteImage(image, str(path), kind.endswith(("compressed", "gzip")))
    return path, path.with_suffix(".raw") if suffix == "mhd" else path


def header_end(kind: str, data: bytes) -> int:
    """Return where the voxels begin in a single-file format."""
    if kind.startswith("mha"):
        return data.index(b"\n", data.index(b"ElementDataFile")) + 1
    if kind.startswith("nrrd"):
        return data.index(b"\n\n") + 2
    return 352 if kind == "nii" else 0


def checked(kind: str, what: str, at: int, data: bytes) -> bool:
    """Return whether a reader can detect the change: bits under a checksum, truncated files."""
    if what == "cut":
        return True
    return what == "bit" and (
        kind == "nii.gz" or (kind.endswith(("compressed", "gzip")) and at >= header_end(kind, data))
    )


def mutate(kind: str, given: Path, file: Path, what: str, rng: random.Random) -> str:
    """Mutate the file; return where: "checksum", "voxels" or "header"."""
    data, at = file.read_bytes(), 0
    if what == "bit":
        at = rng.randrange(len(data))
        changed = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    elif what == "cut":
        changed = data[: rng.randrange(len(data))]
    else:
        file = given if kind == "mhd + raw" else file
        data = file.read_bytes()
        changed = odd_header(kind, data, rng)
    file.write_bytes(changed)
    if checked(kind, what, at, data):
        return "checksum"
    voxels = kind == "mhd + raw" or at >= (len(data) // 3 if kind == "dicom" else header_end(kind, data))
    return "voxels" if what == "bit" and voxels else "header"


def odd_header(kind: str, data: bytes, rng: random.Random) -> bytes:
    """Return the file with one header field set to an odd value, with a valid checksum."""
    if kind == "nii.gz":
        return gzip.compress(odd_header("nii", gzip.decompress(data), rng))
    if kind == "nii":
        header = nib.Nifti1Header(data[:348], check=False)
        names = [name for name in header.structarr.dtype.names if header.structarr.dtype[name].kind != "S"]
        name = rng.choice(names)
        values = header.structarr[name].copy().ravel()
        odd = rng.choice([0, -1, 1, 7, 255, 32767, 1e30, np.nan, np.inf])
        with np.errstate(all="ignore"):
            values[rng.randrange(values.size)] = np.array(odd).astype(values.dtype)
        header.structarr[name] = values.reshape(header.structarr[name].shape)
        return header.structarr.tobytes() + data[348:]
    if kind == "dicom":
        at = rng.randrange(132, len(data) // 3)  # a byte of the tags
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    end = header_end(kind, data) if kind != "mhd + raw" else len(data)
    lines = data[:end].decode("latin-1").split("\n")
    fields = [k for k, line in enumerate(lines) if re.search("[=:]", line) and not line.startswith("#")]
    k = rng.choice(fields)
    name, separator, value = re.match(r"([^=:]*)(\s?[=:]=?\s?)(.*)", lines[k]).groups()
    words = value.split(" ")
    words[rng.randrange(len(words))] = rng.choice(ODD)
    lines[k : k + 1] = rng.choice([[], [lines[k]] * 2, [f"{name}{separator}{' '.join(words)}"]])
    return "\n".join(lines).encode("latin-1") + data[end:]


# ---------------------------------------------------------------------------------------------------- through commands


class Bench:
    """Process of one format: sound files, a model, and every command's results on the sound files."""

    def __init__(self, kind: str, folder: Path, patient: Path, checkpoints: Path) -> None:
        from mrict_core.pipeline.synthesis import load_models

        os.environ["MRICT_CHECKPOINTS"] = str(checkpoints)
        end_with_parent()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        self.kind, self.folder = kind, folder
        self.roles = ("mr",) if kind == "dicom" else ("mr", "ct")  # what is mutated
        self.sound = {role: load_volume(patient / f"{role}.nii.gz") for role in ("mr", "ct", "mask")}
        self.models = load_models(["mk1"], "cpu")
        self.right: dict[str, Any] = {}
        for name, call in self.calls(*self.files(folder / "right")).items():
            self.right[name] = call()

    def files(self, place: Path) -> tuple[Path, dict[str, tuple[Path, Path]]]:
        """Write a patient in this format; in DICOM only the MR, because commands read no other role from it."""
        shutil.rmtree(place, ignore_errors=True)
        (place / "patient").mkdir(parents=True)
        whole = {role: "nii.gz" if self.kind == "dicom" and role != "mr" else self.kind for role in self.sound}
        return place, {role: write(kind, place / "patient", role, self.sound[role]) for role, kind in whole.items()}

    def calls(self, place: Path, files: dict[str, tuple[Path, Path]]) -> dict[str, Callable[[], Any]]:
        """Return {reader or command: call that returns its result}."""
        from mrict_core.pipeline.synthesis import synthesize_case

        mr, ct, mask = (files[role][0] for role in ("mr", "ct", "mask"))

        def read(path: Path) -> Any:
            volume = read_input(path)
            return volume.array.tobytes(), volume.affine.round(6).tolist(), volume.remarks

        def prepare() -> Any:
            store = preprocess(place, place / "store", region="brain", size=64, workers=1)
            slices = store.slices(store.patients[0])
            return slices.mr.tobytes(), slices.ct.tobytes(), slices.mask.tobytes()

        def score() -> Any:
            found = score_files(CaseFiles("x", ct, self.folder / "sct.nii.gz", mask), ScoreOptions())
            return found["mae_hu"], found["psnr_db"], found["ssim"]

        def synthesize() -> Any:
            synthesize_case(mr, place / "sct.nii.gz", self.models, SynthesisOptions(), overwrite=True)
            made = load_volume(place / "sct.nii.gz")
            return made.array.tobytes(), made.affine.round(6).tolist()

        sct = self.folder / "sct.nii.gz"
        if not sct.exists():
            save_nifti(sct, self.sound["ct"].array + 20, self.sound["ct"].affine, dtype=np.int16)
        of_mr = {"read mr": lambda: read(mr), "synthesize": synthesize}
        of_both = {"read ct": lambda: read(ct), "preprocess": prepare, "score": score}
        return of_mr if self.kind == "dicom" else of_mr | of_both

    def mutated(self, number: int) -> Found:
        """Mutate MR and CT once and run everything on them; return where they were changed, and the outcomes."""
        rng, what = random.Random(f"{self.kind} {number}"), KINDS[number % len(KINDS)]
        place, files = self.files(self.folder / "mutated")
        found = {f"where {role}": mutate(self.kind, *files[role], what, rng) for role in self.roles}
        started = time.perf_counter()
        found |= {name: self.outcome(name, call) for name, call in self.calls(place, files).items()}
        return found | {"seconds": f"{time.perf_counter() - started:.2f}"}

    def outcome(self, name: str, call: Callable[[], Any]) -> str:
        try:
            value = call()
        except MrictError as error:
            return "refused" if "\n" not in str(error) else "error of several lines"
        except BaseException as error:  # what a user would see as a traceback
            return f"traceback: {type(error).__name__}: {str(error)[:80]}"
        if name.startswith("read"):
            *value, remarks = value
            *right, usual = self.right[name]
            said = set(remarks) - set(usual)
            return "unchanged" if value == right else "said" if said else "differs"
        return "unchanged" if value == self.right[name] else "differs"


def prepare(*arguments: Any) -> None:
    global bench
    bench = Bench(*arguments)


def through(number: int) -> Found:
    return bench.mutated(number)


def tried(kind: str, scratch: Path, patient: Path, checkpoints: Path, count: int) -> list[Found]:
    """Run everything on `count` mutations of a format in a separate process; report one that kills it."""
    folder, found, pool = scratch / f"mutated {kind}", [], None
    folder.mkdir()
    for number in range(count):
        if pool is None:
            arguments = (kind, folder, patient, checkpoints)
            pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare, initargs=arguments)
        try:
            found.append(pool.submit(through, number).result(timeout=120))
        except BrokenProcessPool:
            found.append({"read mr": f"traceback: mutation {number} ended the process"})
            pool = None
        except TimeoutError:
            found.append({"read mr": f"traceback: mutation {number} took more than two minutes"})
            for process in pool._processes.values():
                process.kill()
            pool = None
    if pool:
        pool.shutdown()
    return found


def row(kind: str, found: list[Found]) -> dict[str, Any]:
    """Return the row of a format: outcomes and problems."""
    reads = Counter(
        (f.get(f"where {role}", "?"), f[f"read {role}"]) for f in found for role in ROLES if f"read {role}" in f
    )
    made = Counter()
    for (_, outcome), count in reads.items():
        made[outcome] += count
    problems = Counter(text for each in found for text in each.values() if text.startswith(("traceback", "error of")))
    problems["wrong under a checksum"] = sum(reads["checksum", outcome] for outcome in ("differs", "said"))
    for command, role in (("preprocess", "mr"), ("synthesize", "mr"), ("score", "ct")):
        slipped = sum(each.get(command) == "differs" and each[f"read {role}"] == "refused" for each in found)
        problems[f"{command} takes what the reader refuses"] = slipped
    told = "; ".join(f"{count} x {text}" for text, count in problems.most_common(4) if count)
    return {
        "case": f"{len(found)} mutated files: {kind}",
        "tries": reads.total(),
        "sound": max(0, reads.total() - problems.total()),
        "problems": told or "–",
        "refused": made["refused"],
        "unchanged": made["unchanged"],
        "taken with a remark": made["said"],
        "taken, voxels without checksum": reads["voxels", "differs"],
        "taken, header without checksum": reads["header", "differs"],
        "slowest_s": max(float(each.get("seconds", 0)) for each in found),
    }


def rows(scratch: Path, patient: Path, checkpoints: Path, count: int) -> list[dict[str, Any]]:
    """Return one row per format, as many at a time as there are cores."""
    one = partial(tried, scratch=scratch, patient=patient, checkpoints=checkpoints, count=count)
    with ThreadPoolExecutor(cpu_count()) as pool:
        found = [row(kind, each) for kind, each in zip(FORMATS, pool.map(one, FORMATS), strict=True)]
    for each in found:
        print(f"  {each}", flush=True)
    return found
