"""From a folder of patients to trained variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrict_core.data.cache.keys import read_index
from mrict_core.data.cache.preprocess import (
    LOCK_WAIT_S,
    check_usable,
    in_plane_shapes,
    passing_faults,
    prepare_shard,
    preprocess,
)
from mrict_core.data.cache.store import INDEX, SliceStore
from mrict_core.data.discovery import Discovery, Kind, Skip, discover
from mrict_core.data.pair_choices import choose
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.data.splits import (
    PREDECESSOR_KIND,
    PREDECESSOR_SEED,
    PREDECESSOR_SETS,
    SETS,
    Split,
    check_leak,
    is_own,
    load_split,
    make_split,
    predecessor_split,
    save_split,
)
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.files import held, write_json
from mrict_core.modalities import MR
from mrict_core.paths import SUITE_COMMAND, Folders, Workspace, shown, some, workspace
from mrict_core.shards import Shard
from mrict_core.training.loop import Report, TrainResult, train
from mrict_core.training.progress import Progress, automatic
from mrict_core.training.run import TrainSettings

NAMED = 5  # patients in one message
PATIENTS_MIN = 3  # one each to train, validate and test; of subjects where a subject has several
CountProgress = Callable[[int, int, str], None]  # done, total, name


@dataclass(frozen=True)
class Prepared:
    """The prepared data. `split` is None if none can be made; `problem` then says why."""

    workspace: Workspace
    profile: Profile
    discovery: Discovery
    store: SliceStore
    split: Split | None
    problem: str

    @property
    def left_out(self) -> list[dict[str, str]]:
        """Possible patients that are not used: `patient`, `path` and `reason` of each."""
        odd = [a for a in self.discovery.aside if a.kind is Kind.UNRECOGNISED]
        return [*self.store.skipped, *({"patient": Path(a.path).name, "path": a.path, "reason": a.reason} for a in odd)]

    @property
    def summary(self) -> str:
        """One line that accounts for everything found in the folder."""
        used, skipped = len(self.store.patients), len(self.store.skipped)
        odd = len(self.left_out) - skipped
        text = f"{used + skipped + odd} found: {used} used, {skipped} skipped, {odd} {Kind.UNRECOGNISED}"
        others = Counter(a.kind for a in self.discovery.aside if a.kind is not Kind.UNRECOGNISED)
        return text + ("; no patients: " if others else "") + ", ".join(f"{n} {kind}" for kind, n in others.items())


def make_phantoms(space: Workspace, profile: Profile, seed: int, progress: CountProgress | None = None) -> None:
    """Write the embedded patients of a profile as NIfTI in SynthRAD layout, unless they exist."""
    region = space.region
    if region not in profile.phantom_in_plane_mm:
        raise unknown_name("region", region, profile.phantom_in_plane_mm)
    spec = PhantomSpec(
        region=region,
        in_plane_mm=profile.phantom_in_plane_mm[region],
        slice_mm=profile.phantom_slice_mm,
        supersample=profile.phantom_supersample,
    )
    count, modality = profile.phantom_patients_per_centre, space.input
    workers = 2 if count > 2 else 1  # starting processes takes longer than a few patients
    write_cohort(space.data_dir, region, count, seed, spec, progress=progress, workers=workers, modality=modality)


def prepare_data(
    profile_name: str = "demo",
    data_dir: Folders = "",
    region: str = "brain",
    protocol: str = "patient",
    *,
    seed: int = 42,
    split_kind: str = "stratified",
    group_by: str = "",
    pairs: str = "",
    strict: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
    report: Report = print,
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> Prepared:
    """Find (or make) the patients, preprocess them into the dataset cache and split them by subject.

    Unchanged patients are reused; `force` prepares all of them again. `group_by` says which patients are one subject
    (see `data.subjects.subjects_of`); empty keeps the cache's rule. `pairs` is a csv that rejects patients; empty: the
    folder's own pairs.csv, if any (see `data.pair_choices.choose`). Too few patients for a split is no error here: the
    data's tables and figures can still be made, and training reports what is missing. `modality` and `ct` say which
    files are input and target (see `discover`); `exclude_metal` leaves the patients' metal masks out of
    losses and scores.
    """
    profile = get_profile(profile_name)
    files = {"modality": modality, "ct": ct, "exclude_metal": exclude_metal}
    space = workspace(profile_name, data_dir, region, protocol, **files)
    if space.embedded:
        make_phantoms(space, profile, seed, progress)
    with passing_faults(space.data_dir):
        before = set(read_index(space.store).get("patients") or {})
        found = discover(space.data_dirs, space.region, strict=strict, **files)
        discovery, lines = choose(found, space.region, pairs)
    for line in lines:
        report(line)
    check_usable(discovery)
    store = preprocess(
        space.data_dirs,
        space.store,
        region=space.region,
        protocol=protocol,
        size=profile.canvas(in_plane_shapes(discovery, protocol)),
        group_by=group_by,
        pairs=pairs,
        strict=strict,
        force=force,
        progress=progress,
        **files,
    )
    if gone := sorted(before - set(store.patients)):
        report(f"no longer used: {len(gone)} of {len(before)} patients prepared earlier ({some(gone, NAMED)})")
    for remark in store.remarks:
        report(store.modality.words(remark))
    for patient, share in store.cropped().items():
        report(
            f"{patient}: the canvas of {store.size} px cuts off {share:.0%} of the mask; a larger profile keeps more"
        )
    for patient, texts in store.warnings().items():
        report(f"{patient}: {'; '.join(texts)}")
    split, problem = None, ""
    subjects = set(store.subjects().values())
    if len(subjects) < len(store.patients):
        report(f"{len(store.patients)} patients are {len(subjects)} subjects; a subject stays in one set")
    if len(subjects) >= PATIENTS_MIN:
        split = split_store(store, space, seed, split_kind, report)
    else:
        problem = _too_few(store)
        if space.split_file.is_file() and not is_own(space.split_file):
            space.split_file.unlink()
    return Prepared(space, profile, discovery, store, split, problem)


@dataclass(frozen=True)
class PreparedShard:
    """What a shard has prepared: its patients, those that cannot be used, and the number of all patients."""

    workspace: Workspace
    patients: list[str]
    skipped: list[Skip]
    total: int


def prepare_part(
    shard: Shard,
    profile_name: str,
    data_dir: Folders,
    region: str = "brain",
    protocol: str = "patient",
    *,
    pairs: str = "",
    strict: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> PreparedShard:
    """Prepare one shard's part of the patients that `prepare_data` prepares; index and split are left to that.

    Raises MrictError for the embedded phantoms, and see `preprocess`.
    """
    profile = get_profile(profile_name)
    files = {"modality": modality, "ct": ct, "exclude_metal": exclude_metal}
    space = workspace(profile_name, data_dir, region, protocol, **files)
    if space.embedded:
        raise MrictError("--shard divides patients of your own; expected --data with their folder; give it")
    with passing_faults(space.data_dir):
        discovery, _ = choose(discover(space.data_dirs, space.region, strict=strict, **files), space.region, pairs)
    check_usable(discovery)
    how = {"region": space.region, "protocol": protocol, "pairs": pairs, "strict": strict, "force": force, **files}
    canvas = profile.canvas(in_plane_shapes(discovery, protocol))  # of all patients
    done, skipped = prepare_shard(space.data_dirs, space.store, shard, size=canvas, progress=progress, **how)
    return PreparedShard(space, done, skipped, len(discovery.patients))


def split_store(store: SliceStore, space: Workspace, seed: int, kind: str, report: Report = print) -> Split:
    """Make and save the split of a dataset cache; report when it replaces another one.

    kind: of `splits.make_split`, or a user's file, which is copied. A split file without a hash line is the user's own
    and is kept. With protocol `predecessor` the split is the
    predecessor's: its lists of 36 or 10 patients if all of them are present, otherwise its rule; train and validation
    slices then come from the same patients, as in the predecessor.
    """
    path = Path(kind).expanduser() if kind.endswith(".json") else space.split_file
    before = load_split(path) if path.is_file() or path != space.split_file else None
    if before is not None and (path != space.split_file or is_own(path)):
        missing = sorted({*before.train, *before.val, *before.test} - set(store.patients))
        if missing:
            raise MrictError(
                f"{shown(path)}: names patients that are not usable: {some(missing, NAMED)}; remove them from your "
                "split, or delete the file"
            )
        _check_subjects(before, store, space)
        if path != space.split_file:
            sets = {name: getattr(before, name) for name in SETS}
            write_json(space.split_file, {"kind": "own", "seed": before.seed, **sets})
        report(f"split: yours, {shown(path)}, is {'kept' if path == space.split_file else 'used'}")
        return load_split(space.split_file)
    if store.protocol == "predecessor":
        counts = store.counts()
        which = next((w for w, ids in PREDECESSOR_SETS.items() if set(ids) <= set(counts)), "any")
        old = predecessor_split(counts, which)
        train_ids, test_ids = tuple(sorted(old.learning)), tuple(sorted(old.test))
        split = Split(train=train_ids, val=(), test=test_ids, kind=PREDECESSOR_KIND + which, seed=PREDECESSOR_SEED)
        _check_subjects(split, store, space)  # its rule knows no subjects
    else:
        split = make_split({p: store.centre(p) for p in store.patients}, seed, kind, subjects=store.subjects())
    if before is not None and before.hash != split.hash:
        report(f"split {before.kind} (seed {before.seed}) replaced by {kind} (seed {seed}); train and evaluate again")
    if before is None or (before, before.subjects) != (split, split.subjects):
        write_split(space, split)
    return split


def write_split(space: Workspace, split: Split) -> None:
    """Save the workspace's split under the lock of its dataset cache, whose holder removes unfinished files."""
    with held(space.store, "is preparing it", LOCK_WAIT_S):
        save_split(space.split_file, split)


