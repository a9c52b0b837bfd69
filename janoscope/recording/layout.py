"""Names and shapes of format 1.1, apart from how it is written or read. `docs/format.md` is the prose."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

FORMAT = "janoscope-recording"
FORMAT_VERSION = "1.1"
SUFFIX = ".h5"
PARTIAL_SUFFIX = ".partial.h5"

REQUIRED_SIGNALS = ("model_output", "sample")
CORE_SIGNALS = ("model_output", "sample", "predicted_variance")
BRANCHED = {"model_output": True, "sample": False, "predicted_variance": True}
TAPS_GROUP = "taps"
# companions of a signal with a row a step, and the types in which rows are summed
ROW_COMPANIONS: Mapping[str, str] = {"_crc32": "<u4", "_nonfinite": "<i8", "_nonfinite_created": "<i8", "_storage_loss": "<f8"}
CAST_COMPANIONS = ("_nonfinite_created", "_storage_loss")  # only where storing changes the type
COMPANIONS = (*ROW_COMPANIONS, "_token", "_channel")
ABSENT = -1  # count of non-finite values where nothing was recorded
GUIDED = "guided"
SKIPPED = "skipped"  # only in recordings of accelerated runs

COMPLETE = "complete"
RUNNING = "recording"  # end_reason of a file whose writer has not said how it ended
END_REASON_BYTES = 240  # a fixed width lets the reason be rewritten in place when the disk is full
END_REASONS = (COMPLETE, RUNNING, "interrupted", "stopped early")  # others are free text with a sum
HEADER_SUM = "header_crc32"
STEP_SUM = "step_crc32"
SECTION_SUM = "section_crc32"
ROWS_PER_CHUNK = 64  # steps per chunk of the small per-step datasets
MAX_MAP_BYTES = 2**32 - 1  # HDF5's own limit for one chunk

MAX_STEPS = 100_000  # that a sampler may mean to take: a file or an argument that says more is wrong
MAX_ROOM = 4096  # steps that get their place when the file is made; more grow

# per-step datasets of the root, in the order and types in which a step's sum goes over them
PER_STEP: Mapping[str, str] = {
    "step": "<i8",
    "timestep": "<f8",
    "alpha": "<f8",
    "sigma": "<f8",
    "time_s": "<f8",
    "peak_bytes": "<i8",
    SKIPPED: "i1",
}
# what never changes once the file is made, and is summed
FIXED_ROOT_ATTRIBUTES = ("created", "format_version", "grid", "janoscope_format", "planned_steps", "prediction_type")
FIXED_ATTRIBUTES = ("_Encoding", "_FillValue", "coordinates", "janoscope_dtype", "long_name", "source_dtype", "units")

SECTIONS = ("run", "model", "scheduler", "packages", "capture")
UNITS: Mapping[str, tuple[str, str]] = {
    "model_output": ("1", "what the network predicted, in token order"),
    "sample": ("1", "x_t, the noisy input of the network at this step"),
    "predicted_variance": ("1", "learned-sigma channels of the model output"),
    "step": ("1", "index of the step in the sampling loop"),
    "item": ("1", "index in the batch"),
    "branch": ("1", "guidance branch"),
    "token": ("1", "flat token index, frame-row-col with col fastest"),
    "channel": ("1", "token channel, (latent channel, patch frame, patch row, patch col) with patch col fastest"),
    "timestep": ("1", "timestep of the scheduler"),
    "alpha": ("1", "alpha of the recorded sample: x = alpha x0 + sigma eps"),
    "sigma": ("1", "sigma of the recorded sample: x = alpha x0 + sigma eps"),
    "time_s": ("s", "network time of the step; NaN where it was not measured"),
    "peak_bytes": ("byte", "peak memory of the step; -1 where it was not measured"),
    "skipped": ("1", "1 where an executor did not compute the token at this step and its output is an older one's"),
    "token_frame": ("1", "frame of the token, in token units"),
    "token_row": ("1", "row of the token, in token units"),
    "token_col": ("1", "column of the token, in token units"),
    STEP_SUM: ("1", "zlib.crc32 of the step's rows in the small datasets, in the order of docs/format.md"),
    "steps_done": ("1", "number of steps that are whole; everything beyond is to be ignored"),
}

_TAP_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)+")


@dataclass(frozen=True)
class TapAxes:
    """Size of one inner module's recorded output: `tokens` x `channels`. dtype: of the source; None means model_output's."""

    tokens: int
    channels: int
    dtype: str | None = None


@dataclass(frozen=True)
class SignalSpec:
    """One signal: dims (step, item, branch, token, channel), or without branch; dtypes are names, `bfloat16` among them."""

    name: str
    tokens: int
    channels: int
    source: str
    stored: str

    @property
    def is_tap(self) -> bool:
        return self.name not in CORE_SIGNALS

    @property
    def branched(self) -> bool:
        return BRANCHED.get(self.name, True)

    @property
    def dataset(self) -> str:
        return dataset_path(self.name)

    @property
    def cast(self) -> bool:
        """Whether storing changes the values' type."""
        return self.source != self.stored

    def lead(self, items: int, branches: int) -> tuple[int, ...]:
        """Shape of one step's chunks: (item, branch), or (item,)."""
        return (items, branches) if self.branched else (items,)


def dataset_path(signal: str) -> str:
    return signal if signal in CORE_SIGNALS else f"{TAPS_GROUP}/{signal}"


def check_signal_name(name: str) -> None:
    """Raise InputError unless `name` is a core signal or a tap's dotted path plus port."""
    if name in CORE_SIGNALS:
        return
    if not _TAP_NAME.fullmatch(name) or name.endswith(COMPANIONS):
        raise InputError(
            f"signal {name!r} is neither {', '.join(CORE_SIGNALS)} nor a tap; name a tap by module path and port, "
            "such as transformer_blocks.0.output."
        )


def check_map_bytes(name: str, shape: tuple[int, ...], itemsize: int) -> None:
    if math.prod(shape) * itemsize > MAX_MAP_BYTES:
        raise InputError(f"one step of {name} has shape {shape}, above HDF5's 4 GiB a chunk; record fewer tokens.")


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete: run.h5 -> run.partial.h5."""
    return path.with_name(path.name.removesuffix(SUFFIX) + PARTIAL_SUFFIX)


def generation_path(path: Path | str, n: int) -> Path:
    """Where the n-th generation (from 1) of one recording context goes.

    >>> str(generation_path("runs/cat.h5", 1)), str(generation_path("runs/cat.h5", 2))
    ('runs/cat.h5', 'runs/cat-2.h5')
    """
    path = Path(path)
    return path if n == 1 else path.with_name(f"{path.name.removesuffix(SUFFIX)}-{n}{SUFFIX}")
