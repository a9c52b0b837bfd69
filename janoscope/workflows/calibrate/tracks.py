"""Tracks: recordings reduced to what calibration needs of them, so that candidates by the thousand are scored without the files.

A track holds the Gram matrix over steps of some tokens' outputs (plan/replay.py) and every map that a candidate may ask for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...grid import TokenGrid
from ...pipeline.model_options import ProbeSource
from ...pipeline.provenance import facts_of_recording, fingerprint_of_recording, probe_of_recording
from ...plan import OUTPUTS, Fingerprint, ModelFacts, Policy, is_one_step, random_scores, step_kinds
from ...plan.cost import step_flops
from ...plan.replay import Replay, StepWeights, gram
from ...plan.schedule import StepKind
from ...recording import open_recording
from ...results.writing import write_arrays
from ..analyze.trajectory import RunView
from .experts import expert_spans
from .levels import OrderedMap, stacked_levels
from .space import Space, Span

TOKENS_IN_ALL = 16384  # whose Gram matrices are kept: 160 MiB at 50 steps
TOKENS = (32, 1024)  # of one recording, at least and at most
SCHEMA = "janoscope-track/2"


@dataclass(frozen=True, eq=False)
class Track:
    """One recording, reduced. tokens: which are followed. grams: (token, pair). maps: scores by `map_key`. signal: mean square of
    the final x0 about its mean, the power against which errors are measured. exact: weights are the sampler's own, so that
    outputs can be corrected under it."""

    fingerprint: Fingerprint
    facts: ModelFacts | None
    weights: StepWeights
    tokens: np.ndarray
    grams: np.ndarray
    maps: Mapping[str, np.ndarray]
    signal: float
    timesteps: np.ndarray
    exact: bool = False


def map_key(policy: Policy) -> str:
    """What of a policy decides its map's scores, as text. A jano map needs tile and weight, those of tokens neither."""
    own = [policy.tile, policy.temporal_weight] if policy.map == "jano" else []
    return json.dumps([policy.map, policy.warmup, *own])


