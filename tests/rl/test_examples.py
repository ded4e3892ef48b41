"""Rewards, dropped groups and advantages a token, by hand values."""

import dataclasses

import numpy as np
import pytest

from o1jax.records import CaseResult, Rollout, Status, Verdict
from o1jax.rewards.phi import Reward, Schedule
from o1jax.rl.examples import examples_of, gae_examples_of, groups_that_teach, reward_of
from o1jax.rl.progress import reward_figures
from o1jax.rl.rollouts import Answer
from o1jax.rl.settings import Settings

PASS, FAIL = (Verdict(True, (CaseResult(status),)) for status in (Status.AC, Status.WA))
OUTCOME = Reward(alpha=Schedule("constant", 1.0))
HALF = Reward(gamma=1.0, alpha=Schedule("constant", 0.5))


def answer(verdict, scores=(0.5, 0.5, 0.5), actions=(1, 2, 3), ends=(2, 3, 6), tokens=6, reason="eos"):
    rollout = Rollout(
        id="p#0",
        group_id="p",
        problem_id="p",
        prompt_ids=(7, 8, 9),
        token_ids=tuple(range(10, 10 + tokens)),
        log_probs=tuple(-0.1 * i for i in range(tokens)),
        is_policy_token=(True,) * tokens,
        finish_reason=reason,
        temperature=1.0,
        policy_version=0,
        prompt="pseudocode",
        program="",
        verdict=verdict,
        reward=float(verdict is PASS),
    )
    return Answer(rollout, ends, actions, scores)


def settings(advantage="group_mean", reward=OUTCOME, **more):
    return Settings(updates=1, advantage=advantage, reward=reward, **more)


def kept_of(groups, wanted, t=0):
    """The groups of update t that teach."""
    return groups_that_teach(groups, rewards_of(groups, wanted, t), wanted)


def rewards_of(groups, wanted, t=0):
    return [[reward_of(answer, wanted, t) for answer in group] for group in groups]


def figures_of(groups, wanted, t=0, *, scored):
    kept = kept_of(groups, wanted, t)
    return reward_figures(groups, rewards_of(groups, wanted, t), len(kept), scored=scored)


def trained(groups, wanted):
    """The examples, by any advantage but gae."""
    return examples_of(kept_of(groups, wanted), wanted, 0)


def tokens(examples):
    return sum(len(example.token_ids) for example in examples)


def advantage_columns(group, wanted):
    return [example.columns["advantage"] for example in trained([group], wanted)]


def test_every_token_of_an_answer_has_its_advantage_where_it_is_predicted():
    passed, failed = advantage_columns([answer(PASS), answer(FAIL)], settings())
    assert passed == (0, 0, *[0.5] * 6, 0) and failed == (0, 0, *[-0.5] * 6, 0)
    passed, failed = advantage_columns([answer(PASS), answer(FAIL)], settings("leave_one_out"))
    assert passed == (0, 0, *[1.0] * 6, 0)


def test_a_steps_advantage_stands_on_its_tokens():
    group = [answer(PASS, scores=(0.9, 0.6, 0.3)), answer(FAIL, scores=(0.3, 0.0, 0.0))]
    passed, _ = advantage_columns(group, settings("step_group_mean", HALF))
    rewards = np.array([[0.15, 0.10, 0.05 + 0.5], [0.05, 0.0, 0.0]])
    step_1, step_2, step_3 = np.cumsum((rewards - rewards.mean(axis=0))[0][::-1])[::-1]
    np.testing.assert_allclose(passed, [0, 0, step_1, step_1, step_2, step_3, step_3, step_3, 0])


def test_progress_credits_each_step_with_what_it_adds_and_the_outcome_beside_it():
    group = [answer(PASS, scores=(0.6, 0.9, 0.8)), answer(FAIL, scores=(0.2, 0.4, 0.7))]
    # V_0 = .4; the last step's value is the outcome, whatever its score; half of each is R less its mean.
    passed, failed = advantage_columns(group, settings("progress", HALF))
    steps = [0.25 + 0.5 * step for step in (0.2, 0.3, 0.1)]
    np.testing.assert_allclose(passed, [0, 0, steps[0], steps[0], steps[1], *[steps[2]] * 3, 0])
    steps = [-0.25 + 0.5 * step for step in (-0.2, 0.2, -0.4)]
    np.testing.assert_allclose(failed, [0, 0, steps[0], steps[0], steps[1], *[steps[2]] * 3, 0])
    pure = settings("progress", Reward(alpha=Schedule("constant", 0.0)), keep_groups="fails")
    broken = answer(None, scores=(0.3, 0.0), actions=(1, 0), ends=(2, 6))
    first, second = advantage_columns([broken, group[1]], pure)
    np.testing.assert_allclose(first, [0, 0, 0.05, 0.05, *[-0.3] * 4, 0])
    np.testing.assert_allclose(second, [0, 0, -0.05, -0.05, 0.2, *[-0.4] * 3, 0])


def test_what_an_answer_says_after_its_path_is_not_trained_on():
    group = [answer(PASS, ends=(2, 3, 5), reason="length"), answer(FAIL)]
    passed, failed = trained([group], settings())
    assert tokens([passed, failed]) == 3 + 5 + 3 + 6
    assert figures_of([group], settings(), scored=False)["overrun"] == 0.5
    assert passed.token_ids == (7, 8, 9, *range(10, 15)) and sum(passed.weights) == 5
    without_steps = dataclasses.replace(answer(PASS), step_ends=(), actions=(), scores=())
    assert tokens(trained([[without_steps, answer(FAIL)]], settings())) == 18


