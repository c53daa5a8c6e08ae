"""References: pix2pix and CycleGAN as their papers have them, and the predecessor's generator without a GAN.

Isola et al. 2017, arXiv 1611.07004; Zhu et al. 2017, arXiv 1703.10593; values that a paper leaves open are those of the
authors' code, junyanz/pytorch-CycleGAN-and-pix2pix. docs/lineage.md lists what our data and profiles change.
"""

from __future__ import annotations

from mrict_core.experiments.mk import REGISTRY
from mrict_core.experiments.schema import Data, Experiment, History, Optimizer, Part, Schedule, Score, Term

_ADAM = Optimizer(
    lr=2e-4,
    schedule=Schedule(kind="linear"),  # constant for 100 of 200 epochs, then linearly to 0
    options={"betas": [0.5, 0.999]},
)
# Mirrored, and shifted as by the crop of 256 pixels from 286: by at most 15 of 256. Nothing else.
_JITTER = {
    "flip_horizontal": 0.5, "flip_vertical": 0.0, "translation": 0.0586, "rotation_degrees": 0.0, "scale": 0.0,
    "gamma": 0.0, "bias_field": 0.0, "noise": 0.0,
}  # fmt: skip

REGISTRY.add(
    Experiment(
        name="pix2pix_paper",
        why="Pix2pix as published: what does the method that every later one is compared with reach on these data?",
        family="papers",
        method=Part("pix2pix", {"conditional": True, "gan": "bce"}),
        network={"G": Part("unet_256", {"dropout": 0.5}), "D": Part("patch70", {"norm": "batch"})},
        loss={"gan": Term(1.0), "l1": Term(100.0)},
        optimizer={"G": _ADAM, "D": _ADAM},
        data=Data(batch_size=1, augment=_JITTER),
        epochs=200,
    )
)

# fmt: off
REGISTRY.derive(
    "pix2pix_paper", "cyclegan_paper",
    why="CycleGAN as published: how much of the error of pix2pix_paper is the price of unpaired training?",
    changes={
        "method": {"name": "cyclegan", "gan": "least_squares", "image_pool": 50},
        "network.G": {"name": "resnet", "blocks": 9}, "network.D.norm": "instance",
        "loss.l1": None, "loss.cycle.weight": 10.0, "loss.identity.weight": 5.0,
    },
)
REGISTRY.derive(
    "mk3_1_2_v4_50", "unet_l1",
    why="The predecessor's generator with an L1 inside the body alone: what do GAN and perceptual loss add or cost?",
    changes={
        "family": "papers", "method": "regression", "network.D": None, "optimizer.D": None,
        "loss.gan": None, "loss.perceptual": None, "loss.l1": {"masked": True},
        # The parent's score measures what its GAN is to improve; this one minimises the error.
        "optimizer.G.schedule.watch": "val_mae_hu", "score": Score(), "history": History(),
    },
)
# fmt: on
