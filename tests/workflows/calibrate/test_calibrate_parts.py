"""The parts of a calibration by themselves: surrogate, search, choice, statistics, times, and what a run departs in."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import t
from tiny_pipelines import build

from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.plan import Fingerprint, Policy, StepKind, step_kinds, token_ranks
from janoscope.plan.replay import StepWeights, gram
from janoscope.workflows.apply.departures import departures
from janoscope.workflows.calibrate import expectation as calibrate_statistics
from janoscope.workflows.calibrate.choice import Validated, choose, worth_running
from janoscope.workflows.calibrate.expectation import Expectation, Strays, best_mean, chosen_by_others, lead, most_likely_best
from janoscope.workflows.calibrate.levels import OrderedMap
from janoscope.workflows.calibrate.search import Band, Candidate, Scorer, drawn_policy, front, search
from janoscope.workflows.calibrate.space import Space, Span
from janoscope.workflows.calibrate.surrogate import (
    Observed,
    StepTimes,
    Surrogate,
    TimedStep,
    agreement,
    cross_validated,
    fit_surrogate,
    method_class,
    rank_correlation,
)
from janoscope.workflows.calibrate.target import Budget, Target
from janoscope.workflows.calibrate.tracks import Track, Tracks, map_key, tokens_per_run

GRID = TokenGrid(4, (1, 16, 16), (1, 2, 2))
STEPS = 20
SPACE = Space.of_span(GRID, STEPS, Span(0, STEPS))


def made_up_tracks(runs=2):
    """Runs whose outputs turn at a pace that differs from token to token, with a map that knows it."""
    sigma = np.linspace(1, 0.05, STEPS)
    weights = StepWeights(np.full(STEPS, 0.05), sigma)
    tracks = []
    for run in range(runs):
        rng = np.random.default_rng(100 + run)
        pace = rng.random(GRID.count) * 3
        outputs = np.sin(sigma[:, None, None] * pace[:, None] + rng.random((1, GRID.count, 3)) * 6)
        maps = {}
        for policy in SPACE.mapping_policies():
            shape = GRID.tiles(policy.tile)
            tiles = pace.reshape(8, 8).reshape(1, shape[1], 8 // shape[1], shape[2], 8 // shape[2]) if shape[1] <= 8 else None
            maps[map_key(policy)] = pace if policy.map != "jano" else tiles.mean(axis=(2, 4))
        made_for = Fingerprint("m", {"class": "T", "sha256": "0"}, GRID, STEPS, {"class": "S", "config": {}}, {}, f"p{run}", run)
        tracks.append(Track(made_for, None, weights, np.arange(GRID.count), gram(outputs), maps, 1.0, sigma * 1000))
    return Tracks(tracks)


@pytest.fixture(scope="module")
def tracks():
    return made_up_tracks()


@pytest.fixture(scope="module")
def scorer(tracks):
    return Scorer(tracks, Surrogate(offset_db=3.0))


def policy(**changes):
    table = {
        "name": "p",
        "map": "x0-gradient",
        "warmup": 3,
        "cooldown": 1,
        "tile": [1, 4, 4],
        "quantiles": {"static": 0.4, "moderate": 0.4},
        "intervals": {"static": 4, "moderate": 4, "active": 2},
    }
    return Policy.from_table(table | changes, "p")


# --- search ---


def found_by(scorer, journal, seed=0, trials=300, on_trial=None):
    return search(scorer, SPACE, Band(), journal, trials=trials, seed=seed, on_trial=on_trial)


def test_the_same_seed_finds_the_same_and_another_one_something_else(scorer, tmp_path):
    first, second = found_by(scorer, tmp_path / "a"), found_by(scorer, tmp_path / "b")
    assert [c.to_json() for c in first] == [c.to_json() for c in second]
    other = found_by(scorer, tmp_path / "c", seed=1)
    assert [c.to_json() for c in other] != [c.to_json() for c in first]


def test_an_interrupted_search_goes_on_and_ends_as_if_it_had_not_been(scorer, tmp_path):
    whole = found_by(scorer, tmp_path / "a")

    def stop(done, trials):
        if done == 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found_by(scorer, tmp_path / "b", on_trial=stop)
    told = []
    resumed = found_by(scorer, tmp_path / "b", on_trial=lambda done, trials: told.append(done))
    assert told[0] == 201, "two whole generations were kept"
    assert [c.to_json() for c in resumed] == [c.to_json() for c in whole]


def test_the_search_beats_its_own_first_draws(scorer, tmp_path):
    found = found_by(scorer, tmp_path / "a", trials=600)

    def area(candidates):
        return sum(max((c.quality for c in candidates if c.compute <= at), default=0) for at in np.arange(0.3, 0.9, 0.05))

    assert area(found) > area(found[:100]) + 3
    line = front(found, Band())
    assert all(a.compute <= b.compute and a.quality < b.quality for a, b in pairwise(line))


def test_a_map_that_knows_beats_a_random_one(scorer):
    knows, random = scorer.candidate(policy()), scorer.candidate(policy(map="random", tile=[1, 2, 2]))
    assert knows.compute == pytest.approx(random.compute)
    assert knows.quality > random.quality + 2


def test_compute_is_the_share_of_tokens_where_nothing_else_is_known(tracks):
    score = tracks.score(policy())
    kinds = step_kinds(policy(), STEPS)
    assert score.kinds == kinds
    active = 1 - round(0.4 * GRID.count) / GRID.count
    by_kind = {StepKind.REUSE: 0.0, StepKind.ACTIVE: active}
    assert score.compute == pytest.approx(np.mean([by_kind.get(kind, 1.0) for kind in kinds]))


def test_a_map_that_was_not_kept_is_refused(tracks):
    with pytest.raises(InputError, match="no recording was reduced with the map"):
        tracks.score(policy(warmup=9))


def test_every_choice_of_the_space_is_a_policy_whose_map_is_kept(tracks):
    rng = np.random.default_rng(0)
    for _ in range(300):
        drawn = drawn_policy(SPACE, rng)
        assert drawn.warmup + drawn.cooldown < STEPS
        tracks.score(drawn)


@pytest.mark.parametrize("grid", [GRID, TokenGrid(4, (5, 12, 20), (1, 2, 2))], ids=["picture", "clip"])
def test_levels_from_ordered_scores_are_those_that_token_ranks_gives(grid):
    """Scores in few values, so that many are equal; tiles that hang over the edge; cuts at scores themselves."""
    rng = np.random.default_rng(0)
    followed = np.sort(rng.choice(grid.count, 11, replace=False))
    told_apart = 0
    for trial in range(200):
        tile = [int(rng.choice((1, 2))), *(int(size) for size in rng.choice((2, 4, 6), 2))]
        low, high = np.sort(rng.integers(0, 11, 2) / 10)
        cut = {"static": float(low), "moderate": float(high)}
        own = policy(map=("jano", "ras")[trial % 2], tile=tile, quantiles=cut)
        if trial % 3 == 0:
            own = replace(own, quantiles=None, thresholds=own.quantiles)
        shape = grid.tiles(own.tile) if own.map == "jano" else (grid.count,)
        scores = rng.integers(0, 11, shape) / 10
        counts, ranks = OrderedMap.of(scores, own, grid, followed).levels(own)
        expected = token_ranks(scores, own, grid)
        assert counts.tolist() == [int((expected >= rank).sum()) for rank in range(5)]
        assert ranks.tolist() == expected[followed].tolist()
        turned = OrderedMap.of(np.flip(scores), own, grid, followed).levels(own)[1]
        told_apart += turned.tolist() != ranks.tolist()
    assert told_apart > 100, "control: other scores give other levels"
    with pytest.raises(InputError, match="cut through tokens"):
        OrderedMap.of(np.zeros(grid.tiles((1, 3, 3))), policy(tile=[1, 3, 3], map="jano"), grid, followed)
    with pytest.raises(InputError, match="not finite"):
        OrderedMap.of(np.full(grid.count, np.nan), policy(), grid, followed)


def test_a_latent_of_one_channel_is_searched_without_ras():
    for channels, has_ras in ((1, False), (2, True)):
        space = Space.of_span(TokenGrid(channels, (1, 16, 16), (1, 1, 1)), 20, Span(0, 20))
        assert ("ras" in space.maps) == has_ras


def test_a_span_too_short_has_no_space():
    assert Space.of_span(GRID, 4, Span(0, 4)) is None
    assert Space.of_span(GRID, 5, Span(0, 5)) is not None
    assert Space.of_span(GRID, 40, Span(36, 40, "transformer_2")) is None


def test_more_recordings_mean_fewer_tokens_of_each():
    assert [tokens_per_run(32760, runs) for runs in (1, 16, 100, 1000)] == [1024, 1024, 163, 32]
    assert tokens_per_run(256, 16) == 256


# --- surrogate ---


def observed_runs(noise_db=0.5, count=40, shuffled=False):
    rng = np.random.default_rng(3)
    true = Surrogate(offset_db=5.0, weight_hold=12.0, weight_forecast=1.0)
    runs = []
    for index in range(count):
        keys = {"strategy": "kv", "forecast": bool(index % 2)}
        own = replace(policy(cache=keys), name=f"p{index}")
        output, stale = 10 ** rng.uniform(-5, -3, 2)
        psnr = float(true.predict(own, np.array([output]), np.array([stale]))[0] + noise_db * rng.standard_normal())
        runs.append(Observed(own, float(output), float(stale), psnr))
    if shuffled:
        dealt = rng.permutation([run.psnr for run in runs])
        runs = [replace(run, psnr=float(psnr)) for run, psnr in zip(runs, dealt, strict=True)]
    return runs


def test_the_fit_recovers_what_made_the_runs():
    fitted = fit_surrogate(observed_runs())
    assert fitted.offset_db == pytest.approx(5.0, abs=0.6)
    assert fitted.weight_hold == pytest.approx(12.0, rel=0.35)
    assert fitted.weight_forecast == pytest.approx(1.0, rel=0.35)


def test_a_good_surrogate_ranks_and_a_shuffled_one_does_not():
    runs = observed_runs()
    assert rank_correlation(cross_validated(runs), [run.psnr for run in runs]) > 0.95
    dealt = observed_runs(shuffled=True)
    assert abs(rank_correlation(cross_validated(dealt), [run.psnr for run in dealt])) < 0.4


def test_without_runs_the_prior_stands_and_no_psnr_is_claimed():
    assert fit_surrogate([]) == Surrogate()
    assert Surrogate().offset_db is None
    assert "signal-to-error" in Surrogate().measure
    one = fit_surrogate(observed_runs(count=1))
    assert one.weight_forecast == pytest.approx(Surrogate().weight_forecast), "one run with held keys says nothing of the other"


def test_agreement_is_told_within_and_across():
    classes = ["tokens, hold, keys hold"] * 5 + ["steps, hold"] * 5
    predicted, measured = [*range(5), *range(5)], [*range(10, 15), *range(5)]
    found = agreement(classes, predicted, measured)
    assert found["within"]["tokens"]["spearman"] == found["within"]["steps"]["spearman"] == pytest.approx(1)
    assert found["across"]["spearman"] < 1
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None, "three runs say nothing"


# --- choice and statistics ---


def candidate(compute, quality, **changes):
    return Candidate(policy(**changes), compute, None, quality, (quality,))


STEP_POLICY = {"quantiles": {"static": 0, "moderate": 0}, "intervals": {"static": 2, "moderate": 2, "active": 2}}


def test_the_few_are_of_different_kinds_and_near_the_target():
    pool = [candidate(0.49, 50 + i / 10) for i in range(9)]
    pool += [candidate(0.49, 44, map="ras"), candidate(0.5, 40, **STEP_POLICY), candidate(0.58, 60), candidate(0.3, 20)]
    few = worth_running(pool, Target("compute", 0.5), 3)
    assert [c.quality for c in few] == [50.8, 40, 44], "the best of either way of skipping, then the next map"
    assert worth_running(pool, Target("compute", 0.8), 3) == []
    line = worth_running(pool, Target("pareto"), 3)
    assert [c.compute for c in line] == [0.3, 0.49, 0.58]
    assert [c.compute for c in worth_running(pool, Target("psnr", 45), 3)] == [0.49, 0.58]


def test_one_interval_for_all_levels_skips_whole_steps():
    assert method_class(policy(intervals={"static": 3, "moderate": 3, "active": 3})) == "steps, hold"
    assert method_class(policy(**STEP_POLICY, output="forecast")) == "steps, forecast"
    assert method_class(policy()) == "tokens, hold, keys hold"


def test_policies_that_do_the_same_are_run_once():
    """Every token active: neither map nor tile matters, and a second run would show the first's picture."""
    twin = candidate(0.5, 40, **STEP_POLICY, map="jano")
    pool = [candidate(0.5, 40, **STEP_POLICY), twin, candidate(0.49, 39, **STEP_POLICY), candidate(0.49, 38)]
    assert [c.quality for c in worth_running(pool, Target("compute", 0.5), 3)] == [40, 38, 39]
    assert worth_running(pool, Target("compute", 0.5), 4)[0] is pool[0]


