"""What an installation has and lacks, for bug reports. Nothing of a patient: no data folder, no file name, no id."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tomllib
import webbrowser
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mrict_core import __version__, paths
from mrict_core.errors import MrictError
from mrict_core.machine import cpu_count, free_memory, native_bfloat16

DISTRIBUTION = "mrict-core"
PYTHON = (3, 11)
DISK_GB = 1.0  # below, not even one training's checkpoints fit
DEVELOPERS = ("test", "docs")  # extras that no user needs
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")  # names of one browser
FOLDERS = {
    "data": ("MRICT_DATA", paths.data_root),
    "checkpoints": ("MRICT_CHECKPOINTS", paths.checkpoints_root),
    "reports": ("MRICT_REPORTS", paths.reports_root),
}


def examine() -> dict[str, Any]:
    """Return everything as plain json values; `problems` has a line for each need that is missing."""
    problems: list[str] = []
    if sys.version_info < PYTHON:
        problems.append(f"Python {platform.python_version()}: expected 3.11 or newer; install it")
    found = {
        "mrict": __version__,
        "form": "installed package" if paths.INSTALLED else "checkout",
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": _packages(problems),
        "cpu": {"name": _cpu_name(), "cores": cpu_count()},
        "memory_gb": _memory_gb(),
        "folders": _folders(problems),
        "browser": _browser(),
        "problems": problems,
    }
    for name, folder in (("notebooks", paths.NOTEBOOKS), ("parameters", paths.PARAMS), ("starters", paths.STARTERS)):
        if not folder.is_dir():
            problems.append(f"{_home(folder)}: no {name}; expected those of MRICT; install it again")
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of its own is missing
        problems.append(f"torch cannot be imported ({_masked(error)}); expected 2.11 or newer; install it again")
        return found
    found |= _device(found["cpu"]) | {"weights": _weights()}
    return found | {"models": _models()} if found["folders"] else found  # models lie in them


def requirements() -> dict[str, list[Requirement]]:
    """Return the packages that pyproject.toml names, by extra; "": those always needed."""
    if paths.INSTALLED:
        facts = metadata.metadata(DISTRIBUTION)
        every = [Requirement(text) for text in facts.get_all("Requires-Dist")]
        parsed = {
            extra: [one for one in every if (one.marker.evaluate({"extra": extra}) if one.marker else not extra)]
            for extra in ("", *facts.get_all("Provides-Extra"))
        }
    else:
        project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = {"": project["dependencies"], **project["optional-dependencies"]}
        parsed = {extra: [Requirement(text) for text in texts] for extra, texts in named.items()}
    return {extra: [one for one in own if one.name != DISTRIBUTION] for extra, own in parsed.items()}


def _packages(problems: list[str]) -> list[dict[str, str]]:
    """Return a row per package; add those that are needed and missing, or too old, to `problems`."""
    rows = []
    for extra, wanted in requirements().items():
        for one in wanted if extra not in DEVELOPERS else ():
            version = _version(one.name)
            rows.append({"name": one.name, "version": version, "expected": str(one.specifier), "extra": extra})
            usable = version and one.specifier.contains(version, prereleases=True)
            if not usable and (version or not extra):  # what an extra lacks was not asked for
                problems.append(
                    f"{one.name}: {version or 'not installed'}; expected {one.specifier}; pip install -U '{one}'"
                )
    return [*rows, *_dose_packages(problems)]


def _dose_packages(problems: list[str]) -> list[dict[str, str]]:
    """Return a row per pin of `dose`; add those of another version to `problems` if pyRadPlan, the first, is there."""
    lines = paths.DOSE_PINS.read_text(encoding="utf-8").splitlines()
    remedy = f"pip install --no-deps -r {paths.shown(paths.DOSE_PINS)}"
    rows = []
    for one in (Requirement(line) for line in lines if line and not line.startswith("#")):
        row = {"name": one.name, "version": _version(one.name), "expected": str(one.specifier), "extra": "dose"}
        rows.append(row)
        if rows[0]["version"] and not one.specifier.contains(row["version"] or "0", prereleases=True):
            problems.append(f"{one.name}: {row['version'] or 'not installed'}; expected {one.specifier}; {remedy}")
    return rows


def _version(package: str) -> str:
    """Return the installed version of a package; "" without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> dict[str, float]:
    try:
        import psutil
    except ImportError:  # named among the packages
        return {}
    return {"total": _gb(psutil.virtual_memory().total), "free": _gb(free_memory())}


def _gb(size: int) -> float:
    return round(size / 1e9, 1)


def _folders(problems: list[str]) -> list[dict[str, Any]]:
    """Return a row per folder: where it is, what says so, and how much space is left there."""
    try:
        work = paths.work_root()
    except MrictError as error:
        problems.append(_masked(error))
        return []
    default = "current folder" if paths.INSTALLED else "checkout"
    rows = [_folder("work", work, f"{paths.HOME} or --workdir" if os.environ.get(paths.HOME) else default, problems)]
    for name, (variable, root) in FOLDERS.items():
        rows.append(_folder(name, root(), variable if os.environ.get(variable) else "work folder", problems))
    return rows


def _folder(name: str, path: Path, source: str, problems: list[str]) -> dict[str, Any]:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = _gb(shutil.disk_usage(there).free)
    if not os.access(there, os.W_OK):
        problems.append(f"{name} folder {_home(path)}: not writable; expected a folder of your own; give --workdir")
    elif free < DISK_GB:
        problems.append(f"{name} folder {_home(path)}: {free} GB free; expected {DISK_GB:g} GB; free some space")
    return {"name": name, "path": _home(path), "from": source, "free_gb": free}


def _home(path: Path) -> str:
    """Return a path for others' eyes: without the name of the user's own folder."""
    home = Path.home()
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _masked(message: object) -> str:
    """Return a message for others' eyes, as `_home` for paths."""
    return str(message).replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def _browser() -> str:
    for name in (*CHROMIUM, "firefox"):
        if shutil.which(name):
            return name
    with contextlib.suppress(webbrowser.Error):
        return webbrowser.get().name
    return ""


def _device(cpu: dict[str, Any]) -> dict[str, Any]:
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        gpus.append({"name": card.name, "memory_gb": _gb(card.total_memory), "bfloat16": bfloat16})
    driver = shutil.which("nvidia-smi") is not None
    return {"cpu": cpu | {"bfloat16": native_bfloat16()}, "gpus": gpus, "cuda": torch.version.cuda, "driver": driver}


def _weights() -> dict[str, str]:
    """Return found, missing or damaged for each of the pretrained weights."""
    from mrict_core.networks.weights import FILES, local_only, locate

    found = {}
    with local_only():
        for name in FILES:
            try:
                locate(name)
                found[name] = "found"
            except MrictError as error:
                found[name] = "damaged" if "sha256" in str(error) else "missing"
    return found


def _models() -> list[dict[str, Any]]:
    from mrict_core.models.catalogue import entries

    return [
        {"name": e.name, "region": e.region, "demo": e.demo, "mae_hu": e.mae_hu, "damaged": bool(e.problem)}
        for e in entries()
    ]


def as_text(found: dict[str, Any]) -> str:
    """Return the same as lines to paste into a bug report."""
    cpu, memory = found["cpu"], found["memory_gb"]
    lines = [
        f"MRICT {found['mrict']} ({found['form']}), Python {found['python']}, {found['system']}",
        f"CPU      {cpu['name']}, {cpu['cores']} cores{_bfloat16(cpu)}",
    ]
    if memory:
        lines.append(f"memory   {memory['free']} GB free of {memory['total']} GB")
    if "gpus" in found:
        cards = [f"{gpu['name']}, {gpu['memory_gb']} GB{_bfloat16(gpu)}" for gpu in found["gpus"]]
        blind = "; nvidia-smi is there: is this torch's CPU build, or the driver too old?" if found["driver"] else ""
        none = f"none that torch sees (built for CUDA {found['cuda']}){blind}"
        lines.append(f"GPU      {'; '.join(cards) or none}")
    lines.append(f"browser  {found['browser'] or 'none found; the report page needs one'}")
    lines += ["", "folders"]
    for row in found["folders"]:
        lines.append(f"  {row['name']:12s} {row['path']} ({row['from']}), {row['free_gb']} GB free")
    packages: dict[str, list[str]] = {}
    for row in found["packages"]:
        packages.setdefault(row["extra"], []).append(f"{row['name']} {row['version'] or 'missing'}")
    for extra, each in packages.items():
        lines += ["", f"optional packages [{extra}]" if extra else "packages", *_wrapped(each)]
    if "weights" in found:
        lines += ["", "pretrained weights (needed by some trainings and metrics; downloaded when first used)"]
        lines += _wrapped([f"{name}: {state}" for name, state in found["weights"].items()])
    if "models" in found:
        lines += ["", "published models"]
        lines += [f"  {_model(model)}" for model in found["models"]] or ["  none"]
    problems = [f"problem: {text}" for text in found["problems"]]
    return "\n".join([*lines, "", *(problems or ["no problem found"])])


def _bfloat16(unit: dict[str, Any]) -> str:
    if "bfloat16" not in unit:
        return ""
    return f", {'with' if unit['bfloat16'] else 'without'} bfloat16"


def _model(model: dict[str, Any]) -> str:
    if model["damaged"]:
        return f"{model['name']}: damaged, see `models --check`"
    score = "not scored" if model["mae_hu"] is None else f"{model['mae_hu']:.1f} HU"
    return f"{model['name']}: {model['region'] or 'region unknown'}, {score}{', demo' if model['demo'] else ''}"


def _wrapped(items: list[str]) -> list[str]:
    import textwrap

    return textwrap.wrap(", ".join(items), 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
