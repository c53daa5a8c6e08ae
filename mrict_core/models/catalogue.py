"""The registry of published models, and the model that a name refers to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import all_variants, get
from mrict_core.modalities import MR
from mrict_core.models.about import About, about_of
from mrict_core.models.folder import (
    FACTS,
    WEIGHTS,
    card_of,
    check_discriminators,
    check_weights,
    is_model,
    read_model,
    read_scores,
)
from mrict_core.paths import STARTERS, SUITE_COMMAND, checkpoints_root, shown, some
from mrict_core.training.runs import unpublished

if TYPE_CHECKING:
    import pandas as pd

SHORT = 8  # digits of a hash in names
OTHERS = 4  # models in one line
# raised by files with unexpected values
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError, RecursionError)


@dataclass(frozen=True)
class Entry:
    """One published model; if it is unusable, `problem` says why and other fields may be empty."""

    variant: str
    hash: str
    path: Path
    own_name: str = ""  # of its folder, if it stands directly in the folder of checkpoints
    kind: str = ""  # "trained" | "imported"
    label: str = ""  # of the profile
    demo: bool = False
    data: str = ""  # what it was trained on
    region: str = ""  # "": unknown
    modality: str = MR.name  # that it reads
    about: About = field(default_factory=About)
    published: str = ""  # date and time, UTC
    mae_hu: float | None = None  # mean over the held-out patients; None: not scored
    patients: int = 0  # held out and scored
    networks: tuple[str, ...] = ()
    makes_ct: bool = False  # False: discriminators only
    problem: str = ""

    @property
    def name(self) -> str:
        """The model's name: that of its own, or variant@hash, shortened."""
        return self.own_name or f"{self.variant}@{self.hash[:SHORT]}"

    @property
    def result(self) -> str:
        """Its mean error on held-out patients, in words."""
        if self.mae_hu is None:
            return "not scored"
        return f"{self.mae_hu:.1f} HU on {self.patients} held-out patient{'s' * (self.patients != 1)}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain json values."""
        return {"name": self.name, **dataclasses.asdict(self), "path": shown(self.path)}


def entries(root: Path | None = None, *, verify: bool = False) -> list[Entry]:
    """Return every published model: those with a name of their own, then by variant in order of declaration and date.

    root: the folder of checkpoints; None: the work folder's, and the packaged starter models unless it has its own of
    that name. verify: also check the hash of the weights. A damaged folder is an entry with a `problem`.
    """
    order = {variant.name: number for number, variant in enumerate(all_variants())}
    found = _below(checkpoints_root() if root is None else Path(root), verify)
    if root is None:
        own = {entry.own_name for entry in found}
        found += [entry for entry in _below(STARTERS, verify, "starter-*") if entry.own_name not in own]
    return sorted(found, key=lambda e: (not e.own_name, order.get(e.variant, len(order)), e.variant, e.published))


def _below(root: Path, verify: bool, names: str = "*") -> list[Entry]:
    """Return the models in a folder of checkpoints; names: of the folders directly below it."""
    named = {p.parent for name in (FACTS, WEIGHTS) for p in root.glob(f"{names}/{name}") if p.parent.name[0] != "."}
    folders = {p.parent for name in (FACTS, WEIGHTS) for p in root.glob(f"{names}/*/{name}") if p.parent.name[0] != "."}
    return [_entry(folder, verify, folder.name if folder in named else "") for folder in sorted(named | folders)]


def _entry(folder: Path, verify: bool, own_name: str) -> Entry:
    variant, digest = ("", "") if own_name else (folder.parent.name, folder.name)
    try:
        description = read_model(folder)
        own = (description["facts"]["variant"], description["hash"])
        if own_name:
            variant, digest = own
        elif own != (variant, digest):
            raise MrictError(
                f"{shown(folder)}: contains model {'@'.join(own)}; expected {variant}@{digest}; rename the folder to "
                f"{'/'.join(own)}"
            )
        if verify:
            check_weights(folder, description)
            check_discriminators(folder, description)
        scores = read_scores(folder)
        mae = scores["summary"]["all"]["mae_hu"] if scores else {"mean": None, "n": 0}
        networks = tuple(map(str, description["weights"]["networks"]))
        judging = tuple(map(str, description.get("discriminator", {}).get("networks", ())))
        return Entry(  # types are enforced: one bad folder must not break the list
            variant,
            digest,
            folder,
            own_name,
            kind=str(description["kind"]),
            label=str(description["label"]),
            demo=bool(description["demo"]),
            data=str(description["data"]["name"]),
            region=_region(description),
            modality=str((description["facts"].get("fingerprint") or {}).get("modality", MR.name)),
            about=about_of(description),
            published=str(description["published"]),
            mae_hu=None if mae["mean"] is None else float(mae["mean"]),
            patients=int(mae["n"]),
            networks=networks + judging,
            makes_ct=description["generator"] in networks,
        )
    except MrictError as error:
        return Entry(variant, digest, folder, own_name, problem=str(error))
    except UNREADABLE as error:
        problem = f"{shown(folder)}: not a model of this suite ({error!r})"
        return Entry(variant, digest, folder, own_name, problem=problem)


