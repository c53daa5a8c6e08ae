"""MK8 and MK10: networks that see patches of volumes; regression, and a GAN that starts from it."""

from __future__ import annotations

from mrict_core.experiments.mk import REGISTRY
from mrict_core.experiments.schema import Data, Experiment, Optimizer, Part, Schedule, Term

AUGMENT = {  # about the axis across the slices; left and right are alike; up and down, front and back are not
    **{"flip_horizontal": 0.5, "flip_vertical": 0.0, "rotation_degrees": 10.0, "translation": 0.03, "scale": 0.1},
    **{"gamma": 0.3, "bias_field": 0.15, "noise": 0.02},
}
_GAN_ADAM = Optimizer(lr=2e-4, schedule=Schedule(kind="linear"), options={"betas": [0.5, 0.999]})

REGISTRY.add(
    Experiment(
        name="mk8_0",
        why="Volumes instead of slices: does a network that sees all three directions at once know more?",
        family="mk8",
        method=Part("regression", {"ema": 0.999, "clip": 1.0}),
        network={"G": Part("volume_unet")},
        loss={"l1": Term(1.0, options={"masked": True})},
        optimizer={
            "G": Optimizer(
                lr=2e-3,
                name="adamw",
                schedule=Schedule(kind="warmup_cosine", warmup=0.03, eta_min=1e-5),
                options={"betas": [0.9, 0.99], "weight_decay": 1e-4},
            )
        },
        data=Data(view=Part("patch3d"), batch_size=2, augment=AUGMENT),
        epochs=40,
        steps=27_500,
    )
)
REGISTRY.derive(
    "mk8_0",
    "mk10_0",
    init_from="mk8_0",
    why="A discriminator of volumes on top of MK8: sharper bone, at what price in error?",
    changes={
        "family": "mk10",
        "method": {"name": "gan3d", "ema": 0.999},
        "network.D": {"name": "patchgan3d"},
        "loss": {"l1": {"weight": 100.0, "masked": True}, "gan": {"weight": 1.0}, "feature_matching": {"weight": 10.0}},
        "optimizer": {"G": _GAN_ADAM, "D": _GAN_ADAM},
        "steps": 10_000,
    },
)
REGISTRY.alias("mk8", "mk8_0")
REGISTRY.alias("mk10", "mk10_0")
