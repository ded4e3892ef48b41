"""Credit by step: values and advantages by hand, and what failing answers are trained on for them."""

import dataclasses

import pytest

from o1jax.policy import credit
from o1jax.policy.credit import Credit, Negatives, Progress
from o1jax.policy.found import Played
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.records import CaseResult, InputError, Node, Rollout, Status, Step, Tree, Verdict

AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
PASS, HALF, FAIL = Verdict(True, (AC, AC)), Verdict(True, (AC, WA)), Verdict(True, (WA, WA))
BOTH = Progress(weight=0.5), Negatives(weight=0.2, threshold=0.3)


def tree_of(*rows, temperature=1.0):
    """A tree of (parent, action, verdict, value) rows; node i has the tokens 10 i and 10 i + 1."""
    nodes = [Node(index=0, parent=-1, depth=0, action=0)]
    for parent, action, verdict, value in rows:
        index = len(nodes)
        nodes.append(
            Node(
                index=index,
                parent=parent,
                depth=nodes[parent].depth + 1,
                action=action,
                token_ids=(10 * index, 10 * index + 1),
                log_probs=(-0.1 * index, -0.2 * index),
                value=value,
                verdict=verdict,
                error="" if action else "malformed",
            )
        )
    return Tree("p", (7, 8), tuple(nodes), 0, temperature, 9, 99, 9)


#  0
#  1 plan: 2 passes, 3 passes half           4 plan: 5 fails, 6 malformed
#  UCT's values have compile's share in them, which credit must not see.
TREE = tree_of(
    (0, 1, None, None), (1, 3, PASS, 1.0), (1, 3, HALF, 0.55),
    (0, 1, None, None), (4, 3, FAIL, 0.1), (4, 0, None, 0.0),
)  # fmt: skip


def test_values_are_mean_pass_rates_drawn_to_the_step_before():
    root = 1.5 / 4
    one, four = (1.5 + root) / 3, (0 + root) / 3
    assert credit.step_values(TREE, {}, 1.0) == pytest.approx([root, one, 1, 0.5, four, 0, 0])
    assert credit.step_values(TREE, {}, 0.0) == pytest.approx([root, 0.75, 1, 0.5, 0, 0, 0])


def test_with_scores_values_are_drawn_to_them_but_a_leaf_is_what_it_was_judged():
    scores = {1: 0.9, 2: 0.2, 3: 0.2, 4: 0.3}
    root = (1.5 + 2 * 0.6) / (4 + 2)
    one, four = (1.5 + 2 * 0.9) / 4, (0 + 2 * 0.3) / 4
    assert credit.step_values(TREE, scores, 2.0) == pytest.approx([root, one, 1, 0.5, four, 0, 0])


def test_a_step_without_a_leaf_has_neither_value_nor_advantage():
    tree = tree_of((0, 1, None, None), (0, 3, FAIL, 0.1))
    values = credit.step_values(tree, {1: 0.9}, 1.0)
    assert values[1] is None and credit.advantages_of(values, tree) == [None, None, pytest.approx(-0.45)]


def test_steps_of_failing_answers_weigh_what_they_gain_and_lose_and_count_once():
    advantages = credit.advantages_of(credit.step_values(TREE, {}, 0.0), TREE)
    assert advantages[1:] == pytest.approx([0.375, 0.25, -0.25, -0.375, 0, 0])
    first, second = credit.of_tree_credited(TREE, advantages, *BOTH)
    # Program 3 loses .25, less than the threshold: its answer ends with the step before, which gains.
    assert (first.id, first.prompt_ids, first.answer_ids) == ("1", (7, 8), (10, 11))
    assert first.weights == pytest.approx([0.5 * 0.375] * 2) and first.pushes == (0, 0)
    assert (first.numbers, first.advantages) == ((1,), (pytest.approx(0.375),))
    # Of two failing answers through step 4 one blames it.
    assert (second.id, second.answer_ids, second.log_probs) == ("4", (40, 41), (-0.4, -0.8))
    assert second.weights == (0, 0) and second.pushes == pytest.approx([0.2 * 0.375] * 2)


def test_a_step_that_another_answer_has_is_context():
    advantages = credit.advantages_of(credit.step_values(TREE, {4: 1.0, 1: 1.0}, 2.0), TREE)
    progress, negatives = Progress(weight=1.0), Negatives(weight=1.0, threshold=0.1)
    answers = credit.of_tree_credited(TREE, advantages, progress, negatives)
    assert [answer.id for answer in answers] == ["3", "5", "6"]
    by_id = {answer.id: answer for answer in answers}
    assert by_id["3"].numbers == (1, 2) and by_id["3"].weights[2:] == (0, 0)
    # V_4 = (0 + 2) / 4 and V_0 = (1.5 + 2) / 6: step 4 loses too little, its programs lose .5 each.
    assert by_id["5"].pushes == by_id["6"].pushes == (0, 0, 0.5, 0.5)
    assert by_id["6"].numbers == (2,) and by_id["6"].answer_ids == (40, 41, 60, 61)


