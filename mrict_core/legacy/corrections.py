"""What the predecessor did and what is done here, in pairs of sentences. docs/lineage.md says it in full."""

CORRECTIONS: tuple[tuple[str, str], ...] = (
    (
        "Training and validation slices came from the same heads, split slice by slice.",
        "Test patients are held out whole, and in protocol “patient” validation patients too; a leak check sees to it.",
    ),
    (
        "“Test” numbers were validation numbers: no held-out patient was ever scored.",
        "Every number belongs to patients used neither for training nor for choosing a checkpoint.",
    ),
    (
        "The MR was multiplied by the union of MR and CT masks, so the CT’s outline leaked into the input.",
        "The input’s mask comes from the MR alone.",
    ),
    (
        "MSE and SSIM ran over the black background; SSIM’s range was each slice’s own.",
        "MAE, PSNR and SSIM by the SynthRAD2023 definition: in HU, inside the mask, one value per 3-D case.",
    ),
    (
        "FID saw only 0 to 1000 HU (everything below was clamped) and a few hundred slices.",
        "Its twin sees the whole window; below 2048 slices it is printed with a warning and never ranks.",
    ),
    (
        "Random flips and rotations were applied during evaluation.",
        "Scores are taken without augmentation; only the predecessor’s own numbers keep it, for comparison.",
    ),
    (
        "The generator stayed in evaluation mode after the first epoch.",
        "It returns to training mode; a switch restores the old behaviour.",
    ),
    (
        "No seeds; optimisers were not saved; unpublished intermediate checkpoints.",
        "Seeded, on a CPU resumable bit for bit; every checkpoint names its data, split, parent, code and versions.",
    ),
    (
        "CycleGAN’s outputs were compared with their own input.",
        "Every generator is scored on MR → CT against the true CT.",
    ),
    (
        "No trivial predictor stood beside the models.",
        "Water, mean CT and rank map stand in the leaderboard; a model that does not beat them is flagged.",
    ),
)
