"""phi, its forms and the schedule of alpha, against numbers worked by hand."""

import math

import numpy as np
import pytest

from o1jax.records import CaseResult, InputError, Status, Verdict
from o1jax.rewards import phi
from o1jax.rewards.outcome import outcome_of
from o1jax.rewards.phi import Reward, Schedule
from o1jax.stages.settings import parse

HALF = Schedule("constant", start=0.5)
CHAIN, SCORES = (1, 2, 2, 3), (0.9, 0.2, 0.6, 0.8)


def test_phi_is_the_papers_equation():
    def of(outcome, scores, alpha, gamma):
        reward = Reward(gamma=gamma, alpha=Schedule("constant", start=alpha), guard=False)
        return reward.of(outcome, scores, (2,) * len(scores), 0).total

    assert of(1.0, (1.0, 1.0, 1.0), alpha=0.5, gamma=0.9) == pytest.approx(0.9065)
    assert of(0.0, (0.5, 1.0), alpha=0.25, gamma=0.5) == pytest.approx(0.75 * 0.5 * (0.25 + 0.25))
    assert of(1.0, (0.0, 0.0), alpha=1.0, gamma=0.9) == 1.0


def test_the_papers_form_prefers_short_chains_and_gamma_1_does_not():
    perfect = [phi.mean_discounted((1.0,) * m, 0.9) for m in (1, 3, 10)]
    assert perfect == pytest.approx([0.9, 0.813, 0.5861894])
    assert [phi.mean_discounted((1.0,) * m, 1.0) for m in (1, 10)] == [1.0, 1.0]


def test_the_other_forms_read_the_lowest_and_the_last_score():
    assert phi.smallest(SCORES) == 0.2 and phi.last_step(SCORES) == 0.8
    for term in (phi.smallest, phi.last_step, lambda steps: phi.mean_discounted(steps, 1)):
        with pytest.raises(ValueError, match="no steps"):
            term(())


@pytest.mark.parametrize(
    "schedule, alphas",  # at t = 0, 10, 90 and 500
    [
        (Schedule("constant", start=0.3), [0.3, 0.3, 0.3, 0.3]),
        (Schedule("linear", 1.0, 0.1, 0.01), [1.0, 0.9, 0.1, 0.1]),
        (Schedule("linear", 0.8, 0.5, 0.0), [0.8, 0.8, 0.8, 0.8]),
        (
            Schedule("logarithmic", 1.0, 0.4, 0.1),
            [1.0, 1 - 0.1 * math.log(11), 1 - 0.1 * math.log(91), 0.4],
        ),
    ],
)
def test_alpha_falls_to_its_floor_and_no_further(schedule, alphas):
    assert [schedule.at(t) for t in (0, 10, 90, 500)] == pytest.approx(alphas)
    assert schedule.lowest == pytest.approx(min(alphas))


def test_alpha_keeps_the_outcome_dominant_unless_asked_otherwise():
    assert Schedule().at(0) == 1.0 and Schedule().at(10**6) == 0.5
    with pytest.raises(ValueError, match="update -1"):
        Schedule().at(-1)


@pytest.mark.parametrize(
    "page, words",
    [
        ({"alpha": {"kind": "cosine"}}, "alpha.kind: saw 'cosine', wanted one of constant, linear"),
        ({"alpha": {"start": 1.5}}, "alpha.start: saw 1.5, wanted at most 1"),
        ({"alpha": {"floor": -0.1}}, "alpha.floor: saw -0.1, wanted at least 0"),
        ({"alpha": {"rate": math.nan}}, "alpha.rate: saw nan"),
        ({"alpha": {"start": 0.2, "floor": 0.3}}, "alpha.floor: saw 0.3, wanted at most alpha.start, 0.2"),
        ({"form": "sum"}, "reward.form: saw 'sum', wanted one of paper, min, last"),
        ({"outcome": "some"}, "reward.outcome: saw 'some'"),
        ({"gamma": 1.01}, "reward.gamma: saw 1.01"),
    ],
)
def test_a_wrong_setting_is_one_line(page, words):
    with pytest.raises(InputError, match=words) as error:
        parse(Reward, page, "reward")
    assert "\n" not in str(error.value)


def test_a_config_page_parses_into_the_settings():
    page = {"form": "min", "gamma": 1, "alpha": {"kind": "linear", "floor": 0.6}, "guard": False}
    assert parse(Reward, page) == Reward("min", 1.0, Schedule(floor=0.6), guard=False)


@pytest.mark.parametrize(
    "actions, complete",
    [
        ((1, 2, 3), True),
        ((1, 1, 2, 2, 3), True),
        ((3,), False),
        ((1, 3), False),
        ((2, 3), False),
        ((1, 2), False),
        ((2, 1, 3), False),
        ((1, 2, 1, 3), False),
        ((1, 2, 3, 3), False),
        ((1, 2, 0), False),
        ((), False),
    ],
)
def test_a_complete_path_defines_then_refines_then_writes(actions, complete):
    assert phi.is_complete(actions) is complete


