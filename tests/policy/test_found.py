"""D+ over rounds: different answers only, capped a problem, from trees and from rollouts alike."""

import pytest
from etils import epath

from o1jax.policy.found import found_directories, passing_paths
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.prompts.ends import with_end_ids
from o1jax.records import CaseResult, InputError, Rollout, Status, Step, Verdict
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
    write_records(epath.Path(tmp_path) / name / "rollouts" / "rollouts.parquet", Rollout, rollouts)
    return epath.Path(tmp_path) / name


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
    for name, place in places.items():
        manifest.finish(place, manifest.StageSpec(name, {}, 0, {}), manifest.StageResult({}, {}))
    found = {"found_0": places["sample"]}
    assert found_directories(found | {"policy": places["evaluate"]}) == found
    with pytest.raises(InputError, match="evaluate is a stage evaluate, wanted one of search and sample"):
        found_directories({"found_0": places["evaluate"]})
