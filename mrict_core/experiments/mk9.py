"""MK9: samples of the CT by a few-step flow around a cross-fitted mean, and a plain diffusion as its reference."""

from __future__ import annotations

from mrict_core.experiments.mk import REGISTRY
from mrict_core.experiments.mk7 import AUGMENT
from mrict_core.experiments.schema import Data, Experiment, Optimizer, Part, Schedule, Term

# Each regression learns from two thirds of the people in a quarter of the steps, as many as MK7; so does the flow.
FOLDS, MEAN_SHARE = 3, 0.75

REGISTRY.add(
    Experiment(
        name="mk9_0",
        why="A flow around a cross-fitted mean: sharp samples, and an uncertainty that keeps its word?",
        family="mk9",
        method=Part("flow", {"ema": 0.999, "clip": 1.0, "mean_share": MEAN_SHARE}),
        network={"G": Part("mean_flow", {"norm": "batch", "folds": FOLDS})},
        loss={"l1": Term(1.0, options={"masked": True})},  # of the regressions; the flow has its own
        optimizer={
            "G": Optimizer(
                lr=1.5e-3,
                name="adamw",
                schedule=Schedule(kind="warmup_cosine", warmup=0.03, eta_min=1e-5),
                options={"betas": [0.9, 0.99], "weight_decay": 1e-4},
            )
        },
        data=Data(view=Part("slab", {"radius": 2}), batch_size=16, augment=AUGMENT),
        epochs=40,
        steps=240_000,
    )
)
REGISTRY.derive(
    "mk9_0",
    "mk9_ddpm",
    why="A plain diffusion from pure noise, without a mean: what do the mean and the short way from it save?",
    changes={
        "method": {"name": "diffusion", "ema": 0.999, "clip": 1.0},
        "network.G": {"name": "denoiser"},
        "loss.l1.masked": False,  # of v: the background is part of the image that is drawn
    },
)
REGISTRY.alias("mk9", "mk9_0")
