"""Where everything is kept. All paths are made here, so that notebooks run from any working directory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrict_core.errors import MrictError, unknown_name

ROOT = Path(__file__).resolve().parent.parent
PHANTOM = "phantom"
REGIONS = ("brain", "pelvis", "HN", "TH", "AB")  # of SynthRAD; phantoms exist for the first two
SPELLINGS = {  # of a region or body part, in lower-case letters => region
    **{region.lower(): region for region in REGIONS},
    **{"head": "brain", "skull": "brain", "headandneck": "HN", "headneck": "HN", "neck": "HN"},
    **{"thorax": "TH", "chest": "TH", "abdomen": "AB"},
}
PROTOCOLS = ("patient", "predecessor")
DEFAULT_RUN = "demo-phantom-brain"


def _root(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable) or ROOT / folder).expanduser().resolve()


def region_named(text: str) -> str:
    """Return the region that `text` spells, "" if none."""
    return SPELLINGS.get("".join(c for c in text.lower() if c.isalpha()), "")


def pin_roots() -> None:
    """Make the folders in the environment absolute, for processes with another working directory."""
    for variable in ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS", "MRICT_WEIGHTS"):
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())


def data_root() -> Path:
    """Folder of dataset caches and phantoms (`MRICT_DATA`, else `data/`)."""
    return _root("MRICT_DATA", "data")


def checkpoints_root() -> Path:
    """Folder of trained networks (`MRICT_CHECKPOINTS`, else `checkpoints/`)."""
    return _root("MRICT_CHECKPOINTS", "checkpoints")


def reports_root() -> Path:
    """Folder of tables and figures (`MRICT_REPORTS`, else `reports/`)."""
    return _root("MRICT_REPORTS", "reports")


def printable(text: object) -> str:
    """Return `text` on one line, control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shown(path: Path | str) -> str:
    """Return a printable path, relative to the repository if inside it."""
    path = Path(path)
    try:
        return printable(path.resolve().relative_to(ROOT))
    except (ValueError, OSError, RuntimeError):  # outside, or a loop of links
        return printable(path)


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first `most` names and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


@dataclass(frozen=True)
class Workspace:
    """The folders of one combination of profile, data set, region and protocol.

    Two combinations never share a dataset cache, a checkpoint or a table, so results of different data cannot mix.
    """

    name: str
    profile: str
    region: str
    protocol: str
    data_dir: Path  # input: patients in SynthRAD layout
    embedded: bool  # `data_dir` holds the phantoms that the suite makes
    fold: str = ""  # another split of the same slices, such as leave_out_A, with its own results

    def of_fold(self, kind: str) -> Workspace:
        """Return the workspace of another split of the same slices."""
        return dataclasses.replace(self, fold=kind)

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


def _folder(data_dir: str | Path) -> Path:
    try:
        source, problem = Path(data_dir).expanduser().resolve(), "no such folder"
        if source.is_dir():
            return source
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, names too long, unknown users, null bytes
        problem = f"not a usable folder ({getattr(error, 'strerror', None) or error})"
    raise MrictError(f"{str(data_dir)[:200]}: {problem}; give a folder of patients with mr, ct and mask files")


def workspace(profile: str, data_dir: str | Path = "", region: str = "brain", protocol: str = "patient") -> Workspace:
    """Return the workspace for a run.

    An empty `data_dir` means the embedded phantoms. A user's folder adds its name and a short hash of its absolute
    path, so that folders of the same name stay apart.
    """
    for kind, given, allowed in (("region", region, REGIONS), ("protocol", protocol, PROTOCOLS)):
        if given not in allowed:
            raise unknown_name(kind, given, allowed)
    if data_dir:
        source = _folder(data_dir)
        slug = re.sub(r"[^A-Za-z0-9_]+", "_", source.name) or "data"
        digest = hashlib.blake2b(str(source).encode(), digest_size=3).hexdigest()
        name = f"{profile}-{slug}-{region}-{digest}"
    else:
        source = data_root() / PHANTOM / profile
        name = f"{profile}-{PHANTOM}-{region}"
    if protocol != "patient":
        name += f"-{protocol}"
    return Workspace(name, profile, region, protocol, data_dir=source, embedded=not data_dir)
