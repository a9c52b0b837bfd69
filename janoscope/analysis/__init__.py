"""Analysis: where a generation settles early, and which early map predicts it.

Reads latent arrays (signal, channel, frame, row, col) and token arrays (step, token, channel): flow velocities and x0 estimates
from `conversion`. Gives frozen results of small NumPy maps. Comes before `plan`; knows neither files, models nor figures.

The same functions serve a recording (NumPy) and the executor in mid-generation (torch, on the device, without a host
synchronisation before the map is done).
"""

from .baselines import fourier_baseline, variance_baseline
from .complexity import Complexity, jano_complexity, min_max
from .convergence import Convergence, ConvergenceAccumulator, convergence_step, measure_convergence, reuse_error
from .enhancement import Enhancement, diffuse_inward
from .importance import gradient_energy, ras_importance, velocity_change
from .prediction import Estimate, MapScore, class_agreement, map_predicts, quantile_classes, separation, spearman
from .tiles import tile_means, tile_of_tokens, token_means

__all__ = [
    "Complexity", "Convergence", "ConvergenceAccumulator", "Enhancement", "Estimate", "MapScore", "class_agreement",
    "convergence_step", "diffuse_inward", "fourier_baseline", "gradient_energy", "jano_complexity", "map_predicts",
    "measure_convergence", "min_max", "quantile_classes", "ras_importance", "reuse_error", "separation", "spearman",
    "tile_means", "tile_of_tokens", "token_means", "variance_baseline", "velocity_change",
]  # fmt: skip
