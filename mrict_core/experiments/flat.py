"""Experiments in the flat form of earlier versions, one field per value, read into the present form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrict_core.errors import MrictError

PERCEPTUAL = {"vgg19_pool5_mse": ("vgg19_pool5", "mse"), "vgg19_relu3_3_l1": ("vgg19_relu3_3", "l1")}
DEFAULTS = {  # meaning of a missing field
    **{"generator_dropout": 0.0, "discriminator": "patch4", "discriminator_dropout": 0.0},
    **{"conditional_discriminator": False, "lambda_gan": 1.0, "perceptual": "none", "lambda_perceptual": 0.0},
    **{"lambda_perceptual_step": 0.0, "lambda_l1": 0.0, "lambda_cycle": 0.0, "lambda_identity": 0.0},
    **{"real_label": 1.0, "lambda_gp": 0.0, "image_pool": 0, "lr_generator": 2e-4, "lr_discriminator": 2e-4},
    **{"beta1": 0.5, "beta2": 0.999, "generator_steps": 1, "batch_size": 1, "schedule": {}},
    **{"schedule_discriminator": {}, "training_pairs": 0, "generator_eval_after_first_validation": False},
}
SAME = (  # fields with the same name today
    *("name", "why", "parent", "init_from", "family", "epochs", "score", "select_by", "early_stop_patience"),
)


def is_flat(values: Any) -> bool:
    """Return whether an experiment's plain values have the flat form."""
    return isinstance(values, Mapping) and "generator" in values


def upgraded(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a flat variant as the plain values of an `Experiment`.

    Raises MrictError, with `where`, for missing values and values of the wrong type.
    """
    try:
        return _upgraded(DEFAULTS | dict(values))
    except KeyError as error:
        raise MrictError(f"{where}: {error} is missing or unknown and cannot be guessed") from None
    except (TypeError, ValueError) as error:
        raise MrictError(f"{where}: not the values of a variant ({error})") from None


def _upgraded(v: dict[str, Any]) -> dict[str, Any]:
    channels, betas = v["channels"], [v["beta1"], v["beta2"]]
    method = {
        "name": v["method"],
        "generator_steps": v["generator_steps"],
        "real_label": v["real_label"],
        "gradient_penalty": v["lambda_gp"],
    }
    switches = {
        "conditional": v["conditional_discriminator"],
        "image_pool": v["image_pool"],
        "generator_eval_after_first_validation": v["generator_eval_after_first_validation"],
    }
    method |= {name: value for name, value in switches.items() if value}
    generator = {"name": v["generator"], "dropout": v["generator_dropout"], "slope": v["generator_slope"]}
    generator["out_channels"] = channels
    discriminator = {"name": v["discriminator"], "dropout": v["discriminator_dropout"]}
    return {name: v[name] for name in SAME if name in v} | {
        "method": method,
        "network": {"G": generator, "D": discriminator},
        "loss": _loss(v),
        "optimizer": {
            "G": {"lr": v["lr_generator"], "betas": betas, "schedule": dict(v["schedule"])},
            "D": {
                "lr": v["lr_discriminator"],
                "betas": betas,
                "schedule": dict(v["schedule_discriminator"]) | {"watch": "loss_d"},
            },
        },
        "data": {
            "view": {"name": "slice"} if channels == 1 else {"name": "slice", "copies": channels},
            "batch_size": v["batch_size"],
            "max_pairs": v["training_pairs"] or None,
        },
        "history": {"dataset": v.get("dataset", ""), "epochs_planned": v.get("epochs_planned")},
    }


def _loss(v: Mapping[str, Any]) -> dict[str, Any]:
    early, l1 = ("gan", "cycle", "identity"), v["lambda_l1"]  # the order of the sum
    loss: dict[str, Any] = {name: {"weight": v[f"lambda_{name}"]} for name in early if v[f"lambda_{name}"]}
    if v["perceptual"] != "none" and v["lambda_perceptual"]:
        features, distance = PERCEPTUAL[v["perceptual"]]
        loss["perceptual"] = {"weight": v["lambda_perceptual"], "features": features, "distance": distance}
        if v["lambda_perceptual_step"]:
            loss["perceptual"]["weight_step"] = v["lambda_perceptual_step"]
    return loss | ({"l1": {"weight": l1}} if l1 else {})


def upgraded_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a method's saved state in today's form; it once held the weight of the perceptual term alone."""
    if "loss" in state:
        return state
    weights = {"perceptual": state["lambda_perceptual"]} if "lambda_perceptual" in state else {}
    previous = {name.removeprefix("loss_g_"): value for name, value in state.get("previous", {}).items()}
    return {**state, "loss": {"weights": weights, "previous": previous}}
