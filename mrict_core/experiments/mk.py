"""The predecessor's experiments, one entry each: the root states all its values, every other entry only its changes.

An entry derives its configuration from `parent` and its initial weights from `init_from`. The perceptual term is the
mean squared error of VGG19 features after the last pooling, unless an entry changes it. Intensities are in [-1, 1],
schedules count epochs. docs/lineage.md lists where these values differ from the predecessor's.
"""

from __future__ import annotations

from mrict_core.experiments.registry import Registry
from mrict_core.experiments.schema import Data, Experiment, History, Optimizer, Part, Schedule, Score, Term

REGISTRY = Registry()
_derive = REGISTRY.derive

_PLATEAU_5 = Schedule(kind="plateau", factor=0.5, patience=5, mode="min")
_PLATEAU_5_D = Schedule(kind="plateau", factor=0.5, patience=5, mode="min", watch="loss_d")
_PLATEAU_4 = Schedule(kind="plateau", factor=0.5, patience=4, mode="min")
_PLATEAU_4_D = Schedule(kind="plateau", factor=0.5, patience=4, mode="min", watch="loss_d")
_ADAM = {"betas": [0.5, 0.999]}

# --------------------------------------------------------------------------------------------------------- practice
# First trials, on three-channel copies of grey slices. practice_mk3 is lost.

REGISTRY.add(
    Experiment(
        name="practice_mk2",
        why="The first pix2pix trial: can a plain U-Net against a discriminator that judges the whole image learn CT?",
        family="practice",
        method=Part("pix2pix", {"generator_steps": 2, "real_label": 0.85, "gradient_penalty": 10.0}),
        network={
            "G": Part("unet_a", {"dropout": 0.1, "slope": 0.15, "out_channels": 3}),
            "D": Part("scalar", {"dropout": 0.38}),
        },
        loss={"gan": Term(1.0), "perceptual": Term(45.0, options={"features": "vgg19_pool5", "distance": "mse"})},
        optimizer={
            "G": Optimizer(lr=2e-4, schedule=_PLATEAU_5, options=_ADAM),
            "D": Optimizer(lr=4.5e-5, schedule=_PLATEAU_5_D, options=_ADAM),
        },
        data=Data(view=Part("slice", {"copies": 3}), batch_size=16, max_pairs=570),
        epochs=20,
        score=Score(loss_g=1.0),
        early_stop_patience=10,  # recorded for the MK runs as a whole; inferred for this one
        history=History(dataset="processed", epochs_planned=20),
    )
)

# fmt: off
_derive(
    "practice_mk2", "practice_mk4",
    why="Milder label smoothing and a stronger gradient penalty, scheduled on image quality instead of the loss of G.",
    changes={
        "network.D.dropout": 0.35, "method.real_label": 0.95, "method.gradient_penalty": 15.0,
        "optimizer.D.lr": 5.5e-5, "score": Score(fid=0.5, vgg=0.5), "epochs": 13, "history.epochs_planned": 60,
    },
)
_derive(
    "practice_mk4", "practice_mk5",
    why="Does a slightly slower generator train for longer? The run collapsed at epoch 30 and was interrupted.",
    changes={"network.D.dropout": 0.34, "optimizer.G.lr": 1.8e-4, "epochs": 34},
)

# --------------------------------------------------------------------------------------------------------- mk1, mk2

_derive(
    "practice_mk4", "mk1",
    why="One grey channel, a patch discriminator and 36 patients: the first run on a whole data set.",
    changes={
        "family": "mk1", "data.view": "slice", "network.G.out_channels": 1, "network.G.slope": 0.14,
        "network.D.name": "patch4", "loss.perceptual.weight": 30.0, "method.gradient_penalty": 14.0,
        "data.batch_size": 30, "epochs": 15, "history.epochs_planned": 15, "history.dataset": "Brain processed",
        "data.max_pairs": 5849,
    },
)
_derive(
    "mk1", "mk2",
    why="Three generator steps per discriminator step, on data that was normalised at last.",
    changes={
        "family": "mk2", "method.gradient_penalty": 13.0, "method.generator_steps": 3, "epochs": 2,
        "history.epochs_planned": 2, "history.dataset": "brain",
    },
)

