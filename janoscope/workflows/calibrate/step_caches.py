"""Exports: what a recording tells other tools' step caches, TeaCache's polynomial and MagCache's ratios, as these take them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...capture import parse_tap
from ...errors import InputError
from ...pipeline.provenance import probe_of_recording
from ...recording import Recording, open_recording
from ...results.writing import refuse_existing, write_json
from ...version import __version__
from ..record.gather import gather_shards
from ..record.tool_taps import TOOLS, needed_taps
from .experts import spans_of_recording

DEGREE = 4  # of TeaCache's polynomial
EPSILON = 1e-8  # as diffusers' MagCache guards its division


@dataclass(frozen=True)
class PromptFit:
    """How well the common polynomial fits one recording. rmse: of the output's relative distance."""

    prompt: str
    seed: int | None
    r2: float
    rmse: float


@dataclass(frozen=True)
class TeaCacheFit:
    """TeaCache's rescaling: the output's relative L1 distance as a polynomial of the modulated input's, consecutive steps.

    coefficients: highest power first, as `numpy.poly1d` takes them. input: the tap that x is of. x_range: beyond it the
    polynomial is no measurement. pairs: points that were fitted.
    """

    coefficients: tuple[float, ...]
    r2: float
    rmse: float
    input: str
    x_range: tuple[float, float]
    pairs: int
    per_prompt: tuple[PromptFit, ...]

    def to_json(self) -> dict[str, object]:
        return {"schema": "janoscope-teacache/1", "degree": DEGREE, **asdict(self)}


@dataclass(frozen=True)
class MagCacheRatios:
    """MagCache's magnitude ratios, one a step, 1 first.

    mag_ratios: for diffusers' `MagCacheConfig(mag_ratios=...)`, the mean over branches. by_branch: of each by itself.
    interleaved: branch after branch at every step, as MagCache's own scripts for two calls a step take them. spread: standard
    deviation over recordings, by branch and step.
    """

    mag_ratios: tuple[float, ...]
    by_branch: Mapping[str, tuple[float, ...]]
    interleaved: tuple[float, ...]
    spread: Mapping[str, tuple[float, ...]]
    recordings: int

    def to_json(self) -> dict[str, object]:
        return {"schema": "janoscope-magcache/1", "num_inference_steps": len(self.mag_ratios), **asdict(self)}


def export_teacache(
    recordings: Sequence[Path], probe: Path | None = None, *, expert: str | None = None, boundary: float | None = None
) -> TeaCacheFit:
    """Fit TeaCache's polynomial to every pair of consecutive steps, branch and item of all recordings.

    expert: of a model with two networks the one that is meant. boundary: where they change over, for recordings that do not say.

    x: mean |now - before| / mean |before| of the modulated input; y: the same of the network's output. Source: Liu et al.,
    "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv 2411.19108, eq. 4 to 6; ali-vilab/TeaCache
    issue 2 (numpy.polyfit, degree 4, all steps).

    Raises InputError where a recording lacks the tap, where there are too few points for the degree, and where two networks were
    recorded and none is named.
    """
    points: list[tuple[str, int | None, np.ndarray, np.ndarray]] = []
    name = ""
    for path in recordings:
        with open_recording(path) as recording:
            (name,) = _tap_names(recording, "teacache", probe)
            steps = _steps_of(recording, expert, boundary)
            found = [_distances(recording, name, item, branch, steps) for item, branch in _places(recording, name, steps)]
            x, y = (np.concatenate(values) for values in zip(*found, strict=True))
            points.append((recording.provenance["run"]["prompt"], recording.provenance["run"]["seed"], x, y))
    x, y = (np.concatenate([one[at] for one in points]) for at in (2, 3))
    if len(np.unique(x)) <= DEGREE:
        raise InputError(f"{len(x)} pairs of steps are too few for a polynomial of degree {DEGREE}; record more steps.")
    coefficients = fit_polynomial(x, y)
    fits = tuple(PromptFit(prompt, seed, *_goodness(coefficients, x, y)) for prompt, seed, x, y in points)
    r2, rmse = _goodness(coefficients, x, y)
    return TeaCacheFit(tuple(map(float, coefficients)), r2, rmse, name, (float(x.min()), float(x.max())), len(x), fits)


