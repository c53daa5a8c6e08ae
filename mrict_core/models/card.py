"""The card of a published model: training data, results, intended use and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrict_core.experiments.schema import as_plain, flattened
from mrict_core.models.about import About, about_of
from mrict_core.training.facts import ModelFacts
from mrict_core.training.runs import budget

if TYPE_CHECKING:
    from mrict_core.metrics import Metric

Description = Mapping[str, Any]  # content of model.json, with its facts as ModelFacts

SETS = {"train": "training", "val": "validation (chose the epoch)", "test": "held out, scored below"}
NOTHING = "–"
DEMO = (
    "> **Demo model.** Small, briefly trained or trained on digital phantoms, for trying out the suite. "
    "Its images and scores say nothing about patients."
)
NO_SCORES = (
    "None: this suite has not scored it. Evaluate it on held-out patients of your own before you rely on its images "
    "(`python -m mrict_core score`)."
)
SHOWN = (
    "![MR, synthetic CT, CT and error]({sample})\n\nOne slice of a held-out patient, chosen by its position, not by "
    "its score: MR, synthetic CT, CT with the scoring mask outlined, and the error (sCT − CT) inside it."
)
NO_SAMPLE = "None: no synthetic CT of a held-out patient was made when this model was published."


def card_text(description: Description, scores: Mapping[str, Any] | None, sample: str = "") -> str:
    """Return a model's card in markdown.

    scores: of the held-out patients, None if not scored. sample: name of the sample picture beside the card, "" for
    none. Raises MrictError for invalid facts.
    """
    facts = ModelFacts.from_plain(description["facts"], "facts")
    about = about_of(description)
    description = {**description, "facts": facts}
    parts = [
        f"# {facts.variant}@{description['hash']}",
        DEMO if description["demo"] else "",
        f"> **{about.label[0].upper()}{about.label[1:]}.**" if about.label else "",
        _summary(description),
        *_licence(about),
        "## Training data",
        *_data(description),
        "## Results on held-out patients",
        *(_results(scores) if scores else [NO_SCORES]),
        "## Sample",
        SHOWN.format(sample=sample) if sample else NO_SAMPLE,
        "## Intended use",
        _use(description),
        "## Limits",
        "\n".join(f"- {line}" for line in limits(description, scores)),
        "## Settings",
        "Values of the variant by path; the profile sets width, size, batch and epochs. `history` and "
        "`data.max_pairs` are the predecessor's if it had this variant.",
        _settings(facts),
        "## Provenance",
        _provenance(description),
    ]
    return facts.modality.words("\n\n".join(part for part in parts if part)) + "\n"


def limits(description: Description, scores: Mapping[str, Any] | None) -> list[str]:
    """Return the model's limits, most important first."""
    from mrict_core.data.batches import make_view  # imports torch

    facts, data = description["facts"], description["data"]
    low, high = facts.window_hu
    view = make_view(facts.profile.view(facts.experiment))
    seen = f"each with its neighbours up to {view.radius} slices away" if view.radius else "one by one"
    joined = f"Slices are translated {seen}; neighbouring slices may disagree."
    if view.dimensions == 3:
        slices, rows, cols = view.sides(facts.size)
        joined = f"Volumes are translated in overlapping patches of {slices} x {rows} x {cols} voxels, at the spacing "
        joined += "that they have: slices much thicker or thinner than in training are unknown to it."
    lines = [
        "**Not for clinical use.** Not a medical device: no diagnosis, no dose calculation, no treatment decision.",
        *data.get("caveats", ()),
        f"Not tested on scanners, sequences, field strengths, body regions, ages and diseases other than those of the "
        f"training data ({data['name']}); the error there is unknown.",
        f"It cannot predict values outside [{low:g}, {high:g}] HU"
        + (": dense bone, teeth and metal are clipped." if high < 2000 else "; metal is not modelled."),
        joined,
        "It invents what the MR does not show. A plausible image is not evidence of correct anatomy.",
    ]
    if scores:
        n = scores["n"]
        lines.append(f"The results are from {n} patient{'s' * (n != 1)} of the same data set, not an external one.")
        if scores.get("note"):
            lines.append(f"Training: {scores['note']}.")
    from mrict_core.data.cache.fingerprint import few_patients

    fingerprint = facts.fingerprint or {}
    if fingerprint.get("features") and (few := few_patients(fingerprint["patients"])):
        lines.append(f"{few[0].upper()}{few[1:]}.")
    if not fingerprint:
        lines.append("It has no fingerprint of its training images: unsuitable inputs cannot be recognised.")
    return lines


