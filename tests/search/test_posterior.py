"""What is known of a problem's pass rate, and which problems are drawn by it."""

import asyncio
import collections
import dataclasses
import math

import numpy as np
import pytest
import scripted
from etils import epath
from scripted import ReadingJudge, ScriptedEngine, byte_tokenizer, problem

from o1jax.records import InputError, Rollout, Tree
from o1jax.search import growth, mcts, posterior
from o1jax.search.search_stage import longest_first
from o1jax.stages.manifest import StageResult, StageSpec, begin, finish
from o1jax.store import read_records, write_records

PROBLEMS = [problem(f"p{i}") for i in range(6)]


def rollout(problem_id, reward, number=0):
    return Rollout(
        id=f"{problem_id}#{number}",
        group_id=problem_id,
        problem_id=problem_id,
        prompt_ids=(1,),
        token_ids=(2,),
        log_probs=(0.0,),
        is_policy_token=(True,),
        finish_reason="eos",
        temperature=1.0,
        policy_version=0,
        prompt="pseudocode",
        program="",
        reward=reward,
    )


def stage(directory, kind, cls, records):
    """A finished stage of that kind with these rollouts or trees."""
    begin(directory, StageSpec(kind, {}, 0, {}))
    place = "trees" if cls is Tree else "rollouts"
    write_records(directory / place / f"{place}.parquet", cls, records)
    finish(directory, StageSpec(kind, {}, 0, {}), StageResult({"generated_tokens": 0}, {}))
    return directory


def test_p_mixed_is_that_of_a_beta_binomial():
    # From Beta(2, 3): P(2 of 2 pass) = 2*3/(5*6) = 1/5, P(none passes) = 3*4/(5*6) = 2/5.
    prior = posterior.Prior(mean=0.4, strength=5.0)
    assert posterior.p_mixed(np.zeros(1), np.zeros(1), 2, prior) == pytest.approx([2 / 5])
    one_pass_more = posterior.p_mixed(np.ones(1), np.ones(1), 2, prior)  # Beta(3, 3)
    assert one_pass_more == pytest.approx([1 - 2 * (3 * 4) / (6 * 7)])


def test_the_prior_is_fitted_to_the_pool():
    rng = np.random.RandomState(0)
    for mean, strength in ((0.2, 1.0), (0.6, 4.0)):
        rates = rng.beta(mean * strength, (1 - mean) * strength, 3000)
        counts = {str(i): (6, int(rng.binomial(6, rate))) for i, rate in enumerate(rates)}
        fitted = posterior.fit_prior(counts)
        assert fitted.mean == pytest.approx(mean, abs=0.03) and fitted.strength == strength
    assert posterior.fit_prior({}) == posterior.Prior(0.5, 2.0)  # uniform
    # One answer each says nothing of how much problems differ; the mean is seen all the same.
    once = posterior.fit_prior({str(i): (1, i < 20) for i in range(100)})
    assert once.mean == pytest.approx(0.2, abs=0.02) and once.strength == 1.0


def test_where_few_pass_one_pass_says_mixed_and_one_fail_does_not():
    counts = {p.id: (1.0, float(i == 0)) for i, p in enumerate(PROBLEMS[:5])}
    passed, *failed, unknown = (belief.p_mixed for belief in posterior.beliefs(PROBLEMS, counts, 8))
    assert passed > unknown > failed[0] == failed[-1]


def test_a_difficulty_of_which_enough_is_known_has_a_prior_of_its_own():
    ids = [(kind, f"{kind}{i}") for kind in ("easy", "hard") for i in range(60)]
    many = [dataclasses.replace(problem(id), difficulty=kind) for kind, id in ids]
    counts = {f"easy{i}": (1, 1) for i in range(40)} | {f"hard{i}": (1, 0) for i in range(40)}
    means = {belief.problem_id: belief.mean for belief in posterior.beliefs(many, counts, 8)}
    assert means["easy59"] > 0.9 and means["hard59"] < 0.1  # never answered
    few = {f"easy{i}": (1, 1) for i in range(20)} | {f"hard{i}": (1, 0) for i in range(20)}
    means = {belief.problem_id: belief.mean for belief in posterior.beliefs(many, few, 8)}
    assert means["easy59"] == means["hard59"] == pytest.approx(0.5, abs=0.02)


def test_counts_of_answers_and_of_trees():
    answers = [rollout("p0", 1.0), rollout("p0", 0.0, 1), rollout("p1", 0.0)]
    assert posterior.counts_of_rollouts(answers) == {"p0": (2, 1), "p1": (1, 0)}
    tree = searched()
    (samples, passes) = posterior.counts_of_trees([tree])["p"]
    firsts = [node.index for node in tree.nodes if node.depth == 1]
    assert 0 < passes < samples <= len(firsts)
    # A first step of which all leaves pass counts as one pass, however many they are.
    below = collections.defaultdict(list)
    for node in tree.nodes:
        if node.value is not None:
            at = node
            while at.depth > 1:
                at = tree.nodes[at.parent]
            below[at.index].append(node.passed)
    assert samples == len(below) and passes == pytest.approx(sum(np.mean(v) for v in below.values()))


