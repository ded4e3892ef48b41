"""The generator's stages: true cases to learn from, false ones to reject, measured and gated as promised."""

import asyncio
import dataclasses
import random
import time

import pytest
from etils import epath

from o1jax.engine.interface import Completion
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import nano_tokenizer
from o1jax.prompts.chat import decode
from o1jax.records import InputError, PreferencePair, Problem, TestCase
from o1jax.rewards.outcome import final_tests
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.stages import manifest, provenance, run
from o1jax.stages.manifest import StageSpec
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.workers import Workers
from o1jax.tcg import dpo as tcg_dpo
from o1jax.tcg import write_tests
from o1jax.tcg.cases import CaseSettings, answer_ids, make_sets
from o1jax.tcg.evaluate import Tally, before_figures, tally
from o1jax.tcg.gate import GateSettings, write_and_gate
from o1jax.tcg.prompt import Case, render_answer
from o1jax.tcg.writing import WriteSettings
from o1jax.train.checkpoint import save_policy

SHORT = Limits(cpu_s=1.0, wall_s=4.0)
ADD = Problem(
    id="add",
    question="Read two integers. Print their sum.",
    form="stdin",
    tests=(TestCase("1 2\n", "3\n"), TestCase("4 4\n", "8\n"), TestCase("5 -5\n", "0\n")),
    solutions=("a, b = map(int, input().split())\nc = a + b\nprint(c)\n",),
)


def small_problems(n: int) -> list[Problem]:
    problems = ladder.make_problems("warm_up", {2: n}, 1)
    return [dataclasses.replace(p, tests=tuple(ladder.small_tests(p.id, 12, 0))) for p in problems]


def test_sets_hold_three_different_true_cases_that_say_something():
    problems = small_problems(6)
    made = make_sets(problems, CaseSettings(sets=3, question_only=0.5, traced=True), seed=1)
    assert made == make_sets(problems, CaseSettings(sets=3, question_only=0.5, traced=True), seed=1)
    stated = {(p.id, test) for p in problems for test in p.tests}
    for case_set in made.sets:
        inputs = {case.test.input for case in case_set.cases}
        assert len(inputs) == 3 and case_set.source in case_set.problem.solutions
        assert all((case_set.problem.id, case.test) in stated and case.trace for case in case_set.cases)
        assert all(case.test.output.strip() not in ("", "0", "[]", "''") for case in case_set.cases)
    assert {case_set.shown for case_set in made.sets} == {True, False}
    assert len({case_set.source for case_set in made.sets}) > len(problems)  # either solution is drawn


def test_false_degenerate_and_too_few_cases_are_counted_and_not_learned():
    wrong = dataclasses.replace(ADD, tests=(*ADD.tests, TestCase("1 1\n", "3\n"), TestCase("x\n", "3\n")))
    made = make_sets([wrong], CaseSettings(sets=1), seed=0)
    assert made.sets == () and made.dropped == {
        "false": 1,
        "no_output": 1,
        "degenerate": 1,
        "problems_without": 1,
    }
    assert len(make_sets([ADD], CaseSettings(sets=1, keep_degenerate=True), seed=0).sets) == 1


def test_a_derangement_leaves_no_output_in_its_place():
    cases = tuple(Case(TestCase(f"{i}\n", f"{i}\n"), (str(i),)) for i in range(3))
    seen = {tcg_dpo.deranged(cases, random.Random(seed)) for seed in range(20)}
    assert len(seen) == 2
    for rejected in seen:
        assert [case.test.input for case in rejected] == [case.test.input for case in cases]
        assert all(a.test.output != b.test.output for a, b in zip(rejected, cases, strict=True))