def _summary(description: Description) -> str:
    facts, weights = description["facts"], description["weights"]["networks"]
    size = weights[description["generator"]]["values"] if description["generator"] in weights else 0
    made = (
        "Trained by this suite."
        if description["kind"] == "trained"
        else "Weights of the predecessor, imported unchanged; not trained by this suite."
    )
    lines = [
        f"MR to synthetic CT in HU, slice by slice ({', '.join(facts.all_planes)}). {made} Variant "
        f"`{facts.variant}`: {facts.experiment.why}",
        f"Network `{_network(description)}`, {size:,} values, {facts.size} × {facts.size} px, window "
        f"[{facts.window.low:g}, {facts.window.high:g}] HU. Profile: {description['label']}. "
        f"Networks in the file: {', '.join(weights)}. Published {description['published'][:10]}.",
        _files(description),
    ]
    return "\n\n".join(lines)


def _files(description: Description) -> str:
    """Return size and precision of the weights, and what the discriminators' own file holds."""
    text = f"Weights: {_megabytes(description['weights'])}."
    if description["weights"].get("half_precision"):
        text = f"Weights stored in half precision: {_megabytes(description['weights'])}; scored before rounding."
    if judging := description.get("discriminator"):
        names = ", ".join(judging["networks"])
        text += f" In a file of their own, unused in prediction: {names}, {_megabytes(judging)}."
    return text


def _megabytes(file: Mapping[str, Any]) -> str:
    return f"{file['bytes'] / 1e6:.2f} MB"


def _licence(about: About) -> list[str]:
    """Return the terms of the weights, if the publisher gave any."""
    terms = [
        f"Weights: {about.licence}. The suite's code has its own licence (MIT)." if about.licence else "",
        f"Cite: {about.citation}." if about.citation else "",
    ]
    return ["## Licence", *terms] if any(terms) else []


def _network(description: Description) -> str:
    """Return the kind of the MR-to-CT network; checkpoints name it by role, or by role and direction."""
    networks = description["facts"].experiment.network
    role = description["generator"]
    return networks[role if role in networks else role[:1]].name


def _data(description: Description) -> list[str]:
    facts, data = description["facts"], description["data"]
    lines = [
        f"{data['name']}; region: {data.get('region', 'unknown')}; prepared by protocol `{facts.protocol}`"
        + (f"; split `{data['split']}` (hash `{facts.split_hash}`)" if data.get("split") else "")
        + "."
    ]
    if data.get("text"):
        lines.append(data["text"])
    rows = [
        (SETS[name], s["patients"], s["slices"], ", ".join(f"{c}: {n}" for c, n in s["centres"].items()))
        for name, s in data.get("sets", {}).items()
    ]
    if rows:
        lines.append(_table(("set", "patients", "slices", "patients by centre"), rows))
        lines.append(f"Slices trained on: {facts.training_pairs}.")
    return lines