# --------------------------------------------------------------------------------------------------------- mk3

_derive(
    "mk2", "mk3_0",
    why="A wider bottleneck and a skip from the first encoder block: is the generator the limit?",
    changes={"family": "mk3", "network.G.name": "unet_b", "epochs": 5, "history.epochs_planned": 5},
)
_derive(
    "mk3_0", "mk3",
    why="Ten patients instead of 36 make a trial short enough to tune rates and dropout.",
    changes={
        "network.D.dropout": 0.32, "method.gradient_penalty": 12.0, "optimizer.G.lr": 2.5e-4, "optimizer.D.lr": 5e-5,
        "epochs": 10, "history.epochs_planned": 10, "history.dataset": "brain-10", "data.max_pairs": 1610,
    },
)
_derive(
    "mk3", "mk3_1",
    why="Smaller patches to judge, 31x31 of them, and a perceptual weight cut 300-fold: who should lead, GAN or P?",
    changes={
        "network.D.name": "patch3", "network.D.dropout": 0.34, "loss.perceptual.weight": 0.1, "epochs": 18,
        "history.epochs_planned": 30,
    },
)
_derive(
    "mk3_1", "mk3_2",
    why="Twice the small perceptual weight of mk3_1 at nearly the same rates.",
    changes={
        "network.D.dropout": 0.35, "loss.perceptual.weight": 0.2, "optimizer.G.lr": 2.6e-4, "epochs": 15,
        "history.epochs_planned": 25,
    },
)
_derive(
    "mk3_2", "mk3_3",
    why="A generator with more dropout, more steps and a faster rate against a slow discriminator.",
    changes={
        "network.G.dropout": 0.2, "network.D.dropout": 0.34, "loss.perceptual.weight": 0.3, "optimizer.G.lr": 3e-4,
        "optimizer.D.lr": 2e-5, "method.generator_steps": 4, "epochs": 11, "history.epochs_planned": 30,
    },
)
_derive(
    "mk3_3", "mk3_4",
    why="The opposite of mk3_3: a slow generator with few steps and less dropout on either side.",
    changes={
        "network.G.dropout": 0.1, "network.D.dropout": 0.25, "loss.perceptual.weight": 0.1, "optimizer.G.lr": 1e-4,
        "method.generator_steps": 2, "epochs": 21, "history.epochs_planned": 25,
    },
)
_derive(
    "mk3_4", "mk3_5",
    why="Lets the discriminator learn faster again, with still less dropout.",
    changes={"network.D.dropout": 0.2, "optimizer.D.lr": 5e-5, "epochs": 30, "history.epochs_planned": 30},
)
_derive(
    "mk3_5", "mk3_5_1",
    why="mk3_5 judged on the larger patches of the 15x15 discriminator, with three generator steps.",
    changes={"network.D.name": "patch4", "method.generator_steps": 3, "epochs": 27},
)
_derive(
    "mk3_1", "mk3_1_1",
    why="mk3_1 with the 15x15 discriminator, softer labels, faster rates and four generator steps.",
    changes={
        "network.D.name": "patch4", "network.D.dropout": 0.35, "method.real_label": 0.9, "optimizer.G.lr": 3e-4,
        "optimizer.D.lr": 7e-5, "method.generator_steps": 4, "optimizer.G.schedule": _PLATEAU_4,
        "optimizer.D.schedule": _PLATEAU_4_D, "epochs": 11, "history.epochs_planned": 50,
    },
)
_derive(
    "mk3_1_1", "mk3_1_2",
    why="Seven times the perceptual weight: the 'GOD' run, the predecessor's best on ten patients.",
    changes={
        "network.D.dropout": 0.32, "loss.perceptual.weight": 0.7, "optimizer.G.lr": 3.1e-4, "optimizer.D.lr": 6e-5,
        "epochs": 50,
    },
)
_derive(
    "mk3_1_2", "mk3_1_2_copy1",
    why="Does the recipe carry to 36 patients with the small perceptual weight of mk3_1_1?",
    changes={
        "loss.perceptual.weight": 0.1, "epochs": 11, "history.dataset": "brain-36", "data.max_pairs": 5849,
    },
)
_derive(
    "mk3_1_2", "mk3_1_2_copy2",
    why="The unchanged recipe of mk3_1_2 on 36 patients; the run collapsed at epoch 7.",
    changes={"epochs": 16, "history.dataset": "brain-36", "data.max_pairs": 5849},
)
_derive(
    "mk3_1_2_copy1", "mk3_6",
    why="Absolute instead of squared differences, of earlier VGG19 features that still hold detail.",
    changes={
        "loss.perceptual.features": "vgg19_relu3_3", "loss.perceptual.distance": "l1", "method.generator_steps": 2,
        "score": Score(fid=1.0), "epochs": 14,
    },
)
_derive(
    "mk3_6", "mk3_6_1",
    why="mk3_6 on ten patients with a more strongly regularised discriminator and three generator steps.",
    changes={
        "network.D.dropout": 0.4, "method.generator_steps": 3, "epochs": 28, "history.dataset": "brain-10",
        "data.max_pairs": 1610,
    },
)
_derive(
    "mk3_1_2_copy2", "mk3_1_2_v2",
    why="Slices cropped and padded instead of stretched, same recipe; it collapsed at epoch 7 as well.",
    changes={"history.epochs_planned": 35, "history.dataset": "brain-new-36"},
)
_derive(
    "mk3_1_2_v2", "mk3_1_2_v3",
    why="Back to ten patients with a discriminator three times slower: can the collapse be avoided?",
    changes={
        "network.D.dropout": 0.2, "optimizer.D.lr": 2e-5, "epochs": 15, "history.epochs_planned": 30,
        "history.dataset": "brain-new-10", "data.max_pairs": 1610,
    },
)
_derive(
    "mk3_1_2_v3", "mk3_1_2_v4",
    why="A new balance: 14 times the weight of P, a weaker penalty, no momentum, low dropout, D faster than G.",
    changes={
        "network.G.dropout": 0.05, "network.D.dropout": 0.1, "loss.perceptual.weight": 10.0,
        "method.gradient_penalty": 5.0, "optimizer.G.lr": 1e-4, "optimizer.D.lr": 2e-4,
        "optimizer.G.betas": [0.0, 0.999], "optimizer.D.betas": [0.0, 0.999], "method.generator_steps": 3,
        "data.batch_size": 32, "early_stop_patience": None, "epochs": 40, "history.epochs_planned": 40,
        "history.dataset": "brain-new-36", "data.max_pairs": 5849,
    },
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_30",
    why="30 epochs of v4, run twice with clearly different results: how far chance alone moves the numbers.",
    changes={"epochs": 30, "history.epochs_planned": 30},
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_50",
    why="50 epochs of v4: the run whose weights every MK6 experiment goes back to.",
    changes={"epochs": 50, "history.epochs_planned": 50},
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_60",
    why="60 epochs of v4; the predecessor's run had collapsed to a black image by epoch 35.",
    changes={"epochs": 60, "history.epochs_planned": 60},
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_100",
    why="100 epochs of v4: does it go on learning once the plateau schedule has cut the rate to almost nothing?",
    changes={"epochs": 100, "history.epochs_planned": 100},
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_200",
    why="200 epochs of v4: the long end, where the predecessor's images degraded after epoch 60.",
    changes={"epochs": 200, "history.epochs_planned": 200},
)

