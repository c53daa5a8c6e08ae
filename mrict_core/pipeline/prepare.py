"""From folders of patients to trained variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.data.preprocess import in_plane_shapes, preprocess
from mrict_core.data.splits import (
    PREDECESSOR_KIND,
    PREDECESSOR_SEED,
    PREDECESSOR_SETS,
    Split,
    is_own,
    load_split,
    make_split,
    predecessor_split,
    save_split,
)
from mrict_core.data.store import INDEX, SliceStore, remove_patient
from mrict_core.data.synthrad import Discovery, discover
from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import Workspace, shown, workspace
from mrict_core.profiles import Profile, get_profile
from mrict_core.training.loop import Progress, Report, TrainResult, train
from mrict_core.training.run import TrainSettings
from mrict_core.variant import Variant
from mrict_core.variants import lineage

PATIENTS_MIN = 3  # one each to train, validate and test
CountProgress = Callable[[int, int, str], None]  # done, total, name


@dataclass(frozen=True)
class Prepared:
    """What preparing the data gave. `split` is None where `problem` says why no split can be made."""

    workspace: Workspace
    profile: Profile
    discovery: Discovery
    store: SliceStore
    split: Split | None
    problem: str


def make_phantoms(space: Workspace, profile: Profile, seed: int, progress: CountProgress | None = None) -> None:
    """Write the embedded patients of a profile as NIfTI in SynthRAD layout, unless they are there already."""
    region = space.region
    if region not in profile.phantom_in_plane_mm:
        raise unknown_name("region", region, profile.phantom_in_plane_mm)
    spec = PhantomSpec(
        region=region,
        in_plane_mm=profile.phantom_in_plane_mm[region],
        slice_mm=profile.phantom_slice_mm,
        supersample=profile.phantom_supersample,
    )
    write_cohort(space.data_dir, region, profile.phantom_patients_per_centre, seed, spec, progress=progress)


def prepare_data(
    profile_name: str = "demo",
    data_dir: str = "",
    region: str = "brain",
    protocol: str = "patient",
    *,
    seed: int = 42,
    split_kind: str = "stratified",
    strict: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
    report: Report = print,
) -> Prepared:
    """Find (or make) the patients, preprocess them into the slice store and split them by patient.

    What is there already and unchanged is kept; `force` prepares every patient again. Too few patients for a split is
    not fatal here: the tables and figures of the data can still be made; training then says what is missing.
    """
    profile, space = get_profile(profile_name), workspace(profile_name, data_dir, region, protocol)
    if space.embedded:
        make_phantoms(space, profile, seed, progress)
    discovery = discover(space.data_dir, region, strict=strict)
    if force and (space.store / INDEX).is_file():
        for patient in SliceStore(space.store).patients:
            remove_patient(space.store, patient)  # derived data: made again from the patients' files
        (space.store / INDEX).unlink()
    size = profile.canvas(in_plane_shapes(discovery, protocol))
    store = preprocess(
        space.data_dir, space.store, region=region, protocol=protocol, size=size, strict=strict, progress=progress
    )
    for patient, share in store.cropped().items():
        report(
            f"{patient}: the canvas of {store.size} px cuts off {share:.0%} of its mask; a larger profile holds more"
        )
    for patient, texts in store.warnings().items():
        report(f"{patient}: {'; '.join(texts)}")
    split, problem = None, ""
    if len(store.patients) >= PATIENTS_MIN:
        split = split_store(store, space, seed, split_kind, report)
    else:
        problem = f"{len(store.patients)} usable patient(s) of {PATIENTS_MIN} needed to train, validate and test"
        if space.split_file.is_file() and not is_own(space.split_file):
            space.split_file.unlink()
    return Prepared(space, profile, discovery, store, split, problem)


def split_store(store: SliceStore, space: Workspace, seed: int, kind: str, report: Report = print) -> Split:
    """Make and save the split of a store; say so when it replaces another one.

    A split file without a hash line is the user's own and is kept. A store of protocol `predecessor` gets the
    predecessor's split: its lists of 36 or 10 patients where they are all there, else its rule; train and validation
    slices then come from the same patients, as they did.
    """
    before = load_split(space.split_file) if space.split_file.is_file() else None
    if before is not None and is_own(space.split_file):
        missing = sorted({*before.train, *before.val, *before.test} - set(store.patients))
        if missing:
            raise MrictError(
                f"{shown(space.split_file)}: patients {', '.join(missing)} are not among the usable ones; remove them "
                "from your split, or delete the file"
            )
        report(f"split: your own of {shown(space.split_file)} is kept")
        return before
    if store.protocol == "predecessor":
        counts = store.counts()
        which = next((w for w, ids in PREDECESSOR_SETS.items() if set(ids) <= set(counts)), "any")
        old = predecessor_split(counts, which)
        train_ids, test_ids = tuple(sorted(old.learning)), tuple(sorted(old.test))
        split = Split(train=train_ids, val=(), test=test_ids, kind=PREDECESSOR_KIND + which, seed=PREDECESSOR_SEED)
    else:
        split = make_split({p: store.centre(p) for p in store.patients}, seed, kind)
    if before is not None and before.hash != split.hash:
        report(f"split {before.kind} (seed {before.seed}) replaced by {kind} (seed {seed}); train and evaluate again")
    save_split(space.split_file, split)
    return split


def open_data(space: Workspace, seed: int = 42) -> tuple[SliceStore, Split]:
    """Return store and split of a workspace that notebook 00 (or `preprocess`) has prepared.

    The embedded phantoms are prepared here where they are not there yet, so that every notebook runs alone.
    """
    if space.embedded and not (space.store / INDEX).is_file():
        prepare_data(space.profile, "", space.region, space.protocol, seed=seed)
    if not (space.store / INDEX).is_file():
        raise MrictError(
            f"{shown(space.store)}: no slices yet; run notebook 00_preprocess_and_mask or "
            "python -m mrict_core preprocess"
        )
    store = SliceStore(space.store)
    if not space.split_file.is_file():
        raise MrictError(
            f"{shown(space.split_file)}: no split: {len(store.patients)} usable patient(s) in {shown(space.data_dir)}, "
            f"at least {PATIENTS_MIN} are needed to train, validate and test; add patients"
        )
    return store, load_split(space.split_file)


def train_variant(
    variant: Variant,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    ancestors: bool = False,
    force: bool = False,
    report: Report = print,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one variant; with `ancestors` first those whose weights it starts from, oldest first.

    Ancestors that are complete and unchanged are reused; `force` repeats the variant itself alone.
    """
    if ancestors:
        for parent in lineage(variant.name)[:-1]:
            train(parent, profile, space, settings, report=report, progress=progress)
    return train(variant, profile, space, settings, report=report, progress=progress, force=force)
