"""Where things lie. Every path of the suite is made here, so that notebooks run from any working directory."""

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
REGIONS = ("brain", "pelvis", "HN", "TH", "AB")  # of SynthRAD; phantoms exist of the first two
PROTOCOLS = ("patient", "predecessor")
DEFAULT_RUN = "demo-phantom-brain"


def _root(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable) or ROOT / folder).expanduser().resolve()


def pin_roots() -> None:
    """Make relative folders in the environment absolute, so that processes started elsewhere mean the same."""
    for variable in ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS", "MRICT_WEIGHTS"):
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())


def data_root() -> Path:
    """Folder of slice stores and phantoms (`MRICT_DATA`, else `data/`)."""
    return _root("MRICT_DATA", "data")


def checkpoints_root() -> Path:
    """Folder of trained networks (`MRICT_CHECKPOINTS`, else `checkpoints/`)."""
    return _root("MRICT_CHECKPOINTS", "checkpoints")


def reports_root() -> Path:
    """Folder of tables and figures (`MRICT_REPORTS`, else `reports/`)."""
    return _root("MRICT_REPORTS", "reports")


def printable(text: object) -> str:
    """Return `text` on one line that a terminal only shows: control characters and line ends as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shown(path: Path | str) -> str:
    """Return `path` as it is printed: relative to the repository where it is inside it, always printable."""
    path = Path(path)
    try:
        return printable(path.resolve().relative_to(ROOT))
    except (ValueError, OSError, RuntimeError):  # elsewhere, or a loop of links
        return printable(path)


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first names on one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


@dataclass(frozen=True)
class Workspace:
    """Everything that belongs to one combination of profile, data set, region and protocol.

    Two combinations never share a store, a checkpoint or a table, so numbers of different data cannot mix.
    """

    name: str
    profile: str
    region: str
    protocol: str
    data_dir: Path  # the input: a folder of patients in SynthRAD layout
    embedded: bool  # True: `data_dir` holds phantoms that the suite makes itself
    fold: str = ""  # the kind of another split of the same slices, leave_out_A say, with results of its own

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
        """The name under which checkpoints and reports lie."""
        return f"{self.name}-{self.fold}" if self.fold else self.name

    @property
    def checkpoints(self) -> Path:
        return checkpoints_root() / self.results

    @property
    def reports(self) -> Path:
        """The default run reports straight into `reports/`; every other one into a folder of its own."""
        default = self.results == DEFAULT_RUN
        return reports_root() if default else reports_root() / "runs" / self.results

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
    """Return the absolute path of a folder of patients."""
    try:
        source, problem = Path(data_dir).expanduser().resolve(), "no such folder"
        if source.is_dir():
            return source
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, names too long, unknown users, null bytes
        problem = f"no usable folder ({getattr(error, 'strerror', None) or error})"
    shortened = str(data_dir)[:200]
    raise MrictError(f"{shortened}: {problem}; give a folder of patients with mr, ct and mask files")


def workspace(profile: str, data_dir: str | Path = "", region: str = "brain", protocol: str = "patient") -> Workspace:
    """Return the workspace for a run.

    `data_dir` empty means the embedded phantom patients. A user's folder adds its name and a short hash of its
    absolute path, so that two folders of the same name stay apart.
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