def searched():
    """A tree of the random script with passing and failing leaves, some of which compile."""
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, scripted.random_script)
    settings = dataclasses.replace(scripted.SETTINGS, rollouts=20)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings)
    return asyncio.run(mcts.Search(searcher, problem(), 1).run())


def test_older_stages_count_less_and_evaluations_not_at_all(tmp_path):
    old = stage(tmp_path / "old", "sample", Rollout, [rollout("p0", 1.0)])
    new = stage(tmp_path / "new", "search", Tree, [dataclasses.replace(searched(), problem_id="p1")])
    newest = stage(tmp_path / "newest", "sample", Rollout, [rollout("p0", 0.0)])
    counts = posterior.read_counts([old, new, newest], forget=0.5)
    assert counts["p0"] == (1.25, 0.25) and counts["p1"][0] >= 0.5
    judged = stage(tmp_path / "judged", "evaluate", Rollout, [rollout("p0", 1.0)])
    with pytest.raises(InputError, match="is a stage evaluate, wanted one of search and sample"):
        posterior.read_counts([judged])


def test_a_draw_is_by_weight_without_replacement():
    seen = collections.Counter()
    for seed in range(2000):
        chosen = posterior.draw([4.0, 1.0, 0.0, 1.0], 2, seed)
        assert len(set(chosen)) == 2 and 2 not in chosen
        seen[chosen[0]] += 1
    assert seen[0] / 2000 == pytest.approx(4 / 6, abs=0.03)
    assert posterior.draw([4.0, 1.0, 0.0, 1.0], 4, 0)[-1] == 2
    assert posterior.draw([1.0] * 9, 5, 3) == posterior.draw([1.0] * 9, 5, 3)


def test_a_stage_draws_problems_by_what_its_scout_found_and_keeps_the_posterior(tmp_path):
    passes = {"p0": (1, 0), "p1": (1, 1), "p2": (0, 0), "p3": (0, 0), "p4": (0, 0), "p5": (0, 0)}
    answers = [rollout(id, float(r), k) for id, two in passes.items() for k, r in enumerate(two * 4)]
    scout = stage(tmp_path / "scout", "sample", Rollout, answers)
    settings = posterior.DrawSettings(problems=1, power=3.0)
    for seed in range(10):
        chosen = posterior.drawn_problems(tmp_path, PROBLEMS, settings, {"scout": scout}, seed)
        assert [p.id for p in chosen] == ["p0"]  # half of its answers pass
    kept = read_records(tmp_path / posterior.FILE, posterior.Belief)
    assert [belief.problem_id for belief in kept] == [p.id for p in PROBLEMS]
    assert [belief.drawn for belief in kept] == [True] + [False] * 5
    assert kept[0].samples == 8 and kept[0].passes == 4 and kept[0].p_mixed > kept[1].p_mixed > 0
    assert math.isclose(kept[0].mean, 0.5, abs_tol=0.1)
    assert posterior.drawn_problems(tmp_path, PROBLEMS, posterior.DrawSettings(), {}, 0) == PROBLEMS


def test_draws_that_say_something_else_than_they_do_are_refused(tmp_path):
    scout = stage(tmp_path / "scout", "sample", Rollout, [rollout("p0", 1.0)])
    with pytest.raises(InputError, match="draw.problems: saw 0, all problems"):
        posterior.drawn_problems(tmp_path, PROBLEMS, posterior.DrawSettings(), {"scout": scout}, 0)
    with pytest.raises(InputError, match="draw.problems: saw 7, wanted at most the 6"):
        posterior.drawn_problems(tmp_path, PROBLEMS, posterior.DrawSettings(problems=7), {}, 0)


def test_the_inputs_are_read_in_order_of_age():
    names = ("found_10", "scout", "found_2", "policy", "problems")
    assert posterior.found_before({name: name for name in names}) == ["found_2", "found_10", "scout"]


def test_what_never_passed_and_was_long_is_searched_first(tmp_path):
    answers = [rollout("easy", 1.0), rollout("short", 0.0), rollout("long", 0.0), rollout("long", 0.0, 1)]
    stage(tmp_path / "scout", "sample", Rollout, answers)
    problems = [problem(id) for id in ("easy", "short", "long", "new")]
    ordered = longest_first(problems, [epath.Path(tmp_path / "scout")])
    assert [problem.id for problem in ordered] == ["long", "short", "new", "easy"]
    assert longest_first(problems, []) == problems
