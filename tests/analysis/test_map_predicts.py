"""Rank correlation, agreement and separation against SciPy and by hand; intervals that cover, and that know about groups."""

import numpy as np
import pytest
from scipy import stats

from janoscope.analysis import Estimate, class_agreement, map_predicts, prediction, quantile_classes, separation, spearman
from janoscope.errors import InputError


def related(count=400, weight=0.7, seed=0):
    a, noise = np.random.default_rng(seed).normal(size=(2, count))
    return a, weight * a + np.sqrt(1 - weight**2) * noise


def test_spearman_is_scipys_with_ties():
    a, b = related()
    a, b = np.round(a, 1), np.round(b)
    estimate = spearman(a, b)
    assert estimate.value == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert estimate.low < estimate.value < estimate.high
    assert spearman(a, -b).value == pytest.approx(-estimate.value)


def test_two_tokens_are_in_order_or_not():
    assert spearman(np.array([1.0, 2.0]), np.array([5.0, 9.0])).value == 1
    assert spearman(np.array([1.0, 2.0]), np.array([9.0, 5.0])).value == -1


def test_one_resample_is_pearson_of_the_drawn_tokens_ranks():
    a, b = related(count=50)
    drawn = np.random.default_rng(3).integers(50, size=50)
    estimate = spearman(a, b, resamples=1, seed=3)
    wanted = np.corrcoef(stats.rankdata(a)[drawn], stats.rankdata(b)[drawn])[0, 1]
    assert estimate.low == estimate.high == pytest.approx(wanted)


def test_many_resamples_are_drawn_in_parts_and_none_is_missing(monkeypatch):
    monkeypatch.setattr(prediction, "DRAWN_AT_ONCE", 20)  # of 7 groups: 2, 2 and 1 resamples
    parts = list(prediction._draws(7, 5, seed=0))
    assert [part.shape for part in parts] == [(2, 7), (2, 7), (1, 7)]
    assert all((part.sum(axis=1) == 7).all() for part in parts)


def test_spearman_interval_covers_as_it_says():
    """About 95 of 100 intervals hold the value of a very large sample; a coin's spread around that is 2.2."""
    truth = spearman(*related(count=200_000, seed=99), resamples=1).value
    inside = 0
    for seed in range(100):
        estimate = spearman(*related(count=200, seed=seed), resamples=300, seed=seed)
        inside += estimate.low <= truth <= estimate.high
    assert 88 <= inside <= 100


def test_groups_widen_the_interval_of_repeated_tokens():
    a, b = related(count=100)
    a, b, tile = np.repeat(a, 16), np.repeat(b, 16), np.repeat(np.arange(100), 16)
    alone, grouped = spearman(a, b), spearman(a, b, groups=tile)
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


