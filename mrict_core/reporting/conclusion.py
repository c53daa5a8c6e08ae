"""The result of a run in words: the best model, its error, the baselines, bone, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrict_core import metrics
from mrict_core.paths import PHANTOMS, SUITE_COMMAND

Record = Mapping[str, Any]
CONCLUSION = "conclusion.md"
BASELINES = {
    "baseline_water_body": "water",
    "baseline_mean_ct": "the mean training CT",
    "baseline_rank_map": "MR values mapped to HU by rank",
    "baseline_input": "the CBCT as it is",
}
DICE_LOW = 0.6  # below, much of the bone is missing or displaced
DICE_GOOD = 0.85  # from here, what differs is mostly the outline
FEW_TRAINED = 20  # patients; with fewer, more of them help most
FEW_TESTED = 6  # patients; with fewer, no paired test can reach p < 0.05


def _ranked(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the variants and the baselines that have a masked MAE, best first."""
    scored = sorted((r for r in records if _mean(r) is not None), key=_mean)
    variants, baselines = ([r for r in scored if r["kind"] == kind] for kind in ("variant", "baseline"))
    return variants, baselines


def conclusion(records: Sequence[Record], *, bone: bool = True) -> str:
    """Return a paragraph on the records of one leaderboard, those of variants and baselines.

    Without `bone` nothing is said about how well bone is made: for use beside `bone_verdict`.
    """
    variants, baselines = _ranked(records)
    if not variants:
        return "No model has a score."
    best = variants[0]
    beaten = [b for b in baselines if _mean(best) < _mean(b)]
    better = [b for b in baselines if b not in beaten]
    sentences = [_error(best, len(variants)), _against(beaten, better), _next(best, better)]
    if bone:
        sentences.insert(2, _bone(best, baselines))
    return " ".join(filter(None, sentences))


def headline(records: Sequence[Record]) -> str:
    """Return the result in brief: the best model, its error and the best baseline."""
    variants, baselines = _ranked(records)
    if not variants:
        return "No model has a score."
    best, rival = variants[0], baselines[0] if baselines else None
    where = f"{'in' if best['summary']['all']['mae_hu']['n'] == 1 else 'over'} {held_out(best)}"
    error = f"{best['name']}{' is best' if len(variants) > 1 else ''}: {_text(best)} HU mean absolute error {where}"
    if not rival:
        return f"{error}. No baseline was scored."
    name = f"{BASELINES.get(rival['name'], rival['name'])} ({_text(rival)} HU)"
    against = f"better than the best baseline, {name}" if _mean(best) < _mean(rival) else f"no better than {name}"
    return f"{error}, {against}."


def bone_verdict(records: Sequence[Record]) -> str:
    """Return in words how well the best model makes bone; "" without a model that has a score."""
    variants, baselines = _ranked(records)
    if not variants:
        return ""
    best = variants[0]
    dice = _mean(best, "dice_bone_250")
    if dice is None or _mean(best, "mae_bone_hu") is None:
        return "Not judged: the CTs have no bone above 250 HU inside the mask."
    word = "Good" if dice >= DICE_GOOD else "Fair" if dice >= DICE_LOW else "Poor"
    where = {
        "Good": "bone is where it should be",
        "Fair": "most bone is there, its outline is not exact",
        "Poor": "much of the bone is missing or displaced",
    }[word]
    overlap, size = _text(best, "dice_bone_250"), _text(best, "mae_bone_hu")
    text = f"{word}: {where} (Dice {overlap} above 250 HU{_bone_rank(best, baselines)})."
    return f"{text} The error in bone is {size} HU{_density(best)}."


def held_out(record: Record) -> str:
    """Return whose images a record's error is from: "the one held-out person", "3 held-out phantoms"."""
    one, several = ("phantom", "phantoms") if record["context"].get("data") == PHANTOMS else ("person", "people")
    n = record["summary"]["all"]["mae_hu"]["n"]
    return f"the one held-out {one}" if n == 1 else f"{n} held-out {several}"


def _density(best: Record) -> str:
    """Return by how much bone is too soft or too dense, or that this is little of its error."""
    bias, error = _mean(best, "me_bone_hu"), _mean(best, "mae_bone_hu")
    if bias is None or abs(bias) < error / 4:
        return ", without a clear bias" if bias is not None else ""
    return f"; on average bone is {abs(bias):.0f} HU too {'soft' if bias < 0 else 'dense'}"