def test_reward_has_its_parts():
    assert Reward(alpha=HALF).of(1.0, (1.0, 1.0, 1.0), (1, 2, 3), 7) == pytest.approx((0.9065, 1, 0.813, 0.5))
    assert Reward("min", alpha=HALF).of(0.0, SCORES, CHAIN, 0) == pytest.approx((0.1, 0, 0.2, 0.5))
    assert Reward("last", alpha=HALF).of(0.5, SCORES, CHAIN, 0) == pytest.approx((0.65, 0.5, 0.8, 0.5))
    linear = Reward(gamma=1.0, alpha=Schedule("linear", 1.0, 0.1, 0.01))
    assert linear.of(1.0, SCORES, CHAIN, 20) == pytest.approx((0.8 + 0.2 * 0.625, 1.0, 0.625, 0.8))


@pytest.mark.parametrize("form", ["paper", "min", "last"])
def test_a_short_cut_to_the_program_earns_no_process_reward(form):
    guarded = Reward(form, alpha=HALF)
    assert guarded.of(1.0, (1.0,), (3,), 0) == (0.5, 1.0, 0.0, 0.5)
    assert guarded.of(0.0, (1.0, 1.0), (1, 3), 0).total == 0.0
    assert Reward(form, gamma=1.0, alpha=HALF, guard=False).of(1.0, (1.0,), (3,), 0).total == 1.0


@pytest.mark.parametrize("guard", [True, False])
def test_an_answer_without_steps_is_worth_nothing(guard):
    reward = Reward(alpha=HALF, guard=guard)
    assert reward.of(0.0, (), (), 0) == (0.0, 0.0, 0.0, 0.5)
    assert reward.step_rewards_of(0.0, (), (), 0).shape == (0,)
    with pytest.raises(ValueError, match="without steps"):
        reward.step_rewards_of(1.0, (), (), 0)


def test_step_rewards_stand_at_their_steps_and_the_outcome_at_the_last():
    got = Reward(gamma=0.5, alpha=HALF).step_rewards_of(1.0, (0.8, 0.4, 0.6), (1, 2, 3), 0)
    np.testing.assert_allclose(got, [0.4 / 6, 0.1 / 6, 0.075 / 6 + 0.5])
    assert got.dtype == np.float64
    got = Reward("min", alpha=HALF).step_rewards_of(1.0, SCORES, CHAIN, 0)
    np.testing.assert_allclose(got, [0.025, 0.025, 0.025, 0.525])
    got = Reward("last", alpha=HALF).step_rewards_of(1.0, SCORES, CHAIN, 0)
    np.testing.assert_allclose(got, [0, 0, 0, 0.9])
    got = Reward(alpha=HALF).step_rewards_of(1.0, (1.0, 1.0), (1, 3), 0)
    np.testing.assert_allclose(got, [0, 0.5])


@pytest.mark.parametrize("form", ["paper", "min", "last"])
@pytest.mark.parametrize("actions", [(1, 2, 2, 3), (1, 2, 1, 3)])
def test_step_rewards_add_up_to_the_reward(form, actions):
    for guard in (True, False):
        reward = Reward(form, guard=guard)
        total = reward.of(0.5, SCORES, actions, 30).total
        assert reward.step_rewards_of(0.5, SCORES, actions, 30).sum() == pytest.approx(total)


def test_scores_may_be_an_array():
    reward, scores_M = Reward(alpha=HALF), np.array(SCORES, np.float32)
    assert reward.of(1.0, scores_M, CHAIN, 0) == pytest.approx(reward.of(1.0, SCORES, CHAIN, 0))
    assert reward.step_rewards_of(0.0, np.zeros(0), (), 0).size == 0


@pytest.mark.parametrize("scores", [(0.5, math.nan, 0.5), (0.5, 1.5, 0.5), (0.5, 0.5)])
def test_what_is_no_score_is_never_a_reward(scores):
    with pytest.raises(ValueError, match="scores"):
        Reward().of(1.0, scores, (1, 2, 3), 0)


def test_an_outcome_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="outcome"):
        Reward().of(-1.0, (0.5,), (3,), 0)


def test_scores_are_needed_unless_alpha_is_always_1():
    never = (Schedule("constant", 1.0), Schedule("linear", 1.0, 1.0, 0.01), Schedule("linear", rate=0.0))
    assert not any(Reward(alpha=alpha).needs_scores for alpha in never)
    assert Reward().needs_scores and Reward(alpha=HALF).needs_scores


def test_the_outcome_is_all_or_nothing_unless_by_fraction():
    half = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.WA)))
    full = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.PE)))
    assert [outcome_of(v, "all") for v in (full, half, None)] == [1.0, 0.0, 0.0]
    assert [outcome_of(v, "fraction") for v in (full, half, None)] == [1.0, 0.5, 0.0]


def test_an_infrastructure_failure_is_never_an_outcome():
    failed = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.SANDBOX_ERROR)))
    with pytest.raises(ValueError, match="sandbox error"):
        outcome_of(failed, "fraction")
