"""The figures of a process reward model, by hand values."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from o1jax.losses.prm import calibrated
from o1jax.prm.calibrate import LEAST_SLOPE, fit_calibration
from o1jax.prm.figures import (
    auc,
    auc_intervals,
    calibration,
    calibration_curve,
    calibration_error,
    drawn_aucs,
    fit_and_score,
    held_out_figures,
    ranking,
)
from o1jax.prm.nodes import Nodes


def test_auc_hand_value_with_a_tie():
    assert auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])) == 3.5 / 4
    assert auc(np.array([0.1, 0.4]), np.array([1, 1])) is None


def test_auc_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    score_N, label_N = rng.integers(0, 9, 200) / 9, rng.integers(0, 2, 200)
    u = scipy.stats.mannwhitneyu(score_N[label_N == 1], score_N[label_N == 0]).statistic
    assert auc(score_N, label_N) == pytest.approx(u / (label_N.sum() * (1 - label_N).sum()))


def test_draws_that_take_every_problem_once_have_the_auc_itself():
    rng = np.random.default_rng(0)
    score_N, label_N, problem_N = rng.integers(0, 9, 200) / 9, rng.integers(0, 2, 200), np.arange(200) // 5
    times_DP = np.stack([np.ones(40, int), np.arange(40) % 2])
    rows_N = problem_N % 2 == 1
    expected = [auc(score_N, label_N), auc(score_N[rows_N], label_N[rows_N])]
    np.testing.assert_allclose(drawn_aucs(score_N, label_N, problem_N, times_DP), expected, rtol=1e-14)


def test_the_baseline_is_the_least_of_its_loss():
    nodes = random_nodes(2000, lambda rng, number_N, step_N, path_N: (path_N + rng.normal(0, 40, 2000)) > 100)
    half = dataclasses.replace(nodes, soft_N=(nodes.soft_N + 0.5) / 2)
    by_hard = fit_and_score(nodes, nodes.hard_N, nodes)
    by_soft = fit_and_score(half, half.soft_N, nodes)
    for score_N, label_N, number in ((by_hard, nodes.hard_N, 1), (by_soft, half.soft_N, 3)):
        # A constant a number is one of its terms: at the minimum the mean score is the mean label.
        rows_N = nodes.number_N == number
        assert score_N[rows_N].mean() == pytest.approx(label_N[rows_N].mean(), abs=2e-3)


def test_intervals_are_over_problems_and_the_difference_is_paired():
    rng = np.random.default_rng(0)
    label_N, problem_N = rng.integers(0, 2, 400), np.repeat(np.arange(40), 10)
    score_N = label_N + rng.normal(0, 1, 400)
    scores = {"a": score_N, "b": score_N, "c": -score_N}
    got, less = auc_intervals(scores, label_N, problem_N, 0)
    assert got["a"] == got["b"] and got["a"]["low"] < got["a"]["mean"] < got["a"]["high"]
    assert less["b"] == {"mean": 0, "low": 0, "high": 0, "n": 40} and less["c"]["low"] > 0.2
    assert less["c"]["mean"] == pytest.approx(got["a"]["mean"] - got["c"]["mean"], abs=1e-4)
    nothing = ({"a": None, "b": None, "c": None}, {"b": None, "c": None})
    assert auc_intervals(scores, np.ones(400), problem_N, 0) == nothing


def test_calibration_finds_the_scaling_of_each_depth_and_turns_no_ranking_round():
    rng = np.random.default_rng(0)
    number_N, logit_N = rng.integers(1, 5, 20_000), rng.normal(0, 2, 20_000)
    wanted = np.array([[0.5, -1.0], [2.0, 0.3], [1.0, 0.0], [1.0, 0.0]])  # of 1, 2, and 3 with those after it
    p_N = calibrated(logit_N, number_N, wanted)
    found = np.array(fit_calibration(logit_N, number_N, rng.binomial(5, p_N) / 5))
    np.testing.assert_allclose(found, wanted, atol=0.08)
    # Soft labels that are the probabilities themselves give them back.
    np.testing.assert_allclose(fit_calibration(logit_N, number_N, p_N), wanted, atol=0.01)
    few = np.where(np.arange(20_000) < 40, number_N, np.minimum(number_N, 2))
    assert len(fit_calibration(logit_N, few, p_N)) == 2, "deeper steps that are few have the last one's"
    ((a, b),) = fit_calibration(logit_N[:80], np.ones(80, int), 1.0 * (logit_N[:80] < 0))
    assert a == LEAST_SLOPE and abs(b) < 1
    ((a, b),) = fit_calibration(logit_N[:80], np.ones(80, int), np.zeros(80))
    assert 0 < a and calibrated(np.array([0.0]), np.array([1]), ((a, b),))[0] < 0.02


def test_calibration_hand_values():
    score_N, label_N = np.array([0.05, 0.05, 0.95, 0.55]), np.array([0.0, 0.2, 1.0, 0.35])
    assert calibration_error(score_N, label_N) == pytest.approx((0.1 + 0.05 + 0.2) / 4)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 0.5
    assert calibration_curve(np.array([1.0, 0.05, 0.95]), np.array([1.0, 0.0, 0.5])) == [
        {"score": 0.05, "label": 0.0, "n": 1},
        {"score": 0.975, "label": 0.75, "n": 2},
    ]
    assert calibration_error(np.array([0.51, 0.59]), np.array([0.1, 1.0])) == 0.0  # one bin


def random_nodes(n, label_of, seed=0):
    rng = np.random.default_rng(seed)
    number_N, step_N, path_N = rng.integers(1, 4, n), rng.integers(5, 60, n), rng.integers(60, 150, n)
    label_N = np.asarray(label_of(rng, number_N, step_N, path_N), float)
    return Nodes(
        np.arange(n) // 10,
        np.arange(n) // 3,
        number_N,
        number_N == 3,
        step_N,
        path_N,
        label_N,
        label_N,
        np.ones(n, int),
        np.arange(n) // 10,
    )


def baseline_auc(label_of):
    train, held_out = random_nodes(2000, label_of), random_nodes(2000, label_of, seed=1)
    return auc(fit_and_score(train, train.hard_N, held_out), held_out.hard_N)


def test_the_baseline_learns_lengths_and_places_but_nothing_of_random_labels():
    assert baseline_auc(lambda rng, number_N, step_N, path_N: rng.integers(0, 2, 2000)) == pytest.approx(
        0.5, abs=0.04
    )
    assert baseline_auc(lambda rng, number_N, step_N, path_N: path_N > 100) > 0.99
    assert baseline_auc(lambda rng, number_N, step_N, path_N: (path_N > 100) == (number_N == 2)) > 0.99
    assert baseline_auc(lambda rng, number_N, step_N, path_N: abs(step_N - 30) < 8) > 0.95


def test_figures_of_perfect_and_of_constant_scores():
    nodes = random_nodes(300, lambda rng, *columns: rng.integers(0, 2, 300))
    perfect, constant = nodes.hard_N * 1.0, np.full(300, nodes.soft_N.mean())
    got = ranking(nodes, perfect, 0)
    assert got["auc_leaves"] == got["auc_inner"] == got["pair_accuracy"] == 1.0
    assert got["auc_by_depth"] == {"1": 1.0, "2": 1.0, "3": 1.0} and got["within_problem_auc"]["mean"] == 1.0
    by_depth = ranking(nodes, np.where(nodes.is_leaf_N, 0.0, nodes.hard_N), 0)
    assert by_depth["within_problem_auc"]["mean"] > by_depth["within_problem_auc_leaves"]["mean"] == 0.5
    assert ranking(nodes, constant, 0)["pair_accuracy"] == ranking(nodes, constant, 0)["auc_inner"] == 0.5
    assert calibration(nodes, constant, nodes.soft_N)["calibration_error"] == 0.0
    assert calibration(nodes, perfect, nodes.soft_N)["log_loss"] < 1e-4


def test_scores_are_compared_with_the_labels_they_learned():
    nodes = random_nodes(300, lambda rng, *columns: rng.integers(0, 2, 300))
    nodes = dataclasses.replace(nodes, soft_N=nodes.hard_N * 0.4)
    scores = {"prm": nodes.soft_N, "likelihood": nodes.soft_N - 5}
    soft, hard = (held_out_figures(nodes, nodes, scores, kind, 0) for kind in ("soft", "hard"))
    assert soft["prm"]["calibration_error"] == 0 and soft["prm"]["log_loss"] == soft["log_loss_floor"] > 0.2
    assert hard["prm"]["calibration_error"] > 0.2 and hard["log_loss_floor"] == 0.0
    assert hard["prm"]["auc"] == soft["prm"]["auc"] and (soft["labels"], hard["labels"]) == ("soft", "hard")
    assert "log_loss" not in soft["likelihood"] and soft["likelihood"]["auc"]["mean"] == 1.0
    assert soft["less_likelihood"]["auc"]["mean"] == 0 and soft["auc_difference"]["mean"] > 0.3
