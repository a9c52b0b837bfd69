"""What every quantity of the report means: the words beside the figures."""

from ...plan import StepKind, TokenLevel

LEVELS = {
    TokenLevel.STATIC: "computed at full steps (W, R, C) only",
    TokenLevel.MODERATE: "computed at full and moderate steps",
    TokenLevel.ACTIVE: "computed at every step that is not skipped",
}
KINDS = {
    StepKind.WARMUP: "all tokens, without a cache: the map is not known yet",
    StepKind.REFRESH: "all tokens; the caches are written",
    StepKind.MODERATE: "moderate and active tokens; static ones are read from the cache",
    StepKind.ACTIVE: "active tokens; all others are read from the cache",
    StepKind.REUSE: "no token: the last outputs are reused",
    StepKind.COOLDOWN: "all tokens; the caches are not used",
}
DEFINITIONS: tuple[tuple[str, str], ...] = (
    ("Token", "One patch of latent cells, the unit that the transformer computes. Frame, row and column count from 0."),
    ("Tile", "A box of latent cells with one complexity score. Its level applies to the tokens inside."),
    ("Step", "One iteration of the sampling loop, counted from 0; step 0 is the noisiest."),
    ("Step kind", "Which tokens a step computes: all (warm-up, refresh, cool-down), some (moderate, active) or none (reuse)."),
    ("Warm-up, cool-down", "Full steps at the beginning, before the map is known, and at the end."),
    ("Raw model output", "What the network returns, after guidance; its meaning depends on the prediction type."),
    ("Flow velocity", "The prediction as dx/dt, pointing towards noise: the same quantity for every prediction type."),
    ("x0 estimate", "The clean latent that a step's output and sample imply."),
    ("Complexity", "How much predictions inside a tile change relative to each other during the warm-up, scaled to 0..1."),
    ("Complexity, enhanced", "The same with quiet tiles inside complex ones raised. Token levels are cut from this map."),
    ("RAS importance", "Standard deviation of the next update over latent channels, as region-adaptive sampling scores tokens."),
    ("Convergence step", "The first step from which a token's x0 estimate stays within the tolerance of its final value."),
    ("Reuse error", "Rms error of reusing a token's velocity for one or more steps instead of computing it."),
    ("Relative change", "Rms change of a token's flow velocity from one step to the next, over the rms of the velocity."),
    (
        "AUROC",
        "The probability that an active token changes more than a static one in the middle of the run: 1 is perfect separation, "
        "0.5 is chance. Brackets: 95 % bootstrap interval, resampled by tile.",
    ),
    ("Spearman", "Rank correlation of an early map with an outcome: 1 is the same order, 0 is none. Brackets as for AUROC."),
    ("Same class", "Share of tokens that a map and the outcome put into the same of three classes; 0.34 by chance."),
    ("FLOPs", "Floating-point operations as a share of the full run with as many steps; predicted, and counted after apply."),
    ("Speedup", "Wall time of the full run over that of the plan, measured. FLOP ratio: the same of FLOPs, predicted."),
    ("Cache", "Memory for keys and values, or hidden states, of tokens that are not computed."),
)