def validated(compute, *psnr):
    return Validated(candidate(compute, 0.0), psnr, (compute,) * len(psnr), (1 / compute,) * len(psnr))


def test_the_best_within_the_target_is_chosen():
    seen = [validated(0.5, 40, 42), validated(0.51, 45, 43), validated(0.6, 60, 60)]
    assert choose(seen, Target("compute", 0.5)).validated is seen[1]
    assert choose(seen, Target("psnr", 43)).validated is seen[1]
    assert choose(seen, Target("speedup", 1.9)).validated is seen[1]
    missed = choose(seen, Target("compute", 0.3))
    assert missed.validated is seen[0]
    assert not missed.reached


def test_expecting_what_the_others_chose_takes_the_optimism_out():
    rng = np.random.default_rng(0)
    best, honest = [], []
    for _ in range(300):  # eight equal candidates: the best of them on 6 prompts is luck
        table = rng.standard_normal((8, 6))
        best.append(table[best_mean(table)].mean())
        honest.append(table[chosen_by_others(table), range(6)].mean())
    assert np.mean(best) > 0.4
    assert abs(np.mean(honest)) < 0.1


def measured_table(rng, candidates, prompts, stray_share=0.0):
    """Prompts differ by 2 dB, candidates on one prompt by 2 more; a stray falls 10 to 22 dB."""
    table = rng.normal(54, 2, prompts) + rng.normal(0, 2, (candidates, prompts))
    return table - (rng.random(table.shape) < stray_share) * rng.uniform(10, 22, table.shape)


