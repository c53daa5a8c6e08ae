"""Where everything is kept. All paths are made here, so that notebooks run from any working directory.

*Source* is only read: notebooks, parameters and starter models, beside the module in a checkout, inside it in an
installed package. *Work* is all that is written: data, checkpoints and reports, in the work folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mrict_core.errors import MrictError, unknown_name
from mrict_core.modalities import CT_FILES, MR, Modality, check_input, modality_named

ROOT = Path(__file__).resolve().parent.parent  # the checkout; of an installed package: site-packages
PACKAGED = ROOT / "mrict_core" / "packaged"  # made by the build of a wheel, see pyproject.toml
INSTALLED = PACKAGED.is_dir()
SOURCE = PACKAGED if INSTALLED else ROOT
NOTEBOOKS, PARAMS, STARTERS = SOURCE / "notebooks", SOURCE / "params", SOURCE / "checkpoints"
DOSE_PINS = SOURCE / "requirements-dose.txt"  # what `dose` needs beside the requirements
HOME = "MRICT_HOME"
SUITE_COMMAND = "mrict suite" if INSTALLED else "./run_all.sh"
PHANTOM = "phantom"
PHANTOMS = "embedded phantoms"  # the input in words, where it is not a user's folder
REGIONS = ("brain", "pelvis", "HN", "TH", "AB")  # of SynthRAD; phantoms exist for the first two
SPELLINGS = {  # of a region or body part, in lower-case letters => region
    **{region.lower(): region for region in REGIONS},
    **{"head": "brain", "skull": "brain", "headandneck": "HN", "headneck": "HN", "neck": "HN"},
    **{"thorax": "TH", "chest": "TH", "abdomen": "AB"},
}
LONG_NAMES = {"HN": "head-neck", "TH": "thorax", "AB": "abdomen"}  # SynthRAD2025's folders => as people say
REGION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")  # of another region: part of folders' names
SPELLED_ALIKE = 0.8  # a name so near to a known region is a slip of the pen
PROTOCOLS = ("patient", "predecessor")
DEFAULT_RUN = "demo-phantom-brain"
Folders = str | Path | Sequence[str | Path]  # one folder or several


def work_root() -> Path:
    """Folder of data, checkpoints and reports: `MRICT_HOME` (or `--workdir`), else the checkout, else the current one.

    Raises MrictError for a file, a folder below a file, and the folder of installed packages.
    """
    folder = Path(os.environ.get(HOME) or (Path.cwd() if INSTALLED else ROOT)).expanduser().resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        where = "a file" if there == folder else f"cannot be made, {shown(there)} is a file"
        raise MrictError(f"{shown(folder)}: {where}; expected a work folder; give another --workdir, or set {HOME}")
    if INSTALLED and folder.is_relative_to(ROOT):
        raise MrictError(
            f"{printable(folder)}: holds installed packages; expected a work folder; give --workdir, or set {HOME}"
        )
    return folder


def _root(variable: str, folder: str) -> Path:
    given = os.environ.get(variable)
    return Path(given).expanduser().resolve() if given else work_root() / folder


def region_named(text: str) -> str:
    """Return the region that `text` spells, "" if none."""
    return SPELLINGS.get("".join(c for c in text.lower() if c.isalpha()), "")


def spelled(name: str) -> str:
    """Return the known region that a whole name spells ("Head-Neck": HN), "" if none; digits count."""
    return SPELLINGS.get(re.sub(r"[\s_-]", "", name.lower()), "")


def as_region(text: str) -> str:
    """Return the region of a user's name: a known one in any spelling (head-neck is HN), or one of the user's own.

    Raises MrictError for what cannot name a folder, and for a name nearly that of a known region.
    """
    name = text.strip().lower()
    if known := spelled(name):
        return known
    slip = name.isalpha() and difflib.get_close_matches(name, SPELLINGS, cutoff=SPELLED_ALIKE)
    if slip or not REGION_NAME.fullmatch(name):
        raise unknown_name("region", text[:60], {*REGIONS, *LONG_NAMES.values()})
    return name


def is_folder_of(region: str, name: str) -> bool:
    """Return whether a folder's name spells a region: Task1/head-neck is that of HN."""
    return region in (name, spelled(name) or name.lower())


def pin_roots() -> None:
    """Put the folders and the module into the environment, for processes with another working directory."""
    for variable in ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS", "MRICT_WEIGHTS"):
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())
    os.environ[HOME] = str(work_root())
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not INSTALLED and str(ROOT) not in known:  # site-packages would come before Python's own modules
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), *known]))


def data_root() -> Path:
    """Folder of dataset caches and phantoms (`MRICT_DATA`, else `data/` in the work folder)."""
    return _root("MRICT_DATA", "data")


def checkpoints_root() -> Path:
    """Folder of trained networks (`MRICT_CHECKPOINTS`, else `checkpoints/` in the work folder)."""
    return _root("MRICT_CHECKPOINTS", "checkpoints")


def reports_root() -> Path:
    """Folder of tables and figures (`MRICT_REPORTS`, else `reports/` in the work folder)."""
    return _root("MRICT_REPORTS", "reports")


