"""MK7: regression of HU by a residual U-Net on a slab of slices.

One question each; docs/ablation.md has the answers, measured by `python -m benchmarks --only quality`.
"""

from __future__ import annotations

from mrict_core.experiments.mk import REGISTRY
from mrict_core.experiments.schema import Data, Experiment, Optimizer, Part, Schedule, Term

AUGMENT = {  # left and right are alike; up and down, front and back are not
    **{"flip_horizontal": 0.5, "flip_vertical": 0.0, "rotation_degrees": 10.0, "translation": 0.03, "scale": 0.1},
    **{"gamma": 0.3, "bias_field": 0.15, "noise": 0.02, "crop": 192},
}

REGISTRY.add(
    Experiment(
        name="mk7_0",
        why="Masked L1 alone, on one axial slice: how far does plain regression go, without any discriminator?",
        family="mk7",
        method=Part("regression", {"ema": 0.999, "clip": 1.0}),
        network={"G": Part("residual_unet", {"norm": "batch"})},
        loss={"l1": Term(1.0, options={"masked": True})},
        optimizer={
            "G": Optimizer(
                lr=1.5e-3,
                name="adamw",
                schedule=Schedule(kind="warmup_cosine", warmup=0.03, eta_min=1e-5),
                options={"betas": [0.9, 0.99], "weight_decay": 1e-4},
            )
        },
        data=Data(view=Part("slice"), batch_size=16, augment=AUGMENT),
        epochs=40,
        steps=60_000,
    )
)
REGISTRY.derive(
    "mk7_0",
    "mk7_1",
    why="Two neighbours on either side: does the network see through the slice?",
    changes={"data.view": {"name": "slab", "radius": 2}},
)
REGISTRY.derive(
    "mk7_1",
    "mk7_2",
    why="Slabs of all three planes: three times the slices to learn from, and three predictions to merge.",
    changes={"data.view.planes": ["axial", "coronal", "sagittal"]},
)
REGISTRY.derive(
    "mk7_1",
    "mk7_3",
    why="A feature loss beside L1: does a segmenter of the training CTs' own tissues sharpen bone and air?",
    changes={"loss.hu_features": {"weight": 0.5}},
)
REGISTRY.alias("mk7", "mk7_1")