def student_t(values, new):
    """The interval that a stray was missed with: nothing but the prompts at hand, as if near normal."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) * np.sqrt(1 / len(values) + 1 / new)
    return np.mean(values) - half, np.mean(values) + half


@pytest.mark.parametrize(("stray_share", "most"), [(0.0, 0.995), (1 / 32, 0.985), (1 / 16, 0.985)])
def test_intervals_hold_their_share_of_new_means_whatever_the_tail(stray_share, most, monkeypatch):
    """Where no held-out prompt of the chosen policy had strayed is where it matters; there Student's t alone falls short."""
    monkeypatch.setattr(calibrate_statistics, "DRAWS", 2000)
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    while len(ours) < 500:
        table = measured_table(rng, 4, 8, stray_share)
        new = measured_table(rng, 1, 16, stray_share).mean()
        if table[0].min() < 44:
            continue
        for interval, held in ((Expectation.of(table, [0] * 8).interval(16), ours), (student_t(table[0], 16), theirs)):
            held.append(interval[0] <= new <= interval[1])
    assert 0.935 < np.mean(ours) < most
    if stray_share:
        assert np.mean(theirs) < 0.93, "negative control: without strays in mind the promise is not kept"


def test_a_stray_is_told_from_a_prompt_that_is_merely_hard():
    table = np.array([[50.0, 52, 54, 46, 55], [50, 51, 34, 47, 55]])
    found = Strays.among(table)
    assert found.falls == (16.0,)
    assert found.limit == pytest.approx(4 * 1.4826 * 2.5)
    assert Strays.among(table[:1]).falls == ()
    expected = Expectation.of(table, [1] * 5)
    assert expected.body == (50, 51, 47, 55)
    assert expected.mean == pytest.approx(47.4), "the mean that was measured holds the stray"
    assert Expectation.of(np.array([[40.0]]), [0]).interval(16) is None


