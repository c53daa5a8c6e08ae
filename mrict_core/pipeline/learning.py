"""One validation slice through a training: after some of its epochs, and as its discriminator sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mrict_core.data.batches import as_slices
from mrict_core.errors import MrictError
from mrict_core.methods.base import Adversarial
from mrict_core.networks.layers import patch_size
from mrict_core.pipeline.outcome import Outcome
from mrict_core.training.checkpoint import load_checkpoint, load_weights
from mrict_core.training.run import Run, sampled_epochs
from mrict_core.training.validation import sample_item, sample_level


def sample_row(run: Run) -> dict[str, Any]:
    """Return the slice for figures: patient, z, plane, spacing_mm (rows, columns), mr, ct and mask, see `reporting`."""
    dataset = run.validation_sets()[0]
    patient, plane, z = dataset.index[sample_item(dataset)]
    batch, cut = dataset[sample_item(dataset)], dataset.cuts.get((patient, plane))
    real_A, real_B, mask = (as_slices(part) for part in batch.parts[:3])
    z += (at := sample_level(len(real_B)))  # 0 but in a volume
    row = {
        "patient": patient,
        "z": z if cut else int(run.store.slices(patient).z[z]),
        "plane": plane,
        "input": run.store.modality.word,
    }
    row["spacing_mm"] = (cut.pixel_mm, cut.pixel_mm) if cut else run.store.spacing_mm(patient)[1:]
    row |= {"mr": real_A[at, real_A.shape[1] // 2].numpy(), "mask": mask[at, 0].numpy()}
    return row | {"ct": run.store.window.to_hu(real_B[at, 0]).numpy()}


def sampled_slices(outcome: Outcome, run: Run) -> dict[int, np.ndarray]:
    """Return the slice's synthetic CT after some epochs: {epoch: (S, S) HU}.

    It is empty for a training of a version that kept none.
    """
    paths = {epoch: outcome.training.run.sample(epoch) for epoch in sampled_epochs(run.epochs)}
    return {epoch: np.load(path) for epoch, path in paths.items() if path.is_file()}


@torch.inference_mode()
def judged_patches(outcome: Outcome, run: Run) -> dict[str, Any]:
    """Return the row of `sample_row` with the synthetic CT and what the discriminator of CTs says, patch by patch.

    sct, (S, S) HU, and judged_ct, judged_sct, (h, w) each: 1 is real, 0 is synthetic. patch_px: side of the patch that
    an entry sees; step_px: distance of two patches. Networks are of the last epoch, in evaluation mode. Raises
    MrictError for a method without discriminator.
    """
    method, path = run.method(), outcome.training.last
    if not isinstance(method, Adversarial):
        raise MrictError(f"{outcome.name}: method {run.variant.method.name} has no discriminator; choose a GAN")
    saved = load_checkpoint(path, expect_variant=outcome.name)
    for name in (method.mr_to_ct, method.ct_judge):
        load_weights(method.networks[name], saved["networks"][name], name, path)
        method.networks[name].eval()
    dataset, device = run.validation_sets()[0], method.setup.device
    batch = method.in_made_channels(dataset[sample_item(dataset)].to(device))
    real_A = method.view.widened(batch.real_A)
    fake_B = method.generator(real_A)
    judge = method.networks[method.ct_judge]
    maps = {}
    for name, image in (("judged_ct", batch.real_B), ("judged_sct", fake_B)):
        said = judge(method.seen_by_D(real_A, image))[0, 0].float()
        maps[name] = np.atleast_2d((torch.sigmoid(said) if method.gan == "bce" else said).cpu().numpy())
    sct = run.store.window.to_hu(fake_B[0].mean(dim=0).clamp(-1, 1)).cpu().numpy()
    whole = {"patch_px": run.store.size, "step_px": run.store.size}  # of a discriminator with one score per image
    patches = whole if maps["judged_ct"].size == 1 else dict(zip(whole, patch_size(judge), strict=True))
    return sample_row(run) | {"sct": sct, **patches, **maps}