# --------------------------------------------------------------------------------------------------------- mk4

_derive(
    "mk3", "mk4",
    why="The small generator again, without label smoothing: was the larger one worth its weights?",
    changes={
        "family": "mk4", "network.G.name": "unet_a", "network.D.dropout": 0.34, "loss.perceptual.weight": 29.0,
        "method.real_label": 1.0, "method.gradient_penalty": 12.2, "optimizer.G.lr": 2e-4, "optimizer.D.lr": 5.5e-5,
        "epochs": 19, "history.epochs_planned": 50,
    },
)
_derive(
    "mk4", "mk4_1",
    why="Moves the perceptual weight by 3 every epoch, down where P fell at least as much as the GAN loss, else up.",
    changes={
        "loss.perceptual.weight_step": 3.0, "optimizer.G.lr": 2.2e-4, "optimizer.D.lr": 5.9e-5,
        "optimizer.G.schedule": Schedule(kind="plateau", factor=0.4, patience=4, mode="min"),
        "optimizer.D.schedule": Schedule(kind="plateau", factor=0.4, patience=4, mode="min", watch="loss_d"),
        "epochs": 49,
    },
)

# --------------------------------------------------------------------------------------------------------- cyclegan
# The predecessor's score averaged four numbers; the two FIDs of cycle images, from one training batch, are left out,
# the other two keep their weights. Planned epochs are not recorded and set to those run.

