"""A published model as a MONAI bundle, which runs without this suite.

    DIR/configs/metadata.json   what goes in and comes out, versions, label, licence, limits
        configs/inference.json  python -m monai.bundle run --config_file configs/inference.json
        models/model.ts         TorchScript: normalisation, network, HU
        docs/README.md          the model's card
        docs/license.txt        terms of the weights

MONAI's transforms cannot take percentiles inside a mask, so the TorchScript takes the raw MR and a body mask. It does
for protocol `patient` what `data.cache.patient.prepare_mr` and `inference.volume` do, for one plane; it finds no body
mask, resamples nothing, merges no planes, and has no tiles: a larger body gets a larger canvas.
"""

from __future__ import annotations

import warnings
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.data.cache.patient import body_of, prepare_mr
from mrict_core.data.images.orders import PLANES, SliceOrder
from mrict_core.data.intensity import MR_PERCENTILES
from mrict_core.errors import MrictError
from mrict_core.files import atomic_folder, write_json, write_text
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.modalities import MR
from mrict_core.models.about import about_of
from mrict_core.models.card import card_text
from mrict_core.models.export import Example, Original, check_equal
from mrict_core.paths import shown

PACKAGES = ("fire", "ignite")  # of MONAI's command line and its evaluator
REQUIRED = ("nibabel", "pytorch-ignite", "fire")  # by a bundle that runs, besides torch and MONAI
METADATA, INFERENCE, NETWORK = "configs/metadata.json", "configs/inference.json", "models/model.ts"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
BATCH = 8  # slices
NOT_DONE = (
    "It takes a body mask and finds none itself; it does not resample, so the voxels must be about as large as those "
    "of the training images; it predicts one plane; it has no input check."
)


class MrToCt(nn.Module):
    """A whole volume to HU.  # (1, 2, N, H, W): raw MR, body mask (above 0 inside) => (1, 1, N, H, W) float32 HU

    Slices, rows and columns in the order of the plane (`orders.PLANES`). Air outside the mask.
    """

    def __init__(self, network: nn.Module, size: int, multiple: int, radius: int) -> None:
        super().__init__()
        self.network, self.size, self.multiple, self.radius = network, size, multiple, radius
        self.low: float = MR_PERCENTILES[0] / 100
        self.high: float = MR_PERCENTILES[1] / 100
        self.air: float = float(AIR_FLOOR_HU)
        self.batch: int = BATCH

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 5 or image.size(0) != 1 or image.size(1) != 2:
            raise ValueError("expected (1, 2, slices, rows, cols): an MR and its body mask")
        mr, body = image[0, 0].float(), image[0, 1] > 0
        if not bool(body.any()):
            raise ValueError("the body mask is empty; expected values above 0 inside the body")
        values = mr[body].sort()[0]
        low, high = self.percentile(values, self.low), self.percentile(values, self.high)
        if not high > low:
            raise ValueError("the MR is constant inside the body mask; expected tissue contrast")
        unit = ((mr - low) * (2.0 / (high - low)) - 1.0).clamp(-1.0, 1.0)
        unit = torch.where(body, unit, torch.full_like(unit, -1.0))

        top, bottom = self.bounds(body.any(0).any(1))
        left, right = self.bounds(body.any(0).any(0))
        side, extent = self.size, max(bottom - top, right - left)
        if extent > side:
            side = (extent + self.multiple - 1) // self.multiple * self.multiple
        top, left = (top + bottom - side) // 2, (left + right - side) // 2
        below, beside = mr.size(1) - top - side, mr.size(2) - left - side
        held = body.any(2).any(1).nonzero()[:, 0]
        stack = F.pad(unit[held], [-left, -beside, -top, -below], value=-1.0)  # negative: cropped

        count = stack.size(0)
        hu = torch.full_like(stack, self.air)
        for start in range(0, count, self.batch):
            rows = torch.arange(start, min(start + self.batch, count), device=stack.device)
            around = torch.arange(-self.radius, self.radius + 1, device=stack.device)
            seen = stack[(rows[:, None] + around).clamp(0, count - 1)]  # (B, C, side, side)
            hu[rows] = self.network(seen)[:, 0]
        whole = torch.full_like(mr, self.air)
        whole[held] = F.pad(hu, [left, beside, top, below], value=self.air)
        return torch.where(body, whole, torch.full_like(whole, self.air))[None, None]

    def percentile(self, values: Tensor, share: float) -> float:
        """Return a percentile of sorted values by linear interpolation, as numpy's."""
        place = share * (values.numel() - 1)
        first = int(place)
        below = float(values[first])
        above = float(values[min(first + 1, values.numel() - 1)])
        return below + (above - below) * (place - first)

    def bounds(self, used: Tensor) -> tuple[int, int]:
        """Return the first True and one after the last."""
        places = used.nonzero()[:, 0]
        return int(places[0]), int(places[-1]) + 1


