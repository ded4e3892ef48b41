"""The generator's turn: what an answer is worth, what is paired, and that the next answers kill more."""

import asyncio
import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.policy.found import wrong_programs
from o1jax.prompts import chat, direct, nano_tokenizer, pseudocode
from o1jax.records import (
    CaseResult,
    InputError,
    Node,
    Problem,
    Rollout,
    Status,
    Step,
    TestCase,
    Tree,
    Verdict,
)
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.stages import manifest, run, training
from o1jax.stages.manifest import StageSpec
from o1jax.stages.problems import write_problems
from o1jax.stages.training import open_policy
from o1jax.store import read_records, write_records
from o1jax.tcg import adversarial
from o1jax.tcg.adversarial import JudgedAnswer, kills_of, pairs_of, reward_of
from o1jax.train.checkpoint import save_policy

SHORT = Limits(cpu_s=1.0, wall_s=4.0)
AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
ADD = Problem(
    id="add",
    question="Print a + b.",
    form="stdin",
    tests=(TestCase("3 -9\n", "-6\n"), *(TestCase(f"{a} 1\n", f"{a + 1}\n") for a in range(1, 6))),
    solutions=("print(sum(map(int, input().split())))",),
)
READ = "a, b = map(int, input().split())\n"
MINUS, TIMES, NO_SIGN, LARGE = (
    f"{READ}print({what})\n" for what in ("a - b", "a * b", "a + abs(b)", "a + b + (a > 99)")
)
FIVE, SIX, OTHER = TestCase("2 3\n", "5\n"), TestCase("1 5\n", "6\n"), TestCase("4 4\n", "8\n")


@pytest.mark.parametrize(
    "cases, weight, valid, killed, reward",
    [
        ((FIVE, SIX, OTHER), 0.0, 2, (0, 2), 0.5),  # OTHER is false or degenerate: it kills nothing
        ((FIVE, SIX, OTHER), 0.25, 2, (0, 2), 0.25 * 2 / 3 + 0.75 * 0.5),
        ((FIVE,), 0.25, 1, (0,), 0.25 / 3 + 0.75 / 4),  # asked for three
        ((FIVE, FIVE, TestCase("2 3 \n", "5\n")), 0.5, 1, (0,), 0.5 / 3 + 0.5 / 4),
        ((OTHER, OTHER), 0.5, 0, (), 0.0),
        ((), 0.5, 0, (), 0.0),
    ],
)
def test_an_answer_is_worth_the_wrong_programs_that_its_true_cases_kill(cases, weight, valid, killed, reward):
    kills = {FIVE: frozenset({0}), SIX: frozenset({0, 2}), TestCase("2 3 \n", "5\n"): frozenset({0})}
    assert reward_of(cases, kills, 4, "stdin", weight) == (valid, killed, pytest.approx(reward))


def kills(problem, cases, wrong):
    async def ask():
        async with ForkJudge(slots=2) as judge:
            return await kills_of(judge, problem, cases, wrong, SHORT)

    return asyncio.run(ask())


def test_only_true_cases_that_say_something_kill():
    false, zero, square = TestCase("2 3\n", "6\n"), TestCase("7 -7\n", "0\n"), TestCase("2 2\n", "4\n")
    cases = (FIVE, false, zero, square, FIVE, TestCase("nothing\n", "3\n"))
    assert kills(ADD, cases, [MINUS, TIMES, NO_SIGN]) == {FIVE: {0, 1}, square: {0}}


def test_a_case_kills_what_fails_it_alone():
    problem = dataclasses.replace(
        ADD, form="call", entry_point="same", solutions=("def same(x):\n    return x",)
    )
    once = "seen = []\ndef same(x):\n    seen.append(x)\n    return x if len(seen) == 1 else 0"
    cases = (TestCase("[3]", "3"), TestCase("[4]", "4"))
    assert kills(problem, cases, [once]) == {cases[0]: frozenset(), cases[1]: frozenset()}


def answer(number, reward, problem_id="p", finish="eos", ids=None, valid=0):
    ids = ids or (10 + number, 1)
    return JudgedAnswer(problem_id, number, (5, 6), ids, finish, "", valid, (), 4, reward)


def ids_of(answers, margin=0.25, max_pairs=0, seed=0):
    return [pair.id for pair in pairs_of(answers, margin, max_pairs, seed)]


