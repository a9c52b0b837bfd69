"""Schedules from recordings: reduced, searched, written as policies that the library itself reads and obeys."""

import json
from pathlib import Path

import numpy as np
import pytest

import janoscope as package
from janoscope.conversion import NoisePath
from janoscope.errors import InputError
from janoscope.plan import Policy, final_weights
from janoscope.plan.coefficients import corrected, reuse
from janoscope.workflows.schedule.search import front, propose, reduce_recordings

STEPS = 12
GRID = package.TokenGrid(channels=2, cells=(1, 8, 8), patch=(1, 2, 2))
SIGMA = np.linspace(1, 0, STEPS + 1)
CONFIG = {"class": "FlowMatchEulerDiscreteScheduler", "config": {"shift": 1.0}}


def record(path: Path, seed: int = 0, sigma: np.ndarray = SIGMA, steps: int = STEPS, scheduler: dict | None = None) -> Path:
    """Outputs that turn fast in the middle of the run and hardly elsewhere."""
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 6, (2, 8, 8))
    sections = {"run": {"prompt": f"p{seed}", "seed": seed}, "model": {"id": "own"}, "scheduler": scheduler or CONFIG}
    options = {"grid": GRID, "prediction_type": "flow", "alpha": 1 - sigma[:steps], "sigma": sigma[:steps]}
    with package.Recorder(path, planned_steps=steps, provenance=sections, **options) as recorder:
        for step in range(steps):
            turn = 2.5 / (1 + np.exp(-30 * (0.5 - sigma[step])))
            recorder.put("sample", draw.standard_normal((2, 8, 8)))
            recorder.put("model_output", np.sin(turn + phase))
            recorder.commit(timestep=1000 * sigma[step])
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [record(folder / f"{seed}.h5", seed) for seed in range(4)]


def test_the_gram_matrix_is_that_of_the_recorded_outputs(recordings):
    recorded = reduce_recordings(recordings)
    with package.open_recording(recordings[1]) as run:
        outputs = np.stack([run.map("model_output", step).ravel() for step in range(STEPS)]).astype(float)
    np.testing.assert_allclose(recorded.grams[1], outputs @ outputs.T / outputs.shape[1], rtol=1e-6)
    assert recorded.grams.shape == (4, STEPS, STEPS)
    path = NoisePath(1000 * SIGMA[:-1], 1 - SIGMA[:-1], SIGMA[:-1], (1.0, 0.0))
    np.testing.assert_allclose(recorded.weights, final_weights(path, "flow"))


def test_steps_are_computed_where_the_outputs_turn(recordings):
    recorded = reduce_recordings(recordings)
    proposal = propose(recorded, 0.5, growth=0.0, learn=False)
    assert len(proposal.policy.schedule.computed) == 6
    bends = recorded.curvature()
    assert int(np.nanargmax(bends)) in range(4, 8)
    found = [step for step in proposal.policy.schedule.computed if step > 1]
    assert sum(4 <= step <= 8 for step in found) >= 3
    uniform = corrected([0, 1, 3, 5, 7, 9], recorded.coordinate, recorded.weights).final_error(recorded.weights)
    whole = recorded.weights @ recorded.gram @ recorded.weights
    assert proposal.error < 0.8 * float(uniform @ recorded.gram @ uniform / whole)


def test_the_front_falls_and_ends_at_the_full_run(recordings):
    rows = front(reduce_recordings(recordings))
    errors = [row["error_db"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert rows[-1]["error_db"] == -120
    assert len(rows) > 5


def test_learned_coefficients_come_with_enough_recordings_only(recordings):
    assert propose(reduce_recordings(recordings[:1]), 0.5).policy.learned == ()
    proposal = propose(reduce_recordings(recordings), 0.5)
    assert proposal.policy.learned
    assert Policy.from_toml(proposal.policy.to_toml()) == proposal.policy
    assert proposal.error < propose(reduce_recordings(recordings), 0.5, learn=False).error


def test_a_sampler_with_noise_gets_a_forecast_and_no_correction(tmp_path):
    noisy = {"class": "EulerAncestralDiscreteScheduler", "config": {}, "weights": None}
    recorded = reduce_recordings([record(tmp_path / "a.h5", scheduler=noisy)])
    assert recorded.weights is None
    with pytest.raises(InputError, match="EulerAncestralDiscreteScheduler adds noise"):
        propose(recorded, 0.5)
    assert propose(recorded, 0.5, output="forecast").policy.output == "forecast"


def test_stored_weights_come_before_the_formula(tmp_path):
    weights = np.linspace(1, 2, STEPS).tolist()
    stored = {"class": "UniPCMultistepScheduler", "config": {}, "weights": weights}
    np.testing.assert_array_equal(reduce_recordings([record(tmp_path / "a.h5", scheduler=stored)]).weights, weights)


def test_recordings_of_two_kinds_are_refused(recordings, tmp_path):
    other = {"class": "DDIMScheduler", "config": {}}
    for made, reason in (
        (record(tmp_path / "s.h5", scheduler=other), "differ in their scheduler"),
        (record(tmp_path / "n.h5", steps=8), "differ in their number of steps"),
        (record(tmp_path / "g.h5", sigma=SIGMA**2), "pass other sigmas"),
    ):
        with pytest.raises(InputError, match=reason):
            reduce_recordings([recordings[0], made])
    with pytest.raises(InputError, match="legal: 2 to 12"):
        propose(reduce_recordings(recordings), 0.01)


def test_the_command_writes_a_policy_that_can_be_read(recordings, tmp_path, janoscope):
    file = tmp_path / "fast.toml"
    said = janoscope("schedule", *recordings, "--compute", 0.5, "-o", file)
    assert said.code == 0, said.err
    policy = Policy.from_toml(file.read_text())
    assert len(policy.schedule.computed) == 6
    assert "Computes 6 of 12 steps, 50% of the FLOPs" in said.out
    assert "4 recordings are few" in said.out
    assert f"Wrote {file}" in said.out
    again = janoscope("schedule", *recordings, "--compute", 0.5, "-o", file)
    assert again.code == 2
    assert "exists" in again.err
    told = janoscope("schedule", *recordings, "--compute", 0.5, "-o", file, "--force", "--json")
    facts = json.loads(told.out)
    assert facts["policy"]["schedule"]["computed"] == list(policy.schedule.computed)
    assert len(facts["curvature"]) == len(facts["fidelity"]) == STEPS


def test_reuse_is_found_as_well(recordings):
    recorded = reduce_recordings(recordings)
    found = propose(recorded, 0.5, output="hold", learn=False)
    made = reuse(found.policy.schedule.computed, STEPS).final_error(recorded.weights)
    whole = recorded.weights @ recorded.gram @ recorded.weights
    assert found.error == pytest.approx(float(made @ recorded.gram @ made / whole))
