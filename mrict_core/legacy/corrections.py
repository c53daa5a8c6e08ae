"""Pairs of sentences: what the predecessor did, and what this suite does. Details in docs/lineage.md."""

CORRECTIONS: tuple[tuple[str, str], ...] = (
    (
        "Training and validation slices came from the same heads, split slice by slice.",
        "Test patients are held out whole, and in protocol “patient” also validation patients; a leak check runs.",
    ),
    (
        "“Test” numbers were validation numbers: no held-out patient was ever scored.",
        "Every score is from patients used neither for training nor for choosing a checkpoint.",
    ),
    (
        "The MR was multiplied by the union of MR and CT masks, so the CT’s outline leaked into the input.",
        "The input is masked by the MR’s own body mask.",
    ),
    (
        "MSE and SSIM included the black background; SSIM used each slice’s own range.",
        "MAE, PSNR and SSIM by the SynthRAD2023 definition: in HU, inside the mask, one value per 3-D case.",
    ),
    (
        "FID covered only 0 to 1000 HU (lower values were clamped) and a few hundred slices.",
        "Its twin covers the whole window; below 2048 slices it has a warning and is not ranked.",
    ),
    (
        "Random flips and rotations were applied during evaluation.",
        "Scores are computed without augmentation, except the predecessor’s own numbers, for comparison.",
    ),
    (
        "The generator stayed in evaluation mode after the first epoch.",
        "It returns to training mode; an option restores the old behaviour.",
    ),
    (
        "No seeds; optimisers were not saved; intermediate checkpoints were not published.",
        "Seeded, bit-exact resume on the CPU; every checkpoint records its data, split, parent, code and versions.",
    ),
    (
        "CycleGAN’s outputs were compared with their own input.",
        "Every generator is scored on MR → CT against the true CT.",
    ),
    (
        "Models were not compared with trivial predictors.",
        "Water, mean CT and rank map are in the leaderboard; models that do not beat them are flagged.",
    ),
)
