"""Golden trees from a scripted engine: what UCT selects, what is backed up, what malformed models do."""

import asyncio
import collections
import dataclasses
import math

import pytest
import scripted
from scripted import ReadingJudge, ScriptedEngine, byte_tokenizer, path, problem, step

from o1jax.engine.interface import Completion
from o1jax.records import CaseResult, InputError, Status
from o1jax.search import growth, mcts
from o1jax.search.steps import SampledStep
from o1jax.search.tree import path_ids

A, B, C = (step(1, 1, name) for name in "abc")
A2, OTHER_A2 = step(2, 2, "first"), step(2, 2, "second")
HALF, BAD = step(3, 3, "half"), step(2, 3, "bad")
GOOD, ALSO_GOOD = step(3, 3, "good"), step(3, 3, "good too")
UNCLOSED = "half a step"

# What the model says after a prefix, sample by sample; simulations and expansions draw in turn.
SCRIPT = {
    "": [A, B, C[:-3], A],
    A: ["\n" + path(A2, HALF), "\n" + OTHER_A2],
    B: ["\n" + BAD, "\n" + BAD],
    path(A, OTHER_A2): ["\n" + GOOD, "\n" + ALSO_GOOD],
    path(A, A2): [UNCLOSED],
}
SETTINGS = growth.SearchSettings(rollouts=7, samples=2, c=1.0, compile_weight=0.0, max_path_tokens=600)


def search(settings, script, judge=None, tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer()
    engine = ScriptedEngine(tokenizer, script)
    searcher = growth.Searcher(engine, judge or ReadingJudge(), tokenizer, settings)
    return asyncio.run(mcts.Search(searcher, problem(), seed=0).run()), engine


def golden(rollouts, judge=None):
    drawn = collections.Counter()

    def script(prefix, seed):
        drawn[prefix] += 1
        return SCRIPT[prefix][drawn[prefix] - 1]

    return search(dataclasses.replace(SETTINGS, rollouts=rollouts), script, judge)


def shape(tree):
    """(parent, action, visits, value_sum, value) of every node."""
    return [(n.parent, n.action, n.visits, n.value_sum, n.value) for n in tree.nodes]


def test_first_rollout_expands_the_root_and_simulates_its_first_child():
    tree, engine = golden(1)
    assert shape(tree) == [
        (-1, 0, 1, 0.5, None),
        (0, 1, 1, 0.5, None),  # a
        (0, 1, 0, 0.0, None),  # b
        (1, 2, 1, 0.5, None),  # the simulated path's steps are nodes
        (3, 3, 1, 0.5, 0.5),
    ]
    assert [(r.n, r.stop) for r in engine.requests] == [(2, ("<Step_End>",)), (1, ())]


def test_seven_rollouts_grow_the_tree_checked_by_hand():
    # uct(a), uct(b) after 2, 3, 4 rollouts: 1.333 .833; 1.491 1.048; 1.513 1.177: a, a, a.
    # Rollout 4 takes second (1.833) before first (1.333) and judges its program without simulating.
    # Rollout 5 finds a dead step and closes a; 6 samples b's program again: one node, two visits.
    # Rollout 7: all is closed, so the root is expanded again: a dead step, and a, merged.
    tree, _ = golden(7)
    assert shape(tree) == [
        (-1, 0, 7, 2.5, None),
        (0, 1, 4, 2.5, None),
        (0, 1, 2, 0.0, None),
        (1, 2, 2, 0.5, None),
        (3, 3, 1, 0.5, 0.5),
        (2, 3, 2, 0.0, 0.0),
        (1, 2, 2, 2.0, None),
        (6, 3, 1, 1.0, 1.0),
        (6, 3, 1, 1.0, 1.0),
        (3, 0, 1, 0.0, 0.0),
        (0, 0, 1, 0.0, 0.0),
    ]
    assert tree.nodes[9].error and tree.nodes[10].error and tree.solved
    assert tree.rollouts == 7 and tree.judged_programs == 4


def test_uct_values_equal_the_formula():
    tree, _ = golden(4)
    grown = unbegun(SETTINGS)
    grown.tree.nodes, grown.tree.in_flight = list(tree.nodes), [0] * len(tree.nodes)
    assert grown.uct(1) == pytest.approx(2.5 / 3 + math.sqrt(math.log(4) / 3))
    assert grown.uct(2) == pytest.approx(math.sqrt(math.log(4)))


def unbegun(settings):
    """A search that has not begun."""
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script)
    return mcts.Search(growth.Searcher(engine, ReadingJudge(), tokenizer, settings), problem(), seed=0)


def test_every_sampled_token_and_every_different_program_is_counted():
    judge = ReadingJudge()
    tree, _ = golden(7, judge)
    assert tree.judged_programs == len(set(judge.sources)) == 4
    tokenizer = byte_tokenizer()
    texts = [A, B, C[:-3], A, path(A2, HALF), OTHER_A2, BAD, BAD, GOOD, ALSO_GOOD, UNCLOSED]
    newlines = 6  # before every step but the first ones and the malformed one
    n_eos = 5  # three simulations, two unclosed steps
    assert tree.generated_tokens == sum(len(tokenizer.encode(t)) for t in texts) + newlines + n_eos


