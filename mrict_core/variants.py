"""Every experiment, one entry each: the root states all its values, every other entry only what it changes.

`parent` is whose configuration an entry starts from, `init_from` whose weights. P is the perceptual term: mean squared
error of VGG19 features after the last pooling, unless an entry says otherwise. Intensities are in [-1, 1], learning
rates are those of Adam, schedules count epochs. docs/lineage.md lists where these values differ from the predecessor's.
"""

from __future__ import annotations

from typing import Any

from mrict_core.errors import MrictError
from mrict_core.variant import Registry, Schedule, Score, Variant

REGISTRY = Registry()
_derive = REGISTRY.derive

_PLATEAU_5 = Schedule(kind="plateau", factor=0.5, patience=5, mode="min")
_PLATEAU_4 = Schedule(kind="plateau", factor=0.5, patience=4, mode="min")

# --------------------------------------------------------------------------------------------------------- practice
# First trials on three-channel copies of grey slices. practice_mk3 was never found.

REGISTRY.add(
    Variant(
        name="practice_mk2",
        why="The first pix2pix trial: can a plain U-Net against a discriminator that judges the whole image learn CT?",
        parent=None,
        init_from=None,
        family="practice",
        method="pix2pix",
        generator="unet_a",
        channels=3,
        generator_dropout=0.1,
        generator_slope=0.15,
        discriminator="scalar",
        discriminator_dropout=0.38,
        conditional_discriminator=False,
        lambda_gan=1.0,
        perceptual="vgg19_pool5_mse",
        lambda_perceptual=45.0,
        lambda_perceptual_step=0.0,
        lambda_l1=0.0,
        lambda_cycle=0.0,
        lambda_identity=0.0,
        real_label=0.85,
        lambda_gp=10.0,
        image_pool=0,
        lr_generator=2e-4,
        lr_discriminator=4.5e-5,
        beta1=0.5,
        beta2=0.999,
        generator_steps=2,
        batch_size=16,
        schedule=_PLATEAU_5,
        schedule_discriminator=_PLATEAU_5,
        score=Score(loss_g=1.0),
        early_stop_patience=10,  # recorded for the MK runs as a whole; for this one inferred
        epochs=20,
        epochs_planned=20,
        dataset="processed",
        training_pairs=570,
        generator_eval_after_first_validation=False,
        select_by="mae_hu",
    )
)

# An entry is read as a whole, not a line per value.
# fmt: off
_derive(
    "practice_mk2", "practice_mk4",
    why="Milder label smoothing and a stronger gradient penalty, scheduled on image quality instead of the loss of G.",
    discriminator_dropout=0.35, real_label=0.95, lambda_gp=15.0, lr_discriminator=5.5e-5,
    score=Score(fid=0.5, vgg=0.5), epochs=13, epochs_planned=60,
)
_derive(
    "practice_mk4", "practice_mk5",
    why="Does a slightly slower generator train for longer? The run collapsed at epoch 30 and was interrupted.",
    discriminator_dropout=0.34, lr_generator=1.8e-4, epochs=34,
)

# --------------------------------------------------------------------------------------------------------- mk1, mk2

_derive(
    "practice_mk4", "mk1",
    why="One grey channel, a patch discriminator and 36 patients: the first run on a whole data set.",
    family="mk1", channels=1, generator_slope=0.14, discriminator="patch4", lambda_perceptual=30.0, lambda_gp=14.0,
    batch_size=30, epochs=15, epochs_planned=15, dataset="Brain processed", training_pairs=5849,
)
_derive(
    "mk1", "mk2",
    why="Three generator steps per discriminator step, on data that was normalised at last.",
    family="mk2", lambda_gp=13.0, generator_steps=3, epochs=2, epochs_planned=2, dataset="brain",
)

# --------------------------------------------------------------------------------------------------------- mk3

