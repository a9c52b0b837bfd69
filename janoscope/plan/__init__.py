"""Plans: what one generation will do. Reads importance scores and a policy; gives a frozen plan, selectors, predicted compute.

Left of it: analysis. Right of it: execution, which asks a selector and decides nothing itself. Pure: NumPy and text only, no
torch, no HDF5, no files; whoever holds a path reads it and hands the text over.
"""

from .cost import OFFLOAD_STORES, CacheBytes, Predicted, Timing, cache_bytes, predict, resident_layers, step_compute
from .facts import ModelFacts, entry_tokens, run_facts
from .fingerprint import Difference, Fingerprint, transformer_identity
from .levels import TokenLevel, highest, random_scores, token_ranks
from .plan import SCHEMA, Plan, make_plan, plan_from_ranks
from .policy import OUTPUTS, STRATEGIES, Cache, Enhance, Intervals, Policy, Split, preset
from .policy_selector import PolicySelector
from .ras import RasOptions, RasSelector
from .replay import ONE_STEP_SAMPLERS, final_weights, is_one_step
from .schedule import StepKind, ladder, skipped_groups, step_kinds
from .selector import PlanSelector, RandomSelector, Selection, Selector, source_steps
from .step_schedule import StepSchedule

__all__ = [
    "OFFLOAD_STORES",
    "ONE_STEP_SAMPLERS",
    "OUTPUTS",
    "SCHEMA",
    "STRATEGIES",
    "Cache",
    "CacheBytes",
    "Difference",
    "Enhance",
    "Fingerprint",
    "Intervals",
    "ModelFacts",
    "Plan",
    "PlanSelector",
    "Policy",
    "PolicySelector",
    "Predicted",
    "RandomSelector",
    "RasOptions",
    "RasSelector",
    "Selection",
    "Selector",
    "Split",
    "StepKind",
    "StepSchedule",
    "Timing",
    "TokenLevel",
    "cache_bytes",
    "entry_tokens",
    "final_weights",
    "highest",
    "is_one_step",
    "ladder",
    "make_plan",
    "plan_from_ranks",
    "predict",
    "preset",
    "random_scores",
    "resident_layers",
    "run_facts",
    "skipped_groups",
    "source_steps",
    "step_compute",
    "step_kinds",
    "token_ranks",
    "transformer_identity",
]