def test_a_failing_program_is_never_imitated_however_much_it_gains():
    tree = tree_of((0, 3, HALF, 0.55), (0, 3, FAIL, 0.1), (0, 0, None, 0.0))
    advantages = credit.advantages_of(credit.step_values(tree, {}, 0.0), tree)
    assert advantages[1] > 0.3
    answers = credit.of_tree_credited(tree, advantages, Progress(weight=1.0), Negatives())
    assert answers == []


PLANS = [Step(1, "plan"), Step(1, "other plan")]
PROGRAMS = ["print(1)", "print(2)", "print(3)"]
TOKENIZER = nano_tokenizer.train([pseudocode.render_path([PLANS[1], Step(3, PROGRAMS[0])])], 300)


def rollout(number, plan, program, verdict):
    text = pseudocode.render_path([PLANS[plan], Step(3, PROGRAMS[program])])
    ids = (*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id)
    return Rollout(
        id=f"p#{number}",
        group_id="p",
        problem_id="p",
        prompt_ids=(7, 8),
        token_ids=ids,
        log_probs=tuple(-0.01 * i for i in range(len(ids))),
        is_policy_token=(True,) * len(ids),
        finish_reason="eos",
        temperature=1.0,
        policy_version=0,
        prompt="pseudocode",
        program=PROGRAMS[program],
        verdict=verdict,
        reward=float(verdict is PASS),
    )


ROLLOUTS = [rollout(0, 0, 0, PASS), rollout(1, 0, 1, FAIL), rollout(2, 1, 2, FAIL), rollout(3, 0, 1, FAIL)]


def test_answers_sampled_whole_are_a_tree_whose_nodes_know_their_answer():
    direct = dataclasses.replace(ROLLOUTS[0], prompt="direct", prompt_ids=(9,))
    played = Played([], [*ROLLOUTS, direct])
    assert credit.trees_of(played, TOKENIZER, with_rollouts=False) == []
    ((tree, ids),) = credit.trees_of(played, TOKENIZER, with_rollouts=True)
    assert [(node.parent, node.action, node.value) for node in tree.nodes[1:]] == [
        (0, 1, None), (1, 3, 1.0), (1, 3, 0.0), (0, 1, None), (4, 3, 0.0),
    ]  # fmt: skip
    assert ids == {1: "p#0", 2: "p#0", 3: "p#1", 4: "p#2", 5: "p#2"}
    for node in (3, 5):
        whole = [step.token_ids for step in tree.nodes if step.index in (node, tree.nodes[node].parent)]
        assert sum(whole, ()) == next(r.token_ids for r in ROLLOUTS if r.id == ids[node])


def test_what_another_temperature_sampled_is_not_compared_with():
    played = [Played([dataclasses.replace(TREE, temperature=0.8)], [])]
    settings = Progress(), Negatives(weight=0.1), Credit()
    with pytest.raises(InputError, match="'sampled' and steps sampled at temperature 0.8; wanted 'start'"):
        credit.credited_answers(played, {}, TOKENIZER, settings, 64, 0)
    settings = Progress(), Negatives(weight=0.1, was="start"), Credit(kappa=0.0)
    (answer,) = credit.credited_answers(played, {}, TOKENIZER, settings, 64, 0)[:1]
    assert answer.id.startswith("0/p#")


def test_trees_whose_programs_hide_the_question_are_refused():
    hidden = dataclasses.replace(TREE, program_prompt_ids=(3, 4))
    settings = Progress(weight=0.5), Negatives(), Credit()
    with pytest.raises(
        InputError, match="policy_sft: saw problem p answered in style nano_hidden, .*wanted pr"
    ):
        credit.credited_answers([Played([TREE], []), Played([hidden], [])], {}, TOKENIZER, settings, 64, 0)


def test_answers_are_capped_a_problem_and_drawn_by_seed():
    rows = [(0, 1, None, None), (1, 3, PASS, 1.0)] + [(1, 3, FAIL, 0.1)] * 12
    played = [Played([tree_of(*rows)], [])] * 2

    def ids(seed, most):
        settings = Progress(), Negatives(weight=0.1, threshold=0.0), Credit(max_per_problem=most, kappa=0.0)
        return [a.id for a in credit.credited_answers(played, {}, TOKENIZER, settings, 64, seed)]

    assert len(ids(0, 0)) == len(set(ids(0, 0))) == 24 and len(ids(0, 3)) == 3
    assert ids(0, 3) == ids(0, 3) != ids(1, 3) and set(ids(1, 3)) < set(ids(0, 0))