_derive(
    "mk2", "mk3_0",
    why="A wider bottleneck and a skip from the first encoder block: is the generator the limit?",
    family="mk3", generator="unet_b", epochs=5, epochs_planned=5,
)
_derive(
    "mk3_0", "mk3",
    why="Ten patients instead of 36 make a trial short enough to tune rates and dropout.",
    discriminator_dropout=0.32, lambda_gp=12.0, lr_generator=2.5e-4, lr_discriminator=5e-5,
    epochs=10, epochs_planned=10, dataset="brain-10", training_pairs=1610,
)
_derive(
    "mk3", "mk3_1",
    why="Smaller patches to judge, 31x31 of them, and a perceptual weight cut 300-fold: who should lead, GAN or P?",
    discriminator="patch3", discriminator_dropout=0.34, lambda_perceptual=0.1, epochs=18, epochs_planned=30,
)
_derive(
    "mk3_1", "mk3_2",
    why="Twice the small perceptual weight of mk3_1 at nearly the same rates.",
    discriminator_dropout=0.35, lambda_perceptual=0.2, lr_generator=2.6e-4, epochs=15, epochs_planned=25,
)
_derive(
    "mk3_2", "mk3_3",
    why="A generator with more dropout, more steps and a faster rate against a slow discriminator.",
    generator_dropout=0.2, discriminator_dropout=0.34, lambda_perceptual=0.3, lr_generator=3e-4, lr_discriminator=2e-5,
    generator_steps=4, epochs=11, epochs_planned=30,
)
_derive(
    "mk3_3", "mk3_4",
    why="The opposite of mk3_3: a slow generator with few steps and less dropout on either side.",
    generator_dropout=0.1, discriminator_dropout=0.25, lambda_perceptual=0.1, lr_generator=1e-4, generator_steps=2,
    epochs=21, epochs_planned=25,
)
_derive(
    "mk3_4", "mk3_5",
    why="Lets the discriminator learn faster again, with still less dropout.",
    discriminator_dropout=0.2, lr_discriminator=5e-5, epochs=30, epochs_planned=30,
)
_derive(
    "mk3_5", "mk3_5_1",
    why="mk3_5 judged on the larger patches of the 15x15 discriminator, with three generator steps.",
    discriminator="patch4", generator_steps=3, epochs=27,
)
_derive(
    "mk3_1", "mk3_1_1",
    why="mk3_1 with the 15x15 discriminator, softer labels, faster rates and four generator steps.",
    discriminator="patch4", discriminator_dropout=0.35, real_label=0.9, lr_generator=3e-4, lr_discriminator=7e-5,
    generator_steps=4, schedule=_PLATEAU_4, schedule_discriminator=_PLATEAU_4, epochs=11, epochs_planned=50,
)
_derive(
    "mk3_1_1", "mk3_1_2",
    why="Seven times the perceptual weight: the 'GOD' run, the predecessor's best on ten patients.",
    discriminator_dropout=0.32, lambda_perceptual=0.7, lr_generator=3.1e-4, lr_discriminator=6e-5, epochs=50,
)
_derive(
    "mk3_1_2", "mk3_1_2_copy1",
    why="Does the recipe carry to 36 patients with the small perceptual weight of mk3_1_1?",
    lambda_perceptual=0.1, epochs=11, dataset="brain-36", training_pairs=5849,
)
_derive(
    "mk3_1_2", "mk3_1_2_copy2",
    why="The unchanged recipe of mk3_1_2 on 36 patients; the run collapsed at epoch 7.",
    epochs=16, dataset="brain-36", training_pairs=5849,
)
_derive(
    "mk3_1_2_copy1", "mk3_6",
    why="Absolute instead of squared differences, of earlier VGG19 features that still hold detail.",
    perceptual="vgg19_relu3_3_l1", generator_steps=2, score=Score(fid=1.0), epochs=14,
)
_derive(
    "mk3_6", "mk3_6_1",
    why="mk3_6 on ten patients with a more strongly regularised discriminator and three generator steps.",
    discriminator_dropout=0.4, generator_steps=3, epochs=28, dataset="brain-10", training_pairs=1610,
)
_derive(
    "mk3_1_2_copy2", "mk3_1_2_v2",
    why="Slices cropped and padded instead of stretched, same recipe; it collapsed at epoch 7 as well.",
    epochs_planned=35, dataset="brain-new-36",
)
_derive(
    "mk3_1_2_v2", "mk3_1_2_v3",
    why="Back to ten patients with a discriminator three times slower: can the collapse be avoided?",
    discriminator_dropout=0.2, lr_discriminator=2e-5, epochs=15, epochs_planned=30,
    dataset="brain-new-10", training_pairs=1610,
)
_derive(
    "mk3_1_2_v3", "mk3_1_2_v4",
    why="A new balance: 14 times the weight of P, a weaker penalty, no momentum, low dropout, D faster than G.",
    generator_dropout=0.05, discriminator_dropout=0.1, lambda_perceptual=10.0, lambda_gp=5.0,
    lr_generator=1e-4, lr_discriminator=2e-4, beta1=0.0, generator_steps=3, batch_size=32, early_stop_patience=None,
    epochs=40, epochs_planned=40, dataset="brain-new-36", training_pairs=5849,
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_30",
    why="30 epochs of v4, run twice with clearly different results: how far chance alone moves the numbers.",
    epochs=30, epochs_planned=30,
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_50",
    why="50 epochs of v4: the run whose weights every MK6 experiment goes back to.",
    epochs=50, epochs_planned=50,
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_60",
    why="60 epochs of v4; the predecessor's run had collapsed to a black image by epoch 35.",
    epochs=60, epochs_planned=60,
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_100",
    why="100 epochs of v4: does it go on learning once the plateau schedule has cut the rate to almost nothing?",
    epochs=100, epochs_planned=100,
)
_derive(
    "mk3_1_2_v4", "mk3_1_2_v4_200",
    why="200 epochs of v4: the long end, where the predecessor's images degraded after epoch 60.",
    epochs=200, epochs_planned=200,
)