def test_predictions_decide_only_what_prompts_do_not():
    even = np.array([[50.0, 52, 54, 56], [50.1, 52.2, 53.9, 56.2]])
    assert best_mean(even) == most_likely_best(even, [50, 45], 2.0) == 1, "0.1 dB on every prompt is settled"
    decided_by_one = np.array([[52.0, 52, 54, 45], [51, 51, 53, 52]])
    assert best_mean(decided_by_one) == 1
    assert most_likely_best(decided_by_one, [53, 49], 2.0) == 0
    assert most_likely_best(decided_by_one, [51, 51], 2.0) == 1, "control: no prediction, no say"
    behind = lead(decided_by_one, 0)
    assert (behind.by, behind.over) == (-1.0, 1)
    assert behind.standard_error == pytest.approx(2.0)
    assert lead(decided_by_one[:1], 0) is None


def test_the_budget_adds_up_and_refuses_what_is_too_little():
    assert Budget.of(16, None) == Budget(6, 10, 4, 24)
    for prompts, runs in ((2, 6), (16, 40), (5, 9), (16, 72)):
        assert Budget.of(prompts, runs).runs <= runs
    assert Budget.of(2, 6) == Budget(1, 1, 2, 2)
    with pytest.raises(InputError, match="two prompts or more"):
        Budget.of(1, None)
    with pytest.raises(InputError, match="too few for 16 prompts"):
        Budget.of(16, 20)


