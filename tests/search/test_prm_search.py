"""Search with a process reward model: a golden tree from a scripted scorer, refusals, equal seeds."""

import asyncio
import collections
import dataclasses
import random

import pytest
import scripted
from scripted import ReadingJudge, ScriptedEngine, byte_tokenizer, path, problem, step

from o1jax.parallel.seeds import stable_hash
from o1jax.records import InputError
from o1jax.search import growth, mcts
from o1jax.search.samples import label_nodes

A, B = (step(1, 1, name) for name in "ab")
C, D = (step(2, 2, name) for name in "cd")
GOOD, HALF, BAD = (step(3, 3, name) for name in ("good", "half", "bad"))
SCORES = {A: 0.25, B: 0.75, path(B, C): 0.5, path(B, D): 0.125, path(A, C): 0.0}
# What the model says after a prefix, sample by sample.
SCRIPT = {
    "": [A, B],
    B: ["\n" + C, "\n" + D],
    path(B, C): ["\n" + GOOD, "\n" + HALF],
    A: ["\n" + C, "never closed"],
    path(B, D): ["\n" + BAD, "\n" + BAD],
}
SETTINGS = growth.SearchSettings(
    rollouts=4, samples=2, c=0.5, compile_weight=0.0, max_path_tokens=600, leaf_value="prm"
)


class ScriptedScorer:
    """Scores a path by its text after the prompt: `score(text)`. Counts its calls."""

    def __init__(self, tokenizer, score, *, jitter_s=0.0):
        self.tokenizer, self._score, self.jitter_s = tokenizer, score, jitter_s
        self.calls = []

    async def score(self, paths):
        await asyncio.sleep(random.random() * self.jitter_s)
        self.calls.append(paths)
        for token_ids, step_ends, is_program, _ in paths:
            # All steps from the first on, or a calibration by number would take the wrong one.
            assert len(step_ends) == self.answer(token_ids).count("<Step_End>") and not any(is_program)
            assert step_ends[-1] == len(token_ids) - 1
        return [(*[0.0] * (len(ends) - 1), self._score(self.answer(ids))) for ids, ends, _, _ in paths]

    def answer(self, token_ids):
        return self.tokenizer.decode(token_ids).split(scripted.ASSISTANT)[1]


def search(settings, script, score):
    tokenizer = byte_tokenizer()
    engine, scorer = ScriptedEngine(tokenizer, script), ScriptedScorer(tokenizer, score)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings, scorer)
    return asyncio.run(mcts.Search(searcher, problem(), 0).run()), engine, scorer


def golden(rollouts):
    drawn = collections.Counter()

    def script(prefix, seed):
        drawn[prefix] += 1
        return SCRIPT[prefix][drawn[prefix] - 1]

    return search(dataclasses.replace(SETTINGS, rollouts=rollouts), script, SCORES.get)


def shape(tree):
    """(parent, action, visits, value_sum, value, score) of every node."""
    return [(n.parent, n.action, n.visits, n.value_sum, n.value, n.score) for n in tree.nodes]


def test_first_rollout_scores_the_new_steps_at_once_and_simulates_nothing():
    tree, engine, scorer = golden(1)
    assert shape(tree) == [
        (-1, 0, 2, 1.0, None, None),
        (0, 1, 1, 0.25, None, 0.25),
        (0, 1, 1, 0.75, None, 0.75),
    ]
    assert [request.stop for request in engine.requests] == [("<Step_End>",)]
    assert [len(paths) for paths in scorer.calls] == [2]


