"""A published model: a folder with everything a user of the network needs, without training state.

    <checkpoints>/<variant>/<hash>/model.safetensors   weights, named <network>/<key of its state dict>
                                   discriminator.safetensors  of its discriminators; absent without one
                                   model.json          facts: the checkpoint without tensors, and the data behind it
                                   scores.json         of the held-out patients; absent if not scored
                                   sample.png          a slice of a held-out patient; absent if not scored
                                   README.md           the model's card

The hash covers weights and facts, so a model never changes under its name; scores, sample picture and card are updated
when the model is evaluated again. The folder is written atomically. Earlier versions wrote no sample.png, and the
discriminators into model.safetensors.

In half precision, every weight of two or more dimensions is rounded to float16; vectors (biases, statistics of batch
norm) and whole numbers stay as they are. Networks are always loaded as float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrict_core.errors import MrictError
from mrict_core.files import (
    NEW,
    atomic_folder,
    atomic_path,
    available,
    hash_of,
    held,
    read_json,
    write_json,
    write_text,
)
from mrict_core.models.about import About
from mrict_core.models.card import card_text
from mrict_core.paths import shown
from mrict_core.training.facts import ModelFacts

if TYPE_CHECKING:
    from torch import Tensor

Networks = dict[str, dict[str, "Tensor"]]  # name of the network => its state dict

FORMAT = 1
FACTS, WEIGHTS, SCORES, CARD = "model.json", "model.safetensors", "scores.json", "README.md"
DISCRIMINATOR, SAMPLE = "discriminator.safetensors", "sample.png"
KINDS = ("trained", "imported")
REQUIRED = ("format", "hash", "published", "kind", "label", "demo", "generator", "facts", "data", "weights")
WAIT_S = 60.0  # for another process that publishes the same variant


def model_hash(description: Mapping[str, Any]) -> str:
    """Return a model's hash over everything in model.json, including the hash of the weights.

    Publication date and epoch durations are excluded.
    """
    facts = description["facts"]
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in facts["history"]]
    described = {key: value for key, value in description.items() if key not in ("hash", "published")}
    return hash_of(described | {"facts": facts | {"history": history}})


def write_model(
    root: Path,
    facts: ModelFacts,
    networks: Networks,
    *,
    kind: str,
    label: str,
    demo: bool,
    generator: str,
    data: Mapping[str, Any],
    scores: Mapping[str, Any] | None = None,
    sample: bytes | None = None,
    about: About = About(),
    half: bool = False,
    folder: Path | None = None,
) -> tuple[Path, bool]:
    """Write a model under `root`; return its folder and whether it is new.

    kind: "trained" or "imported". label: the profile's. generator: the MR-to-CT network. data: the training data.
    scores: of held-out patients, with their metric cards. sample: a png. half: store the weights in half precision.
    folder: write here instead. Of an existing model only scores, sample and card are updated. Raises MrictError if a
    weight exceeds half precision, or if the folder cannot be written, is damaged or holds another model.
    """
    predicting, judging = _apart(facts, networks)
    packed = {WEIGHTS: _packed(predicting, half)} | ({DISCRIMINATOR: _packed(judging, half)} if judging else {})
    plain, data = (json.loads(json.dumps(value)) for value in (facts.as_plain(), data))  # as read back
    described = {
        "format": FORMAT,
        "kind": kind,
        "label": label,
        "demo": demo,
        "generator": generator,
        "data": data,
        "weights": _file_facts(packed[WEIGHTS], predicting) | ({"half_precision": True} if half else {}),
        **({"discriminator": _file_facts(packed[DISCRIMINATOR], judging)} if judging else {}),
        **({"about": about.as_plain()} if about.as_plain() else {}),
        "facts": plain,
    }
    digest = model_hash(described)
    description = {"hash": digest, "published": datetime.now(UTC).isoformat(timespec="microseconds"), **described}
    place = Path(root) / facts.variant / digest if folder is None else Path(folder)
    with held(place.parent, f"publishes a model of {facts.variant}", WAIT_S):
        if folder is None:
            for leftover in place.parent.glob(f"{NEW}*"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            place = _existing(place, "" if half or not judging else _in_one_file(described, networks)) or place
        elif place.exists() and (found := read_model(place)["hash"]) != digest:
            raise MrictError(f"{shown(place)}: holds model {found}, expected {digest} or no folder; name another")
        if place.exists():
            _renew(place, scores, sample)
            return place, False
        with atomic_folder(place) as temporary:
            for name, content in packed.items():
                (temporary / name).write_bytes(content)
            write_json(temporary / FACTS, description)
            _write_rest(temporary, description, scores, sample)
    return place, True


def _apart(facts: ModelFacts, networks: Networks) -> tuple[Networks, Networks]:
    """Return the networks that make images, and the discriminators beside them."""
    from mrict_core.methods import METHODS

    roles = METHODS[facts.experiment.method.name].NETWORKS
    judging = {name: state for name, state in networks.items() if roles.get(name) == "D"}
    if len(judging) == len(networks):  # of an import of discriminators alone
        return networks, {}
    return {name: state for name, state in networks.items() if name not in judging}, judging


def _file_facts(content: bytes, networks: Networks) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"bytes": len(content), "sha256": sha256, "networks": _sizes(networks)}


def _in_one_file(described: Mapping[str, Any], networks: Networks) -> str:
    """Return the hash that a version which kept all networks in one file gave this model."""
    apart = ("discriminator", "weights")
    kept = {key: value for key, value in described.items() if key not in apart}
    return model_hash(kept | {"weights": _file_facts(_packed(networks), networks)})


def _existing(folder: Path, earlier: str) -> Path | None:
    """Return the folder of the same model, also if an earlier version published it under another hash.

    earlier: the model's hash with all networks in one file, "" if it cannot be there.
    """
    for path in sorted(folder.parent.glob(f"*/{FACTS}")):
        with contextlib.suppress(MrictError):
            described = read_model(path.parent)
            facts = ModelFacts.from_plain(described["facts"], shown(path)).as_plain()
            facts = json.loads(json.dumps(facts | {"complete": True}))  # best.pt was published as it was, then
            if model_hash(described | {"facts": facts}) in (folder.name, earlier):
                return path.parent
    return None


def _renew(folder: Path, scores: Mapping[str, Any] | None, sample: bytes | None) -> None:
    """Check an existing model; update its scores and card if they changed, and its picture if it has none."""
    description, known = read_model(folder), read_scores(folder)
    check_weights(folder, description)
    added = sample is not None and not (folder / SAMPLE).is_file()
    if added or (scores is not None and scores != known):
        _write_rest(folder, description, known if scores is None else scores, sample if added else None)


def _write_rest(
    folder: Path, description: Mapping[str, Any], scores: Mapping[str, Any] | None, sample: bytes | None
) -> None:
    if scores is not None:
        write_json(folder / SCORES, dict(scores))
    if sample is not None:
        with atomic_path(folder / SAMPLE) as temporary:
            temporary.write_bytes(sample)
    write_text(folder / CARD, card_of(folder, description, scores))


def card_of(folder: Path, description: Mapping[str, Any], scores: Mapping[str, Any] | None) -> str:
    """Return the card of a model's folder."""
    return card_text(description, scores, SAMPLE if (folder / SAMPLE).is_file() else "")


