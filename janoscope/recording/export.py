"""Copy a recording with another stored dtype: netCDF tools, for one, know float32 but neither float16 nor bfloat16."""

from pathlib import Path

import numpy as np

from ..errors import RecordingError
from .layout import GUIDED, SignalSpec, TapAxes
from .reading.reader import Recording, open_recording
from .writing.writer import Recorder, RecorderOptions


def export(path: Path | str, out: Path | str, *, dtype: str = "float32", force: bool = False, partial: bool = False) -> Path:
    """Copy a recording with every signal stored as another dtype; non-finite values are counted again.

    Args:
        path, out: of the recording and of its copy. dtype: float16, bfloat16, float32 or float64.
        force: replace an existing copy.
        partial: accept a recording that did not finish, which gives a partial file.

    Returns:
        The file that was written.

    Raises:
        RecordingError: the source cannot be trusted, or the copy cannot be written.
        InputError: a bad name or dtype.
    """
    with open_recording(path, partial=partial) as source:
        provenance = {section: dict(fields) for section, fields in source.provenance.items()}
        provenance["capture"] |= {"exported_from": source.path.name, "exported_dtype": dtype}
        recorder = Recorder(
            out,
            grid=source.grid,
            prediction_type=source.prediction_type,
            branches=source.branches,
            items=source.items,
            planned_steps=source.steps if source.complete else source.planned_steps,
            provenance=provenance,
            taps={name: _axes(source, name) for name in source.signals if source.spec(name).is_tap},
            force=force,
            options=RecorderOptions(store_dtype=dtype, marks_skipped=source.skipped is not None),
        )
        with recorder:
            for step in range(source.steps):
                _copy_step(source, recorder, step)
            recorder.close("complete" if source.complete else source.end_reason)
    if recorder.failure is not None:
        raise RecordingError(f"{recorder.path.name} could not be written: {recorder.failure}. Make room and export again.")
    return recorder.path if recorder.path.exists() and source.complete else recorder.partial_path


def _copy_step(source: Recording, recorder: Recorder, step: int) -> None:
    for name in source.signals:
        spec = source.spec(name)
        for item, branch in np.argwhere(source.present(name)[step].reshape(source.items, -1)):
            _copy_map(source, recorder, spec, step, int(item), source.branches[branch] if spec.branched else GUIDED)
    there = source.present("model_output")[step].any(axis=0)
    skipped = source.skipped
    recorder.commit(
        timestep=source.timestep[step],
        alpha=source.alpha[step],
        sigma=source.sigma[step],
        time_s=dict(zip(source.branches, source.time_s[step], strict=True)),
        peak_bytes=source.peak_bytes[step],
        skipped=None if skipped is None else skipped[step],
        absent=[branch for branch, is_there in zip(source.branches, there, strict=True) if not is_there],
    )


def _axes(source: Recording, name: str) -> TapAxes:
    spec = source.spec(name)
    return TapAxes(spec.tokens, spec.channels, spec.stored)


def _copy_map(source: Recording, recorder: Recorder, spec: SignalSpec, step: int, item: int, branch: str) -> None:
    values = source.map(spec.name, step, item, branch, raw=True)
    recorder.put(spec.name, values, item=item, branch=branch, dtype="bfloat16" if spec.stored == "bfloat16" else None)