_derive(
    "mk3_1_2", "cyclegan_mk1",
    why="Slices of MRI and CT drawn without pairing: what do cycle and identity losses alone teach?",
    changes={
        "family": "cyclegan", "method.name": "cyclegan", "loss.cycle.weight": 10.0, "loss.identity.weight": 5.0,
        "method.generator_steps": 1, "data.batch_size": 20, "score": Score(fid=0.25, vgg=0.25), "epochs": 25,
        "history.epochs_planned": 25, "history.dataset": "brain-new-10",
    },
)
_derive(
    "cyclegan_mk1", "cyclegan_mk2",
    why="The same training for ten epochs; the predecessor changed only which direction its validation looked at.",
    changes={"epochs": 10, "history.epochs_planned": 10},
)

# --------------------------------------------------------------------------------------------------------- mk6
# A chain of fine-tuning runs: each starts from the last weights of init_from, with a fresh Adam.

_derive(
    "mk3_1_2_v4_50", "mk6_0_0",
    init_from="mk3_1_2_v4_50",
    why="Does the 50-epoch run of v4 improve when it goes on at higher rates with a fresh optimiser?",
    changes={
        "family": "mk6", "optimizer.G.lr": 1.5e-4, "optimizer.D.lr": 3.5e-4, "score": Score(fid=1.0, vgg=1.0),
        "epochs": 10, "history.epochs_planned": 10,
    },
)
_derive(
    "mk6_0_0", "mk6_0_1",
    init_from="mk3_1_2_v4_50",
    why="mk6_0_0 again for eleven epochs, a second draw of the same experiment.",
    changes={"epochs": 11, "history.epochs_planned": 11},
)
_derive(
    "mk6_0_1", "mk6_0_3",
    init_from="mk3_1_2_v4_50",
    why="Puts SSIM in place of VGG distance into the score that the schedule watches.",
    changes={"score": Score(fid=1.0, ssim=100.0), "epochs": 14, "history.epochs_planned": 20},
)
_derive(
    "mk6_0_3", "mk6_1_0",
    init_from="mk3_1_2_v4_50",
    why="Adds a true pixel L1 beside half the perceptual weight: the largest single gain in the predecessor's record.",
    changes={
        "loss.perceptual.weight": 5.0, "loss.l1.weight": 5.0, "score": Score(fid=1.0, ssim=200.0), "epochs": 12,
        "history.epochs_planned": 14,
    },
)
_derive(
    "mk6_1_0", "mk6_1_1",
    init_from="mk3_1_2_v4_50",
    why="mk6_1_0 from the same start with a score that grows by itself, so that the rate is sure to fall.",
    changes={
        "optimizer.D.lr": 3.6e-4, "score": Score(fid=1.0, ssim=200.0, boost_epochs=15.0), "epochs": 10,
        "history.epochs_planned": 10,
    },
)
_derive(
    "mk6_1_1", "mk6_2_0",
    init_from="mk6_1_1",
    why="Continues mk6_1_1 unchanged: is there more to gain by time alone?",
    changes={"epochs": 7, "history.epochs_planned": 8},
)
_derive(
    "mk6_1_1", "mk6_2_1",
    init_from="mk6_1_1",
    why="Continues mk6_1_1 with a little more L1, a little less P, higher rates and more weight on SSIM.",
    changes={
        "loss.perceptual.weight": 4.5, "loss.l1.weight": 5.5, "optimizer.G.lr": 1.6e-4, "optimizer.D.lr": 3.8e-4,
        "score": Score(fid=1.0, ssim=250.0, boost_epochs=12.0), "epochs": 13, "history.epochs_planned": 13,
    },
)
_derive(
    "mk6_2_1", "mk6_3_0",
    init_from="mk6_2_1",
    why="No label smoothing any more, a somewhat stronger penalty and higher rates.",
    changes={
        "loss.perceptual.weight": 4.4, "loss.l1.weight": 5.6, "method.real_label": 1.0,
        "method.gradient_penalty": 6.0, "optimizer.G.lr": 2.1e-4, "optimizer.D.lr": 4.55e-4,
        "score": Score(fid=0.9, ssim=300.0, boost_epochs=12.0),
    },
)
_derive(
    "mk6_3_0", "mk6_3_1",
    init_from="mk6_3_0",
    why="Another 13 epochs with the discriminator a touch slower.",
    changes={"optimizer.D.lr": 4.52e-4},
)
_derive(
    "mk6_3_1", "mk6_3_2",
    init_from="mk6_3_1",
    why="Another 13 epochs, the discriminator a touch slower again.",
    changes={"optimizer.D.lr": 4.5e-4},
)
_derive(
    "mk6_3_2", "mk6_3_3",
    init_from="mk6_3_2",
    why="More L1 and higher rates; the predecessor loaded an unpublished stage '6.3.3.1', here the nearest published.",
    changes={
        "loss.perceptual.weight": 4.2, "loss.l1.weight": 5.8, "optimizer.G.lr": 2.5e-4, "optimizer.D.lr": 4.9e-4,
        # Mode 'max' on a score where lower is better, as it ran. D's schedule is not recorded.
        "optimizer.G.schedule": Schedule(kind="plateau", factor=0.8, patience=4, mode="max"),
        "score": Score(fid=0.7, ssim=350.0, boost_epochs=15.0),
    },
)
_derive(
    "mk6_3_3", "mk6_3_4",
    init_from="mk6_3_3",
    why="Low rates and heavy P and L1 to polish the result; the predecessor loaded an unpublished stage '917', here "
    "the nearest published.",
    changes={
        "loss.perceptual.weight": 9.0, "loss.l1.weight": 9.0, "method.gradient_penalty": 9.0, "optimizer.G.lr": 2e-5,
        "optimizer.D.lr": 3.9e-5, "optimizer.G.betas": [0.5, 0.999], "optimizer.D.betas": [0.5, 0.999],
        "optimizer.G.schedule": Schedule(kind="cosine", t_0=3, t_mult=2, eta_min=1e-6),
        "optimizer.D.schedule": Schedule(kind="cosine", t_0=3, t_mult=2, eta_min=1e-6, watch="loss_d"),
        # Recorded only: a cosine ignores it. The predecessor passed this score to the cosine as the epoch.
        "score": Score(fid=0.7, ssim=300.0, boost_epochs=10.0),
    },
)
REGISTRY.alias("mk6_4_3", "mk6_3_4")

README_VARIANTS = (
    "cyclegan_mk1", "cyclegan_mk2", "mk1", "mk2", "mk3_5", "mk3_6", "mk3_1_2", "mk3_1_2_v4_50", "mk6_0_1", "mk6_0_3",
    "mk6_1_0", "mk6_1_1", "mk6_2_0", "mk6_2_1", "mk6_3_0", "mk6_3_1", "mk6_3_4",
)
# fmt: on