def write_bundle(original: Original, example: Example, target: Path, *, overwrite: bool = False) -> float:
    """Write a bundle; return its largest difference from the suite's own CT inside the body, in HU.

    overwrite: replace a bundle that this function wrote. Raises MrictError, with nothing written, for protocol
    `predecessor`, an input other than MR, a network that cannot be traced, and a copy that differs.
    """
    if original.facts.protocol != "patient":
        raise MrictError(
            f"{original.name}: prepares its MR by protocol {original.facts.protocol}, expected patient for --bundle; "
            "use --onnx"
        )
    if original.facts.modality != MR:
        raise MrictError(f"{original.name}: reads {original.facts.modality.word}, expected MR for --bundle; use --onnx")
    with atomic_folder(target, _is_bundle if overwrite else None) as temporary:
        for folder in ("configs", "models", "docs"):
            (temporary / folder).mkdir()
        _scripted(original).save(temporary / NETWORK)
        difference = _difference(temporary / NETWORK, original, example)
        check_equal(difference, target, example)
        write_json(temporary / METADATA, _metadata(original))
        write_json(temporary / INFERENCE, _inference(original))
        write_text(temporary / "docs" / "README.md", card_text(original.description, original.scores))
        terms = original.metadata()
        write_text(temporary / "docs" / "license.txt", f"Weights: {terms['licence']}\n{terms['citation']}\n")
    return difference


def _is_bundle(folder: Path) -> None:
    if not (folder / METADATA).is_file():
        raise MrictError(f"{shown(folder)}: not a bundle, not replaced; expected {METADATA} in it; name another folder")


def _scripted(original: Original) -> torch.jit.ScriptModule:
    size = original.facts.size
    mr = torch.zeros(1, original.channels, size, size)
    with warnings.catch_warnings(action="ignore"):  # torch prefers torch.export, MONAI's bundles hold TorchScript
        network = torch.jit.trace(original.network, mr, check_trace=False)
        return torch.jit.script(MrToCt(network, size, original.multiple, original.method.view.radius).eval())


@torch.inference_mode()
def _difference(path: Path, original: Original, example: Example) -> float:
    """Return the largest difference in HU inside the body of a volume, prepared by the suite and by the copy."""
    volume, codes = example.volume, PLANES[original.plane]
    body, order = body_of(volume), SliceOrder.toward(volume.affine, codes)
    image = np.stack([order.to_slices(volume.array), order.to_slices(body).astype(np.float32)])[None]
    with warnings.catch_warnings(action="ignore"):
        copy = torch.jit.load(path, map_location="cpu")
    found = order.to_array(copy(torch.from_numpy(image.astype(np.float32)))[0, 0].numpy())
    prepared = prepare_mr(volume, original.facts.size, plane=original.plane, body=body)
    gathered = np.stack([original.method.view.gather(prepared.mr, k) for k in range(len(prepared.mr))])
    hu = [original.network(torch.from_numpy(each)) for each in np.array_split(gathered, -(-len(gathered) // BATCH))]
    expected = prepared.to_volume(torch.cat(hu)[:, 0].numpy())
    return float(np.abs(found - expected)[body].max())


def _metadata(original: Original) -> dict[str, Any]:
    """Return metadata.json, by MONAI's bundle specification."""
    facts, text = original.facts, original.metadata()
    spatial, anything = ["*", "*", "*"], {"dtype": "float32", "is_patch_data": False}
    mr = {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 2, "spatial_shape": spatial}
    ct = {"type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1, "spatial_shape": spatial}
    channels = {"0": "MR, raw values", "1": "body mask, above 0 inside"}
    about = about_of(original.description)
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported from {text['model']}"},
        "monai_version": installed.version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: installed.version(name) for name in REQUIRED},
        "name": facts.variant,
        "task": f"synthetic CT from MR, {text['region'] or 'region unknown'}, {original.plane} slices",
        "description": f"{facts.experiment.why} {NOT_DONE}",
        "authors": text["made_by"],
        "copyright": text["licence"],
        "data_source": original.description["data"]["name"],
        "data_type": "nibabel",
        "intended_use": f"{text['use']}; {text['label']}",
        "references": [about.citation] if about.citation else [],
        "network_data_format": {
            "inputs": {"image": mr | anything | {"value_range": [], "channel_def": channels}},
            "outputs": {"pred": ct | anything | {"value_range": facts.window_hu, "channel_def": {"0": "HU"}}},
        },
        "mrict": text,
    }


def _inference(original: Original) -> dict[str, Any]:
    """Return inference.json: one MR and its body mask, on its own grid."""
    keys = ["mr", "body"]
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "mr": "mr.nii.gz",
        "body": "mask.nii.gz",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": f"$torch.jit.load(@bundle_root + '/{NETWORK}', map_location=@device).eval()",
        "network": "$@network_def",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": keys, "ensure_channel_first": True},
                {"_target_": "Orientationd", "keys": keys, "axcodes": PLANES[original.plane]},
                {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'mr': @mr, 'body': @body}]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "mr",
                    "nearest_interp": False,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "sct",
                    "output_dtype": "$torch.float32",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }
