"""A user's own experiments: values changed on the command line, and files that define experiments.

--set loss.l1.weight=20              one value by its path; repeatable
--experiment my.yaml                 parent, name, why and the changes, by path or nested; or a list of these
--experiment my.py                   defines Experiment objects, or calls derive(parent, name, changes, why=…)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mrict_core import experiments, parts
from mrict_core.errors import MrictError
from mrict_core.experiments.listing import number
from mrict_core.experiments.saved import NAME
from mrict_core.experiments.schema import Experiment, History, as_plain, flattened, from_plain, with_values
from mrict_core.files import available, hash_of
from mrict_core.paths import shown

NAME_MAX = 80  # characters; the changes in a longer name become a hash
RESERVED = ("baseline_", "control_")  # prefixes of baselines and controls
LOADED: set[str] = set()  # paths of files that this process has loaded
OF_SELF = ("name", "why", "parent", "init_from")


def chosen(
    text: str = "",
    sets: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    name: str = "",
    check: Callable[[Experiment], None] = lambda experiment: None,
) -> list[Experiment]:
    """Return the requested experiments, without their ancestors.

    text: names or sets of names (`experiments.named`), or "": everything that the files define. sets: values to change,
    by path, in each of them, which makes new experiments. name: of a single changed one. check: raises MrictError for
    an experiment that cannot be built.
    """
    defined = [one for path in files for one in load(Path(path))]
    if files and not text and not defined:
        raise MrictError(f"{shown(files[0])}: defines no experiment; name the variant that uses its parts")
    found = [experiments.get(one) for one in experiments.named(text)] if text or not defined else defined
    if name and (len(found) != 1 or not sets):
        raise MrictError(f"--name {name}: names one variant changed by --set; give one variant and a --set, or no name")
    if sets:
        found = [changed(one, parse(sets), name) for one in found]
    for one in found:
        check(one)
    return found


def parse(sets: Iterable[str]) -> dict[str, Any]:
    """Return {path: value} of texts "path=value"; values are yaml, 1e-4 is a number."""
    found: dict[str, Any] = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise MrictError(f"--set {text}: expected PATH=VALUE, such as loss.l1.weight=20")
        try:
            found[path.strip()] = _numbers(_yaml(value))
        except MrictError as error:
            raise MrictError(f"--set {text[:80]}: the value is {error}") from None
    return found


def _yaml(text: str) -> Any:
    """Return what a yaml text holds. An alias (*name) is refused: a few of them can stand for billions of values."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise MrictError("yaml with an alias (*name); write the values out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MrictError(f"not yaml ({' '.join(str(error).split())[:150]})") from None


def _numbers(value: Any) -> Any:
    """Return yaml values with numbers that yaml leaves as text, such as 1e-4, as numbers."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            return float(value)
        except ValueError:
            pass
    return value


def changed(experiment: Experiment, changes: Mapping[str, Any], name: str = "") -> Experiment:
    """Return a child of an experiment with values changed; it starts from the same weights.

    name: default made of the changes, "mk1+l1.weight=20". Raises MrictError if a value does not change.
    """
    if inner := sorted(path for path in changes if path in OF_SELF):
        raise MrictError(f"--set {inner[0]}: names an experiment and does not change it; see --name")
    new = with_values(experiment, changes, "--set")
    before, after = (dict(flattened(as_plain(one))) for one in (experiment, new))
    for path in changes:
        if path in before and before[path] == after.get(path):
            raise MrictError(f"--set {path}: {before[path]} is already the value of {experiment.name}; leave it out")
    why = f"{experiment.name} with {', '.join(f'{path} = {value}' for path, value in changes.items())}"
    own = {"name": name or _name(experiment.name, changes), "parent": experiment.name, "history": History()}
    return add(dataclasses.replace(new, **own, why=why))


def _name(parent: str, changes: Mapping[str, Any]) -> str:
    """Return "mk1+epochs=3+l1.weight=20": paths without their first part, sorted."""
    parts = [f"{path.partition('.')[2] or path}={_text(value)}" for path, value in sorted(changes.items())]
    name = "+".join([parent, *parts])
    return name if len(name) <= NAME_MAX else f"{parent}+{hash_of(dict(changes))[:8]}"


def _text(value: Any) -> str:
    if type(value) in (int, float):
        return number(value).replace("+", "")  # the sign stays: -5 is not 5
    text = str(value)
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in text).strip("-") or "none"


def derive(
    parent: str | Experiment, name: str, changes: Mapping[str, Any], *, why: str = "", init_from: str | None = None
) -> Experiment:
    """Return a child of an experiment with values changed by path; init_from is not inherited."""
    base = parent if isinstance(parent, Experiment) else experiments.get(parent)
    own = {"name": name, "why": why, "parent": base.name, "init_from": init_from, "history": History()}
    return add(with_values(base, changes, f"experiment '{name}'", **own))


def add(experiment: Experiment) -> Experiment:
    """Make a user's experiment known to `experiments.get` for the rest of this process; return it."""
    name = experiment.name
    if not NAME.fullmatch(name) or name.startswith(RESERVED):
        raise MrictError(
            f"experiment '{name}': not a name for folders; expected at most 100 letters, digits and . _ + = -, "
            f"with a letter or digit first, and not {' or '.join(RESERVED)}"
        )
    if experiments.is_declared(name):
        raise MrictError(f"experiment '{name}': a declared variant has that name; choose another")
    for other in (experiment.parent, experiment.init_from):
        if other:
            experiments.get(other)
    experiments.OF_USER.pop(name, None)  # the newest definition comes last
    experiments.OF_USER[name] = experiment
    return experiment


