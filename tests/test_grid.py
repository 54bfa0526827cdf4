"""The search of hyperparameters: which setting is chosen, and with what the next is searched."""

import pytest

from stmn_plugin.comparing import grid
from stmn_plugin.comparing.result_tables import score_over_seeds
from stmn_plugin.comparing.run_queue import Outcome
from stmn_plugin.errors import InputError


def setting(*scores):
    both = score_over_seeds([sum(pair) / 2 for pair in scores]) if scores else None
    return grid.GridPoint({}, len(scores), None, None, both)


def test_the_best_setting():
    assert grid.best_point([setting((60, 40)), setting((50, 52)), setting((70, 20))]) == 1
    # equal means: the smaller standard deviation, then the first
    wide, narrow = setting((40, 40), (60, 60)), setting((49, 49), (51, 51))
    assert grid.best_point([wide, narrow, narrow]) == 1
    assert grid.best_point([setting(), setting((1, 1)), setting()]) == 1
    # a setting that diverges for some seeds is not chosen for the luck of the others
    assert grid.best_point([setting((90, 90)), setting((50, 50), (50, 50))]) == 1
    assert grid.best_point([setting(), setting()]) is None


def test_each_factor_is_searched_with_the_best_of_those_before():
    best = {'stmn.spatial_items': 20, 'stmn.temporal_items': 10, 'loss.spread.margin': 0.7}
    best['video.seq_len'] = 8
    asked = []

    def run_variants(variants):
        asked.append([variant.changes for variant in variants])
        for variant in variants:
            good = sum(best[key] == value for key, value in variant.changes.items())
            for seed, luck in enumerate((0.0, 0.02)):
                scores = {'rank-1': good / 5 + luck, 'mAP': good / 10}
                yield Outcome(variant.title, seed, '', evaluations=[scores])
        yield Outcome(variants[0].title, 9, '', error='failed')

    factors = list(grid.search_factors(run_variants, grid.FACTORS))
    assert [len(variants) for variants in asked] == [9, 5, 4]
    pairs = {(v['stmn.spatial_items'], v['stmn.temporal_items']) for v in asked[0]}
    assert pairs == {(m, n) for m in (5, 10, 20) for n in (5, 10, 20)}
    assert [v['loss.spread.margin'] for v in asked[1]] == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert [v['video.seq_len'] for v in asked[2]] == [4, 6, 8, 10]
    for later, keys in ((asked[1], list(best)[:2]), (asked[2], list(best)[:3])):
        assert all(v[key] == best[key] for v in later for key in keys)
    chosen = [s for settings in factors for s in settings if s.chosen]
    assert [s.title for s in chosen] == ['M=20, N=10', 'alpha=0.7', 'L=8']
    assert chosen[0].rank1[:2] == (pytest.approx(41.0), pytest.approx(2**0.5))
    assert chosen[0].seeds == 2
    assert grid.words_of(factors) == [str(x) for pair in best.items() for x in pair]
    first, *_ = factors[0]
    assert first.errors == ('seed 9: failed',) and 'seed 9: failed' in grid.factor_text(factors[0])
    assert 'error' not in grid.factor_text(factors[0][1:])
    table = grid.factor_text(factors[0]).splitlines()
    assert sum('chosen' in line for line in table) == 1
    with pytest.raises(InputError, match='no run of the 4 settings'):
        list(
            grid.search_factors(lambda v: [Outcome(v[0].title, 1, '', error='x')], grid.FACTORS[2:])
        )


def test_an_evaluation_without_rank_1_is_a_line():
    """Of a file that was edited by hand: the search itself asks for rank-1."""

    def run_variants(variants):
        yield Outcome(variants[0].title, 1, 'runs/first', evaluations=({'mAP': 0.5},))

    with pytest.raises(InputError, match='runs/first/metrics.json: an evaluation has no rank-1'):
        next(grid.search_factors(run_variants, grid.FACTORS))
