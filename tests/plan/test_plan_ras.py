import json
from pathlib import Path

import numpy as np
import pytest

from janoscope.errors import ExecutionError, InputError
from janoscope.grid import TokenGrid
from janoscope.plan import RasOptions, RasSelector, StepKind
from janoscope.plan.ras import drop_mask, skip_counts

CASES = sorted((Path(__file__).parents[1] / "golden").glob("ras_*.npz"))


def options_of(params, **change):
    return RasOptions(
        start=params["start"],
        end=params["end"],
        resets=tuple(int(step) for step in params["reset"].split(",")),
        ratio=params["sample_ratio"],
        high_ratio=params["high_ratio"],
        starvation=params["starvation_scale"],
        skip_step=params["skip_num_step"],
        skip_length=params["skip_num_step_length"],
        **change,
    )


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request):
    with np.load(request.param) as data:
        arrays = {key: data[key] for key in data.files}
    return json.loads(str(arrays["params"])), arrays


def selector_of(options, steps, tokens):
    """A selector over tokens in a row, of two channels, whose sigma falls from 1 to 0."""
    return RasSelector(options, TokenGrid(2, (1, 1, tokens), (1, 1, 1)), np.linspace(1, 0, steps + 1))


def replay(options, arrays):
    """Dropped tokens and source steps of a run, (step, token), as the selector gives them."""
    steps, tokens = arrays["dropped"].shape
    selector = selector_of(options, steps, tokens)
    last, dropped, source = np.full(tokens, -1), [], []
    for step in range(steps):
        selection = selector.select(step)
        computed = np.arange(tokens) if selection.indices is None else selection.indices
        last[computed] = step
        source.append(last.copy())
        dropped.append(~np.isin(np.arange(tokens), computed))
        if selector.wants(step):
            selector.choose(step, arrays["metric_raw"][step])
    return np.stack(dropped), np.stack(source)


def test_all_golden_runs_are_met():
    assert [path.stem for path in CASES] == [
        "ras_dynamic_skip",
        "ras_l2norm_end_early",
        "ras_sd3_default_std",
        "ras_sd3_script_high03",
    ]


def test_drops_and_source_steps_match_the_official_run(case):
    params, arrays = case
    dropped, source = replay(options_of(params), arrays)
    np.testing.assert_array_equal(dropped, arrays["dropped"])
    np.testing.assert_array_equal(source, arrays["source_step"])


def test_flags_and_skip_counts_match_the_official_manager(case):
    params, arrays = case
    steps, tokens = arrays["dropped"].shape
    selector = selector_of(options_of(params), steps, tokens)
    assert [selector.is_ras(step) for step in range(steps)] == arrays["is_ras"].tolist()
    assert [selector.wants(step) for step in range(steps)] == arrays["is_next_ras"].tolist()
    np.testing.assert_array_equal(skip_counts(options_of(params), steps, tokens), arrays["skip_list"])


def test_drop_counts_match_the_official_ones_up_to_their_common_start(case):
    params, arrays = case
    steps, tokens = arrays["dropped"].shape
    selector = selector_of(options_of(params), steps, tokens)
    checked = 0
    for step in range(steps):
        if selector.wants(step):
            np.testing.assert_array_equal(selector.drops - (steps + 1), arrays["drop_count_before"][step])
            selector.choose(step, arrays["metric_raw"][step])
            checked += 1
    assert checked == arrays["is_next_ras"].sum() >= 5


def test_control_without_starvation_or_upside_down_the_drops_differ(case):
    params, arrays = case
    for change in ({"starvation_scale": 0.0}, {"high_ratio": 1.0 - params["high_ratio"]}):
        assert (replay(options_of(params | change), arrays)[0] != arrays["dropped"]).any(), change


def test_the_corrected_rule_differs_from_the_official_one(case):
    params, arrays = case
    assert (replay(options_of(params, official=False), arrays)[0] != arrays["dropped"]).any()


def test_the_official_rule_reuses_its_choice_at_the_end_and_the_corrected_one_chooses_anew():
    options = {"start": 2, "end": 5, "resets": (), "starvation": 0.0}
    for official in (True, False):
        selector = selector_of(RasOptions(**options, official=official), 9, 4)
        chosen = {}
        for step in range(9):
            chosen[step] = selector.select(step).indices
            if selector.wants(step):
                selector.choose(step, np.roll([1.0, 2.0, 3.0, 4.0], step))
        assert (chosen[5].tolist() == chosen[4].tolist()) is official


def test_starvation_feeds_itself_officially_and_balances_when_corrected():
    importance = np.random.default_rng(0).uniform(1, 2, 64)
    never = {}
    for official in (True, False):
        selector = selector_of(RasOptions(start=1, resets=(), official=official), 20, 64)
        computed = np.zeros(64, dtype=int)
        for step in range(20):
            selection = selector.select(step)
            if selection.indices is not None:
                computed[selection.indices] += 1
            selector.choose(step, importance)
        never[official] = int((computed == 0).sum())
    assert never == {True: 32, False: 0}


def test_drop_mask_by_hand():
    importance = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    none = np.zeros(5)
    assert np.flatnonzero(drop_mask(importance, none, 2, RasOptions(high_ratio=1.0))).tolist() == [0, 2]
    assert np.flatnonzero(drop_mask(importance, none, 2, RasOptions(high_ratio=0.0))).tolist() == [1, 3]
    assert np.flatnonzero(drop_mask(importance, none, 3, RasOptions(high_ratio=0.5))).tolist() == [0, 1]  # 1.5 truncates twice
    assert not drop_mask(importance, none, 0, RasOptions()).any()
    # dropped 12 times at exp(.1 a drop): 1 * 3.32 lies above 2 and 3, so the low end takes those instead
    starved = np.array([0, 12, 0, 0, 0])
    assert np.flatnonzero(drop_mask(importance, starved, 2, RasOptions(high_ratio=0.0))).tolist() == [3, 4]