def load(path: Path) -> list[Experiment]:
    """Return the experiments that a file defines, in its order, and make them known by name.

    A .py file is executed, so it must be trusted; it may only register parts. Processes that this one starts know the
    file too. Raises MrictError, with the file's name, for one that cannot be read or defines nothing valid.
    """
    path = Path(os.path.abspath(path.expanduser()))
    readers = {".py": _of_python, ".yaml": _of_yaml, ".yml": _of_yaml}
    if path.suffix not in readers:
        raise MrictError(f"{shown(path)}: expected a file of experiments, {', '.join(readers)}")
    if os.pathsep in str(path):
        raise MrictError(
            f"{shown(path)}: '{os.pathsep}' separates files in {parts.USERS_FILES}; rename the file or folder"
        )
    LOADED.add(str(path))
    try:
        found = readers[path.suffix](path)
    except MrictError as error:
        named = str(error).startswith(shown(path))
        raise error if named else MrictError(f"{shown(path)}: {error}") from None
    if len({one.name for one in found}) < len(found):
        raise MrictError(f"{shown(path)}: defines two experiments of one name; give each its own")
    if not found and str(path) not in parts.REGISTERED:
        raise MrictError(f"{shown(path)}: defines no experiment; derive one, see docs/howto/variant.md")
    os.environ[parts.USERS_FILES] = os.pathsep.join(dict.fromkeys([*parts.users_files(), str(path)]))
    return found


def load_named() -> None:
    """Load the files in MRICT_EXPERIMENTS that this process did not load yet."""
    for path in parts.users_files():
        if path not in LOADED:
            load(Path(path))


def _of_python(path: Path) -> list[Experiment]:
    before = dict(experiments.OF_USER)
    with available(path):
        values = parts.run_file(str(path))
    derived = [one for one in experiments.OF_USER.values() if before.get(one.name) is not one]
    listed = [one for value in values.values() for one in (value if isinstance(value, list | tuple) else [value])]
    own = [one for one in listed if isinstance(one, Experiment) and not experiments.is_declared(one.name)]
    return derived + [add(one) for one in own if one not in derived]


def _of_yaml(path: Path) -> list[Experiment]:
    try:
        with available(path):
            text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MrictError(f"not yaml ({' '.join(str(error).split())[:150]})") from None
    content = _yaml(text)
    return [_of_values(values) for values in (content if isinstance(content, list) else [content]) if values]


def _of_values(values: Any) -> Experiment:
    if not isinstance(values, Mapping):
        raise MrictError(f"holds {str(values)[:40]!r}, expected named values: parent, name, why and the changes")
    values = _numbers(dict(values))
    if not values.get("name"):
        raise MrictError("'name' is missing; give the experiment one")
    own = {key: values.pop(key) for key in OF_SELF if key in values}
    if not own.get("parent"):
        return add(from_plain(Experiment, own | values, f"experiment '{own['name']}'", strict=True))
    texts = {key: str(value) for key, value in own.items() if value is not None and key != "parent"}
    return derive(str(own["parent"]), changes=dict(_paths(values)), **texts)


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of nested values; a part with a name replaces the whole part."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and "name" not in value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