@pytest.mark.parametrize("kind", ["shuffled", "near_miss"])
def test_what_is_rejected_is_really_false_on_the_reference(kind):
    sets = make_sets(small_problems(8), CaseSettings(sets=2), seed=2).sets

    async def ask():
        async with ForkJudge(slots=2) as judge:
            pairs = await tcg_dpo.chosen_and_rejected(judge, sets, kind, SHORT, 5)
            again = await tcg_dpo.chosen_and_rejected(judge, sets, kind, SHORT, 5)
            return pairs, again

    pairs, again = asyncio.run(ask())
    assert pairs == again and sum(pair is not None for pair in pairs) >= len(sets) / 2
    for case_set, pair in zip(sets, pairs, strict=True):
        if pair is not None:
            chosen, rejected = pair
            assert chosen == case_set.cases
            false = [a.test.output != b.test.output for a, b in zip(chosen, rejected, strict=True)]
            assert [case.test.input for case in rejected] == [case.test.input for case in chosen]
            assert all(false) or kind == "near_miss" and any(false)


def test_an_own_answer_is_rejected_for_the_true_cases_of_its_inputs():
    mixed = answer(("1 2\n", "4\n"), ("2 2\n", "4\n"), ("3 3\n", "7\n"))
    all_true = answer(("1 2\n", "3\n"), ("2 2\n", "4\n"), ("3 3\n", "6\n"))
    no_input = answer(("1 2\n", "4\n"), ("x\n", "4\n"), ("3 3\n", "7\n"))
    to_zero = answer(("1 2\n", "4\n"), ("2 -2\n", "4\n"), ("3 3\n", "7\n"))
    tokenizer = nano_tokenizer.train([ADD.question], 300)
    sets = make_sets([ADD], CaseSettings(sets=1, keep_degenerate=True), seed=0).sets
    write = WriteSettings(answers=1, style="nano")

    async def ask(text):
        async with ForkJudge(slots=2) as judge:
            workers = Workers(ScriptedGenerator(text), judge, tokenizer, time.monotonic())
            return await tcg_dpo.chosen_and_sampled(workers, sets[0], write, SHORT, 0)

    chosen, rejected = asyncio.run(ask(mixed))
    assert [case.test.output for case in chosen] == ["3\n", "4\n", "6\n"] and chosen[0].trace
    assert [case.test.output for case in rejected] == ["4\n", "4\n", "7\n"]
    for text in (all_true, no_input, to_zero, mixed.replace("2 2", "1 2"), "nothing"):
        assert asyncio.run(ask(text)) is None


C_LINE = "c = a + b"


def traced(*cases):
    """An answer of (input, output, value of c) with the trace of ADD's program."""
    return render_answer(
        [
            Case(
                TestCase(given, said),
                (f"a, b = map(int, input().split()) -> {given.split()[0]}", f"{C_LINE} -> {c}"),
            )
            for given, said, c in cases
        ],
        "stdin",
        traced=True,
    )