def _region(description: Mapping[str, Any]) -> str:
    """Return the region of the training data, "" for a model that records none."""
    fingerprint = description["facts"].get("fingerprint") or {}
    return str(description["data"].get("region") or fingerprint.get("region") or "")


def for_region(region: str, root: Path | None = None, modality: str = MR.name) -> tuple[list[Entry], list[Entry]]:
    """Return the models for a region and input, the best first, and the damaged ones of any region.

    The best has the lowest masked MAE on its own held-out patients. Models that are not scored come after all that are,
    and demos after all others. Raises MrictError if there is none.
    """
    every = entries(root)
    fitting = [entry for entry in every if entry.makes_ct and (entry.region, entry.modality) == (region, modality)]
    damaged = [entry for entry in every if entry.problem]
    if not fitting:
        of_input, option = (f" of {modality}", f" --input {modality}") if modality != MR.name else ("", "")
        where = shown(checkpoints_root() if root is None else root)
        lost = f" ({damaged[0].problem})" if damaged else ""
        raise MrictError(
            f"no published model for {region}{of_input} in {where}{lost}; expected one; train and evaluate one on your "
            f"data ({SUITE_COMMAND} --data DIR --region {region}{option}), or give --model NAME"
        )
    best_first = sorted(fitting, key=lambda e: (e.demo, e.mae_hu is None, e.mae_hu))
    return best_first, damaged


def why_first(found: list[Entry], damaged: list[Entry], region: str) -> str:
    """Return one line on the model that `for_region` puts first, and why."""
    first, *others = found
    name = f"{first.name} ({first.variant}@{first.hash[:SHORT]})" if first.own_name else first.name
    alike = [entry for entry in found if entry.demo == first.demo]  # an error on phantoms is no rival to one on people
    where = f"for {region}{', demos apart' if len(alike) < len(found) else ''}"
    if len(alike) == 1:
        why = f"the only model {where}, {first.result}"
    elif first.mae_hu is None:
        why = f"the first of {len(alike)} models {where}, none of them scored"
    else:
        why = f"masked MAE {first.result}, the lowest of {len(alike)} models {where}"
    text = f"model: {name}: {why}{'; a demo, as no other is published' if first.demo else ''}"
    if others:
        text += f"; others: {some([f'{e.name} {_short(e)}' for e in others], OTHERS)}"
    if damaged:
        text += f"; damaged, not considered: {some([e.name for e in damaged], OTHERS)}"
    return f"{text}; --model NAME takes another"


def _short(entry: Entry) -> str:
    return f"{'demo, ' if entry.demo else ''}{'not scored' if entry.mae_hu is None else f'{entry.mae_hu:.1f} HU'}"


def find(spec: str | Path, root: Path | None = None) -> Path:
    """Return the model folder or checkpoint file of `spec`.

    spec: the path of a checkpoint file or model folder; a model's own name (starter-brain); `variant@hash`, where the
    hash may be shortened; or `variant`: its newest published model (patient models before demos), or if none is
    published the best checkpoint of its training. A model with a name of its own is never meant by `variant`. Raises
    MrictError if nothing matches, or more than one.
    """
    text = str(spec)
    if (path := _as_path(text)) is not None:
        return path
    name, at, prefix = text.partition("@")
    every = entries(root)
    root = checkpoints_root() if root is None else Path(root)
    for entry in every:
        if entry.own_name == text:
            if entry.problem:
                raise MrictError(entry.problem)
            return entry.path
    variant = name if any(entry.variant == name for entry in every) else _declared(name, every)
    published = [entry for entry in every if entry.variant == variant]
    if at:
        return _by_hash(variant, prefix, published, root)
    published = [entry for entry in published if not entry.own_name]
    if damaged := [entry for entry in published if entry.problem]:  # it may be the newest
        raise MrictError(
            f"{variant}: the newest model is unknown, {damaged[0].name} is damaged ({damaged[0].problem}); "
            "repair or delete it, or name a model with its hash"
        )
    usable = [entry for entry in published if entry.makes_ct]
    return max(usable, key=lambda e: (not e.demo, e.published)).path if usable else _trained(variant, root)


