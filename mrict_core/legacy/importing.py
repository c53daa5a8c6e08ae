"""Import the predecessor's weights as a published model, with what is known about them.

The texts in `DATASETS`, `CAVEATS` and `_data` are part of a model's hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.files import hash_of
from mrict_core.hu import WINDOWS
from mrict_core.legacy.pth import Recognised, read_state, recognise
from mrict_core.methods import METHODS
from mrict_core.models.folder import write_model
from mrict_core.networks.weights import sha256_of
from mrict_core.paths import checkpoints_root, shown
from mrict_core.training.facts import ModelFacts

if TYPE_CHECKING:
    from mrict_core.models.folder import Networks

PROTOCOL = "predecessor"
LABEL = "predecessor"
NETWORKS = {  # method => network of the checkpoint => its side
    "pix2pix": {"G": "G", "D": "D"},
    "cyclegan": {"G_MRI2CT": "G", "G_CT2MRI": "G", "D_CT": "D", "D_MRI": "D"},
}
STRETCHED = (
    "Trained on slices stretched to 256 × 256 px; this suite crops and pads, at native spacing, so the anatomy it is "
    "shown has other proportions than in its training."
)
BRAIN = "SynthRAD2023 Task 1 brain, centre A alone"
UNKNOWN = "processed"  # the practice runs' data set
DATASETS = {  # of the predecessor: what each held, and what follows for images prepared by our protocol `predecessor`
    UNKNOWN: (
        "A set of unknown origin",
        "How its training slices were prepared is not known: protocol `predecessor` and its HU window are a guess.",
    ),
    "Brain processed": (
        f"36 patients of {BRAIN}; MR units and HU as they are, stretched to 256 × 256",
        "Trained on raw MR units and raw HU, which its output in [-1, 1] cannot reach: its images are no CT in HU.",
    ),
    "brain": (f"36 patients of {BRAIN}; stretched to 256 × 256", STRETCHED),
    "brain-36": (f"36 patients of {BRAIN}; stretched to 256 × 256", STRETCHED),
    "brain-10": (f"10 patients of {BRAIN}; stretched to 256 × 256", STRETCHED),
    "brain-new-36": (f"36 patients of {BRAIN}; cropped and padded to 256 × 256", ""),
    "brain-new-10": (f"10 patients of {BRAIN}; cropped and padded to 256 × 256", ""),
}
KNOWN = {  # sha256 of the files that the predecessor published (git-LFS) => variant, description
    "462564ee6acfdfbfdf039cdb0747ac170f6671cfd8cb8e8bdc51065feb92ec63": ("mk6_3_4", "final generator of MK6.3.4"),
    "5120805cc3dea1a56d7948a4cca968321953bd3056c5a67dccde9a07df57e826": ("mk6_3_4", "final discriminator of MK6.3.4"),
}
CAVEATS = (
    "Its training patients are among SynthRAD2023's: scores on those patients are not held-out scores.",
    "Its input was masked by the union of MR and CT masks. Where no CT is there the mask is of the MR alone, and the "
    "images differ from those that the predecessor showed.",
    "MR intensity is scaled slice by slice: brightness may jump from one slice to the next.",
)


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    path: Path
    new: bool  # False: the same weights were imported before
    networks: dict[str, str]  # role => recognised network
    notes: tuple[str, ...]


def import_checkpoint(
    files: Sequence[Path],
    variant: Experiment,
    roles: Sequence[str] = (),
    *,
    root: Path | None = None,
    profile: Profile | None = None,
) -> Imported:
    """Store the predecessor's plain state dicts as one published model of `variant`.

    files: one per network. roles: G or D (CycleGAN: G_MRI2CT, G_CT2MRI, D_CT, D_MRI), one per file, or none: then
    shapes decide and, between equal networks, file names. root: folder of checkpoints. profile: gives the expected
    width; default full. The weights are stored unchanged. Raises MrictError, and writes nothing, unless every file is
    complete, safe, finite and of that variant.
    """
    profile = get_profile("full") if profile is None else profile
    if roles and len(roles) != len(files):
        raise MrictError(f"{len(roles)} roles for {len(files)} files; expected one --role per file, or none")
    networks: Networks = {}
    sources: dict[str, str] = {}  # role => sha256 of its file
    kinds, notes = {}, []
    for file, asked in zip(files, roles or [""] * len(files), strict=True):
        path = Path(file).expanduser()
        state, unpacked = read_state(path)
        found = recognise(state, path)
        role = _role(variant, found, path, asked)
        kinds[role] = _check(variant, found, path, profile)
        if role in networks:
            raise MrictError(f"{shown(path)}: a second {role} of {variant.name}; expected one file per network")
        networks[role] = state
        sources[role], known = _identified(path, variant)
        unpacked += [known] if known else []
        notes += [f"{path.name}: {note}" for note in unpacked]
    notes += [caveat] if (caveat := _origin(variant)[1]) else []
    generator = METHODS[variant.method.name].mr_to_ct
    if generator not in networks:
        notes.append(f"has no {generator}: it cannot predict a CT")
    folder, new = write_model(
        checkpoints_root() if root is None else root,
        _facts(variant, profile, sources),
        networks,
        kind="imported",
        label=LABEL,
        demo=False,
        generator=generator,
        data=_data(variant),
    )
    return Imported(folder, new, kinds, tuple(notes))


def _role(variant: Experiment, found: Recognised, path: Path, asked: str) -> str:
    """Return the variant's network that a file belongs to: as given, by shapes, or by file name."""
    sides = NETWORKS[variant.method.name]
    fitting = [name for name, side in sides.items() if side == found.side]
    if asked and asked not in {*sides, *sides.values()}:
        raise MrictError(f"role '{asked}': {variant.name} has the networks {', '.join(sides)}; give one of them")
    if asked and asked not in (found.side, *fitting):
        raise MrictError(
            f"{shown(path)}: recognised as {' or '.join(found.kinds)}, which is a {found.side}, not a {asked}; "
            f"give the file of {asked}, or --role {fitting[0]}"
        )
    if asked in fitting:
        return asked
    named = fitting if len(fitting) == 1 else [name for name in fitting if name in path.name]
    if len(named) != 1:
        raise MrictError(
            f"{shown(path)}: may be {' or '.join(fitting)}; its name does not say which; give --role, as {fitting[0]}"
        )
    return named[0]