def _packed(networks: Networks, half: bool = False) -> bytes:
    import safetensors.torch
    import torch

    # safetensors stores neither channels-last weights nor two views of one storage
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, state in networks.items()
        for key, tensor in state.items()
    }
    return safetensors.torch.save({name: _halved(name, t) for name, t in tensors.items()} if half else tensors)


def _halved(name: str, tensor: Tensor) -> Tensor:
    """Return a weight in half precision; vectors and whole numbers unchanged."""
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    rounded = tensor.half()
    if bool((rounded.isinf() & tensor.isfinite()).any()):
        raise MrictError(
            f"{name}: has weights up to {tensor.abs().max():.3g}, expected at most 65504 in half precision; publish "
            "the model in full precision"
        )
    return rounded


def _sizes(networks: Networks) -> dict[str, dict[str, int]]:
    """Return the numbers of tensors and values of each network, buffers included."""
    return {n: {"tensors": len(s), "values": sum(t.numel() for t in s.values())} for n, s in networks.items()}


def is_model(path: Path) -> bool:
    """Return whether `path` is a model folder, damaged or not."""
    return (path / FACTS).is_file() or (path / WEIGHTS).is_file()


def read_model(folder: Path) -> dict[str, Any]:
    """Return the content of model.json, checked against its hash; of the weights only the size is checked.

    Raises MrictError if a file is absent, damaged, edited or of another format. `check_weights` reads the weights.
    """
    remedy = "delete the folder and publish the model again"
    description = read_json(folder / FACTS)
    missing = [key for key in REQUIRED if key not in description] if isinstance(description, dict) else list(REQUIRED)
    if missing:
        raise MrictError(f"{shown(folder / FACTS)}: not the facts of a model, {', '.join(missing)} missing; {remedy}")
    if description["format"] != FORMAT:
        raise MrictError(
            f"{shown(folder / FACTS)}: model format {description['format']}, this version reads {FORMAT}; {remedy}"
        )
    try:
        found, variant = model_hash(description), str(description["facts"]["variant"])
        size = int(description["weights"]["bytes"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise MrictError(f"{shown(folder / FACTS)}: not the facts of a model ({error}); {remedy}") from None
    if found != description["hash"]:
        raise MrictError(
            f"{shown(folder / FACTS)}: its content has hash {found}, expected {description['hash']}: edited or "
            f"damaged; {remedy}"
        )
    path = folder / WEIGHTS
    have = path.stat().st_size if path.is_file() else None
    if have != size:
        came = "no such file" if have is None else f"{have} bytes"
        raise MrictError(f"{shown(path)}: {came}, expected {size} bytes of weights of {variant}; {remedy}")
    return description


def read_scores(folder: Path) -> dict[str, Any] | None:
    """Return the scores of a model's held-out patients, None if not scored."""
    path = folder / SCORES
    scores = read_json(path) if path.is_file() else None
    if scores is not None and not (isinstance(scores, dict) and isinstance(scores.get("summary"), dict)):
        raise MrictError(f"{shown(path)}: not the scores of a model; delete the file and evaluate the model again")
    return scores


def check_weights(folder: Path, description: Mapping[str, Any]) -> bytes:
    """Return the content of the weights file; raise MrictError unless it is the published one."""
    return _checked(folder / WEIGHTS, description["weights"]["sha256"])


def check_discriminators(folder: Path, description: Mapping[str, Any]) -> bytes:
    """Return the content of the discriminators' file, b"" for a model without; like `check_weights`."""
    facts = description.get("discriminator")
    return _checked(folder / DISCRIMINATOR, facts["sha256"]) if facts else b""


def _checked(path: Path, expected: str) -> bytes:
    with available(path):
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise MrictError(
            f"{shown(path)}: its sha256 is {found[:16]}…, expected {expected[:16]}…: the weights were changed or "
            "damaged; delete the folder and publish the model again"
        )
    return content


def load_facts_and_weights(path: Path, expect_variant: str | None = None) -> tuple[ModelFacts, Networks]:
    """Return (facts, {network: float32 state dict on the CPU}) of a model folder or checkpoint file.

    A model's discriminators are read by `load_discriminators`: a CT does not need them. Raises MrictError if the model
    is absent, damaged, tampered with, unsafe, or of another variant than expected.
    """
    path = Path(path)
    if not path.is_dir():
        from mrict_core.training.checkpoint import load_checkpoint

        return facts_and_weights(load_checkpoint(path, expect_variant), path)
    description = read_model(path)
    facts = facts_of(description, path)
    if expect_variant and facts.variant != expect_variant:
        raise MrictError(
            f"{shown(path)}: model of variant '{facts.variant}', expected '{expect_variant}'; "
            "give a folder of that variant, or name the other variant"
        )
    return facts, _unpacked(check_weights(path, description), path / WEIGHTS)


def load_discriminators(folder: Path) -> Networks:
    """Return {network: float32 state dict on the CPU} of a model's own file of discriminators; {} without one."""
    content = check_discriminators(folder, read_model(folder))
    return _unpacked(content, folder / DISCRIMINATOR) if content else {}


def _unpacked(content: bytes, path: Path) -> Networks:
    import safetensors
    import safetensors.torch
    import torch

    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise MrictError(
            f"{shown(path)}: not readable ({str(error)[:120]}); delete the folder and publish the model again"
        ) from None
    networks: Networks = {}
    for name, tensor in tensors.items():
        network, _, key = name.partition("/")
        networks.setdefault(network, {})[key] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return networks


def facts_of(description: Mapping[str, Any], folder: Path) -> ModelFacts:
    """Return the facts of a model.json."""
    try:
        return ModelFacts.from_plain(description["facts"], shown(folder))
    except MrictError as error:
        raise MrictError(f"{error}; train or import it again") from None


def facts_and_weights(payload: Mapping[str, Any], path: Path) -> tuple[ModelFacts, Networks]:
    """Return a checkpoint's content as (facts, {network: state dict})."""
    return ModelFacts.of_payload(payload, path), payload["networks"]