def fit_polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares, highest power first; fitted on a scaled axis, since x**8 of small distances loses every digit."""
    return np.polynomial.Polynomial.fit(x, y, DEGREE).convert().coef[::-1]


def export_magcache(
    recordings: Sequence[Path], probe: Path | None = None, *, expert: str | None = None, boundary: float | None = None
) -> MagCacheRatios:
    """MagCache's ratios, the mean over recordings and items. expert, boundary: as in `export_teacache`.

    ratio: mean over tokens of |residual now| / |residual before|; residual: hidden states after all blocks less those before,
    norms over channels in float32. Source: Ma et al., "MagCache: Fast Video Generation with Magnitude-Aware Cache", arXiv
    2506.09045; diffusers' hooks/mag_cache.py measures the same with `MagCacheConfig(calibrate=True)`.

    Raises InputError where a recording lacks the taps, has another number of steps than the first, or is of two networks and
    none is named.
    """
    ratios: dict[str, list[np.ndarray]] = {}
    for path in recordings:
        with open_recording(path) as recording:
            first, last = _tap_names(recording, "magcache", probe)
            steps = _steps_of(recording, expert, boundary)
            for item, branch in _places(recording, first, steps):
                ratios.setdefault(branch, []).append(_ratios(recording, first, last, item, branch, steps))
    lengths = {len(one) for found in ratios.values() for one in found}
    if len(lengths) > 1:
        raise InputError(
            f"the recordings have {', '.join(map(str, sorted(lengths)))} steps; MagCache's ratios are for one number."
        )
    means = {branch: np.mean(found, axis=0) for branch, found in ratios.items()}
    together = np.stack(list(means.values()))  # (branch, step)
    return MagCacheRatios(
        mag_ratios=_floats(together.mean(axis=0)),
        by_branch={branch: _floats(values) for branch, values in means.items()},
        interleaved=_floats(together.T.ravel()),
        spread={branch: _floats(np.std(found, axis=0)) for branch, found in ratios.items()},
        recordings=len(recordings),
    )


@dataclass(frozen=True)
class Exported:
    """One tool's file and what it says; left_out: a sentence for every recording that was not taken."""

    path: Path
    text: str
    left_out: tuple[str, ...]


def write_exports(
    places: Sequence[Path],
    tools: Sequence[str],
    directory: Path,
    *,
    probe: Path | None = None,
    boundary: float | None = None,
    force: bool = False,
) -> list[Exported]:
    """`teacache.json`, `magcache.json` from the recordings of `places` (as `gather_shards` takes them), into `directory`.

    A model with two networks gets a file for each, `magcache-transformer.json` and `magcache-transformer_2.json`.

    Raises InputError for an unknown tool, recordings without the taps, and files that are there already, unless `force`.
    """
    for tool in tools:
        if tool not in TOOLS:
            raise InputError(f"no export for {tool!r}; legal: {', '.join(TOOLS)}.")
    shards = gather_shards(places)
    experts = _experts(shards.paths, boundary)
    files = {
        (tool, expert): directory / (f"{tool}-{expert}.json" if expert else f"{tool}.json")
        for tool in tools
        for expert in experts
    }
    for path in files.values():
        refuse_existing(path, force)
    fingerprint = shards.made_with.to_json()
    facts = {key: fingerprint[key] for key in ("model", "transformer", "grid", "steps", "scheduler", "guidance")}
    facts["recordings"] = [{"file": one.path.name, "prompt": one.prompt, "seed": one.seed} for one in shards.recordings]
    results = {  # all of them before anything is written
        (tool, expert): _EXPORTS[tool](shards.paths, probe, expert=expert, boundary=boundary) for tool, expert in files
    }
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for (tool, expert), result in results.items():
        path, network = files[tool, expert], {"network": expert} if expert else {}
        write_json(path, result.to_json() | network | {"measured_on": facts, "janoscope": __version__})
        text = (f"for pipe.{expert}:\n" if expert else "") + describe(result)
        written.append(Exported(path, text, shards.left_out))
    return written


def describe(result: TeaCacheFit | MagCacheRatios) -> str:
    """Lines to paste into the tool, and how far to trust them."""
    return describe_teacache(result) if isinstance(result, TeaCacheFit) else describe_magcache(result)


def describe_teacache(fit: TeaCacheFit) -> str:
    """Lines to paste into TeaCache's scripts, and how far to trust them."""
    r2 = [one.r2 for one in fit.per_prompt]
    listed = ", ".join(f"{value:.8e}" for value in fit.coefficients)
    return "\n".join(
        [
            f"coefficients = [{listed}]  # numpy.poly1d",
            f"of {fit.input}, {fit.pairs} pairs of steps with distances {fit.x_range[0]:.3g} to {fit.x_range[1]:.3g}",
            f"R^2 {fit.r2:.3f}, by recording {min(r2):.3f} to {max(r2):.3f} (median {np.median(r2):.3f}); "
            f"error of the output's distance {fit.rmse:.3g}",
        ]
    )


