"""The test-case generator's template: what is rendered is parsed back, what is malformed is named."""

import asyncio
import dataclasses
import warnings

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.records import InputError, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits, job_of
from o1jax.tcg import prompt
from o1jax.tcg.prompt import Case, canonical, is_renderable, parse_answer, render_answer, without_last

STDIN = (
    Case(TestCase("3 1\n2\n", "6\n"), ("[3, 1]", "6")),
    Case(TestCase("0\n", "\n")),
    Case(TestCase("7\n", "7\n"), ("7",)),
)
CALL = (Case(TestCase("[[3, 1]]", "[1, 3]"), ("[1, 3]",)), Case(TestCase("['a', 2]", "None")))


@pytest.mark.parametrize("cases,form", [(STDIN, "stdin"), (CALL, "call")])
def test_what_is_rendered_is_parsed_back(cases, form):
    parsed = parse_answer(render_answer(cases, form, traced=True), form)
    assert parsed.cases == cases and parsed.dropped == ()


def test_the_plain_form_leaves_the_traces_out():
    parsed = parse_answer(render_answer(STDIN, "stdin"), "stdin")
    assert [case.test for case in parsed.cases] == [case.test for case in STDIN]
    assert all(case.trace == () for case in parsed.cases)


BAD = {
    "text first": ("Here you go:\nInput:\n1\nOutput:\n2", "wanted 'Input:' first", 1),
    "no case at all": ("I cannot do that.", "wanted 'Input:' first", 0),
    "no output": ("Input:\n1\nInput:\n2\nOutput:\n3", "saw the sections Input:", 1),
    "two outputs": ("Input:\n1\nOutput:\n2\nOutput:\n3", "Input: Output: Output:", 0),
    "a trace after the output": ("Input:\n1\nOutput:\n2\nTrace:\n3", "Input: Output: Trace:", 0),
    "an empty input": ("Input:\n\nOutput:\n2", "empty input", 0),
    "a fourth case": ("\n".join(["Input:\n1\nOutput:\n2"] * 4), "more than 3", 3),
}


@pytest.mark.parametrize("name", BAD)
def test_a_case_that_is_not_well_formed_is_dropped_with_the_reason_and_the_others_stand(name):
    text, reason, kept = BAD[name]
    parsed = parse_answer(text, "stdin")
    assert reason in " | ".join(parsed.dropped) and len(parsed.cases) == kept


@pytest.mark.parametrize(
    "given,output,reason",
    [
        ("3 1", "2", "arguments of a call"),
        ("f(3, 1)", "2", "arguments of a call"),
        ("x=3", "2", "arguments of a call"),
        ("1], [2", "2", "arguments of a call"),
        ("__import__('os')", "2", "arguments of a call"),
        ("1", "two", "wanted a Python literal"),
        ("1", "[" * 9000, "wanted a Python literal"),
        ("1", "1" * 20_000, "wanted a Python literal"),
    ],
)
def test_call_form_takes_literals_only(given, output, reason):
    parsed = parse_answer(f"Input:\n{given}\nOutput:\n{output}", "call")
    assert parsed.cases == () and reason in parsed.dropped[0]


def test_arguments_stand_as_in_a_call():
    one, two = "Input:\n[3, 1]\nOutput:\n[1, 3]", "Input:\n'a', 2\nOutput:\nNone"
    assert render_answer(CALL, "call") == f"{one}\n{two}"
    assert [case.test.input for case in parse_answer(f"{one}\n{two}", "call").cases] == [
        "[[3, 1]]",
        "['a', 2]",
    ]


def test_what_is_whole_of_an_answer_that_was_cut_short_stays():
    whole = "Input:\n1\nOutput:\n2\n"
    for rest in ("Input:\n7", "Input:\n7\nOut", "Input:\n7\nOutput:\n14", "Input:\n7\nOutput:\n1\nInp"):
        assert parse_answer(without_last(whole + rest), "stdin").cases == (Case(TestCase("1\n", "2\n")),)
    assert without_last("I cannot") == "I cannot" and without_last("Input:\n1") == ""


def test_a_case_that_looks_like_a_header_is_not_renderable():
    assert not is_renderable(Case(TestCase("Output:\n", "1\n")), "stdin")
    assert not is_renderable(Case(TestCase("1\n", "\n\nInput:\n")), "stdin")
    assert is_renderable(STDIN[0], "stdin") and is_renderable(CALL[1], "call")
    assert not any(
        is_renderable(Case(TestCase(given, "1")), "call") for given in ("3", "3, 1", "[]", "(3, 1)")
    )


@pytest.mark.parametrize("given", ["3 1", "3 1\n", "3 1\n\n"])
@pytest.mark.parametrize("said", ["4", "4\n", "4\n\n"])
def test_line_ends_after_a_text_do_not_keep_it_from_being_rendered(given, said):
    case = Case(TestCase(given, said))
    assert is_renderable(case, "stdin")
    assert canonical(case, "stdin") == Case(TestCase("3 1\n", "4\n"))
    for given in ("[3]\n", "[ 3, ]", "[3,]"):
        assert canonical(Case(TestCase(given, "4\n")), "call") == Case(TestCase("[3]", "4"))


def test_the_template_is_the_papers_with_and_without_the_program():
    problem = ladder.make_problems("held_out", {2: 1}, 0)[0]
    (message,) = prompt.messages(problem, problem.solutions[0])
    order = [message["content"].index(f"### {part}") for part in ("Instruction", "Problem", "Code", "Test")]
    assert order == sorted(order) and message["content"].endswith("### Test Part")
    assert problem.solutions[0].strip() in message["content"]
    (message,) = prompt.messages(problem, None)
    assert (
        problem.solutions[0].strip() not in message["content"] and "### Code Part\n\n" in message["content"]
    )


def test_the_two_nano_forms_are_told_apart_by_their_marker():
    problem = ladder.make_problems("held_out", {2: 1}, 0)[0]
    plain, traced = (prompt.messages(problem, None, traced=t, style="nano") for t in (False, True))
    assert plain[0]["content"] == f"{problem.question}\nWrite tests."
    assert traced[0]["content"] == f"{problem.question}\nTrace tests."


def test_a_literal_that_python_warns_of_is_dropped_in_silence():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        parsed = parse_answer("Input:\n1if 2\nOutput:\n1", "call")
    assert not parsed.cases and "arguments of a call" in parsed.dropped[0]
    assert not found


@pytest.mark.parametrize("form", ["call", "stdin"])
def test_worked_examples_are_true_and_in_the_form_that_is_asked_for(form):
    *_, (problem, _) = examples = prompt.EXAMPLES[form]
    asked = dataclasses.replace(problem, id="p", question="Another.")
    for source in (problem.solutions[0], None):
        *example, asking = prompt.messages(asked, source, few_shot=True)
        assert (asking,) == prompt.messages(asked, source)
        assert [turn["role"] for turn in example] == ["user", "assistant"] * len(examples)
        assert (problem.solutions[0] in example[-2]["content"]) == (source is not None)
        for turn in example[1::2]:
            parsed = parse_answer(turn["content"], form)
            assert len(parsed.cases) == prompt.CASES and parsed.dropped == ()

    async def passed():
        async with ForkJudge(slots=1) as judge:
            for one, cases in examples:
                job = job_of(one, one.solutions[0], [case.test for case in cases], Limits())
                assert (await judge.judge(job)).passed

    asyncio.run(passed())
    with pytest.raises(InputError, match="write.few_shot: saw it with traced True"):
        prompt.messages(asked, None, traced=True, few_shot=True)