def test_a_skip_may_grow_at_every_step():
    assert RasOptions(skip_step=64, skip_length=1).skip_length == 1


def test_one_step_alone_may_be_corrected():
    selector = selector_of(RasOptions(start=2, end=2, resets=(), official=False), 6, 4)
    assert [selector.is_ras(step) for step in range(6)] == [False, False, True, False, False, False]
    assert [selector.wants(step) for step in range(6)] == [False, True, False, False, False, False]


@pytest.mark.parametrize(("metric", "dropped"), [("std", [2, 3]), ("l2norm", [0, 1])])
def test_a_step_is_judged_by_the_spread_or_the_size_of_its_tokens_update(metric, dropped):
    """Two channels a token: 9 and 9 have the largest norm and no spread, 1 and -1 the reverse."""
    output = np.array([[[9.0, 9.0, 1.0, 1.0]], [[9.0, 9.0, -1.0, -1.0]]])[None, :, None]  # (item, channel, frame, row, col)
    selector = selector_of(RasOptions(start=1, resets=(), metric=metric), 3, 4)
    assert selector.wants(0)
    selector.observe(0, output, output)
    assert np.setdiff1d(range(4), selector.select(1).indices).tolist() == dropped


def test_of_a_batch_the_most_important_item_counts():
    plain, busy = np.zeros((2, 1, 1, 4)), np.zeros((2, 1, 1, 4))  # (channel, frame, row, col)
    busy[0, ..., 2:], busy[1, ..., 2:] = 5.0, -5.0
    selector = selector_of(RasOptions(start=1, resets=()), 3, 4)
    selector.observe(0, None, np.stack([plain, busy]))
    assert np.setdiff1d(range(4), selector.select(1).indices).tolist() == [2, 3]


def test_keys_are_written_at_refreshes_alone_and_any_token_may_be_skipped():
    """RAS keeps keys and values of its full steps; partial ones write their own rows over them, others have no reader."""
    selector = selector_of(RasOptions(start=3, end=7, resets=(5,)), 10, 4)
    writes = []
    for step in range(10):
        writes.append(selector.writes_keys(step))
        selector.choose(step, np.arange(4.0))
    assert writes == [False, False, True, False, False, True, False, False, False, False]
    assert [group.tolist() for group in selector.skipped_groups()] == [[0, 1, 2, 3]]


def test_equal_importance_is_told_apart_by_order():
    importance, none = np.arange(40) % 2, np.zeros(40)
    assert np.flatnonzero(drop_mask(importance, none, 3, RasOptions(high_ratio=0.0))).tolist() == [0, 2, 4]
    for official in (True, False):
        assert np.flatnonzero(drop_mask(importance, none, 3, RasOptions(official=official))).tolist() == [35, 37, 39]


def test_a_growing_skip_is_centred_on_the_average_in_whole_lengths_and_cut_to_64():
    """avg + step (k div L - ((N + start) div L) div 2), whole divisions: N = 31, start 4, L = 5 has its middle at 7 div 2 = 3."""
    options = RasOptions(start=4, resets=(), ratio=0.5, skip_step=100, skip_length=5)
    counts = skip_counts(options, 31, 1024)
    assert counts[[3, 4, 5, 15, 27]].tolist() == [0, (512 - 300) // 64 * 64, (512 - 200) // 64 * 64, 512, (512 + 200) // 64 * 64]


def test_kinds_write_the_caches_before_the_start_and_at_resets():
    selector = selector_of(RasOptions(start=3, end=7, resets=(5,)), 10, 4)
    kinds = []
    for step in range(10):
        kinds.append(selector.select(step).kind)
        selector.choose(step, np.arange(4.0))
    w, r, a, c = StepKind.WARMUP, StepKind.REFRESH, StepKind.ACTIVE, StepKind.COOLDOWN
    assert kinds == [w, w, r, a, a, r, a, a, c, c]


def test_a_step_without_the_importance_it_needs_is_refused():
    selector = selector_of(RasOptions(start=2), 10, 4)
    with pytest.raises(ExecutionError, match="no choice for step 2: show step 1 to observe"):
        selector.select(2)


@pytest.mark.parametrize(
    ("options", "part_of_message"),
    [
        ({"start": 0}, "start = 0; a RAS step reads caches"),
        ({"start": 5, "end": 4}, "end = 4 lies before start = 5"),
        ({"start": 5, "end": 5}, "start = end = 5 leaves the official rule no step to choose at"),
        ({"ratio": 0}, "ratio = 0; legal: above 0, up to 1"),
        ({"ratio": 1.5}, "ratio = 1.5; legal: above 0, up to 1"),
        ({"metric": "max"}, "metric = 'max'; legal: std, l2norm"),
        ({"high_ratio": 1.2}, "high_ratio = 1.2; legal: 0 to 1"),
        ({"skip_step": 64}, "skip_step = 64 needs a skip_length from 1"),
    ],
)
def test_refuses_options_that_cannot_work(options, part_of_message):
    with pytest.raises(InputError) as error:
        RasOptions(**options)
    assert part_of_message in str(error.value)
