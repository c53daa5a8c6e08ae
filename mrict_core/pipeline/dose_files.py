"""The files of a case for its dose: CT, synthetic CTs, masks and structures, on one grid, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mrict_core.data.case_csv import FOLDER_NAME
from mrict_core.data.checks.hu_values import check_hu, check_sct
from mrict_core.data.dicom import is_dicom, read_series
from mrict_core.data.dicom.rtstruct import TARGET_TYPES, Structure, mask_of, read_structures
from mrict_core.data.images.grids import check_same_grid
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import Volume, hash_image, load_volume
from mrict_core.dose.study import Scans
from mrict_core.errors import MrictError
from mrict_core.files import hash_file, hash_of
from mrict_core.paths import shown

PLANNED = ("target", "body")  # structures of every plan
CT = "CT"  # in figures, beside the names of synthetic CTs


@dataclass(frozen=True)
class DoseCase:
    """The files of one case; structures are files, or names in the RTSTRUCT.

    Raises MrictError for names of organs and synthetic CTs that would be taken for others.
    """

    name: str
    ct: Path
    scts: Mapping[str, Path]  # model, or any name => synthetic CT
    mask: Path
    target: str = ""
    organs: Mapping[str, str] = field(default_factory=dict)  # name => file, or its name in the RTSTRUCT
    rtstruct: Path | None = None

    def __post_init__(self) -> None:
        for name in self.organs:
            if name.lower() in PLANNED:
                raise MrictError(
                    f"{self.name}: an organ is named {name}, as a structure of every plan; expected another; rename it"
                )
        for name in self.scts:
            if name.upper() == CT or not FOLDER_NAME.fullmatch(name):
                raise MrictError(
                    f"{self.name}: a synthetic CT is named {name}, as the CT or as no file can be; expected letters, "
                    "digits, _, -; rename it"
                )

    def hashes(self) -> dict[str, str]:
        """Return a hash of the content of every file."""
        files = {"ct": self.ct, "mask": self.mask, "rtstruct": self.rtstruct}
        files |= {f"sct {name}": path for name, path in self.scts.items()}
        named = {"target": self.target} | {f"organ {name}": text for name, text in self.organs.items()}
        files |= {role: Path(text) for role, text in named.items() if text and not self._in_rtstruct(text)}
        return {role: _hash(path) for role, path in files.items() if path}

    def _in_rtstruct(self, text: str) -> bool:
        return self.rtstruct is not None and not Path(text).exists()

    def read(self) -> tuple[Scans, list[str]]:
        """Return the images, and what the checks remark.

        Raises MrictError for a CT or sCT that is not in HU, other grids, and structures that cannot be found.
        """
        ct, mask = _volume(self.ct), load_volume(self.mask)
        _same_grid(ct, mask, "mask")
        inside = mask.array > 0
        if not inside.any():
            raise MrictError(f"{shown(self.mask)}: the mask is empty; expected the body; check the file")
        notes = [f"CT: {line}" for line in check_hu(ct.array, ct.path, inside)]
        like = itk_image(ct)
        scts = {}
        for name, path in self.scts.items():
            sct = _volume(path)
            _same_grid(ct, sct, "sCT")
            notes += [f"{name}: {line}" for line in check_sct(sct.array, ct.array, inside, path)]
            scts[name] = on_grid_of(like, sct.array.astype(np.float32))
        structures = read_structures(self.rtstruct) if self.rtstruct else {}
        targets = {}
        if name := self.target or _target_of(structures, self.rtstruct):
            targets = {"target": self._structure(name, structures, like, ct)}
        organs = {name: self._structure(text, structures, like, ct) for name, text in self.organs.items()}
        return Scans(like, on_grid_of(like, inside.astype(np.uint8)), scts, targets, organs), notes

    def _structure(self, text: str, structures: dict[str, Structure], like: sitk.Image, ct: Volume) -> sitk.Image:
        """Return a structure of the RTSTRUCT by name, or the mask in a file."""
        if text in structures:
            return mask_of(structures[text], like)
        if structures and not Path(text).exists():
            held = ", ".join(sorted(structures))
            raise MrictError(f"{shown(self.rtstruct)}: no structure named {text}; it holds {held}; give one of them")
        volume = load_volume(text)
        _same_grid(ct, volume, "structure")
        return on_grid_of(like, (volume.array > 0).astype(np.uint8))


def _hash(path: Path) -> str:
    if path.is_dir():
        return hash_of([(file.name, hash_file(file)) for file in sorted(path.iterdir()) if file.is_file()])
    return hash_file(path) if is_dicom(path) else hash_image(path)


def _volume(path: Path) -> Volume:
    return read_series(path) if path.is_dir() or is_dicom(path) else load_volume(path)


def _same_grid(ct: Volume, volume: Volume, role: str) -> None:
    check_same_grid({"CT": (ct.shape, ct.affine, ct.path), role: (volume.shape, volume.affine, volume.path)})


def on_grid_of(like: sitk.Image, array: np.ndarray) -> sitk.Image:
    """Return an array in file order (nx, ny, nz) as an image on a CT's grid."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.CopyInformation(like)
    return image


def _target_of(structures: dict[str, Structure], path: Path | None) -> str:
    """Return the name of the only PTV, else of the only CTV or GTV; "" without an RTSTRUCT."""
    if not structures:
        return ""
    for kind in TARGET_TYPES:
        named = [name for name, one in structures.items() if one.kind == kind]
        if len(named) == 1:
            return named[0]
        if named:
            break
    raise MrictError(f"{shown(path)}: which structure is the target? It holds {', '.join(structures)}; give --target")
