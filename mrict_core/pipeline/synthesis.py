"""From one MR to one synthetic CT, with a json that says how it was made."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core import __version__
from mrict_core.data.cache.fingerprint import bone_shares
from mrict_core.data.cache.patient import unpadded
from mrict_core.data.dicom import DicomVolume, staged_ct_series
from mrict_core.data.images.orders import PLANES
from mrict_core.data.images.streams import unchanged
from mrict_core.data.images.volumes import NOTE, Volume, hash_image
from mrict_core.errors import MrictError, UnavailableError, passing
from mrict_core.files import atomic_path, available, code_hash, hash_file, hash_of, read_json
from mrict_core.inference import gate
from mrict_core.inference.input_files import read_input
from mrict_core.inference.output_files import format_of, is_series, note_of, sidecar_path, staged, staged_json
from mrict_core.inference.synthesizer import Synthesizer, load_synthesizer
from mrict_core.inference.volume import (
    Progress,
    Synthesis,
    SynthesisOptions,
    check_models,
    synthesize_volume,
)
from mrict_core.machine import versions
from mrict_core.modalities import MR, Modality
from mrict_core.models import catalogue
from mrict_core.models.about import About, about_of
from mrict_core.models.folder import read_model
from mrict_core.models.publish import FOR_PATIENTS
from mrict_core.paths import printable, shown
from mrict_core.training.facts import ModelFacts

Check = Callable[[Volume, ModelFacts], list[gate.Finding]]  # MR and model facts => what does not fit
CheckOutput = Callable[[Synthesis, ModelFacts], list[gate.Finding]]
QA_SUFFIXES = (".html", ".png")
CODE = ("hu", "modalities", "data", "networks", "methods", "inference")  # rooms that decide a synthetic CT


@dataclass(frozen=True)
class Model:
    """A loaded model and the hash of its file, or the hash it is published under."""

    synthesizer: Synthesizer
    hash: str
    demo: bool = False
    about: About = field(default_factory=About)

    @property
    def name(self) -> str:
        return self.synthesizer.variant.name

    def as_dict(self) -> dict[str, Any]:
        """Return what identifies this model, without a path."""
        facts = self.synthesizer.facts
        kept = ("protocol", "size", "window_hu", "key", "epoch", "epochs", "complete", "split_hash", "store_key")
        return {
            "variant": self.name,
            "hash": self.hash,
            "plane": ",".join(facts.all_planes),
            "profile": facts.profile.name,
            **{key: getattr(facts, key) for key in kept},
            "trained_with": facts.versions.get("mrict_core", ""),
            **self.about.as_plain(),
        }


def load_model(spec: str, device: str = "auto", precision: str = "float32") -> Model:
    """Return the model named by `spec` (see `catalogue.find`); a prefix `coronal=` or `sagittal=` sets its plane."""
    plane, separator, rest = spec.partition("=")
    named = bool(separator) and plane in PLANES
    path = catalogue.find(rest if named else spec)
    synthesizer = load_synthesizer(path, device=device, precision=precision)
    if named:
        learned = synthesizer.facts.planes
        facts = dataclasses.replace(synthesizer.facts, plane=plane, planes=[plane] if plane in learned else [])
        synthesizer = dataclasses.replace(synthesizer, facts=facts)
    if not path.is_dir():
        demo = synthesizer.facts.profile.name not in FOR_PATIENTS
        return Model(synthesizer, hash_file(path), demo)
    description = read_model(path)
    return Model(synthesizer, description["hash"], description["demo"], about_of(description))


def load_models(specs: Sequence[str], device: str = "auto", precision: str = "float32") -> list[Model]:
    """Return the models of an ensemble; a model given twice would count twice and is an error."""
    models = [load_model(spec, device, precision) for spec in specs]
    keys = [(model.hash, model.synthesizer.facts.all_planes) for model in models]
    for k, key in enumerate(keys):
        if key in keys[:k]:
            raise MrictError(f"{specs[k]}: given twice; expected different models; give each once")
    return models


def check_reads(models: Sequence[Model], modality: Modality, *, chosen: bool = True) -> None:
    """Raise MrictError for a model that reads another input; `chosen`: by --input."""
    for model in models:
        reads = model.synthesizer.facts.modality
        if reads != modality:
            raise MrictError(
                f"{model.name}: reads {reads.word}, the input is {modality.word}; expected the same; give "
                f"{f'--input {reads.name}, or ' if chosen else ''}another --model"
            )


def synthesize_case(
    source: Path | str,
    output: Path | str,
    models: Sequence[Model],
    options: SynthesisOptions = SynthesisOptions(),
    *,
    uncertainty: Path | str | None = None,
    sidecar: Path | str | None = None,
    qa: Path | str | None = None,
    overwrite: bool = False,
    body: np.ndarray | None = None,
    check: Check | None = gate.before,
    check_output: CheckOutput | None = gate.after,
    strict: bool = False,
    series: str = "",
    keep_identifiers: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the synthetic CT of one MR and its json (`sidecar`, by default next to it); return the json's content.

    `output` is an image file or, without a suffix, the folder of a DICOM series; `uncertainty` is an image file, `qa` a
    quality page (.html) or picture (.png). `series` and `keep_identifiers` are for DICOM: see `read_input`.

    Raises MrictError, with nothing written, for bad input, for input that changes during synthesis, and for an output
    that is the input or exists (unless `overwrite`, or left unfinished by a killed run of the same case). `check`
    (before) and `check_output` (after) are the input check; `strict` refuses what they or the reader warn about.
    """
    source, output = Path(source), Path(output)
    uncertainty = Path(uncertainty) if uncertainty else None
    sidecar = Path(sidecar) if sidecar else sidecar_path(output)
    qa = Path(qa) if qa else None
    synthesizers = [model.synthesizer for model in models]
    modality = synthesizers[0].facts.modality if models else MR
    options = effective(options, models, uncertainty is not None)
    check_models(synthesizers, options)
    with explained(source, modality):
        input_hash = source_hash(source)
        key = case_key(input_hash, models, options, body)
        overwrite = overwrite or unfinished(sidecar) == key
        check_targets(source, output, uncertainty, overwrite, sidecar, qa)
        with unchanged(source, source_hash, input_hash):
            volume = unpadded(read_input(source, series, keep_identifiers), modality)
            findings = [gate.Finding(text, text) for text in volume.remarks]
            if check:
                findings += [found for model in models for found in check(volume, model.synthesizer.facts)]
            _refuse(source, findings, strict)
            synthesis = synthesize_volume(synthesizers, volume, options, progress, body=body)
            doubts = []
            if check_output:
                doubts = [found for model in models for found in check_output(synthesis, model.synthesizer.facts)]
            _refuse(source, doubts, strict)
        notes = [gate.Finding(text, text, gate.NOTE) for text in (*volume.notes, *synthesis.warnings)]
        findings = gate.distinct(
            [*findings, *doubts, *notes, *(found for model in models for found in _of_model(model))]
        )
        facts = _describe(volume, models, options, synthesis, findings) | {"key": key, "input_hash": input_hash}
        names = " + ".join(f"{model.name} {model.hash}" for model in models)
        # All files are complete on disk before the first is renamed. They are renamed in reverse order: first the json
        # that says "unfinished", last the json that says "finished".
        with contextlib.ExitStack() as stack:
            stack.enter_context(staged_json(sidecar, facts))
            if uncertainty is not None:
                note = f"HU SD of a {NOTE}; {names}"
                stack.enter_context(staged(uncertainty, synthesis.sd_hu, volume, note, np.float32))
            if qa is not None:
                from mrict_core.reporting.case_page import write_case

                labels = _labels(volume, output, modality)
                write_case(stack.enter_context(atomic_path(qa)), volume, synthesis, facts, labels, modality)
            if is_series(output):
                kept = {"overwrite": overwrite, "keep_identifiers": keep_identifiers}
                made = {"model": names, "version": __version__}
                stack.enter_context(staged_ct_series(output, synthesis.hu, volume, **made, **kept))
            else:
                stack.enter_context(staged(output, synthesis.hu, volume, note_of(names)))
            stack.enter_context(staged_json(sidecar, facts | {"finished": False}))
    return facts