def printable(text: object) -> str:
    """Return `text` on one line, control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shown(path: Path | str) -> str:
    """Return a printable path, relative to the checkout if inside it; of an installed package to the current folder."""
    path = Path(path)
    try:
        return printable(path.resolve().relative_to(Path.cwd() if INSTALLED else ROOT))
    except (ValueError, OSError, RuntimeError):  # outside, or a loop of links
        return printable(path)


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first `most` names and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def as_folders(given: Folders) -> tuple[Path, ...]:
    """Return one folder or several as paths."""
    return tuple(map(Path, [given] if isinstance(given, str | Path) else given))


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the only folder, or the nearest one that holds them all."""
    return Path(os.path.commonpath(folders))


@dataclass(frozen=True)
class Workspace:
    """The folders of one combination of profile, data set, region and protocol.

    Two combinations never share a dataset cache, a checkpoint or a table, so results of different data cannot mix.
    """

    name: str
    profile: str
    region: str
    protocol: str
    data_dirs: tuple[Path, ...]  # input: folders of patients in SynthRAD layout
    embedded: bool  # the input is the phantoms that the suite makes
    modality: str = MR.name  # of the input, see `modalities`
    ct: str = "rigid"  # which CT is the target
    exclude_metal: bool = False  # losses and scores leave out the patients' metal masks
    fold: str = ""  # another split of the same slices, such as leave_out_A, with its own results

    def of_fold(self, kind: str) -> Workspace:
        """Return the workspace of another split of the same slices."""
        return dataclasses.replace(self, fold=kind)

    @property
    def input(self) -> Modality:
        """What the input images are."""
        return modality_named(self.modality)

    @property
    def data_dir(self) -> Path:
        """The folder of the input, or the nearest one that holds all its folders."""
        return common_folder(self.data_dirs)

    @property
    def data_name(self) -> str:
        """The input in words."""
        return PHANTOMS if self.embedded else ", ".join(folder.name for folder in self.data_dirs)

    @property
    def store(self) -> Path:
        return data_root() / "stores" / self.name

    @property
    def split_file(self) -> Path:
        return self.store / (f"split-{self.fold}.json" if self.fold else "split.json")

    @property
    def results(self) -> str:
        """Name of the folders of checkpoints and reports."""
        return f"{self.name}-{self.fold}" if self.fold else self.name

    @property
    def checkpoints(self) -> Path:
        return checkpoints_root() / self.results

    @property
    def reports(self) -> Path:
        """`reports/` itself for the default run, else `reports/runs/<name>`."""
        return reports_root() if self.results == DEFAULT_RUN else reports_root() / "runs" / self.results

    @property
    def metrics(self) -> Path:
        return self.reports / "metrics"

    @property
    def figures(self) -> Path:
        return self.reports / "figures"

    @property
    def executed(self) -> Path:
        return self.reports / "executed"


def _folder(data_dir: str | Path, role: str) -> Path:
    try:
        source, problem = Path(data_dir).expanduser().resolve(), "no such folder"
        if source.is_dir():
            return source
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, names too long, unknown users, null bytes
        problem = f"not a usable folder ({getattr(error, 'strerror', None) or error})"
    raise MrictError(f"{str(data_dir)[:200]}: {problem}; give a folder of patients with {role}, ct and mask files")


def _apart(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the folders; raise `MrictError` if one is given twice or is inside another."""
    for inner, outer in combinations(sorted(folders, reverse=True), 2):
        if inner.is_relative_to(outer):
            how = "given twice" if inner == outer else f"inside {shown(outer)}, which is given too"
            raise MrictError(f"{shown(inner)}: {how}; expected every patient in one folder; leave one --data out")
    return folders


def workspace(
    profile: str,
    data_dir: Folders = "",
    region: str = "brain",
    protocol: str = "patient",
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> Workspace:
    """Return the workspace for a run.

    An empty `data_dir` means the embedded phantoms. A user's folders add a name and a short hash of their absolute
    paths, so that folders of the same name stay apart. `region` may be a user's own name, see `as_region`; phantoms
    have only known ones.
    """
    region = as_region(region)
    if not data_dir and region not in REGIONS:
        raise unknown_name("region", region, REGIONS)
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    check_input(modality, ct, protocol)
    if not data_dir and ct != "rigid":
        raise MrictError(f"--ct {ct}: the phantoms have one CT; expected --data with {CT_FILES[ct]} files; give --data")
    if data_dir:
        sources = _apart(tuple(_folder(folder, modality) for folder in as_folders(data_dir)))
        if len(sources) > 1 and protocol == "predecessor":
            raise MrictError("--data: several folders; expected one with protocol predecessor, which knows no persons")
        slug = re.sub(r"[^A-Za-z0-9_]+", "_", some([source.name for source in sources], 1)) or "data"
        digest = hashlib.blake2b("\n".join(map(str, sources)).encode(), digest_size=3).hexdigest()
        name = f"{profile}-{slug}-{region}-{digest}"
    else:
        sources = (data_root() / PHANTOM / profile,)
        name = f"{profile}-{PHANTOM}-{region}"
    if protocol != "patient":
        name += f"-{protocol}"
    name += f"-{modality}" * (modality != MR.name) + f"-{ct}" * (ct != "rigid")
    name += "-no_metal" * exclude_metal
    return Workspace(name, profile, region, protocol, sources, not data_dir, modality, ct, exclude_metal)