def test_the_best_answer_is_paired_with_those_that_are_a_margin_worse():
    answers = [answer(0, 0.3), answer(1, 0.75), answer(2, 0.75), answer(3, 0.5), answer(4, 0.6)]
    assert sorted(ids_of(answers)) == ["p#1>0", "p#1>3"]
    assert sorted(ids_of(answers, margin=0.15)) == ["p#1>0", "p#1>3", "p#1>4"]
    assert ids_of([answer(0, 0.3), answer(1, 0.2)], margin=0.1) == ["p#0>1"]  # 0.3 - 0.2 < 0.1 in floats
    assert ids_of([answer(0, 0.3), answer(1, 0.75, valid=1), answer(2, 0.75, valid=2)]) == ["p#2>0"]
    (pair,) = pairs_of(answers[:2], 0.25, 0, 0)
    assert (pair.chosen_ids, pair.rejected_ids, pair.prompt_ids) == ((11, 1), (10, 1), (5, 6))
    assert pair.margin == pytest.approx(0.45)


def test_an_answer_that_was_cut_short_is_rejected_at_most_and_equal_ones_count_once():
    cut, other = answer(0, 0.9, finish="length"), answer(3, 0.1, "q")
    twice = [answer(n, 0.0, ids=(9, 1)) for n in (4, 5)]
    assert ids_of([cut, answer(1, 0.5), answer(2, 0.1, finish="length"), other]) == ["p#1>2"]
    assert ids_of([cut, answer(1, 0.9, finish="length")]) == []
    assert len(ids_of([answer(1, 0.5), *twice])) == 1


