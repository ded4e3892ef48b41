import numpy as np
import pytest

from o1jax.losses import advantages

# Means by number: .75, .25 and 1; the deviations from them are .25 -.25 | | -.25 .25 0.
STEPS = [[1.0, 0.0], [], [0.5, 0.5, 1.0]]


def test_group_mean_by_hand():
    np.testing.assert_allclose(advantages.group_mean([1, 0, 0, 1, 0]), [0.6, -0.4, -0.4, 0.6, -0.4])


def test_group_normalized_has_the_population_std():
    found = advantages.group_normalized([1, 0, 0, 0], eps=0)  # std = sqrt(1/4 * 3/4)
    np.testing.assert_allclose(found, np.array([0.75, -0.25, -0.25, -0.25]) / 0.4330127)
    np.testing.assert_allclose(advantages.group_normalized([1, 0, 0, 0]), found, rtol=3e-6)


def test_eps_bounds_what_rounding_makes_of_equal_rewards():
    assert np.abs(advantages.group_normalized([0.1] * 3)).max() < 1e-9
    np.testing.assert_allclose(advantages.group_normalized([0.0, 2.0], eps=1.0), [-0.5, 0.5])


def test_leave_one_out_by_hand_and_by_its_definition():
    np.testing.assert_allclose(advantages.leave_one_out([1, 0, 0]), [1, -0.5, -0.5])
    rewards_G = np.random.default_rng(0).random(7)
    wanted = [rewards_G[i] - np.delete(rewards_G, i).mean() for i in range(7)]
    np.testing.assert_allclose(advantages.leave_one_out(rewards_G), wanted, atol=1e-12)


def test_a_group_of_one_leaves_no_other():
    with pytest.raises(ValueError, match="at least two"):
        advantages.leave_one_out([1.0])


def test_reward_to_go_by_hand():
    assert advantages.reward_to_go([1, 2, 4]).tolist() == [7, 6, 4]
    assert advantages.reward_to_go([1, 2, 4], gamma=0.5).tolist() == [3, 4, 4]
    assert advantages.reward_to_go([]).tolist() == []


def test_step_group_mean_by_hand_of_samples_of_any_length():
    found = advantages.step_group_mean(STEPS)
    for values, wanted in zip(found, [[0.0, -0.25], [], [0.0, 0.25, 0.0]], strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-12)


def test_step_group_normalized_is_standardised_before_it_is_summed_up():
    deviations, std = [[0.25, -0.25], [], [-0.25, 0.25, 0.0]], np.sqrt(4 * 0.25**2 / 5)
    for values, of_sample in zip(advantages.step_group_normalized(STEPS, eps=0), deviations, strict=True):
        np.testing.assert_allclose(values, np.cumsum(np.array(of_sample)[::-1] / std)[::-1], atol=1e-12)


def test_a_longer_answer_gains_nothing_by_its_length():
    # One mean of all steps, .4, would give the first answer -.4 and the other -.8 for their zeros.
    found = advantages.step_group_mean([[0.0, 1.0], [0.0, 0.0, 1.0]])
    assert [values.tolist() for values in found] == [[0.5, 0.5], [-0.5, -0.5, 0.0]]


def test_progress_by_hand_adds_up_to_the_outcome_less_what_was_expected():
    found = advantages.progress([[0.6, 0.9, 1.0], [0.2, 0.0], []])
    for values, wanted in zip(found, [[0.2, 0.3, 0.1], [-0.2, -0.2], []], strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-12)
    assert [values.sum() for values in found[:2]] == pytest.approx([1.0 - 0.4, 0.0 - 0.4])


def test_gae_by_hand():
    # errors: 0 + .5 * .4 - .2 = 0, then 1 - .4 = .6; .6 * (.5 * .5) reaches the first step
    found = advantages.gae([0, 1], [0.2, 0.4], gamma=0.5, lam=0.5)
    np.testing.assert_allclose(found.advantages_M, [0.15, 0.6], atol=1e-12)
    np.testing.assert_allclose(found.returns_M, [0.35, 1.0], atol=1e-12)


def test_gae_equals_the_double_sum_of_its_definition():
    random = np.random.default_rng(1)
    rewards_M, values_M, gamma, lam = random.random(6), random.random(6), 0.9, 0.7
    after_M = [*values_M[1:], 0.0]
    wanted = [
        sum((gamma * lam) ** (k - j) * (rewards_M[k] + gamma * after_M[k] - values_M[k]) for k in range(j, 6))
        for j in range(6)
    ]
    np.testing.assert_allclose(advantages.gae(rewards_M, values_M, gamma, lam).advantages_M, wanted)


def test_gae_ends_in_returns_less_values_and_in_one_step_errors():
    rewards_M, values_M = np.array([0.3, 0.1, 1.0]), np.array([0.5, 0.6, 0.9])
    returns = advantages.gae(rewards_M, values_M, 0.9, 1.0).returns_M
    np.testing.assert_allclose(returns, advantages.reward_to_go(rewards_M, 0.9))
    errors = advantages.gae(rewards_M, values_M, 1.0, 0.0).advantages_M
    np.testing.assert_allclose(errors, [0.3 + 0.6 - 0.5, 0.1 + 0.9 - 0.6, 1.0 - 0.9])
    with pytest.raises(ValueError, match="3 rewards and 2 values"):
        advantages.gae(rewards_M, values_M[:2], 1.0, 1.0)


def test_whitened_entries_have_mean_0_and_std_1_over_all_samples():
    found = advantages.whiten([[1.0, 5.0], [], [3.0]], eps=0)
    np.testing.assert_allclose(np.concatenate(found), np.array([-2, 2, 0]) / np.sqrt(8 / 3))
    assert [len(values) for values in found] == [2, 0, 1]


def test_a_group_without_variance_is_seen():
    assert advantages.is_zero_variance([0.1 + 0.2, 0.3, 0.3]) and advantages.is_zero_variance([1.0])
    assert not advantages.is_zero_variance([0, 0, 1e-6]) and advantages.is_zero_variance([0, 1e-6], 1e-5)


@pytest.mark.parametrize("rewards", [[1.0, np.nan], [np.inf, 0.0], [[1.0, 0.0]]])
@pytest.mark.parametrize(
    "function", [advantages.group_mean, advantages.leave_one_out, advantages.reward_to_go]
)
def test_rewards_that_are_none_are_refused(function, rewards):
    with pytest.raises(ValueError, match="finite"):
        function(rewards)


def test_groups_without_a_step_are_refused():
    with pytest.raises(ValueError, match="2 samples without a step"):
        advantages.step_group_mean([[], []])


def test_everything_is_float64():
    found = [
        advantages.group_mean(np.float32([0, 1])),
        *advantages.step_group_normalized([np.float32([0, 1])]),
        *advantages.gae([0, 1], [0, 0], 1, 1),
    ]
    assert all(values.dtype == np.float64 for values in found)
