"""What every quantity of the report means: the words beside the figures."""

from ...plan import StepKind, TokenLevel

LEVELS = {
    TokenLevel.STATIC: "computed at full steps (W, R, C) only",
    TokenLevel.MODERATE: "computed at full and moderate steps",
    TokenLevel.ACTIVE: "computed at every step that computes anything",
}
KINDS = {
    StepKind.WARMUP: "every token, nothing cached: the map is not known yet",
    StepKind.REFRESH: "every token, and the caches are written",
    StepKind.MODERATE: "moderate and active tokens; static ones are served from the cache",
    StepKind.ACTIVE: "active tokens; all others are served from the cache",
    StepKind.REUSE: "nothing: the last outputs serve again",
    StepKind.COOLDOWN: "every token, caches untouched",
}
DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "Token",
        "The unit that the transformer computes: one patch of latent cells. Places are counted from 0 as frame, row, column.",
    ),
    ("Tile", "A box of latent cells that gets one complexity score; its level is carried over to the tokens inside."),
    ("Step", "The index of a call in the sampling loop, counted from 0, noisy first."),
    (
        "Raw model output",
        "What the network returned, after guidance and before any conversion; what it means depends on the prediction type.",
    ),
    (
        "Flow velocity",
        "The prediction read as the rate dx/dt at which the sample moves, pointing to noise. The same quantity for every "
        "prediction type, so that steps and models can be compared. Models that predict flow return it directly.",
    ),
    ("x0 estimate", "The clean latent that the network has in mind at a step, from its output and the sample."),
    (
        "Complexity",
        "How much the distances between the predictions inside a tile still change during the warm-up; scaled to 0..1 "
        "over the tiles of this generation. High where something is forming.",
    ),
    (
        "Complexity, enhanced",
        "The same after inward diffusion: quiet tiles enclosed by busy ones are raised, because the inside of an object "
        "is looked at as well. May exceed 1. The levels are cut from this map.",
    ),
    (
        "RAS importance",
        "Standard deviation over latent channels of the coming update, mean over a token's patch: the score of region- "
        "adaptive sampling, shown for comparison.",
    ),
    (
        "Convergence step",
        "The first step from which a token's x0 estimate stays within the tolerance of its last value to the end; the "
        "number of steps where it never does. Known only after a full run.",
    ),
    (
        "Reuse error",
        "The rms error made when a token's velocity is reused for 1 to the stated number of steps instead of computed, over "
        "all steps it can start from. Known only after a full run.",
    ),
    ("Relative change", "Rms change of a token's flow velocity from the step before, over the velocity's own rms."),
    (
        "AUROC",
        "The chance that an active token changes more in the middle of the run than a static one: 1 tells them apart "
        "fully, 0.5 is a coin toss. Brackets hold the 95% bootstrap interval, resampled by tile.",
    ),
    (
        "Spearman",
        "Rank correlation of an early map with what the tokens did later: 1 is the same order, 0 none. Brackets as for "
        "AUROC. Tokens of one picture are not independent, and one picture is one case.",
    ),
    ("Same class", "Share of tokens that a map puts in the class their outcome asks for, each cut at its own quantiles."),
    (
        "Compute",
        "FLOPs as a fraction of the full run with as many steps. Predicted from the transformer blocks; after apply, counted.",
    ),
    (
        "Speedup",
        "Wall time of the full run over that of the plan, measured by apply on its device. A prediction is called FLOP ratio: "
        "FLOPs of the full run over those of the plan.",
    ),
    ("Cache", "Memory that holds the attention keys and values, or hidden states, of the tokens that are skipped."),
    ("Warm-up, cool-down", "Full steps at both ends: before the map is known, and where detail is settled."),
)