def test_nodes_hold_the_sampled_tokens_and_requests_continue_from_them():
    tree, engine = golden(7)
    prompts = {request.prompt_ids for request in engine.requests}
    assert all(prompt[: len(tree.prompt_ids)] == tree.prompt_ids for prompt in prompts)
    assert tree.prompt_ids + path_ids(tree.nodes, 6) in prompts
    for node in tree.nodes:
        assert len(node.token_ids) == len(node.log_probs) == len(node.is_policy_token)
    assert tree.nodes[7].token_ids[-1] == byte_tokenizer().eos_token_id  # simulated to the end
    assert tree.nodes[8].token_ids[-1] != byte_tokenizer().eos_token_id  # stopped at its <Step_End>


def test_a_step_keeps_the_token_that_holds_the_end_of_its_marker():
    tokenizer = byte_tokenizer(reserved=("_End>\n",))  # as Qwen cuts "<Step_End>\n"
    tree, _ = search(
        dataclasses.replace(SETTINGS, rollouts=1, samples=1),
        lambda prefix, seed: path(A, A2, GOOD)[len(prefix) :],
        tokenizer=tokenizer,
    )
    texts = [node.text for node in tree.nodes]
    assert texts == ["", A + "\n", A2 + "\n", GOOD]
    assert tree.solved


def test_no_rollout_is_spent_on_a_known_value():
    tree, engine = search(
        dataclasses.replace(SETTINGS, rollouts=4, samples=2), lambda prefix, seed: step(1, 3, f"bad {seed}")
    )
    assert len(engine.requests) == 4  # the root is expanded anew each time
    assert len(tree.nodes) == 9 and tree.nodes[0].visits == 8


def test_below_max_depth_only_the_simulation_is_called():
    tree, engine = search(
        dataclasses.replace(SETTINGS, rollouts=6, samples=1, max_depth=1),
        lambda prefix, seed: (
            ("\n" if prefix else "") + path(A, A2, step(3, 3, f"bad {seed % 2}"))[len(prefix) :]
        ),
    )
    assert [bool(request.stop) for request in engine.requests] == [True] + [False] * 6
    assert tree.nodes[1].visits == 6 and tree.nodes[2].visits == 6  # equal steps are one node
    assert {len(r.prompt_ids) for r in engine.requests[1:]} == {
        len(tree.prompt_ids + tree.nodes[1].token_ids)
    }
    assert len({request.seed for request in engine.requests}) == 7


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("x" * 200, "no <Step_End> within 99 tokens"),
        ("", "the path ends without a program"),
        ("no markers", "the text ends without <Step_End>"),
        ("no header<Step_End>", "wanted <Step_Begin> first"),
        (step(2, 1, "wrong number"), "saw number 2, wanted 1"),
        (step(1, 3, ""), "empty"),
        ("<Step_Begin>### Step 1: <Action 3>\nno fence<Step_End>", "saw 0 closed ```python blocks"),
    ],
)
def test_malformed_steps_are_dead_leaves_that_say_why(said, error):
    tree, _ = search(dataclasses.replace(SETTINGS, max_step_tokens=99), lambda prefix, seed: said)
    assert len(tree.nodes) == 2 and tree.rollouts == 7
    leaf = tree.nodes[1]
    assert leaf.error and error in leaf.error and leaf.value == 0.0 and not leaf.terminal
    assert leaf.visits == 14 and tree.judged_programs == 0 and not tree.solved


def test_a_path_that_never_reaches_a_program_is_dead_at_the_token_limit():
    def script(prefix, seed):
        number = prefix.count("<Step_End>")
        return "\n" * bool(number) + path(*(step(k, 1, "on and on") for k in range(number + 1, number + 99)))

    tree, engine = search(dataclasses.replace(SETTINGS, max_path_tokens=200, max_depth=99), script)
    assert all(len(path_ids(tree.nodes, node.index)) <= 200 for node in tree.nodes)
    assert any("tokens" in node.error for node in tree.nodes) and tree.nodes[0].value_sum == 0


def test_what_follows_a_program_is_dropped():
    tree, _ = search(
        dataclasses.replace(SETTINGS, rollouts=1, samples=1),
        lambda prefix, seed: A if not prefix else "\n" + path(BAD, step(3, 2, "and more")),
    )
    assert [node.text.strip() for node in tree.nodes] == ["", A, BAD]
    assert tree.nodes[2].finish_reason == "stop" and tree.generated_tokens > len(path_ids(tree.nodes, 2))


def test_search_stops_early_when_solved_often_enough():
    settings = dataclasses.replace(SETTINGS, rollouts=9, stop_after_passes=3)
    tree, _ = search(settings, lambda prefix, seed: step(1, 3, f"good {seed}"))
    assert tree.rollouts == 2 and len(tree.nodes) == 5