@pytest.mark.parametrize(
    "text, chosen, rejected",
    [
        # The first wrong line is of the second trace; what follows from it is not held against it.
        (traced(("1 2\n", "3\n", 3), ("2 2\n", "15\n", 15), ("3 3\n", "7\n", 9)), " -> 4\n", " -> 15\n"),
        (traced(("1 2\n", "3\n", 3), ("2 2\n", "9\n", 4), ("3 3\n", "6\n", 6)), "4\n", "9\n"),
        # The true value is the beginning of the false one: the line's end tells them apart.
        (traced(("3 -2\n", "1\n", 12), ("2 2\n", "4\n", 4), ("3 3\n", "6\n", 6)), " -> 1\n", " -> 12\n"),
        (traced(("1 2\n", "3\n", 3), ("2 2\n", "4\n", 4), ("3 3\n", "7\n", 6)), "6", "7"),
    ],
)
def test_the_first_wrong_line_is_rejected_for_the_true_one_after_all_that_is_right(text, chosen, rejected):
    # A tokenizer that spells: the pair begins where the tokens differ, and these are characters.
    tokenizer = nano_tokenizer.train([ADD.question, text], 300, spelled=True)
    sets = make_sets([ADD], CaseSettings(sets=1, keep_degenerate=True), seed=0).sets
    write, form = WriteSettings(answers=1, style="nano", traced=True), CaseSettings(traced=True, style="nano")

    async def ask():
        async with ForkJudge(slots=2) as judge:
            workers = Workers(ScriptedGenerator(text), judge, tokenizer, time.monotonic())
            return await tcg_dpo.true_to_first_wrong(workers, sets[0], write, SHORT, 0)

    sides = [answer_ids(side, ADD, tokenizer, form) for side in asyncio.run(ask())]
    pair = tcg_dpo.first_difference(PreferencePair("s", "add", (5,), *sides), tokenizer)
    before = decode(tokenizer, pair.prompt_ids[1:])
    said = [before + decode(tokenizer, ids, special=False) for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert text.startswith(said[1]) and before.startswith("Input:\n")
    # A token that ends a line may hold the next header too.
    lines = [line[before.rindex("\n") + 1 :].partition("\n") for line in said]
    assert [line + end for line, end, _ in lines] == [
        C_LINE + side if "->" in side else side for side in (chosen, rejected)
    ]
    ends = [ids[-1] == tokenizer.eos_token_id for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert ends == [not chosen.endswith("\n")] * 2  # the last line of all ends the answer


def test_an_answer_without_a_wrong_line_or_with_a_malformed_one_makes_no_pair():
    right = traced(("1 2\n", "3\n", 3), ("2 2\n", "4\n", 4), ("3 3\n", "6\n", 6))
    sets = make_sets([ADD], CaseSettings(sets=1, keep_degenerate=True), seed=0).sets
    tokenizer = nano_tokenizer.train([ADD.question], 300)

    async def ask(text):
        async with ForkJudge(slots=2) as judge:
            workers = Workers(ScriptedGenerator(text), judge, tokenizer, time.monotonic())
            write = WriteSettings(answers=1, style="nano", traced=True)
            return await tcg_dpo.true_to_first_wrong(workers, sets[0], write, SHORT, 0)

    no_input = traced(("x\n", "3\n", 3), ("2 2\n", "5\n", 4))
    for text in (right, right.replace("Output:", "Out:", 1), "nothing", no_input):
        assert asyncio.run(ask(text)) is None


class ScriptedGenerator:
    """An engine that writes the same answers for every problem."""

    max_context = 4096

    def __init__(self, *answers: str, finish: str = "eos"):
        self.answers, self.finish = answers, finish

    async def generate(self, requests):
        return [
            [Completion((1, 2), (0.0, 0.0), text, self.finish, 0) for text in self.answers] for _ in requests
        ]


def answer(*pairs: tuple[str, str]) -> str:
    return render_answer([Case(TestCase(*pair)) for pair in pairs], "stdin")


ANSWERS = (
    answer(("1 2\n", "3\n"), ("2 2\n", "5\n"), ("7 -7\n", "0\n")),
    answer(("1 2\n", "3\n"), ("9 1\n", "10\n")) + "\nInput:\n4 4",
)


def written(engine, problem=ADD, tests_of=write_tests.own_tests):
    tokenizer = nano_tokenizer.train([problem.question], 300)
    settings = WriteSettings(answers=2, style="nano")

    async def ask():
        async with ForkJudge(slots=2) as judge:
            workers = Workers(engine, judge, tokenizer, time.monotonic())
            gating = GateSettings(limits=SHORT)
            (tests,) = await write_and_gate(workers, [problem], tests_of, settings, gating, 0)
            return tests, await tally(judge, problem, "program", tests.written, SHORT)

    return asyncio.run(ask())


def test_cases_are_counted_before_the_gate_and_pass_it_only_if_true_and_new():
    tests, counts = written(ScriptedGenerator(*ANSWERS))
    assert [why.split(":")[0] for why in counts.dropped] == ["saw the sections Input"]
    assert dataclasses.replace(counts, dropped=()) == Tally(
        "add", "program", asked=6, parsed=5, true=4, degenerate=1, true_not_degenerate=3, distinct_inputs=4
    )
    assert tests.gated.fates == ("kept", "false", "kept", "duplicate", "kept")
    assert [case.input for case in tests.gated.kept] == ["1 2\n", "7 -7\n", "9 1\n"]
    assert tests.mutants and tests.written.generated_tokens == 4
    figures = before_figures([counts, counts], seed=0)
    assert figures["parse_rate"]["mean"] == 0.8333 and figures["validity"]["mean"] == 0.8
    assert figures["validity_not_degenerate"]["mean"] == 0.75 and figures["useful"]["mean"] == 0.5


def test_a_case_that_the_token_limit_cuts_short_is_dropped():
    tests, counts = written(ScriptedGenerator(ANSWERS[0], finish="length"))
    assert counts.parsed == 2 and "cut short" in tests.written.dropped


def test_tests_that_kill_no_mutant_skip_the_problem():
    tests, counts = written(ScriptedGenerator(answer(("0 0\n", "0\n"))))
    assert counts.true == 1 and len(tests.mutants) == 2  # a - b and a * b
    assert tests.gated.kept == () and tests.gated.fates == ("kills nothing",)
    assert written(ScriptedGenerator(answer(("5 0\n", "5\n"))))[0].gated.fates == ("kept",)
    with pytest.raises(InputError, match="needs a reference program"):
        written(ScriptedGenerator(), dataclasses.replace(ADD, solutions=()))


def test_hidden_tests_tell_mutants_in_an_evaluation_alone():
    blind = dataclasses.replace(ADD, tests=(TestCase("0 0\n", "0\n"),), hidden_tests=ADD.tests)
    blind = dataclasses.replace(blind, solutions=("a, b = map(int, input().split())\nprint(a + b)\n",))
    cases = answer(("1 2\n", "3\n"), ("9 1\n", "10\n"))
    own, final = (
        written(ScriptedGenerator(cases), blind, of)[0] for of in (write_tests.own_tests, final_tests)
    )
    assert len(own.mutants) < len(final.mutants)
    with pytest.raises(InputError, match="tests to gate generated ones by"):
        written(ScriptedGenerator(cases), dataclasses.replace(ADD, tests=(), hidden_tests=ADD.tests))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tiny untrained policy, and problems to learn from and to be measured on."""
    root = epath.Path(tmp_path_factory.mktemp("tcg"))
    tokenizer = nano_tokenizer.train(["x = x + 1\nInput:\nOutput:\nTrace:"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer), n_layers=1)
    _, params = init_params(config, 0, make_mesh())
    save_policy(root / "start" / "policy", config, params, tokenizer)
    for name, problems in (
        ("train", small_problems(4)),
        ("held", ladder.make_problems("held_out", {2: 3}, 0)),
    ):
        write_problems(root / name, problems)
        manifest.finish(root / name, StageSpec("check_problems", {}, 0, {}), manifest.StageResult({}, {}))
    manifest.finish(root / "start", StageSpec("warm_up", {}, 0, {}), manifest.StageResult({}, {}))
    return root


CASES = {"sets": 2, "style": "nano", "traced": True, "question_only": 0.3}
WRITE = {"answers": 2, "style": "nano", "traced": True, "max_tokens": 40}
ENGINE = {"slots": 8, "context": 640}


def stage(root, name, config, **inputs):
    spec = StageSpec(name, config, 0, {key: str(root / place) for key, place in inputs.items()})
    return run.run(root / name, spec)["figures"]


def test_the_stages_follow_one_another_and_say_what_they_did(house):
    sft = {"train_tokens": 2_000, "train": {"row_length": 1024, "rows_per_batch": 2}, "cases": CASES}
    figures = stage(house, "tcg_sft", sft, policy="start", problems="train")
    assert figures["sets"] == 8 and figures["trained_tokens"] >= 2_000
    dpo = {**sft, "train": {**sft["train"], "row_length": 2048}, "rejected": "near_miss"}
    figures = stage(house, "tcg_dpo", dpo, tcg="tcg_sft", problems="train")
    assert 0 < figures["pairs"] <= figures["sets"] == 8
    measured = {"write": WRITE, "engine": ENGINE, "random_tests": True}
    figures = stage(house, "evaluate_tcg", measured, tcg="tcg_dpo", problems="held")
    assert figures["before"]["program"]["asked"] == 18 and figures["before"]["question"]["asked"] == 18
    figures = stage(house, "write_tests", {"write": WRITE, "engine": ENGINE}, tcg="tcg_dpo", problems="held")
    assert figures["problems"] == len(read_problems(house / "write_tests")) == 3
    sample = {"n": 2, "style": "nano", "max_tokens": 30}
    chosen = {"sample": sample, "write": WRITE, "engine": ENGINE, "tcg_engine": ENGINE}
    by_scores = {"policy": "start", "prm": "start", "tcg": "tcg_dpo", "problems": "held"}
    figures = stage(house, "evaluate_selection", chosen, **by_scores)
    assert {"prm_vote", "prm_vote_less_majority", "agreement_less_random"} <= figures.keys()
    assert figures["majority_tokens"] == pytest.approx(figures["agreement_tokens"], rel=0.2)
    search = {"rollouts": 2, "style": "nano", "max_step_tokens": 30, "max_path_tokens": 30}
    beside = {"sample": sample, "search": search, "prompts": (), "ks": (1,), "with_search": True}
    beside |= {"write": WRITE, "engine": ENGINE, "tcg_engine": ENGINE}
    figures = stage(house, "evaluate", beside, policy="start", tcg="tcg_dpo", problems="held")
    assert {"search", "best_of_n", "best_of_n_tcg", "random"} <= set(figures["search"])
    assert figures["long_prompts"] == 0
    beside |= {"tcg_engine": {**ENGINE, "context": 64}}
    inputs = {"policy": str(house / "start"), "tcg": str(house / "tcg_dpo"), "problems": str(house / "held")}
    figures = run.run(house / "short", StageSpec("evaluate", beside, 0, inputs))["figures"]
    assert figures["long_prompts"] == 3


def test_the_control_of_dpo_learns_the_chosen_sides_of_the_same_pairs_alone(house):
    train = {"row_length": 1024, "rows_per_batch": 2}
    config = {"train_tokens": 2_000, "train": train, "cases": CASES, "rejected": "near_miss"}
    inputs = {"tcg": str(house / "start"), "problems": str(house / "train")}
    spec = StageSpec("tcg_dpo", {**config, "objective": "sft"}, 0, inputs)
    figures = run.run(house / "control", spec)["figures"]
    assert 0 < figures["pairs"] <= figures["sets"] == 8 and figures["trained_tokens"] >= 2_000
    rows = provenance.read(house / "control", "tcg_dpo")
    assert len(rows) == figures["pairs"] and {row.kind for row in rows} == {"true cases of a pair"}
    assert all([source.role for source in row.sources] == ["answer"] for row in rows)


def test_tests_are_not_written_by_hidden_ones(house):
    hidden = [dataclasses.replace(p, tests=(), hidden_tests=p.tests) for p in small_problems(1)]
    write_problems(house / "hidden", hidden)
    manifest.finish(house / "hidden", StageSpec("check_problems", {}, 0, {}), manifest.StageResult({}, {}))
    inputs = {"tcg": str(house / "start"), "problems": str(house / "hidden")}
    spec = StageSpec("write_tests", {"write": WRITE, "engine": ENGINE}, 0, inputs)
    with pytest.raises(InputError, match="needs a reference program and tests"):
        run.run(house / "write_hidden", spec)


def test_rows_that_hold_no_sample_are_refused(house):
    short = {"train_tokens": 9, "train": {"row_length": 8, "rows_per_batch": 2}, "cases": CASES}
    inputs = {"policy": str(house / "start"), "problems": str(house / "train")}
    with pytest.raises(InputError, match="row_length: saw 8 tokens, and all 8 samples are longer"):
        run.run(house / "short_rows", StageSpec("tcg_sft", short, 0, inputs))


def test_a_wrong_setting_is_named(house):
    with pytest.raises(InputError, match="reward_tests.*'hidden'"):
        stage(house, "write_tests", {"reward_tests": "hidden"}, tcg="start", problems="held")
    assert write_tests.Settings().reward_tests == "both"