# --------------------------------------------------------------------------------------------------------- mk4

_derive(
    "mk3", "mk4",
    why="The small generator again, without label smoothing: was the larger one worth its weights?",
    family="mk4", generator="unet_a", discriminator_dropout=0.34, lambda_perceptual=29.0, real_label=1.0,
    lambda_gp=12.2, lr_generator=2e-4, lr_discriminator=5.5e-5, epochs=19, epochs_planned=50,
)
_derive(
    "mk4", "mk4_1",
    why="Moves the perceptual weight by 3 every epoch, down where P fell at least as much as the GAN loss, else up.",
    lambda_perceptual_step=3.0, lr_generator=2.2e-4, lr_discriminator=5.9e-5,
    schedule=Schedule(kind="plateau", factor=0.4, patience=4, mode="min"),
    schedule_discriminator=Schedule(kind="plateau", factor=0.4, patience=4, mode="min"), epochs=49,
)

# --------------------------------------------------------------------------------------------------------- cyclegan
# The predecessor's score averaged four numbers; the two FIDs of cycle images, taken on one training batch, are left
# out. The weights of the other two stand. Planned epochs are not recorded: they are set to those run.

_derive(
    "mk3_1_2", "cyclegan_mk1",
    why="Slices of MRI and CT drawn without pairing: what do cycle and identity losses alone teach?",
    family="cyclegan", method="cyclegan", lambda_cycle=10.0, lambda_identity=5.0, generator_steps=1, batch_size=20,
    score=Score(fid=0.25, vgg=0.25), epochs=25, epochs_planned=25, dataset="brain-new-10",
)
_derive(
    "cyclegan_mk1", "cyclegan_mk2",
    why="The same training for ten epochs; the predecessor changed only which direction its validation looked at.",
    epochs=10, epochs_planned=10,
)

# --------------------------------------------------------------------------------------------------------- mk6
# A chain of fine-tuning runs: each starts from the last weights of init_from with a fresh Adam.