def test_negative_advantages_count_as_much_as_they_are_told_to():
    group = [answer(PASS), answer(FAIL), answer(FAIL)]
    halved = settings(negative_weight=0.5)
    assert [c[2] for c in advantage_columns(group, halved)] == pytest.approx([2 / 3, -1 / 6, -1 / 6])
    none = settings(negative_weight=0.0)
    assert [c[2] for c in advantage_columns(group, none)] == pytest.approx([2 / 3])
    assert tokens(trained([group], none)) == 3 + 6
    with_values = settings("gae", negative_weight=0.0)
    examples = gae_examples_of(kept_of([group], with_values), with_values, 0, [np.full(3, 0.5)] * 3)
    assert len(examples) == 3 and min(examples[1].columns["advantage"]) == 0 and tokens(examples) == 27


def test_a_malformed_answer_earns_nothing_by_its_steps():
    broken = answer(None, scores=(0.9, 0.9, 0.0), actions=(1, 2, 0))
    kept = settings("step_group_mean", HALF)
    group = [answer(PASS), broken]
    assert figures_of([group], kept, scored=True)["reward"] == pytest.approx((0.5 * 1 + 0.5 * 0.5) / 2)
    assert all(value < 0 for value in advantage_columns(group, kept)[1][2:-1])


def test_groups_of_equal_rewards_are_dropped_whole_but_not_with_values():
    groups = [[answer(PASS), answer(FAIL)], [answer(FAIL)] * 2, [answer(PASS)] * 2]
    assert kept_of(groups, settings()) == groups[:1] and tokens(trained(groups, settings())) == 2 * (3 + 6)
    figures = figures_of(groups, settings(), scored=False)
    assert figures["groups_kept"] == 1 and figures["groups_dropped"] == 2
    fails = [answer(FAIL), answer(FAIL, scores=(1, 1, 1))]
    passes = [answer(PASS), answer(PASS, scores=(1, 1, 1))]
    every = [*groups, fails, passes]
    assert kept_of(every, settings(reward=HALF)) == groups[:1]
    assert kept_of(every, settings(reward=HALF, keep_groups="fails")) == [groups[0], fails]
    assert kept_of(every, settings(reward=HALF, keep_groups="reward")) == [groups[0], fails, passes]
    assert figures_of(every, settings(reward=HALF), scored=True)["groups_dropped"] == 4
    assert len(kept_of(groups, settings("gae"))) == 3


def test_figures_by_hand():
    groups = [
        [answer(PASS, scores=(1.0, 0.5, 0.0)), answer(None, (0.5, 0.0), (1, 0), (2, 4), 4, "length")],
        [answer(FAIL, scores=(0.5, 0.5), actions=(1, 3), ends=(2, 6))] * 2,
    ]
    figures = figures_of(groups, settings(reward=HALF), 3, scored=True)
    wanted = {
        "alpha": 0.5,
        "reward": (0.5 + 0.5 * 0.5) / 4,  # only the first answer is complete
        "outcome": 0.25,
        "process": (1.0 + 0.5 + 0.0 + 0.5 + 4 * 0.5) / 8,
        "pass_any": 0.5,
        "all_pass": 0,
        "all_fail": 1,
        "complete": 0.25,
        "malformed": 0.25,
        "overrun": 0,
        "answer_tokens": 22 / 4,
        "longest_answer": 6,
        "finish_length": 0.25,
        "samples": 4,
        "generated_tokens": 22,
        "steps": 7 / 3,
        "groups_kept": 1,
        "groups_dropped": 1,
    }
    assert figures == pytest.approx(wanted)
    assert "process" not in figures_of(groups, settings(), 3, scored=False)


def test_programs_that_fail_the_audit_are_false_accepts():
    audited = [dataclasses.replace(answer(PASS), false_accept=flag) for flag in (True, False, False)]
    figures = figures_of([[*audited, answer(FAIL)]], settings(), scored=False)
    assert figures["false_accept"] == pytest.approx(1 / 3)


def test_values_stand_at_the_first_token_of_every_step():
    wanted = settings("gae", gae_gamma=0.9, gae_lambda=0.8)
    (example,) = gae_examples_of(kept_of([[answer(PASS)]], wanted), wanted, 0, [np.array([0.2, 0.4, 0.6])])
    errors = [0.9 * 0.4 - 0.2, 0.9 * 0.6 - 0.4, 1 - 0.6]
    third = errors[2]
    second = errors[1] + 0.72 * third
    first = errors[0] + 0.72 * second
    np.testing.assert_allclose(
        example.columns["advantage"], [0, 0, first, first, second, third, third, third, 0], atol=1e-12
    )
    targets = [0, 0, first + 0.2, 0, second + 0.4, third + 0.6, 0, 0, 0]
    np.testing.assert_allclose(example.columns["value_target"], targets, atol=1e-12)
    assert example.columns["value_weight"] == (0, 0, 1, 0, 1, 1, 0, 0, 0)


def test_whitened_advantages_are_scaled_over_all_steps():
    wanted = settings("gae", whiten=True)
    kept = kept_of([[answer(PASS), answer(FAIL)]], wanted)
    examples = gae_examples_of(kept, wanted, 0, [np.full(3, 0.3), np.full(3, 0.3)])
    steps = [[example.columns["advantage"][i] for i in (2, 4, 5)] for example in examples]
    assert np.mean(steps) == pytest.approx(0, abs=1e-9) and np.std(steps) == pytest.approx(1, rel=1e-4)