def _results(scores: Mapping[str, Any]) -> list[str]:
    """Return the main metrics, their values by centre, and their definitions."""
    from mrict_core import metrics  # scipy: only where a card is written

    summary, mae = scores["summary"], metrics.metric("mae_hu")
    rows_of = {metrics.metric(m): summary["all"][m] for m in metrics.keys("model_card") if m in summary["all"]}
    rows = [
        (m.heading, _spread(s, m), _interval(s, m), m.text(s["median"]), s["n"]) for m, s in rows_of.items() if s["n"]
    ]
    centres = [(c, _spread(s["mae_hu"], mae), s["mae_hu"]["n"]) for c, s in summary.get("centres", {}).items()]
    planes = [
        (plane, *(_spread(s[m.key], m) for m in rows_of), s["mae_hu"]["n"])
        for plane, s in summary.get("planes", {}).items()
    ]
    definitions = [
        f"- **{m.heading}**: " + "; ".join(f"{key}: {card[key]}" for key in metrics.CARD_LABELS if card.get(key))
        for m in rows_of
        if (card := scores["cards"].get(m.key))
    ]
    return [
        _table(("measure", "mean ± SD", "95 % interval of the mean", "median", "patients"), rows),
        _table(("plane", *(m.heading for m in rows_of), "patients"), planes) if planes else "",
        _table(("centre", mae.heading, "patients"), centres) if len(centres) > 1 else "",
        "\n".join(definitions),
        _against(summary["all"]["mae_hu"]["mean"], scores.get("baseline"), mae),
        "All other metrics are in `scores.json`.",
    ]


def _against(mae_hu: float | None, baseline: Mapping[str, Any] | None, metric: Metric) -> str:
    if not baseline or mae_hu is None:
        return "Not compared with the trivial baselines, which a model must beat: they were not scored."
    beats = "It beats" if mae_hu < baseline["mae_hu"] else "**It does not beat**"
    best = metric.text(baseline["mae_hu"])
    return f"{beats} the best trivial baseline, `{baseline['name']}`: {best} HU on these patients."


def _use(description: Description) -> str:
    facts, data = description["facts"], description["data"]
    return (
        f"Research on MR-to-CT synthesis: synthetic CTs of MR volumes like those it was trained on ({data['name']}, "
        f"{data.get('region', 'unknown region')}), comparison of methods, teaching. The MR must be prepared by "
        f"protocol `{facts.protocol}`, which the suite does automatically."
    )


def _settings(facts: ModelFacts) -> str:
    """Return the variant's values at training time, and the profile's values that shape the network."""
    fields = {path: v for path, v in flattened(as_plain(facts.experiment)) if path not in ("name", "why") and v != ""}
    profile = {f"profile.{k}": getattr(facts.profile, k) for k in ("name", "width", "batch_size", "feature_network")}
    epochs = {"epoch of these weights": facts.epoch, "epochs of the training": facts.epochs}
    if length := budget(facts.trained):
        epochs["budget of the training"] = length
    rows = {**fields, **profile, **epochs, "precision": facts.precision, "seed": facts.seed}
    return _table(("setting", "value"), [(f"`{name}`", _plain(value)) for name, value in rows.items()])


def _provenance(description: Description) -> str:
    facts = description["facts"]
    features = facts.features or {}
    rows = {
        "model": description["hash"],
        "weights (sha256)": description["weights"]["sha256"],
        "command": about_of(description).command,
        "training run": facts.key,
        "slices": facts.store_key,
        "split": facts.split_hash,
        "starts from": facts.parent,
        "that training run": facts.parent_hash,
        "perceptual features": f"{features.get('name')} {features.get('hash') or ''}" if features else None,
        **{f"imported file of {role} (sha256)": sha256 for role, sha256 in facts.files.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    return _table(("what", "value"), [(name, _plain(value)) for name, value in rows.items()])


def _spread(statistic: Mapping[str, Any], metric: Metric) -> str:
    mean, sd = metric.text(statistic["mean"]), statistic["sd"]
    return mean if sd is None else f"{mean} ± {metric.text(sd)}"


def _interval(statistic: Mapping[str, Any], metric: Metric) -> str:
    low, high = statistic["low"], statistic["high"]
    return NOTHING if low is None or high is None else f"[{metric.text(low)}, {metric.text(high)}]"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v not in (None, 0.0)) or NOTHING
    return NOTHING if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
