"""Vine search from a scripted engine: which first steps it keeps, where completions go, when it ends."""

import asyncio
import collections
import dataclasses

import pytest
import scripted
from scripted import ReadingJudge, ScriptedEngine, byte_tokenizer, path, problem, step

from o1jax.records import InputError
from o1jax.search import growth, mcts, vine
from o1jax.search.samples import label_nodes

A, B, C, D = (step(1, 1, name) for name in "abcd")
SETTINGS = growth.SearchSettings(
    algorithm="vine",
    vine=growth.VineSettings(first_steps=2, candidates=4, completions=4),
    compile_weight=0.0,
    max_path_tokens=600,
)


def search(settings, script, seed=0):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, script)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings)
    return asyncio.run(mcts.search_of(searcher, problem(), seed).run()), engine


def with_vine(**changes):
    return dataclasses.replace(SETTINGS, vine=dataclasses.replace(SETTINGS.vine, **changes))


def drawing(firsts, program):
    """A script: first steps in turn, then `program(letter of the first step, number)` after a second step of
    its own."""
    drawn = collections.Counter()

    def script(prefix, seed):
        number = drawn[prefix]
        drawn[prefix] += 1
        if not prefix:
            return firsts[number % len(firsts)]
        letter = prefix.split("\n")[1][0]
        if prefix.count("<Step_End>") > 1:
            return "\n" + step(3, 3, program(letter, f"again {number}"))
        return "\n" + path(step(2, 2, f"so {number}"), step(3, 3, program(letter, number)))

    return script


def firsts_of(tree):
    return [node for node in tree.nodes if node.depth == 1]


def test_first_steps_are_different_and_sampled_before_anything_is_completed():
    tree, engine = search(SETTINGS, drawing([A, A, B, A], lambda first, n: f"bad {first} {n}"))
    first, *completions = engine.requests
    assert first.n == 4 and first.stop == ("<Step_End>",) and first.prompt_ids == tree.prompt_ids
    assert [node.text for node in firsts_of(tree)] == [A, B]
    assert len(completions) == tree.rollouts == 8 and not any(request.stop for request in completions)
    assert len({request.seed for request in engine.requests}) == 9


def test_halving_goes_on_with_the_better_first_steps():
    def script(best):
        best = best.split("\n")[1][0]
        return drawing([A, B, C, D], lambda first, n: f"{'good' if first == best else 'bad'} {n}")

    for best in (A, B, C, D):
        settings = with_vine(first_steps=4)
        tree, _ = search(settings, script(best))
        visits = {node.text: node.visits for node in firsts_of(tree)}
        # 16 completions: two of each of the four, then four of each of the better two.
        assert visits[best] == 6 and sorted(visits.values()) == [2, 2, 6, 6]
        assert tree.rollouts == tree.nodes[0].visits == 16


def test_considered_visits_are_those_of_mctx():
    # get_sequence_of_considered_visits(4, 16), (3, 5) and (1, 3)
    assert vine.considered_visits(4, 16) == [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
    assert vine.considered_visits(3, 5) == [0, 0, 0, 1, 1]
    assert vine.considered_visits(1, 3) == [0, 1, 2] and vine.considered_visits(0, 3) == []


def test_likely_first_steps_are_kept_and_unlikely_ones_now_and_then():
    kept = collections.Counter()
    for seed in range(200):
        search_ = unbegun(with_vine(first_steps=1), seed)
        for text, log_prob in (("likely", -0.5), ("unlikely", -2.5)):
            sampled = vine_step(text, log_prob)
            search_.tree.add(0, sampled)
        assert search_.keep_some()
        kept[search_.tree.nodes[next(iter(search_.turns))].text] += 1
    # Gumbel top-1 is a draw by likelihood: exp(-.5) : exp(-2.5).
    assert kept["likely"] / 200 == pytest.approx(1 / (1 + 2.718**-2), abs=0.06)


def vine_step(text, log_prob):
    return growth.SampledStep((len(text),), (log_prob,), text, 1, "stop", 0)


def unbegun(settings, seed=0):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script)
    return vine.VineSearch(growth.Searcher(engine, ReadingJudge(), tokenizer, settings), problem(), seed)