def test_constant_maps_have_no_correlation():
    estimate = spearman(np.ones(9), np.arange(9.0))
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_quantile_classes_keep_equal_values_together():
    assert quantile_classes(np.arange(10.0)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert quantile_classes(np.zeros(5)).tolist() == [0] * 5
    assert quantile_classes(np.arange(4.0), static=0.0, moderate=0.5).tolist() == [1, 1, 2, 2]
    assert quantile_classes(np.arange(4.0), static=1.0, moderate=1.0).tolist() == [0, 0, 0, 0]
    for static, moderate in ((0.8, 0.5), (-0.1, 0.5), (0.5, 1.5)):
        with pytest.raises(InputError, match=f"static {static} and moderate {moderate} must satisfy"):
            quantile_classes(np.zeros(5), static=static, moderate=moderate)


def test_agreement_is_the_share_of_equal_classes():
    values = np.arange(10.0)
    assert class_agreement(values, values**3) == Estimate(1.0, 1.0, 1.0)
    swapped = values.copy()
    swapped[[0, 9]] = swapped[[9, 0]]
    assert class_agreement(values, swapped).value == pytest.approx(0.8)
    chance = class_agreement(*np.random.default_rng(0).normal(size=(2, 20_000)), resamples=10).value
    assert chance == pytest.approx(0.34, abs=0.02)


def test_interval_of_an_agreement_is_the_binomials():
    a, b = related(count=2000)
    estimate = class_agreement(a, b)
    spread = stats.norm.ppf(0.975) * np.sqrt(estimate.value * (1 - estimate.value) / 2000)
    assert estimate.low == pytest.approx(estimate.value - spread, abs=0.2 * spread)
    assert estimate.high == pytest.approx(estimate.value + spread, abs=0.2 * spread)


def test_separation_is_the_mann_whitney_share_of_middle_steps():
    change = np.random.default_rng(0).gamma(2, size=(21, 300))
    active, static = np.arange(300) < 80, np.arange(300) >= 200
    change[:, active] *= 1.2
    change[:4], change[17:] = 1e6 * np.arange(300), 1e6 * np.arange(300)  # the ends say the opposite and must not count
    change[0] = np.nan
    estimate = separation(change, active, static)
    middle = np.median(change[6:16], axis=0)
    wanted = stats.mannwhitneyu(middle[active], middle[static]).statistic / (80 * 100)
    assert estimate.value == pytest.approx(wanted)
    assert estimate.low < estimate.value < estimate.high
    assert separation(change, static, active).value == pytest.approx(1 - wanted)


def test_separation_counts_ties_half_and_knows_empty_classes():
    change = np.ones((5, 6))
    active = np.arange(6) < 3
    assert separation(change, active, ~active) == Estimate(0.5, 0.5, 0.5)
    assert np.isnan(separation(change, active, np.zeros(6, bool)).value)
    with pytest.raises(InputError, match="two steps or more, got 1"):
        separation(change[:1], active, ~active)
    with pytest.raises(InputError, match="3 tokens are both"):
        separation(change, active, active)


def test_every_map_meets_every_target():
    a, b = related()
    scores = map_predicts({"jano": a, "random": -a}, {"convergence_step": b, "reuse_error": b**3})
    assert [(row.map, row.target) for row in scores] == [
        ("jano", "convergence_step"),
        ("jano", "reuse_error"),
        ("random", "convergence_step"),
        ("random", "reuse_error"),
    ]
    assert scores[0].spearman == spearman(a, b)
    assert scores[0].agreement == class_agreement(a, b)
    assert str(scores[0]).startswith("jano -> convergence_step: Spearman 0.71 [0.")


def test_same_seed_same_interval():
    a, b = related()
    active = a > 0
    for measure in (spearman, class_agreement, lambda *ab, **more: separation(np.stack(ab), active, ~active, **more)):
        assert measure(a, b) == measure(a, b, seed=0)
        assert measure(a, b, seed=3) == measure(a, b, seed=3) != measure(a, b, seed=4)


def test_refuses_unequal_or_broken_maps():
    with pytest.raises(InputError, match="one value a token"):
        spearman(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match=r"groups \(2,\)"):
        spearman(np.zeros(3), np.zeros(3), groups=np.zeros(2))
    for shape in ((0,), (2, 2)):
        with pytest.raises(InputError, match="one value a token is needed, got an array of shape"):
            spearman(np.zeros(shape), np.zeros(shape))
    with pytest.raises(InputError, match="NaN"):
        spearman(np.array([np.nan, 1.0]), np.zeros(2))


def drawings_of(monkeypatch, groups):
    """(scores, how often resamples were drawn) of three maps against two targets."""
    honest, drawn = prediction._draws, []
    monkeypatch.setattr(prediction, "_draws", lambda *arguments: drawn.append(arguments) or honest(*arguments))
    maps, targets = ({f"{kind}{seed}": related(count=60, seed=seed)[at] for seed in seeds} for kind, at, seeds in
                     (("map", 0, (1, 2, 3)), ("target", 1, (4, 5))))  # fmt: skip
    scores = map_predicts(maps, targets, groups=groups)
    return scores, len(drawn)


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(12), 5)], ids=["tokens", "tiles"])
def test_resamples_are_drawn_once_for_all_pairs_with_the_figures_of_drawing_anew(groups, monkeypatch):
    kept, once = drawings_of(monkeypatch, groups)
    monkeypatch.setattr(prediction, "CACHED", 0)
    again, often = drawings_of(monkeypatch, groups)
    assert once == 1
    assert often == 12, "control: drawn anew for both figures of six pairs"
    assert kept == again


def test_the_cache_of_resamples_stays_small(monkeypatch):
    """Of 70,000 groups nothing is cached; of a few thousand, two bytes a count."""
    resamples = prediction._Resamples(3, seed=0)
    assert sum(part.shape[0] for part in resamples.of(70_000)) == 3
    assert not resamples._cached
    assert sum(part.shape[0] for part in resamples.of(5_000)) == 3
    assert sum(part.nbytes for part in resamples._cached[5_000]) == 2 * 3 * 5_000