def _check_subjects(split: Split, store: SliceStore, space: Workspace) -> None:
    """Raise MrictError if the split puts one subject into two sets."""
    try:
        check_leak(replace(split, subjects=store.subjects()))
    except MrictError as error:
        remedy = " by hand (protocol predecessor knows no subjects)" if store.protocol == "predecessor" else ""
        raise MrictError(f"{shown(space.split_file)}: {error}{remedy}") from None


def _too_few(store: SliceStore) -> str:
    count = len(set(store.subjects().values()))
    what = "patient" if count == len(store.patients) else "subject"
    return f"{count} usable {what}(s); training, validation and test need at least {PATIENTS_MIN}"


def open_data(space: Workspace, seed: int = 42) -> tuple[SliceStore, Split]:
    """Return dataset cache and split of a workspace prepared by notebook 00 (or `preprocess`).

    The embedded phantoms are prepared here if needed, so that every notebook runs on its own.
    """
    if space.embedded and not (space.store / INDEX).is_file():
        files = {"modality": space.modality, "exclude_metal": space.exclude_metal}
        prepare_data(space.profile, "", space.region, space.protocol, seed=seed, **files)
    if not (space.store / INDEX).is_file():
        raise MrictError(
            f"{shown(space.store)}: no slices yet; run {SUITE_COMMAND}, or python -m mrict_core preprocess, with the "
            "same --data, --profile and --input"
        )
    store = SliceStore(space.store)
    if not space.split_file.is_file():
        if len(set(store.subjects().values())) >= PATIENTS_MIN:
            raise MrictError(f"{shown(space.split_file)}: no split yet; run preprocess again")
        raise MrictError(
            f"{shown(space.split_file)}: no split: {_too_few(store)}; add patients to {shown(space.data_dir)} and run "
            "preprocess again"
        )
    split = load_split(space.split_file)
    _check_subjects(split, store, space)
    return store, split


def train_variant(
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    ancestors: Sequence[Experiment] = (),
    retrain: bool = False,
    report: Report = print,
    progress: Progress = automatic,
) -> TrainResult:
    """Train `ancestors` (oldest first, with the same seed) and then the variant, which starts from their weights.

    Finished trainings are reused; `retrain` retrains the variant itself in a new folder.
    """
    parent = None
    for one in ancestors:
        parent = train(one, profile, space, settings, report=report, progress=progress, parent=parent).run
    return train(variant, profile, space, settings, report=report, progress=progress, retrain=retrain, parent=parent)