def test_times_of_levels_give_wall_time():
    full = [TimedStep("full", 1.0, 2.0)] * 3
    partial = [TimedStep("active", 0.5, 1.4), TimedStep("moderate", 0.25, 1.1), TimedStep("refresh", 1.0, 2.2)]
    times = StepTimes.measured(full, [*partial, TimedStep("reuse", 0.0, 0.02)], outside_s=1.0)
    assert (times.full_s, times.fixed, times.refresh) == pytest.approx((2.0, 0.4, 0.1))
    kinds = (StepKind.WARMUP, StepKind.REFRESH, StepKind.ACTIVE, StepKind.REUSE)
    speedup = times.speedup(kinds, np.array([[1, 1, 0.5, 0]]))
    assert speedup == pytest.approx([(4 + 0.5) / (1 + 1.1 + 0.7 + 0.01 + 0.5)])
    with pytest.raises(InputError, match="raise --max-runs"):
        StepTimes.measured(full, [], 0.0)


# --- departures ---

ON = {"transformer": {"class": "T", "sha256": "aa"}, "scheduler": "Euler", "steps": 50, "tokens": [1, 16, 16], "guidance": 2.5}


def test_a_run_like_the_measured_one_departs_in_nothing():
    assert departures(policy(measured_on=ON), {**ON, "size": {"height": 64}}) == []
    assert departures(policy(), {**ON, "steps": 28}) == [], "a hand-written policy was measured on nothing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 28}, "measured at 50 steps, this run has 28"),
        ({"scheduler": "UniPC"}, "measured with Euler, this run samples with UniPC"),
        ({"tokens": [1, 32, 32]}, "measured on 1 x 16 x 16 tokens, this run has 1 x 32 x 32"),
        ({"guidance": 5.0}, "guidance 2.5, this run has 5.0"),
        ({"transformer": {"class": "T", "sha256": "bb"}}, "another network"),
    ],
)
def test_every_departure_is_told_with_both_values(change, words):
    [told] = departures(policy(measured_on=ON), {**ON, **change})
    assert words in told
    assert departures(policy(measured_on=ON), dict.fromkeys(change)) == [], "what is not known is not claimed"