@contextlib.contextmanager
def explained(source: Path, modality: Modality = MR) -> Iterator[None]:
    """Turn any error of a case into a MrictError of one line; UnavailableError if the MR is not the cause."""
    try:
        yield
    except UnavailableError:
        raise
    except MrictError as error:
        if modality == MR:
            raise
        raise type(error)(modality.words(str(error))) from None
    except Exception as error:  # that no check caught
        cause = printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:160]
        if passing(error):
            remedy = "which says nothing about the MR; check memory and disk, then run again"
            raise UnavailableError(f"{shown(source)}: not synthesised ({cause}), {remedy}") from error
        raise MrictError(f"{shown(source)}: cannot be synthesised ({cause}); check the file") from error


def effective(options: SynthesisOptions, models: Sequence[Model], uncertainty: bool) -> SynthesisOptions:
    """Return the options with or without uncertainty; a single model of one plane without samples needs the flips."""
    single = len(models) == 1 and len(models[0].synthesizer.facts.all_planes) == 1
    single = single and not models[0].synthesizer.method.draws
    return dataclasses.replace(options, uncertainty=uncertainty, tta=options.tta or (uncertainty and single))


def _describe(
    volume: Volume,
    models: Sequence[Model],
    options: SynthesisOptions,
    synthesis: Synthesis,
    findings: Sequence[gate.Finding],
) -> dict[str, Any]:
    """Return the json of a synthetic CT, without paths, file names or text of the input's header."""
    return {
        "what": NOTE,
        "finished": True,
        **gate.verdict(findings),
        "warnings": gate.in_words(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "bone": bone_shares(synthesis.hu, synthesis.body),
        "mrict_core": __version__,
        "versions": versions(),
        "models": [model.as_dict() for model in models],
        "options": dataclasses.asdict(options),
        "precision": str(models[0].synthesizer.precision).removeprefix("torch."),
        "device": models[0].synthesizer.device.type,
        "shape": list(volume.shape),
        "spacing_mm": [round(v, 6) for v in volume.spacing_mm],
        "body_voxels": int(np.count_nonzero(synthesis.body)),
        **synthesis.facts,
    }


def _labels(volume: Volume, output: Path, modality: Modality) -> dict[str, str]:
    """Return the labels of a case on its page: its files, and the patient if identifiers are kept."""
    identity = (volume.source.identity if isinstance(volume, DicomVolume) and volume.source else None) or {}
    named = {"patient": "PatientName", "patient's id": "PatientID", "study": "StudyDate"}
    labels = {label: identity[keyword] for label, keyword in named.items() if identity.get(keyword)}
    files = {modality.word: volume.path.resolve().name, "synthetic CT": output.name}
    return {label: printable(text) for label, text in (files | labels).items()}


def _refuse(source: Path, findings: list[gate.Finding], strict: bool) -> None:
    doubts = gate.in_words(gate.distinct(found for found in findings if found.severity != gate.NOTE))
    if strict and doubts:
        raise MrictError(f"{shown(source)}: {'; '.join(doubts)} (refused by --strict)")


def check_targets(
    source: Path,
    output: Path,
    uncertainty: Path | None,
    overwrite: bool,
    sidecar: Path | None = None,
    qa: Path | None = None,
) -> None:
    """Raise MrictError unless the files of a case can be written without harming existing files."""
    targets = [output, sidecar or sidecar_path(output), *filter(None, (uncertainty, qa))]
    if qa is not None and qa.suffix not in QA_SUFFIXES:
        raise MrictError(f"{shown(qa)}: not a type of quality page; allowed: {', '.join(QA_SUFFIXES)}")
    for path in (None if is_series(output) else output, uncertainty):
        if path is not None:
            format_of(path)
    if len({path.resolve() for path in targets}) < len(targets):
        raise MrictError(f"{shown(output)}: two outputs with the same name; expected different files; rename one")
    for path in targets:
        if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
            raise MrictError(
                f"{shown(path)}: input and output are the same file; expected two files; give another output"
            )
        if path.is_dir() and not (path == output and is_series(output)):
            raise MrictError(f"{shown(path)}: a folder; expected a file to write; add a file name")
        if path.exists() and not overwrite:
            raise MrictError(f"{shown(path)}: exists already; give another output, or --overwrite to replace it")


def source_hash(source: Path) -> str:
    """Return the hash of an input's content: an image, or all visible files of a folder, regardless of their names."""
    with available(source):
        if source.is_dir():
            return hash_of(sorted(hash_file(path) for path in visible(source) if path.is_file()))
        return hash_image(source)


def visible(folder: Path) -> list[Path]:
    """Return everything in a folder that is not hidden."""
    below = (
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted(below)


def case_key(
    input_hash: str, models: Sequence[Model], options: SynthesisOptions, body: np.ndarray | None = None
) -> str:
    """Return a hash of everything that decides a synthetic CT: input, models, options, code, precision and device."""
    parts = [
        (m.hash, ",".join(m.synthesizer.facts.all_planes), str(m.synthesizer.precision), m.synthesizer.device.type)
        for m in models
    ]
    mask = hash_of(np.packbits(body).tobytes().hex()) if body is not None else ""
    own = [m.synthesizer.own_code for m in models]
    return hash_of([input_hash, parts, dataclasses.asdict(options), code_hash(*CODE), mask, *filter(None, own)])


def is_current(
    source: Path,
    output: Path,
    models: Sequence[Model],
    options: SynthesisOptions,
    body: np.ndarray | None = None,
    sidecar: Path | None = None,
) -> dict[str, Any] | None:
    """Return the json of `output` if synthesising `source` now would write the same, else None."""
    beside = sidecar or sidecar_path(output)
    if not (output.is_file() and beside.is_file()):
        return None
    try:
        facts = read_json(beside)
        same = facts["key"] == case_key(source_hash(source), models, options, body)
        return facts if same and facts.get("finished", True) else None
    except (MrictError, KeyError, TypeError, AttributeError):
        return None


def unfinished(sidecar: Path) -> str:
    """Return the key of the case whose files were being renamed when a run was killed, "" if none."""
    try:
        facts = read_json(sidecar) if sidecar.is_file() else {}
        return "" if facts.get("finished", True) else str(facts["key"])
    except (MrictError, KeyError, TypeError, AttributeError):
        return ""


def notes_of(facts: dict[str, Any]) -> list[str]:
    """Return those warnings of a case's json that need no action."""
    return [finding["text"] for finding in facts.get("findings", ()) if finding["severity"] == gate.NOTE]


def _of_model(model: Model) -> list[gate.Finding]:
    """Return what a user of this model should know."""
    found = []
    if model.demo:
        profile = model.synthesizer.facts.profile.name
        text = f"{model.name}: a model of profile {profile}, made to demonstrate the suite, not for use"
        found.append(gate.Finding(text, text, gate.REFUSE))
    terms = [model.about.label, f"weights {model.about.licence}" if model.about.licence else ""]
    if any(terms):
        text = f"{model.name}: {'; '.join(filter(None, terms))}"
        found.append(gate.Finding(text, text, gate.NOTE))
    return found