def _mean(record: Record, metric: str = "mae_hu") -> float | None:
    return record["summary"]["all"][metric]["mean"]


def _text(record: Record, metric: str = "mae_hu") -> str:
    return metrics.metric(metric).text(_mean(record, metric))


def _error(best: Record, count: int) -> str:
    found = best["summary"]["all"]["mae_hu"]
    title = f"The best of {count} models is {best['name']}" if count > 1 else f"The model is {best['name']}"
    if found["n"] == 1:
        return f"{title}: its mean error inside the body is {_text(best)} HU, in {held_out(best)}."
    sd = metrics.metric("mae_hu").text(found["sd"])
    few = "; too few for a statistical test between models" if found["n"] < FEW_TESTED else ""
    return f"{title}: its mean error inside the body is {_text(best)} ± {sd} HU (mean ± SD of {held_out(best)}{few})."


def _against(beaten: Sequence[Record], better: Sequence[Record]) -> str:
    if not (beaten or better):
        return "No baseline was scored, so it is unknown whether the model has learned anything."
    if not better:
        return f"It beats every baseline: {_listed(beaten)}."
    also = f"It beats {_listed(beaten)}, but not" if beaten else "It does not beat"
    return f"{also} {_listed(better, 'or')}: a model that is worse than a trivial guess is of no use."


def _listed(baselines: Sequence[Record], last: str = "and") -> str:
    texts = [f"{BASELINES.get(b['name'], b['name'])} ({_text(b)} HU)" for b in baselines]
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _bone(best: Record, baselines: Sequence[Record]) -> str:
    if _mean(best, "mae_bone_hu") is None or _mean(best, "dice_bone_250") is None:
        return "The CTs have no bone above 250 HU inside the mask, so bone was not judged."
    text = f"In bone the error is {_text(best, 'mae_bone_hu')} HU and the overlap (Dice) {_text(best, 'dice_bone_250')}"
    if _lacks_bone(best):
        return f"{text}: much of the bone is missing or displaced."
    return f"{text}{_bone_rank(best, baselines)}."


def _bone_rank(best: Record, baselines: Sequence[Record]) -> str:
    """Return how the Dice of bone compares with the baselines'; "" without any."""
    rivals = [b for b in baselines if _mean(b, "dice_bone_250") is not None]
    ahead = [b for b in rivals if _mean(b, "dice_bone_250") >= _mean(best, "dice_bone_250")]
    if ahead:
        names = " and ".join(BASELINES.get(b["name"], b["name"]) for b in ahead)
        return f", no better than {names}"
    return ", better than any baseline" if rivals else ""


def _lacks_bone(record: Record) -> bool:
    dice = _mean(record, "dice_bone_250")
    return dice is not None and dice < DICE_LOW


def _next(best: Record, better: Sequence[Record]) -> str:
    """Return what to try next: the first that applies, and for a model better than the baselines what helps bone."""
    context = best["context"]
    if context.get("data") == PHANTOMS:
        return f"These are phantoms: try your own patients next ({SUITE_COMMAND} --data DIR)."
    advice = []
    if better:
        advice = ["look at figures/00_pairs.png, where MR and CT of a patient must lie on each other", _longer(context)]
    elif _still_falling(context):
        advice = [f"{_longer(context)}: the error on the validation patients was still falling"]
    elif context["train_patients"] < FEW_TRAINED:
        advice = [f"add patients: it learned from {context['train_patients']}"]
    if _lacks_bone(best) and not better:
        advice.append(
            "see in the report's slice browser whether bone is missing (train longer) or displaced (register)"
        )
    return f"Next: {'; '.join(advice or ['train other seeds before trusting a small difference between models'])}."


def _longer(context: Mapping[str, Any]) -> str:
    now = f"; now {context['budget']}" if "budget" in context else ""
    return f"train longer (--minutes-per-variant{now})"


def _still_falling(context: Mapping[str, Any]) -> bool:
    """Return whether the last epoch was the best."""
    return context.get("checkpoint_epoch") == context.get("epochs")
