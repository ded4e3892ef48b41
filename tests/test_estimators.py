"""pass@k and intervals by hand values."""

import itertools

import pytest

from o1jax.intervals import mean_with_interval, pass_at_k


@pytest.mark.parametrize("n, passed", [(8, 0), (8, 1), (8, 5), (8, 8), (4, 2)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n, passed, k):
    draws = list(itertools.combinations([1] * passed + [0] * (n - passed), k))
    assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_too_few_samples_is_refused():
    with pytest.raises(ValueError, match="pass@8"):
        pass_at_k(4, 1, 8)


def test_interval_holds_the_mean_and_narrows_with_more_problems():
    few, many = mean_with_interval([0, 1] * 10, 0), mean_with_interval([0, 1] * 1000, 0)
    assert few["mean"] == many["mean"] == 0.5
    assert few["low"] < 0.5 < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 5
    assert mean_with_interval([1.0, 1.0], 0) == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}


def test_problems_of_which_nothing_is_known_are_left_out_of_a_mean():
    values = [0.0, float("nan"), 1.0, 1.0, float("nan")]
    assert mean_with_interval(values, 0) == mean_with_interval([0.0, 1.0, 1.0], 0)
    assert mean_with_interval(values, 0)["n"] == 3
    with pytest.raises(ValueError, match="no values"):
        mean_with_interval([float("nan")], 0)
