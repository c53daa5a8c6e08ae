"""An experiment read by the flat names of before, for methods that still use them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

PERCEPTUAL = {("vgg19_pool5", "mse"): "vgg19_pool5_mse", ("vgg19_relu3_3", "l1"): "vgg19_relu3_3_l1"}


def flat(e: Any) -> Any:
    """Return the flat values of an experiment."""
    if hasattr(e, "lambda_gan"):
        return e
    o, term = e.method.options, e.loss.get
    G, D = e.network["G"], e.network.get("D", e.network["G"])
    lr = {role: optimizer.lr for role, optimizer in e.optimizer.items()}
    weight = {name: t.weight for name, t in e.loss.items()}
    options = term("perceptual").options if "perceptual" in e.loss else {}
    adam = e.optimizer["G"].options.get("betas", (0.9, 0.999))
    return SimpleNamespace(
        name=e.name,
        init_from=e.init_from,
        method=e.method.name,
        generator=G.name,
        channels=G.options.get("out_channels", 1),
        generator_dropout=G.options.get("dropout", 0.0),
        generator_slope=G.options["slope"],
        discriminator=D.name,
        discriminator_dropout=D.options.get("dropout", 0.0),
        conditional_discriminator=o.get("conditional", False),
        lambda_gan=weight.get("gan", 0.0),
        perceptual=PERCEPTUAL.get((options.get("features"), options.get("distance")), "none"),
        lambda_perceptual=weight.get("perceptual", 0.0),
        lambda_perceptual_step=options.get("weight_step", 0.0),
        lambda_l1=weight.get("l1", 0.0),
        lambda_cycle=weight.get("cycle", 0.0),
        lambda_identity=weight.get("identity", 0.0),
        real_label=o.get("real_label", 1.0),
        lambda_gp=o.get("gradient_penalty", 0.0),
        image_pool=o.get("image_pool", 0),
        lr_generator=lr.get("G"),
        lr_discriminator=lr.get("D"),
        beta1=adam[0],
        beta2=adam[1],
        generator_steps=o.get("generator_steps", 1),
        generator_eval_after_first_validation=o.get("generator_eval_after_first_validation", False),
    )