def test_search_stops_at_the_rollout_that_reaches_its_token_budget():
    def grow(prefix, seed):
        return step(1, 3, f"bad {seed}")

    whole, _ = search(dataclasses.replace(SETTINGS, rollouts=9), grow)
    cut, _ = search(dataclasses.replace(SETTINGS, rollouts=9, max_tokens=whole.generated_tokens // 2), grow)
    assert cut.rollouts < whole.rollouts
    assert whole.generated_tokens // 2 <= cut.generated_tokens < whole.generated_tokens


def test_compile_weight_makes_the_value_of_a_program_that_only_compiles():
    settings = dataclasses.replace(SETTINGS, rollouts=1, compile_weight=0.25)
    tree, _ = search(settings, lambda prefix, seed: step(1, 3, "half"))
    assert tree.nodes[1].value == pytest.approx(0.25 + 0.75 * 0.5)


def test_same_seed_same_trees_at_concurrency_1_and_64():
    one = asyncio.run(scripted.search_some(1))
    many = asyncio.run(scripted.search_some(64))
    assert one == many and [tree.problem_id for tree in one] == [p.id for p in scripted.PROBLEMS]
    assert any(tree.solved for tree in one)
    assert asyncio.run(scripted.search_some(64, seed=1)) != one


def test_a_wave_is_deterministic_and_spends_its_rollouts():
    def run():
        tokenizer = byte_tokenizer()
        engine = ScriptedEngine(tokenizer, scripted.random_script, jitter_s=0.002)
        settings = dataclasses.replace(scripted.SETTINGS, wave=4, samples=4)
        searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings)
        return asyncio.run(mcts.Search(searcher, problem(), seed=3).run()), engine

    (tree, engine), (again, _) = run(), run()
    assert tree == again and tree.rollouts == 12
    assert len(engine.requests) > 12  # a wave's requests go to the engine together


def test_virtual_losses_spread_a_wave_and_are_taken_back():
    grown = unbegun(dataclasses.replace(SETTINGS, samples=3))
    assert grown.select_wave(4) == [0]  # the root is one leaf
    grown.tree.add_losses([0], -1)
    grown.tree.expansions[0] = 1
    for token in (5, 6, 7):
        grown.tree.add(0, SampledStep((token,), (0.0,), "", 1, "stop", 0))
    grown.growth.back_up(1, 1.0)
    leaves = grown.select_wave(4)
    assert leaves == [2, 3, 1]  # unvisited first, then the best; the fourth would be one of them
    grown.tree.add_losses(leaves, -1)
    assert grown.select() == 2 and grown.tree.in_flight == [0, 0, 0, 0]


def test_a_prompt_longer_than_the_context_is_refused_before_anything_runs():
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script, max_context=8)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, SETTINGS)
    with pytest.raises(InputError, match="problem p: its prompt has .* tokens and the context holds 8"):
        asyncio.run(mcts.search_many(searcher, [problem()], 0))
    assert not engine.requests


def test_a_problem_without_tests_is_refused():
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script)
    untested = dataclasses.replace(problem(), tests=())
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, SETTINGS)
    with pytest.raises(InputError, match="problem p has no tests"):
        asyncio.run(mcts.search_many(searcher, [untested], 0))


class LosingJudge(ReadingJudge):
    """Loses every program about problem p1 after the first two that it is asked about."""

    async def judge(self, job):
        verdict = await super().judge(job)
        if job.name == "p1" and len(self.sources) > 2:
            return dataclasses.replace(
                verdict, compiled=False, cases=(CaseResult(Status.SANDBOX_ERROR),) * len(verdict.cases)
            )
        return verdict


def test_a_lost_program_ends_its_problems_search_alone():
    tokenizer = byte_tokenizer()

    def trees(judge):
        engine = ScriptedEngine(tokenizer, scripted.random_script)
        searcher = growth.Searcher(engine, judge, tokenizer, scripted.SETTINGS)
        return asyncio.run(mcts.search_many(searcher, scripted.PROBLEMS[:3], 0, concurrency=1))

    whole, lost = trees(ReadingJudge()), trees(LosingJudge())
    assert (lost[0], lost[2]) == (whole[0], whole[2])
    assert lost[1].rollouts < whole[1].rollouts
    assert lost[1].nodes[1:] == () or not any(n.verdict and n.verdict.lost for n in lost[1].nodes)


def test_siblings_that_are_sampled_with_a_step_that_ends_are_selected_later():
    # In one wave the completions of a and b: a's is judged first, when a has as many children as samples.
    grown = unbegun(dataclasses.replace(SETTINGS, samples=1))

    async def sampled(requests):
        texts = [[step(1, 3, "bad"), A]]
        return [[completion(grown, text) for text in group] for group in texts]

    grown.growth.searcher.engine.generate = sampled
    asyncio.run(grown._sample([0], [grown.growth.next_steps(0, 2, 0)]))
    assert grown.tree.closed == [False, True, False] and grown.select() == 2


def completion(grown, text):
    ids = tuple(grown.growth.searcher.tokenizer.encode(text))
    return Completion(ids, (0.0,) * len(ids), text, "stop", 0)