def test_a_first_step_that_repeats_itself_gives_its_place_to_one_that_was_not_kept():
    tree, _ = search(with_vine(first_steps=1), drawing([A, B, C, D], lambda first, n: f"bad {first}"))
    # so 0, so 1 ... are different; the last of the four keeps the place.
    assert sorted(node.visits for node in firsts_of(tree)) == [0, 0, 0, 4]

    def script(prefix, seed):
        return step(1, 1, "abcd"[seed % 4]) if not prefix else "\n" + step(2, 3, f"bad {prefix[-11]}")

    tree, _ = search(with_vine(first_steps=1, candidates=40, completions=9), script)
    assert sorted(node.visits for node in firsts_of(tree)) == [2, 2, 2, 3]


def test_completions_begin_below_the_step_that_is_least_decided_once_there_are_some():
    script = drawing([A], lambda first, n: f"bad {n}")
    tree, engine = search(with_vine(first_steps=1, completions=9, widening=0.5), script)
    starts = collections.Counter(len(request.prompt_ids) for request in engine.requests[1:])
    below_first = starts[len(tree.prompt_ids + tree.nodes[1].token_ids)]
    # Visits of the first step before each completion: 0 to 8; new next steps at 0, 1, 4 (2 <= sqrt(4)) ...
    assert below_first == 3 and sum(starts.values()) == 9
    labels = label_nodes(tree)
    assert [labels[n.index].n_leaves for n in tree.nodes if n.depth == 2] == [3, 3, 3]
    always, engine = search(
        with_vine(first_steps=1, completions=9), drawing([A], lambda first, n: f"bad {n}")
    )
    assert len({request.prompt_ids for request in engine.requests[1:]}) == 1
    assert len([node for node in always.nodes if node.depth == 2]) == 9


def test_it_ends_at_the_first_pass_or_with_leaves_of_both_kinds():
    script = drawing([A, B], lambda first, n: f"{'good' if n in (1, 3) else 'bad'} {first} {n}")
    first, _ = search(dataclasses.replace(SETTINGS, stop_after_passes=1), script)
    passed = [node.passed for node in first.nodes if node.value is not None]
    assert passed.count(True) == 1 and passed[-1]
    script = drawing([A, B], lambda first, n: f"{'good' if n in (1, 3) else 'bad'} {first} {n}")
    both, _ = search(dataclasses.replace(SETTINGS, stop_after_passes=2, stop_after_fails=2), script)
    passed = [node.passed for node in both.nodes if node.value is not None]
    assert sorted([passed.count(True), passed.count(False)])[0] == 2
    assert both.rollouts < SETTINGS.vine.first_steps * SETTINGS.vine.completions
    spent, _ = search(dataclasses.replace(SETTINGS, max_tokens=1), script)
    assert spent.rollouts == 0 and spent.generated_tokens > 0


def test_uct_too_ends_with_leaves_of_both_kinds():
    settings = growth.SearchSettings(
        rollouts=50, samples=3, stop_after_passes=2, stop_after_fails=2, max_path_tokens=600
    )
    tree, _ = search(settings, lambda prefix, seed: step(1, 3, f"{'good' if seed % 3 else 'bad'} {seed}"))
    passed = [node.passed for node in tree.nodes if node.value is not None]
    assert min(passed.count(True), passed.count(False)) == 2 and tree.rollouts < 50


@pytest.mark.parametrize("said", [step(1, 3, "bad"), "never closed"])
def test_where_every_first_step_ends_its_path_others_are_sampled_and_nothing_is_completed(said):
    tree, engine = search(SETTINGS, lambda prefix, seed: said)
    assert [request.n for request in engine.requests] == [4] * 4 and tree.rollouts == 0
    assert len(tree.nodes) == 2 and tree.nodes[1].value == 0.0 and tree.nodes[1].visits == 16


def test_same_seed_same_trees_whatever_the_concurrency_and_in_waves():
    def run(concurrency, wave=1, seed=0):
        tokenizer = byte_tokenizer()
        engine = ScriptedEngine(tokenizer, scripted.random_script, jitter_s=0.002)
        settings = dataclasses.replace(scripted.SETTINGS, algorithm="vine", wave=wave)
        searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings)
        return asyncio.run(mcts.search_many(searcher, scripted.PROBLEMS, seed, concurrency=concurrency))

    one = run(1)
    assert one == run(64) and one != run(64, seed=1)
    assert run(1, wave=4) == run(64, wave=4)
    assert any(tree.solved for tree in one) and any(node.error for tree in one for node in tree.nodes)
    assert all(tree.rollouts <= 16 and tree.nodes[0].visits >= tree.rollouts for tree in one)


def test_a_reward_model_that_would_score_nothing_is_refused():
    with pytest.raises(InputError, match="saw leaf_value 'prm' with algorithm 'vine'"):
        growth.SearchSettings(algorithm="vine", leaf_value="prm")