def test_four_rollouts_grow_the_tree_checked_by_hand():
    # After rollout 1 uct(a) = .666, uct(b) = 1.166. Rollout 2 expands b: .5 and .125 go to c, d,
    # b and the root. uct(a) = .25 + .5 sqrt(ln 4) = .839, uct(b) = 1.375/3 + .5 sqrt(ln 4 / 3) = .798:
    # rollout 3 expands a, to a step of score 0 and a dead one. uct(a) = .25/3 + .5 sqrt(ln 6 / 3) = .470,
    # uct(b) = .844: rollout 4 takes b, there c (1.024 before .648), whose two programs are judged, not
    # scored.
    tree, engine, scorer = golden(4)
    assert shape(tree) == [
        (-1, 0, 8, pytest.approx(3.125), None, None),
        (0, 1, 3, 0.25, None, 0.25),
        (0, 1, 5, pytest.approx(2.875), None, 0.75),
        (2, 2, 3, 2.0, None, 0.5),
        (2, 2, 1, 0.125, None, 0.125),
        (1, 2, 1, 0.0, None, 0.0),
        (1, 0, 1, 0.0, 0.0, None),
        (3, 3, 1, 1.0, 1.0, None),
        (3, 3, 1, 0.5, 0.5, None),
    ]
    assert [len(paths) for paths in scorer.calls] == [2, 2, 1] and len(engine.requests) == 4
    assert tree.solved and tree.nodes[6].error


def test_labels_count_judged_leaves_and_no_score():
    tree, _, _ = golden(4)
    labels = [dataclasses.astuple(label) for label in label_nodes(tree)]
    assert labels[3] == labels[2] == (0.75, 1.0, 2, 0.75)
    assert labels[4] == (0.0, 0.0, 0, 0.0) and labels[0] == (0.5, 1.0, 3, 0.5)


def test_nodes_at_max_depth_are_scored_once_and_simulated_at_each_visit():
    settings = dataclasses.replace(SETTINGS, rollouts=5, samples=1, max_depth=1)
    whole = path(A, C, BAD)
    tree, engine, scorer = search(
        settings, lambda prefix, seed: ("\n" * bool(prefix)) + whole[len(prefix) :].lstrip(), lambda text: 0.5
    )
    assert [bool(request.stop) for request in engine.requests] == [True, False, False, False, False]
    assert len(scorer.calls) == 1 and tree.nodes[1].score == 0.5 and tree.nodes[1].visits == 5
    assert tree.nodes[2].score is None and tree.nodes[3].value == 0.0


def test_a_step_sampled_again_is_not_scored_again():
    tree, _, scorer = search(dataclasses.replace(SETTINGS, rollouts=1), lambda prefix, seed: A, SCORES.get)
    assert len(tree.nodes) == 2 and tree.nodes[1].visits == 1
    assert [len(paths) for paths in scorer.calls] == [1]


@pytest.mark.parametrize("leaf_value", ["simulation", "prm"])
def test_a_scorer_is_there_exactly_if_the_settings_ask_for_one(leaf_value):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script)
    scorer = ScriptedScorer(tokenizer, len) if leaf_value == "simulation" else None
    settings = dataclasses.replace(SETTINGS, leaf_value=leaf_value)
    with pytest.raises(InputError, match=f"leaf_value is '{leaf_value}' and there is (no|a) process"):
        searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings, scorer)
        asyncio.run(mcts.search_many(searcher, [problem()], 0))
    assert not engine.requests


async def trees_at(concurrency, wave, seed=0):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script, jitter_s=0.002)
    scorer = ScriptedScorer(tokenizer, lambda text: stable_hash(text) % 997 / 997, jitter_s=0.002)
    settings = dataclasses.replace(scripted.SETTINGS, leaf_value="prm", rollouts=20, wave=wave)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings, scorer)
    return await mcts.search_many(searcher, scripted.PROBLEMS, seed, concurrency=concurrency)


@pytest.mark.parametrize("wave", [1, 4])
def test_same_seed_same_trees_at_concurrency_1_and_8(wave):
    one, many = (asyncio.run(trees_at(concurrency, wave)) for concurrency in (1, 8))
    assert one == many and any(tree.solved for tree in one)
    assert asyncio.run(trees_at(8, wave, seed=1)) != one
    assert all(node.value is None for tree in one for node in tree.nodes if node.score is not None)
    assert all(tree.rollouts == 20 for tree in one)
