"""D+ over rounds: different answers only, capped a problem, from trees and from rollouts alike."""

import dataclasses

import pytest
from etils import epath

from o1jax.policy import found
from o1jax.policy.found import Played, found_directories, read_played
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.prompts.chat import render
from o1jax.prompts.ends import with_end_ids
from o1jax.records import CaseResult, InputError, Problem, Rollout, Status, Step, Verdict
from o1jax.stages import manifest
from o1jax.store import write_records

PROGRAM = pseudocode.render_path([Step(3, "print(1)\n")])
TOKENIZER = nano_tokenizer.train([PROGRAM], 300)
EOS = TOKENIZER.eos_token_id


def rollout(problem_id, token_ids, reward):
    status = Status.AC if reward else Status.WA
    return Rollout(
        id=f"{problem_id}#{token_ids}",
        group_id=problem_id,
        problem_id=problem_id,
        prompt_ids=(5, 6),
        token_ids=token_ids,
        log_probs=(-0.5,) * len(token_ids),
        is_policy_token=(True,) * len(token_ids),
        finish_reason="eos",
        temperature=1.0,
        policy_version=0,
        prompt="pseudocode",
        program="print(1)\n",
        verdict=Verdict(True, (CaseResult(status),)),
        reward=reward,
    )


def stage(tmp_path, name, rollouts):
    place = epath.Path(tmp_path) / name
    write_records(place / "rollouts" / "rollouts.parquet", Rollout, rollouts)
    manifest.finish(place, manifest.StageSpec("sample", {}, 0, {}), manifest.StageResult({}, {}))
    return place


def passing_paths(places, tokenizer, max_per_problem, seed, bare=None):
    """Of stages in directories."""
    played = read_played({f"found_{k}": place for k, place in enumerate(places)})
    return found.passing_paths(played, tokenizer, max_per_problem, seed, bare)


def test_only_passing_answers_that_end_are_found_and_each_once(tmp_path):
    first = stage(
        tmp_path, "a", [rollout("p", (7, EOS), 1.0), rollout("p", (8, EOS), 0.0), rollout("q", (9,), 1.0)]
    )
    second = stage(tmp_path, "b", [rollout("p", (7, EOS), 1.0), rollout("p", (4, EOS), 1.0)])
    samples = passing_paths([first, second], TOKENIZER, max_per_problem=9, seed=0)
    assert sorted(sample.answer_ids for sample in samples) == [(4, EOS), (7, EOS)]
    assert all(sample.is_trained == (True, True) and sample.prompt_ids == (5, 6) for sample in samples)


def test_the_cap_is_a_problem_and_drawn_by_seed(tmp_path):
    place = stage(tmp_path, "a", [rollout(p, (k, EOS), 1.0) for p in "pq" for k in range(40) if k != EOS])
    draws = [passing_paths([place], TOKENIZER, max_per_problem=3, seed=seed) for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [6, 6, 6]
    assert draws[0] == draws[1] != draws[2]


def test_an_answer_is_learned_up_to_its_program_and_then_its_end_as_a_tree_s_path(tmp_path):
    path = tuple(TOKENIZER(PROGRAM, add_special_tokens=False)["input_ids"])
    more = tuple(TOKENIZER("<Step_Begin>### Step 2", add_special_tokens=False)["input_ids"])
    tails = [(), (EOS,), (*more, EOS), more]
    answers = [rollout(f"p{i}", (*path, *tail), 1.0) for i, tail in enumerate(tails)]
    samples = passing_paths([stage(tmp_path, "a", answers)], TOKENIZER, max_per_problem=9, seed=0)
    assert [sample.answer_ids for sample in samples] == [(*path, EOS)] * 4


def test_of_several_ends_one_is_learned(tmp_path):
    tokenizer = with_end_ids(nano_tokenizer.train([PROGRAM], 300), [TOKENIZER.pad_token_id])
    path = tuple(TOKENIZER(PROGRAM, add_special_tokens=False)["input_ids"])
    answers = [rollout("p", (*path, TOKENIZER.pad_token_id), 1.0), rollout("q", (9, 0), 1.0)]
    samples = passing_paths([stage(tmp_path, "a", answers)], tokenizer, max_per_problem=9, seed=0)
    assert [sample.answer_ids for sample in samples] == [(*path, EOS), (9, EOS)]


def test_nothing_is_learned_from_what_an_evaluation_found(tmp_path):
    places = {name: stage(tmp_path, name, []) for name in ("sample", "evaluate")}
    evaluated = manifest.StageSpec("evaluate", {}, 0, {})
    manifest.finish(places["evaluate"], evaluated, manifest.StageResult({}, {}))
    sampled = {"found_0": places["sample"]}
    assert found_directories(sampled | {"policy": places["evaluate"]}) == sampled
    with pytest.raises(InputError, match="evaluate is a stage evaluate, wanted one of search and sample"):
        found_directories({"found_0": places["evaluate"]})


def test_a_bare_prompt_takes_the_place_of_the_one_with_examples_and_of_no_direct_one(tmp_path):
    direct = dataclasses.replace(rollout("q", (8, EOS), 1.0), prompt="direct")
    place = stage(tmp_path, "a", [rollout("p", (7, EOS), 1.0), direct])
    problems = [Problem(id=id, question=f"Print {id}.", form="stdin") for id in "pq"]
    bare = found.bare_prompts(problems, TOKENIZER, "nano")
    shown, left = passing_paths([place], TOKENIZER, 9, 0, bare)
    assert shown.prompt_ids == render(TOKENIZER, pseudocode.messages(problems[0], style="nano")) == bare["p"]
    assert shown.answer_ids == (7, EOS) and shown.id == "0/p#(7, 1)" and left.prompt_ids == (5, 6)
    with pytest.raises(InputError, match="problems: no problem p, whose question prompt 'bare' needs"):
        passing_paths([place], TOKENIZER, 9, 0, {})


def test_a_hard_problems_paths_weigh_more_and_all_together_the_same(tmp_path):
    # p passes 1 of 4, q 2 of 2, r 1 of 40: means (1 + 1) / 6, 3 / 4 and 2 / 42
    counts = {"p": (1, 3), "q": (2, 0), "r": (1, 39)}
    rollouts = [
        rollout(p, (10 + k, EOS), float(k < passes))
        for p, (passes, fails) in counts.items()
        for k in range(passes + fails)
    ]
    played = [Played([], rollouts[:20]), Played([], rollouts[20:])]
    samples = found.passing_paths(played, TOKENIZER, 9, 0)
    weights = {s.problem_id: s.weight for s in found.weighted_by_hardness(samples, played, 3.0)}
    raw = {"p": 2**0.5, "q": 1 / 3**0.5, "r": 3.0}
    mean = (raw["p"] + 2 * raw["q"] + raw["r"]) / 4
    assert weights == pytest.approx({id: value / mean for id, value in raw.items()})
    bounded = found.weighted_by_hardness(samples, played, 1.0)
    assert [sample.weight for sample in bounded] == pytest.approx([1.0] * 4)


def test_references_are_of_the_prompts_that_are_asked_for():
    chain = (Step(1, "plan"), Step(3, "print(1)"))
    problem = Problem("p", "Print 1.", "stdin", solutions=("print(1)",), reasoning=(chain,))
    ids = [
        [sample.id for sample in found.reference_samples([problem], TOKENIZER, 1, "nano", prompts)]
        for prompts in (found.BOTH, ("pseudocode",), ("direct",))
    ]
    assert ids == [["p/reasoning_0", "p/direct_0"], ["p/reasoning_0"], ["p/direct_0"]]