def test_pairs_are_capped_a_problem_and_drawn_by_seed():
    answers = [answer(n, 1.0 if n == 0 else 0.0, problem) for problem in "pq" for n in range(9)]
    draws = [ids_of(answers, max_pairs=2, seed=seed) for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [4, 4, 4] and draws[0] == draws[1] != draws[2]
    assert len(ids_of(answers)) == 16


def tree_of(problem_id, programs):
    """A tree with a leaf for each (program, verdict), all below one first step."""
    nodes = [Node(0, -1, 0, 0), Node(1, 0, 1, 1, text=pseudocode.render_step(Step(1, "plan"), 1))]
    for program, verdict in programs:
        text = pseudocode.render_step(Step(3, program), 2)
        nodes.append(Node(len(nodes), 1, 2, 3, text=text, terminal=True, value=0.0, verdict=verdict))
    return Tree(problem_id, (3, 4), tuple(nodes), 0, 1.0, len(programs), 50, len(programs))


def rollout_of(tokenizer, problem_id, text, verdict, program=""):
    ids = (*chat.encode(tokenizer, text), tokenizer.eos_token_id)
    zeros, ours = (0.0,) * len(ids), (True,) * len(ids)
    prompt = "pseudocode" if "<Step_Begin>" in text else "direct"
    return Rollout(
        text, problem_id, problem_id, (3,), ids, zeros, ours, "eos", 1.0, 0, prompt, program, verdict
    )


FAILS, PASSES, BROKEN = Verdict(True, (AC, WA)), Verdict(True, (AC, AC)), Verdict(False, (WA, WA))


def finished(place, stage):
    manifest.finish(place, StageSpec(stage, {}, 0, {}), manifest.StageResult({"name": place.name}, {}))


def search_stage(place, *trees):
    write_records(place / "trees" / "trees.parquet", Tree, trees)
    finished(place, "search")
    return place


def sample_stage(place, *rollouts):
    write_records(place / "rollouts" / "rollouts.parquet", Rollout, rollouts)
    finished(place, "sample")
    return place


def test_wrong_programs_compile_fail_and_differ(tmp_path):
    tried = [(MINUS, FAILS), (MINUS, FAILS), (TIMES, PASSES), ("print(", BROKEN), (NO_SIGN, FAILS)]
    first = search_stage(epath.Path(tmp_path) / "first", tree_of("add", tried), tree_of("solved", tried[2:3]))
    second = search_stage(
        epath.Path(tmp_path) / "second", tree_of("add", tried[:1]), tree_of("other", tried[:1])
    )
    found = wrong_programs([first, second], 9, 0)
    assert list(found) == ["add", "other"] and sorted(found["add"]) == sorted([MINUS, NO_SIGN])
    assert found["other"] == [MINUS]


def test_wrong_programs_are_capped_a_problem_and_drawn_by_seed(tmp_path):
    many = [(f"print({n})", FAILS) for n in range(30)]
    place = search_stage(epath.Path(tmp_path) / "many", tree_of("p", many), tree_of("q", many))
    draws = [wrong_programs([place], 5, seed) for seed in (0, 0, 1)]
    assert all(len(set(programs)) == 5 for draw in draws for programs in draw.values())
    assert draws[0] == draws[1] != draws[2] and draws[0]["p"] != draws[0]["q"]


def test_a_rollout_holds_its_program_whatever_the_prompt(tmp_path):
    tokenizer = nano_tokenizer.train([ADD.question], 300)
    path = pseudocode.render_path([Step(1, "add"), Step(3, MINUS)])
    place = sample_stage(
        epath.Path(tmp_path) / "sampled",
        rollout_of(tokenizer, "add", path, FAILS, MINUS),
        rollout_of(tokenizer, "add", path + "\nmore", FAILS, MINUS),
        rollout_of(tokenizer, "add", direct.render_answer(TIMES), FAILS, TIMES),
        rollout_of(tokenizer, "add", direct.render_answer(NO_SIGN), PASSES, NO_SIGN),
        rollout_of(tokenizer, "add", "no program", None),
    )
    found = wrong_programs([place], 9, 0)
    assert {"add"} == set(found) and sorted(found["add"]) == sorted([MINUS, TIMES])
    with pytest.raises(InputError, match="no trees/ and no rollouts/ there"):
        wrong_programs([epath.Path(tmp_path)], 9, 0)


CONFIG = {
    "train_tokens": 8_000,
    "train": {"row_length": 256, "rows_per_batch": 2, "learning_rate": 1e-3},
    "margin": 0.3,
    "max_pairs": 2,
    "beta": 0.05,
    "nll_weight": 5.0,
    "validity_weight": 0.25,
    "write": {"answers": 32, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 80, "style": "nano"},
    "limits": {"cpu_s": 1.0, "wall_s": 4.0},
    "engine": {"slots": 32, "context": 256},
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tiny generator that knows a few tests by heart, and the search of a policy that is often wrong."""
    root = epath.Path(tmp_path_factory.mktemp("tcg_adversarial"))
    bare = dataclasses.replace(ADD, solutions=())
    for name, problems in (("problems", [ADD, dataclasses.replace(ADD, id="other")]), ("bare", [bare])):
        write_problems(root / name, problems)
        finished(root / name, "check_problems")
    texts = [ADD.question, *ADD.solutions, "Write tests.", "Input:\n1 2\nOutput:\n3"]
    tokenizer = nano_tokenizer.train(texts * 9, 340)
    config = dataclasses.replace(
        preset("nano"), vocab_size=len(tokenizer), d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=128
    )
    save_policy(root / "start" / "policy", config, init_params(config, 0, make_mesh())[1], tokenizer)
    finished(root / "start", "warm_up")
    sft = {"train_tokens": 120_000, "train": {"row_length": 256, "rows_per_batch": 4, "learning_rate": 8e-3}}
    sft["cases"] = {"sets": 40, "style": "nano"}
    inputs = {"policy": str(root / "start"), "problems": str(root / "problems")}
    run.run(root / "tcg", StageSpec("tcg_sft", sft, 0, inputs))
    search_stage(root / "search", tree_of("add", [(MINUS, FAILS), (NO_SIGN, FAILS), (LARGE, FAILS)]))
    search_stage(root / "solved", tree_of("add", [(ADD.solutions[0], PASSES)]))
    search_stage(root / "others", tree_of("elsewhere", [(MINUS, FAILS)]))
    sample_stage(root / "sampled", rollout_of(tokenizer, "add", direct.render_answer(TIMES), FAILS, TIMES))
    return root


def spec_of(root, changes=None, found=("search",), **inputs):
    named = {f"found_{k}": name for k, name in enumerate(found)}
    places = {"tcg": "tcg", "problems": "problems", **named, **inputs}
    config = {**CONFIG, **(changes or {})}
    return StageSpec("tcg_adversarial", config, 0, {name: str(root / at) for name, at in places.items()})


def answers_of(out):
    return read_records(out / "answers.parquet", JudgedAnswer)


@pytest.fixture(scope="module")
def learned(house):
    """The figures of the stage, run in house/learned."""
    return run.run(house / "learned", spec_of(house))["figures"]


def test_every_answer_is_kept_with_its_reward_and_counted(house, learned):
    answers = answers_of(house / "learned")
    tokenizer = open_policy(house / "start").tokenizer
    assert [a.number for a in answers] == list(range(32)) and {a.problem_id for a in answers} == {"add"}
    assert tokenizer.decode(answers[0].prompt_ids).count(ADD.solutions[0]) == 1
    assert all(chat.decode(tokenizer, a.token_ids).startswith(a.text) for a in answers)
    assert {a.wrong for a in answers} == {3} and len({a.reward for a in answers}) > 2
    assert all(a.reward == pytest.approx(a.valid / 12 + len(a.killed) / 4) for a in answers)
    wrong = wrong_programs([house / "search"], 8, 0)["add"]
    for answer in answers:  # what ignores the sign is told by a negative number
        assert wrong.index(NO_SIGN) not in answer.killed or "-" in answer.text
        assert wrong.index(LARGE) not in answer.killed
    assert {key: learned[key] for key in ("problems", "with_wrong", "answers")} == {
        "problems": 2,
        "with_wrong": 1,
        "answers": 32,
    }
    assert learned["kill_share"] == round(len({r for a in answers for r in a.killed}) / 3, 4) > 0
    assert learned["mean_reward"] == round(np.mean([a.reward for a in answers]), 4)
    assert learned["valid_share"] == round(sum(a.valid for a in answers) / 96, 4)
    assert learned["generated_tokens"] == sum(len(a.token_ids) for a in answers)
    assert learned["pairs"] == len(pairs_of(answers, CONFIG["margin"], CONFIG["max_pairs"], 0)) > 0
    assert learned["steps"] > 1 and learned["trained_tokens"] >= CONFIG["train_tokens"]


def test_the_next_turns_answers_kill_more(house, learned):
    spec = spec_of(house, {"train_tokens": 1}, ("search", "sampled"), tcg="learned")
    figures = run.run(house / "again", spec)["figures"]
    assert {a.wrong for a in answers_of(house / "again")} == {4}  # one was sampled
    assert figures["mean_reward"] > learned["mean_reward"] + 0.1


def test_a_killed_stage_ends_in_the_same_answers_and_the_same_generator(house, learned, monkeypatch):
    def killed_here(*_):
        raise KeyboardInterrupt

    out = house / "killed"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "train_preferences", killed_here)
        run.run(out, spec_of(house))
    assert answers_of(out) == answers_of(house / "learned") and not (out / "manifest.json").exists()
    finished = run.run(out, spec_of(house))
    assert finished["figures"] == learned and "play_seconds" not in finished["timings"]  # not sampled again
    for a, b in zip(
        *(jax.tree.leaves(open_policy(at).params) for at in (out, house / "learned")), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_problem_without_a_reference_is_left_out_and_counted(house, tmp_path):
    tried = [(MINUS, FAILS)]
    found = search_stage(epath.Path(tmp_path) / "both", tree_of("add", tried), tree_of("bare", tried))
    problems = [ADD, dataclasses.replace(ADD, id="bare", solutions=())]
    settings = adversarial.Settings(train_tokens=1)
    inputs = {"found_0": found, "problems": house / "problems"}
    assert adversarial.wrong_of(inputs, problems, settings, 0) == ({"add": [MINUS]}, 1)


@pytest.mark.parametrize(
    "changes, inputs, words",
    [
        ({}, {"found": ()}, "saw no input found_0; give at least one search or sample stage"),
        ({}, {"found": ("others",)}, "others: wrong programs of 1 problems, of none"),
        ({}, {"found": ("tcg",)}, "tcg is a stage tcg_sft, wanted one of search and sample"),
        ({}, {"problems": "bare"}, "problem add: needs a reference program"),
        ({"validity_weight": 1.0}, {}, r"validity_weight: saw 1\.0, wanted less than 1"),
        ({"margin": 0.0}, {}, r"margin: saw 0\.0"),
        ({"beta": 0.0}, {}, r"beta: saw 0\.0, wanted more than 0"),
        ({"max_wrong": 0}, {}, "max_wrong: saw 0"),
        ({"write": {"answers": 1}}, {}, r"write\.answers: saw 1"),
        ({"train": {"model": "qwen2.5-0.5b"}}, {}, r"tcg_adversarial\.train\.model"),
    ],
)
def test_bad_input_is_one_line(house, tmp_path, changes, inputs, words):
    out = epath.Path(tmp_path) / "out"
    with pytest.raises(InputError, match=words) as error:
        run.run(out, spec_of(house, changes, **inputs))
    assert "\n" not in str(error.value) and not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    "found, answers, words",
    [
        ("search", [answer(n, 0.5, "add") for n in range(4)], "4 answers about 1 problems, none with a rew"),
        ("solved", None, "0 answers about 0 problems"),
    ],
)
def test_a_turn_that_teaches_nothing_leaves_the_generator_as_it_is(
    house, tmp_path, caplog, found, answers, words
):
    out = epath.Path(tmp_path) / "out"
    if answers:
        write_records(out / "answers.parquet", JudgedAnswer, answers)
    lora = {"train": {"lora": {"rank": 2, "base": "nf4"}}}
    figures = run.run(out, spec_of(house, lora, (found,)))["figures"]
    assert figures["answers"] == len(answers_of(out)) == len(answers or [])
    assert figures["pairs"] == figures["steps"] == figures["trained_tokens"] == 0
    assert words in caplog.text
    for a, b in zip(*(jax.tree.leaves(open_policy(at).params) for at in (out, house / "tcg")), strict=True):
        np.testing.assert_array_equal(a, b)
