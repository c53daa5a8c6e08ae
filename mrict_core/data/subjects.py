"""Which patients are one person: by id, by a user's rule, or by identical images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrict_core.data.case_csv import read_rows
from mrict_core.data.discovery import FURTHER
from mrict_core.errors import MrictError
from mrict_core.paths import shown, some

BIDS = r"^(sub-[A-Za-z0-9]+)(?:_|$)"  # sub-01_ses-2 and sub-01_run-1 belong to sub-01
# Ids like 01_a, P07-2 or 12_followup: a number, then the visit.
VISIT = re.compile(
    r"(.*\d.*?)[_\-. ](?:[a-z]|\d|\d{8}|(?:ses|session|visit|scan|time|tp|day|week|month|year|fx|v|t|m)[_-]?\d+"
    r"|pre|post|baseline|follow-?up|fu\d*)",
    re.IGNORECASE,
)
COLUMNS = ("patient", "subject")
NAMED = 5  # patients listed in a message


def people_of(patients: Iterable[str]) -> list[str]:
    """Return the person of each patient: equal ids in several folders are one, see `discovery.FURTHER`."""
    return [patient.partition(FURTHER)[0] for patient in patients]


def absolute(rule: str) -> str:
    """Return the rule; the path of a csv file becomes absolute, so that it is valid from every folder."""
    return str(Path(rule).expanduser().absolute()) if rule.lower().endswith(".csv") else rule


def subjects_of(patients: Iterable[str], rule: str = "") -> dict[str, str]:
    """Return {patient: subject}.

    `rule`: "" reads the subject from BIDS ids (`sub-01_ses-2` belongs to `sub-01`), every other patient is a subject of
    its own; a regular expression names the subject in its first matching group; a csv file has the columns patient and
    subject. Raises `MrictError` for an invalid rule, or one that leaves a patient without a subject.
    """
    patients = list(patients)
    if rule.lower().endswith(".csv"):
        found = _of_csv(Path(rule), patients)
    else:
        found = {patient: _first_group(rule or BIDS, patient) for patient in patients}
    missing = [patient for patient, subject in found.items() if not subject]
    if rule and missing:
        raise MrictError(
            f"--group-by {rule}: gives no subject for {some(missing, NAMED)}; expected one for every patient"
        )
    return {patient: subject or patient for patient, subject in found.items()}


def _first_group(pattern: str, patient: str) -> str:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise MrictError(f"--group-by {pattern}: not a regular expression ({error}); correct it") from None
    if not expression.groups:
        raise MrictError(f"--group-by {pattern}: has no group; put brackets around the subject, as in '(.+)_[ab]'")
    match = expression.search(patient)
    return next(filter(None, match.groups()), "") if match else ""


def _of_csv(path: Path, patients: list[str]) -> dict[str, str]:
    """Return {patient: subject}; "" if the file names none."""
    subjects: dict[str, str] = {}
    for _, row in read_rows(path, COLUMNS):
        patient, subject = (row[column] for column in COLUMNS)
        if patient and subjects.setdefault(patient.lower(), subject) != subject:
            raise MrictError(f"{shown(path)}: patient {patient} has two subjects; expected one; correct the file")
    return {patient: subjects.get(patient.lower(), "") for patient in patients}


def likely_visits(subjects: Mapping[str, str]) -> str:
    """Return a remark on ids that look like visits of one person but count as several people; "" for none."""
    visits: dict[str, list[str]] = {}
    for patient, subject in sorted(subjects.items()):
        match = VISIT.fullmatch(patient)
        if match and subject == patient:
            visits.setdefault(match[1].lower(), []).append(patient)
    several = [members for members in visits.values() if len(members) > 1]
    if not several:
        return ""
    first = " and ".join(several[0][:2])
    more = f" (and {len(several) - 1} more such groups)" if len(several) > 1 else ""
    return f"{first}{more} are split as different people; if they are one person, use --group-by"


def shared_images(metas: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Return ({copy: the patient it equals}, [(patient, earlier patient, role they share)]) of prepared patients.

    A copy has the same MR and CT as a patient earlier by name; sharing only one of them means the same person. Images
    are equal if their voxels in the file, or the arrays prepared from them, are equal.
    """
    owner: dict[tuple[str, str], str] = {}
    copies: dict[str, str] = {}
    shared: list[tuple[str, str, str]] = []
    for patient in sorted(metas):
        content = metas[patient]["content"]
        marks = {role: [(role, content[kind][role]) for kind in ("voxels", "arrays")] for role in ("mr", "ct")}
        owners = {role: {owner[mark] for mark in marks[role] if mark in owner} for role in marks}
        if both := owners["mr"] & owners["ct"]:
            copies[patient] = min(both)
            continue
        shared += [(patient, earlier, role) for role in marks for earlier in sorted(owners[role])]
        for mark in (*marks["mr"], *marks["ct"]):
            owner.setdefault(mark, patient)
    return copies, shared


def merged(subjects: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return `subjects` with the subjects of each pair of patients merged."""
    result = dict(subjects)
    for one, other in pairs:
        keep, drop = result[other], result[one]
        result = {patient: keep if subject == drop else subject for patient, subject in result.items()}
    return result