def describe_magcache(ratios: MagCacheRatios) -> str:
    """The line to paste into diffusers, and the spread."""
    listed = ", ".join(f"{value:.5f}" for value in ratios.mag_ratios)
    steps = len(ratios.mag_ratios)
    spread = max(max(values) for values in ratios.spread.values())
    lines = [f"MagCacheConfig(num_inference_steps={steps}, mag_ratios=[{listed}])"]
    if len(ratios.by_branch) > 1:
        apart = np.ptp(np.stack([np.array(values) for values in ratios.by_branch.values()]), axis=0).max()
        lines.append(f"mean of {' and '.join(ratios.by_branch)}, which differ by {apart:.3g} at most")
    return "\n".join([*lines, f"of {ratios.recordings} recordings; spread over them at most {spread:.3g} at a step"])


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _tap_names(recording: Recording, tool: str, probe: Path | None) -> list[str]:
    """Signals of the taps that the tool needs."""
    sheet = probe_of_recording(recording, probe)
    if sheet is None:
        raise InputError(f"{recording.path.name} names no probe, which says what {tool} looks at; give the path of one as probe.")
    names = [parse_tap(text).name for text in needed_taps(sheet, tool)]
    if missing := [name for name in names if name not in recording.signals]:
        raise InputError(f"{recording.path.name} holds no tap {missing[0]}; record with `janoscope record --for {tool}`.")
    return names


def _steps_of(recording: Recording, expert: str | None, boundary: float | None) -> range:
    """The steps that the export is about: all, or those of one of two networks."""
    spans = spans_of_recording(recording, boundary)
    of = {span.expert: range(span.first, span.last) for span in spans}
    if len(spans) == 1 and expert is None:
        return range(spans[0].first, spans[0].last)
    if expert not in of:
        networks = " and ".join(f"{name} ({len(steps)} steps)" for name, steps in of.items())
        raise InputError(f"{recording.path.name} is of {networks}, which are not calibrated together; name one with expert=.")
    return of[expert]


def _experts(recordings: Sequence[Path], boundary: float | None) -> list[str | None]:
    """The networks that made the recordings; [None] where there is one."""
    found: dict[str | None, None] = {}
    for path in recordings:
        with open_recording(path) as recording:
            spans = spans_of_recording(recording, boundary)
        found |= {span.expert if len(spans) > 1 else None: None for span in spans}
    return list(found)


def _places(recording: Recording, tap: str, steps: range) -> Iterator[tuple[int, str]]:
    """Items and branches of which every one of the steps holds the tap."""
    present = recording.present(tap)[steps.start : steps.stop]  # (step, item, branch)
    for item in range(recording.items):
        for at, branch in enumerate(recording.branches):
            if present[:, item, at].all():
                yield item, branch


def _distances(recording: Recording, tap: str, item: int, branch: str, steps: range) -> tuple[np.ndarray, np.ndarray]:
    """Relative L1 distances of consecutive steps, (step - 1,) each: of the tap, and of the network's output."""
    found = []
    for signal in (tap, "model_output"):
        before, distances = recording.map(signal, steps[0], item, branch), []
        for step in steps[1:]:
            now = recording.map(signal, step, item, branch)
            distances.append(np.abs(now - before).mean(dtype=np.float64) / np.abs(before).mean(dtype=np.float64))
            before = now
        found.append(np.array(distances))
    return found[0], found[1]


def _ratios(recording: Recording, first: str, last: str, item: int, branch: str, steps: range) -> np.ndarray:
    """(step,), 1 at the first."""
    ratios, before = [1.0], _norms(recording, first, last, steps[0], item, branch)
    for step in steps[1:]:
        now = _norms(recording, first, last, step, item, branch)
        ratios.append(float((now / (before + EPSILON)).mean()))
        before = now
    return np.array(ratios)


def _norms(recording: Recording, first: str, last: str, step: int, item: int, branch: str) -> np.ndarray:
    """The residual's length by token, (token,)."""
    residual = recording.map(last, step, item, branch) - recording.map(first, step, item, branch)
    return np.linalg.norm(residual, axis=-1)


def _goodness(coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(R^2, root mean square error)."""
    errors = y - np.polyval(coefficients, x)
    spread = np.square(y - y.mean()).sum()
    return float(1 - np.square(errors).sum() / spread) if spread else 0.0, float(np.sqrt(np.square(errors).mean()))


_EXPORTS: Mapping[str, Callable[..., TeaCacheFit | MagCacheRatios]] = {
    "teacache": export_teacache,
    "magcache": export_magcache,
}