def test_a_multistep_samplers_stored_weights_let_a_calibration_correct(tmp_path):
    """UniPC: the recording keeps its weights, and replay counts with them; without them nothing is corrected."""
    from janoscope.recording import open_recording
    from janoscope.workflows.calibrate.tracks import _weights, kept_track
    from janoscope.workflows.record.session import record

    pipe, call = build("wan")
    with record(pipe, tmp_path / "run.h5"):
        pipe(**call | {"num_inference_steps": 12})
    with open_recording(tmp_path / "run.h5") as run:
        scheduler = run.provenance["scheduler"]
    tracks = [kept_track(tmp_path / "run.h5", tmp_path / "track.npz", 16) for _ in range(2)]  # reduced, then read again
    for track in tracks:
        assert track.exact
        assert Tracks([track]).outputs == ("hold", "forecast", "corrected")
        assert track.weights.latent.tolist() == scheduler["weights"]
    formula = StepWeights(np.ones(12), np.linspace(1, 0, 12))
    assert _weights({key: value for key, value in scheduler.items() if key != "weights"}, formula) == (formula, False)
    assert _weights(scheduler | {"weights": None}, formula) == (formula, False)
    euler = {"class": "FlowMatchEulerDiscreteScheduler", "config": {}}
    assert _weights(euler, formula) == (formula, True), "a recording without weights, of a sampler whose formula is known"


def test_replay_holds_what_the_executor_held(tmp_path):
    """A recorded accelerated run: its skipped tokens hold what replay says, from the run's own computed outputs."""
    from janoscope.plan.replay import held_minus_recorded
    from janoscope.recording import open_recording
    from janoscope.workflows.analyze.trajectory import RunView
    from janoscope.workflows.record.session import record

    pipe, call = build("flux")
    for output in ("hold", "forecast"):
        rules = policy(map="velocity-change", output=output, intervals={"static": 4, "moderate": 4, "active": 1}, tile=[1, 2, 2])
        path = tmp_path / f"{output}.h5"
        with record(pipe, path, policy=rules):
            pipe(**call | {"num_inference_steps": 12})
        with open_recording(path) as run:
            outputs = np.stack([run.map("model_output", step) for step in range(run.steps)])
            skipped = np.array(run.skipped)
            weights = StepWeights.of_path(RunView(run).path, run.prediction_type)
        skipped = skipped.reshape(run.steps, -1)
        token = int(skipped.any(axis=0).argmax())
        assert skipped[:, token].sum() >= 4
        form = held_minus_recorded(list(~skipped[:, token]), weights.coordinate, output)
        assert form @ outputs[:, token] == pytest.approx(0, abs=2e-5)
        other = held_minus_recorded(list(~skipped[:, token]), weights.coordinate, "forecast" if output == "hold" else "hold")
        assert np.abs(other @ outputs[:, token]).max() > 1e-3, "the other rule would have been seen"