_derive(
    "mk3_1_2_v4_50", "mk6_0_0",
    init_from="mk3_1_2_v4_50",
    why="Does the 50-epoch run of v4 improve when it goes on at higher rates with a fresh optimiser?",
    family="mk6", lr_generator=1.5e-4, lr_discriminator=3.5e-4, score=Score(fid=1.0, vgg=1.0),
    epochs=10, epochs_planned=10,
)
_derive(
    "mk6_0_0", "mk6_0_1",
    init_from="mk3_1_2_v4_50",
    why="mk6_0_0 again for eleven epochs, a second draw of the same experiment.",
    epochs=11, epochs_planned=11,
)
_derive(
    "mk6_0_1", "mk6_0_3",
    init_from="mk3_1_2_v4_50",
    why="Puts SSIM in place of VGG distance into the score that the schedule watches.",
    score=Score(fid=1.0, ssim=100.0), epochs=14, epochs_planned=20,
)
_derive(
    "mk6_0_3", "mk6_1_0",
    init_from="mk3_1_2_v4_50",
    why="Adds a true pixel L1 beside half the perceptual weight: the largest single gain in the predecessor's record.",
    lambda_perceptual=5.0, lambda_l1=5.0, score=Score(fid=1.0, ssim=200.0), epochs=12, epochs_planned=14,
)
_derive(
    "mk6_1_0", "mk6_1_1",
    init_from="mk3_1_2_v4_50",
    why="mk6_1_0 from the same start with a score that grows by itself, so that the rate is sure to fall.",
    lr_discriminator=3.6e-4, score=Score(fid=1.0, ssim=200.0, boost_epochs=15.0), epochs=10, epochs_planned=10,
)
_derive(
    "mk6_1_1", "mk6_2_0",
    init_from="mk6_1_1",
    why="Continues mk6_1_1 unchanged: is there more to gain by time alone?",
    epochs=7, epochs_planned=8,
)
_derive(
    "mk6_1_1", "mk6_2_1",
    init_from="mk6_1_1",
    why="Continues mk6_1_1 with a little more L1, a little less P, higher rates and more weight on SSIM.",
    lambda_perceptual=4.5, lambda_l1=5.5, lr_generator=1.6e-4, lr_discriminator=3.8e-4,
    score=Score(fid=1.0, ssim=250.0, boost_epochs=12.0), epochs=13, epochs_planned=13,
)
_derive(
    "mk6_2_1", "mk6_3_0",
    init_from="mk6_2_1",
    why="No label smoothing any more, a somewhat stronger penalty and higher rates.",
    lambda_perceptual=4.4, lambda_l1=5.6, real_label=1.0, lambda_gp=6.0, lr_generator=2.1e-4, lr_discriminator=4.55e-4,
    score=Score(fid=0.9, ssim=300.0, boost_epochs=12.0),
)
_derive(
    "mk6_3_0", "mk6_3_1",
    init_from="mk6_3_0",
    why="Another 13 epochs with the discriminator a touch slower.",
    lr_discriminator=4.52e-4,
)
_derive(
    "mk6_3_1", "mk6_3_2",
    init_from="mk6_3_1",
    why="Another 13 epochs, the discriminator a touch slower again.",
    lr_discriminator=4.5e-4,
)
_derive(
    "mk6_3_2", "mk6_3_3",
    init_from="mk6_3_2",
    why="More L1 and higher rates; the predecessor loaded an unpublished stage '6.3.3.1', here the nearest published.",
    lambda_perceptual=4.2, lambda_l1=5.8, lr_generator=2.5e-4, lr_discriminator=4.9e-4,
    # Mode 'max' on a score where lower is better: kept as it ran. What D's schedule was is not recorded.
    schedule=Schedule(kind="plateau", factor=0.8, patience=4, mode="max"),
    score=Score(fid=0.7, ssim=350.0, boost_epochs=15.0),
)
_derive(
    "mk6_3_3", "mk6_3_4",
    init_from="mk6_3_3",
    why="Low rates and heavy P and L1 to polish the result; the predecessor loaded an unpublished stage '917', here "
    "the nearest published.",
    lambda_perceptual=9.0, lambda_l1=9.0, lambda_gp=9.0, lr_generator=2e-5, lr_discriminator=3.9e-5, beta1=0.5,
    schedule=Schedule(kind="cosine", t_0=3, t_mult=2, eta_min=1e-6),
    schedule_discriminator=Schedule(kind="cosine", t_0=3, t_mult=2, eta_min=1e-6),
    # Recorded only: a cosine watches nothing. The predecessor passed this score to it in place of the epoch.
    score=Score(fid=0.7, ssim=300.0, boost_epochs=10.0),
)
REGISTRY.alias("mk6_4_3", "mk6_3_4")

README_VARIANTS = (
    "cyclegan_mk1", "cyclegan_mk2", "mk1", "mk2", "mk3_5", "mk3_6", "mk3_1_2", "mk3_1_2_v4_50", "mk6_0_1", "mk6_0_3",
    "mk6_1_0", "mk6_1_1", "mk6_2_0", "mk6_2_1", "mk6_3_0", "mk6_3_1", "mk6_3_4",
)
# fmt: on


def get(name: str) -> Variant:
    """Return a variant by name or alias; an unknown name is an error with the nearest one."""
    return REGISTRY.get(name)


def all_variants() -> list[Variant]:
    """Return every variant in the order of declaration: parents before children."""
    return REGISTRY.all()


def diff(name: str) -> dict[str, tuple[Any, Any]]:
    """Return {field: (parent's value, own value)} of what `name` changes; empty for the root."""
    return REGISTRY.diff(name)


def lineage(name: str) -> list[Variant]:
    """Return the chain of weights, first ancestor first, `name` last."""
    return REGISTRY.lineage(name)


def select(text: str) -> list[Variant]:
    """Return the variants that `text` asks for and all whose weights they start from, parents before children.

    `text` is "readme", "all" or names separated by commas (sets and names may be mixed). Raises MrictError for a name
    that is neither, and when nothing is named.
    """
    sets = {"readme": README_VARIANTS, "all": tuple(v.name for v in all_variants())}
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise MrictError(f"no variant in '{text}': give readme, all, or names separated by commas")
    names = [name for word in words for name in sets.get(word, (word,))]
    wanted = {ancestor.name for name in names for ancestor in lineage(name)}
    return [variant for variant in all_variants() if variant.name in wanted]