def _check(variant: Experiment, found: Recognised, path: Path, profile: Profile) -> str:
    """Return the network kind of a file, which must match the variant's kind, channels and width."""
    conditional = variant.method.options.get("conditional", False) and found.side == "D"
    kind, channels = variant.network[found.side].name, variant.network["G"].options.get("out_channels", 1)
    came = (" or ".join(found.kinds), found.channels, found.width)
    expected = (kind, channels * (2 if conditional else 1), profile.width)
    if kind not in found.kinds or came[1:] != expected[1:]:
        text = "{} of {} channel(s) and width {}"
        raise MrictError(
            f"{shown(path)}: contains {text.format(*came)}, but the {found.side} of {variant.name} is "
            f"{text.format(*expected)}; give that variant's file, or the file's variant (--as)"
        )
    return kind


def _facts(variant: Experiment, profile: Profile, sources: Mapping[str, str]) -> ModelFacts:
    """Return the facts known about the predecessor's checkpoint."""
    window = WINDOWS[PROTOCOL]
    return ModelFacts(
        key=hash_of(dict(sources)),
        variant=variant.name,
        experiment=variant,
        profile=profile,
        size=profile.size,
        protocol=PROTOCOL,
        window_hu=[window.low, window.high],
        epoch=None,
        parent=variant.init_from,
        training_pairs=variant.data.max_pairs or 0,
        epochs=variant.epochs,
        complete=True,
        files=dict(sources),  # versions used in training are unknown
    )


def _origin(variant: Experiment) -> tuple[str, str]:
    return DATASETS[variant.history.dataset or UNKNOWN]


def _data(variant: Experiment) -> dict[str, Any]:
    (text, caveat), known = _origin(variant), variant.history.dataset not in ("", UNKNOWN)
    split = " Split by slice: neighbouring slices of one head stood on both sides." if known else ""
    return {
        "name": f"the predecessor's data set `{variant.history.dataset or UNKNOWN}`",
        "region": "brain",
        "text": f"{text}.{split} So the record of the predecessor says; this suite has not seen the data.",
        "caveats": [*([caveat] if caveat else []), *(CAVEATS if known else ())],
    }


def _identified(path: Path, variant: Experiment) -> tuple[str, str]:
    """Return the file's sha256, and a description if the predecessor published it."""
    sha256 = sha256_of(path)
    name, what = KNOWN.get(sha256, (variant.name, ""))
    if name != variant.name:
        raise MrictError(f"{shown(path)}: the published {what}, not of {variant.name}; give --as {name}")
    return sha256, f"the published {what}, unchanged" if what else ""