def tokens_per_run(count: int, runs: int) -> int:
    """How many tokens of each recording are followed."""
    least, most = TOKENS
    return min(count, max(least, min(most, TOKENS_IN_ALL // max(runs, 1))))


def reduce_recording(path: Path, follow: int, boundary: float | None = None, probe: ProbeSource | None = None) -> Track:
    """Read a recording once. follow: tokens whose outputs are kept. boundary: where a model with two experts changes over, as a
    share of the training timesteps; the maps of both are made.
    """
    with open_recording(path) as recording:
        if recording.items > 1:
            raise InputError(f"{path.name} holds {recording.items} items; calibration needs one prompt a recording.")
        view, grid = RunView(recording), recording.grid
        fingerprint = fingerprint_of_recording(recording)
        spans = spans_of(fingerprint, recording.timestep, boundary)
        facts = facts_of_recording(recording, probe_of_recording(recording, probe))
        followed = np.sort(np.random.default_rng(0).choice(grid.count, min(follow, grid.count), replace=False))
        outputs = np.stack([view.step(step).output[followed] for step in range(recording.steps)])
        last = view.last_x0()
        wanted = [policy for span in spans for policy in _mapping_policies(grid, recording.steps, span)]
        maps = {map_key(policy): view.importance(policy, None) for policy in wanted}
        signal = float(np.mean((last - last.mean(axis=0)) ** 2))
        scheduler = recording.provenance["scheduler"]
        weights, exact = _weights(scheduler, StepWeights.of_path(view.path, view.prediction))
        return Track(fingerprint, facts, weights, followed, gram(outputs), maps, signal, np.array(recording.timestep), exact)


def _weights(scheduler: Mapping[str, Any], formula: StepWeights) -> tuple[StepWeights, bool]:
    """The weights that a recording keeps, else those of an Euler step; and whether they are the sampler's own."""
    stored = scheduler.get("weights")
    if isinstance(stored, list) and len(stored) == len(formula):
        return StepWeights(np.array(stored, dtype=float), formula.coordinate), True
    # recordings of 0.1.0 have none; the formula holds for samplers that use each output once
    return formula, isinstance(scheduler.get("config"), Mapping) and is_one_step(scheduler)


def spans_of(fingerprint: Fingerprint, timesteps: np.ndarray, boundary: float | None) -> list[Span]:
    """The steps of each network of a run, see `expert_spans`."""
    return expert_spans(timesteps, boundary, fingerprint.scheduler if isinstance(fingerprint.scheduler, Mapping) else {})


def _mapping_policies(grid: TokenGrid, steps: int, span: Span) -> list[Policy]:
    """Of a network that runs too few steps for any policy none."""
    return list(space.mapping_policies()) if (space := Space.of_span(grid, steps, span)) else []


def kept_track(path: Path, kept: Path, follow: int, boundary: float | None = None, probe: ProbeSource | None = None) -> Track:
    """`reduce_recording`, or the track that an earlier run kept of the same file at `kept`."""
    stat = path.stat()
    source = [SCHEMA, str(path.resolve()), stat.st_size, stat.st_mtime_ns, follow, boundary, str(probe)]
    identity = hashlib.sha256(json.dumps(source).encode()).hexdigest()
    if kept.exists() and (track := _read(kept, identity)) is not None:
        return track
    track = reduce_recording(path, follow, boundary, probe)
    kept.parent.mkdir(parents=True, exist_ok=True)
    facts = {"fingerprint": track.fingerprint.to_json(), "facts": vars(track.facts) if track.facts else None}
    write_arrays(
        kept,
        {
            "identity": np.array(identity),
            "told": np.array(json.dumps(facts | {"maps": list(track.maps), "signal": track.signal, "exact": track.exact})),
            "latent": track.weights.latent,
            "coordinate": track.weights.coordinate,
            "tokens": track.tokens,
            "grams": track.grams,
            "timesteps": track.timesteps,
            **{f"map{index}": scores for index, scores in enumerate(track.maps.values())},
        },
    )
    return track


def _read(path: Path, identity: str) -> Track | None:
    """The kept track; None where it is of another file or was damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["identity"]) != identity:
                return None
            stored_facts = json.loads(str(stored["told"]))
            maps = {name: stored[f"map{index}"] for index, name in enumerate(stored_facts["maps"])}
            weights = StepWeights(stored["latent"], stored["coordinate"])
            facts = ModelFacts(**stored_facts["facts"]) if stored_facts["facts"] else None
            fingerprint = Fingerprint.from_json(stored_facts["fingerprint"])
            return Track(
                fingerprint,
                facts,
                weights,
                stored["tokens"],
                stored["grams"],
                maps,
                stored_facts["signal"],
                stored["timesteps"],
                stored_facts["exact"],
            )
    except (OSError, ValueError, KeyError, EOFError):
        return None


@dataclass(frozen=True)
class Score:
    """A policy on every recording, arrays (run,). compute: fraction of FLOPs; output, stale: as `ReplayError`, over the signal's
    power. step_compute: (run, step), fraction of a full step."""

    compute: np.ndarray
    output: np.ndarray
    stale: np.ndarray
    kinds: tuple[StepKind, ...]
    step_compute: np.ndarray


class Tracks:
    """Recordings made alike, ready to score policies on all of them at once."""

    def __init__(self, tracks: Sequence[Track]):
        if not tracks:
            raise InputError("there is no recording to calibrate on.")
        self._tracks = tuple(tracks)
        least = min(len(track.tokens) for track in tracks)
        self._replay = Replay(tracks[0].weights, np.stack([track.grams[:least] for track in tracks]))
        self._followed = [track.tokens[:least] for track in tracks]
        self._signal = np.array([track.signal for track in tracks])
        self._ordered: dict[str, list[OrderedMap]] = {}

    def __len__(self) -> int:
        return len(self._tracks)

    @property
    def fingerprint(self) -> Fingerprint:
        return self._tracks[0].fingerprint

    @property
    def grid(self) -> TokenGrid:
        return self.fingerprint.grid

    @property
    def steps(self) -> int:
        return len(self._tracks[0].weights)

    @property
    def runs(self) -> list[tuple[str, int | None]]:
        """Prompt and seed of every recording."""
        return [(track.fingerprint.prompt, track.fingerprint.seed) for track in self._tracks]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What may stand for a skipped token's output under the recordings' sampler."""
        exact = all(track.exact for track in self._tracks)
        return tuple(output for output in OUTPUTS if exact or output != "corrected")

    @cached_property
    def _flops(self) -> np.ndarray:
        """(tokens + 1,): FLOPs of a step that computes so many tokens, over a full one's; the tokens' share without facts."""
        facts, count = self._tracks[0].facts, self.grid.count
        if facts is None:
            return np.arange(count + 1) / count
        flops = np.array([step_flops(facts, computed, count) for computed in range(count + 1)])
        return flops / flops[-1]

    def spans(self, boundary: float | None) -> list[Span]:
        """The steps of each network of the model."""
        return spans_of(self.fingerprint, self._tracks[0].timesteps, boundary)

    def score(self, policy: Policy) -> Score:
        """Raises InputError where a map was not kept, or the policy does not fit."""
        counts, ranks = stacked_levels(self.order(policy), policy)
        kinds = step_kinds(policy, self.steps)
        error = self._replay.error(kinds, ranks, output=policy.output, forecast_keys=policy.cache.forecast)
        compute = np.stack([self._flops[counts[:, kind.least_rank]] for kind in kinds], axis=1)  # (run, step)
        return Score(compute.mean(axis=1), error.output / self._signal, error.stale / self._signal, kinds, compute)

    def order(self, policy: Policy) -> list[OrderedMap]:
        """The policy's map on every recording; put in order once, then kept."""
        key = json.dumps([map_key(policy), policy.tile])
        if key not in self._ordered:
            self._ordered[key] = [
                OrderedMap.of(self._scores(track, policy), policy, self.grid, followed)
                for track, followed in zip(self._tracks, self._followed, strict=True)
            ]
        return self._ordered[key]

    def _scores(self, track: Track, policy: Policy) -> np.ndarray:
        if policy.map == "random":
            return random_scores(self.grid.tiles(policy.tile), track.fingerprint.seed or 0)
        if (key := map_key(policy)) not in track.maps:
            raise InputError(f"no recording was reduced with the map of policy {policy.name} ({key}).")
        return track.maps[key]
