"""Rollouts as examples: every value stands where its token is predicted, and malformed ones are named."""

import dataclasses

import pytest

from o1jax.batches.encode import encode_rollout
from o1jax.batches.stream import Batches
from o1jax.records import InputError, Rollout

ROLLOUT = Rollout(
    id="r",
    group_id="g",
    problem_id="p",
    prompt_ids=(1, 2, 3),
    token_ids=(4, 5, 6, 7),
    log_probs=(-0.4, -0.5, 0.0, -0.7),
    is_policy_token=(True, True, False, True),
    finish_reason="stop",
    temperature=1.0,
    policy_version=0,
    prompt="pseudocode",
    program="",
)
ADVANTAGES = (0.25, 0.25, 0.0, -1.0)


def test_weight_is_on_the_policys_tokens():
    example = encode_rollout(ROLLOUT, ADVANTAGES)
    assert example.id == "r" and not example.parts
    assert example.token_ids == (1, 2, 3, 4, 5, 6, 7) and example.weights == (0, 0, 0, 1, 1, 0, 1)


def test_values_stand_one_position_before_their_tokens():
    example = encode_rollout(ROLLOUT, ADVANTAGES, columns={"old": (1, 2, 3, 4)})
    assert example.columns == {
        "advantage": (0, 0, 0.25, 0.25, 0, -1, 0),
        "behaviour": (0, 0, -0.4, -0.5, 0, -0.7, 0),
        "old": (0, 0, 1, 2, 3, 4, 0),
    }


def test_in_a_packed_batch_weights_targets_and_values_agree():
    short = dataclasses.replace(ROLLOUT, id="s", prompt_ids=(9,), log_probs=(-4.0, -5.0, -6.0, -7.0))
    examples = [
        encode_rollout(rollout, ADVANTAGES, columns={"token": rollout.token_ids})
        for rollout in (ROLLOUT, short)
    ]
    batch = Batches(examples, row_length=16, rows_per_batch=1, seed=0).at(0)
    at = batch["weights_BT"] != 0
    assert batch["segment_ids_BT"].max() == 2 and at.sum() == 6
    assert batch["targets_BT"][at].tolist() == batch["token_BT"][at].tolist() == [4, 5, 7, 4, 5, 7]
    of_token = {"r": [-0.4, -0.5, -0.7], "s": [-4.0, -5.0, -7.0]}
    order = [examples[i].id for i in dict.fromkeys(batch["example_id_BT"][at].tolist())]
    assert batch["behaviour_BT"][at].tolist() == pytest.approx([x for id in order for x in of_token[id]])
    assert batch["advantage_BT"][at].tolist() == [0.25, 0.25, -1] * 2


def test_a_prompt_of_one_token_predicts_the_answers_first():
    example = encode_rollout(dataclasses.replace(ROLLOUT, prompt_ids=(9,)), ADVANTAGES)
    assert example.columns["advantage"] == (0.25, 0.25, 0, -1, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt_ids": ()}, "none may be empty"),
        ({"token_ids": ()}, "none may be empty"),
        ({"is_policy_token": (True,)}, "1 values of 'is_policy_token' for 4 answer tokens"),
        ({"is_policy_token": (False,) * 4}, "none of its tokens is the policy's"),
        ({"log_probs": (-1.0,) * 5}, "5 values of 'behaviour'"),
    ],
)
def test_malformed_rollouts_are_named(change, message):
    with pytest.raises(InputError, match=f"'r'.*{message}"):
        encode_rollout(dataclasses.replace(ROLLOUT, **change), ADVANTAGES)


def test_values_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="3 values of 'advantage'"):
        encode_rollout(ROLLOUT, ADVANTAGES[:3])
    with pytest.raises(InputError, match="2 values of 'old'"):
        encode_rollout(ROLLOUT, ADVANTAGES, columns={"old": (0, 0)})
    with pytest.raises(InputError, match="'behaviour' is the rollout's own"):
        encode_rollout(ROLLOUT, ADVANTAGES, columns={"behaviour": (0,) * 4})