def _declared(name: str, every: Sequence[Entry]) -> str:
    """Return an experiment's name, also of an alias; raise MrictError with the nearest models and experiments."""
    try:
        return get(name).name
    except MrictError:
        models = {entry.own_name or entry.variant for entry in every}
        raise unknown_name("model", name, models | {variant.name for variant in all_variants()}) from None


def _as_path(text: str) -> Path | None:
    """Return `text` as a path, None for a name of the registry."""
    path = Path(text).expanduser()
    try:
        if path.is_file() and path.suffix == ".pt":
            return path
        if path.is_dir() and is_model(path):
            return path
        if path.is_file() and path.name in (FACTS, WEIGHTS):
            return path.parent
    except (OSError, ValueError):  # name too long, null bytes
        pass
    if path.suffix in (".pt", ".pth", ".safetensors") or len(path.parts) > 1:
        hint = (
            "weights of the predecessor: python -m mrict_core import-checkpoint FILE --as VARIANT"
            if path.suffix == ".pth" and path.is_file()
            else "give a checkpoint (.pt), the folder of a model, or the name of a variant"
        )
        raise MrictError(f"{text[:200]}: not a model; {hint}")
    return None


def _by_hash(variant: str, prefix: str, published: list[Entry], root: Path) -> Path:
    matches = [entry for entry in published if prefix and entry.hash.startswith(prefix.lower())]
    if len(matches) == 1:
        if matches[0].problem:
            raise MrictError(matches[0].problem)
        return matches[0].path
    have = ", ".join(e.name for e in matches or published) or "none"
    if matches:
        raise MrictError(f"{variant}@{prefix}: matches {len(matches)} models ({have}); give more digits of the hash")
    raise MrictError(f"{variant}@{prefix}: no such model in {shown(root)}; published of {variant}: {have}")


def _trained(variant: str, root: Path) -> Path:
    """Return the best checkpoint of a variant that was trained but not published."""
    found = [run.best for run in unpublished(variant, root)]
    if len(found) == 1:
        return found[0]
    if found:
        raise MrictError(
            f"{variant}: trained in {len(found)} runs, none published ({', '.join(shown(p) for p in found)}); "
            "give the path of one, or evaluate one to publish it"
        )
    raise MrictError(
        f"{variant}: no model in {shown(root)}; train and evaluate it (python -m mrict_core train {variant} "
        f"--lineage), or import the predecessor's weights (python -m mrict_core import-checkpoint FILE --as {variant})"
    )


def read_card(spec: str, root: Path | None = None) -> str:
    """Return the card of the published model `spec`, from its facts and scores."""
    path = find(spec, root)
    if not path.is_dir():
        raise MrictError(f"{spec}: trained and not published ({shown(path)}), so it has no card; evaluate it first")
    try:
        return card_of(path, read_model(path), read_scores(path))
    except UNREADABLE as error:
        raise MrictError(f"{shown(path)}: its facts or scores cannot be shown ({error!r}); publish it again") from None


def table(found: list[Entry]) -> pd.DataFrame:
    """Return usable models as a table: name, profile, data, date, MAE on how many patients, path."""
    import pandas as pd

    rows = [
        {
            "name": entry.name,
            "profile": f"{entry.label} (demo)" if entry.demo and entry.label != "demo" else entry.label,
            "data": entry.data,
            "date": entry.published[:10],
            "mae_hu": entry.mae_hu,
            "patients": entry.patients or None,
            "networks": ", ".join(entry.networks),
            "path": shown(entry.path),
        }
        for entry in found
    ]
    return pd.DataFrame(rows).astype({"mae_hu": "float64", "patients": "Int64"})
