"""What is counted of written tests and of choices by them, one step at a time, with scripted answers."""

import asyncio
import contextlib
import dataclasses
import time

import pytest
from etils import epath

from o1jax.engine.interface import Completion
from o1jax.evaluation import selection
from o1jax.evaluation.choice import agreement
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prepare.choose import as_calls
from o1jax.problems.formats import mbpp
from o1jax.prompts import chat, nano_tokenizer, pseudocode
from o1jax.records import CaseResult, InputError, Problem, Rollout, Status, Step, TestCase, Verdict
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.search.sampling import SampleSettings
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.workers import Workers
from o1jax.store import read_records, write_records
from o1jax.tcg import adversarial, evaluate, prompt, write_tests
from o1jax.tcg.gate import Gated, GateSettings, WrittenCase, WrittenTests
from o1jax.tcg.writing import WriteSettings, Written, write_cases
from o1jax.train.checkpoint import save_policy

SHORT = Limits(cpu_s=1.0, wall_s=4.0)
READ = "a, b = map(int, input().split())\n"
SUM, LESS = READ + "c = a + b\nprint(c)\n", READ + "print(a - b)\n"
ADD = Problem(
    "add", "Add.", "stdin", (TestCase("1 2\n", "3\n"), TestCase("4 4\n", "8\n")), solutions=(SUM, LESS)
)
FIRST = Problem("first", "?", "call", entry_point="f", json_values=False)
TOKENIZER = nano_tokenizer.train([SUM, "Input:\nOutput:\n"], 300)
CASES = "Input:\n1 2\nOutput:\n3\nInput:\n9 1\nOutput:\n10\nInput:\n9 2\nOutput:\n10"
WRITE = WriteSettings(answers=1, style="nano")


class Scripted:
    """An engine that gives its texts in turn, whatever it is asked."""

    def __init__(self, *texts, max_context=4096):
        self.texts, self.max_context = texts, max_context

    async def generate(self, requests):
        return [[self._said(self.texts[i % len(self.texts)]) for i in range(r.n)] for r in requests]

    def _said(self, text):
        ids = (*chat.encode(TOKENIZER, text), TOKENIZER.eos_token_id)
        return Completion(ids, (0.0,) * len(ids), text, "eos", 0)

    def stats(self):
        return {"busy_s": 0.0}


@contextlib.asynccontextmanager
async def workers(engine):
    async with ForkJudge(slots=1) as judge:
        yield Workers(engine, judge, TOKENIZER, time.monotonic())


def asked(work, engine=None):
    """What `work(workers)` gives."""

    async def ask():
        async with workers(engine) as opened:
            return await work(opened)

    return asyncio.run(ask())


def path(source):
    return pseudocode.render_path([Step(1, "read"), Step(2, "add"), Step(3, source)])


def test_both_holds_a_test_once_however_it_is_written():
    generated = (TestCase("1 2\n", "3\n"), TestCase("7 7\n", "14\n"))
    own = dataclasses.replace(ADD, tests=(TestCase("1 2", "3"),))
    assert write_tests._with_tests(own, generated, "both").tests == (TestCase("1 2", "3"), generated[1])
    assert write_tests._with_tests(own, generated, "generated").tests == generated
    assert write_tests._with_tests(own, generated, "own").tests == own.tests
    call = dataclasses.replace(FIRST, tests=(TestCase("[1,2]", "3"),))
    assert write_tests._with_tests(call, (TestCase("[1, 2]", "3"),), "both").tests == call.tests


@pytest.fixture
def problems(tmp_path):
    """A problem that is fit and three that are not."""
    found = [
        ADD,
        dataclasses.replace(ADD, id="none", solutions=()),
        dataclasses.replace(ADD, id="python 2", solutions=("print 3\n", SUM)),
        dataclasses.replace(ADD, id="hidden", tests=(), hidden_tests=ADD.tests),
        dataclasses.replace(ADD, id="long", question="Add. " * 99),
    ]
    place = epath.Path(tmp_path) / "problems"
    write_problems(place, found)
    return place


def write_stage(problems, monkeypatch, said=CASES, **settings):
    engine = Scripted(said, max_context=240)
    monkeypatch.setattr(write_tests, "sampling_workers", lambda *_: workers(engine))
    out = problems.parent / "out"
    inputs = {"tcg": problems, "problems": problems}
    return write_tests.run(out, write_tests.Settings(write=WRITE, **settings), inputs, 0).figures, out


def test_problems_that_are_not_fit_are_counted_and_keep_their_own_tests(problems, monkeypatch):
    figures, out = write_stage(problems, monkeypatch)
    assert figures["unfit"] == {"no_reference": 1, "unparsable": 1, "no_tests": 1}
    assert (figures["with_tests"], figures["skipped"], figures["long_prompts"]) == (1, 1, 1)
    assert figures["fates"] == {"dropped": 0, "false": 1, "kept": 2} and figures["tests"] == 2
    assert [(p.id, len(p.tests)) for p in read_problems(out)] == [
        ("add", 3), ("none", 2), ("python 2", 2), ("long", 2),
    ]  # fmt: skip
    cases = read_records(out / "cases.parquet", WrittenCase)
    assert [(case.input, case.fate) for case in cases] == [
        ("1 2\n", "kept"), ("9 1\n", "kept"), ("9 2\n", "false"),
    ]  # fmt: skip
    kept = read_problems(write_stage(problems, monkeypatch, reward_tests="generated")[1])
    assert [(p.id, len(p.tests)) for p in kept] == [("add", 2)]


def test_tests_that_leave_no_problem_are_refused(problems, monkeypatch):
    false = "Input:\n1 2\nOutput:\n4"
    with pytest.raises(InputError, match="reward_tests: saw 'generated', which leaves none of 5 problems"):
        write_stage(problems, monkeypatch, false, reward_tests="generated")
    assert write_stage(problems, monkeypatch, false)[0]["problems"] == 4  # with their own ones


def test_assertion_problems_keep_their_own_tests_and_are_counted(problems, monkeypatch):
    asserted = Problem(
        "a", "?", "assertion", (TestCase("assert f(1) == 1"),), solutions=("def f(x): return x",)
    )
    write_problems(problems, [ADD, asserted])
    figures, out = write_stage(problems, monkeypatch)
    assert figures["unfit"]["assertion"] == 1
    assert asserted in read_problems(out)
    write_problems(problems, [asserted])
    with pytest.raises(InputError, match=r"calls.*all are unfit: {'assertion': 1}"):
        write_stage(problems, monkeypatch)


def test_a_prompt_that_fills_the_context_has_no_answers():
    write = asked(lambda w: write_cases(w, ADD, SUM, WRITE, 0), Scripted(CASES))
    assert (len(write.cases), write.asked, write.long_prompts) == (3, 3, 0)
    small = Scripted(CASES, max_context=16)
    write = asked(lambda w: write_cases(w, ADD, SUM, WRITE, 0), small)
    assert write == Written((), (), asked=0, generated_tokens=0, long_prompts=1)
    settings = adversarial.Settings(train_tokens=1)
    assert asked(lambda w: adversarial.judged_answers(w, ADD, [LESS], settings, 0), small) == []


def measured(problem, wrong):
    case = TestCase("1 2\n", "3\n")
    test = WrittenTests(problem, Written((case,), (), 3, 1), Gated((case,), ("kept",)), (LESS, SUM))
    settings = evaluate.Settings(gate=GateSettings(limits=SHORT))
    return asked(lambda w: evaluate._after(w, settings, [test], wrong, 0))


def test_accepts_are_shares_of_wrong_programs_and_rejects_of_right_ones():
    kind = "print(3)"
    after = measured(dataclasses.replace(ADD, solutions=(SUM, LESS, SUM, SUM)), {"add": [LESS, kind]})
    names = ("false_accept_mutants", "false_accept_policy", "false_reject", "cases_a_problem")
    assert [after["generated"][name]["mean"] for name in names] == [0.5, 0.5, 0.3333, 1.0]
    assert [after["own"][name]["mean"] for name in names] == [0.5, 0.0, 0.3333, 2.0]


def test_problems_without_visible_tests_have_no_figures_of_their_own_tests():
    assert set(measured(dataclasses.replace(ADD, tests=(), hidden_tests=ADD.tests), {})) == {"generated"}


def rollout(problem_id, source, passed, text=None):
    ids = (*chat.encode(TOKENIZER, path(source) if text is None else text), TOKENIZER.eos_token_id)
    case = CaseResult(Status.AC if passed else Status.WA)
    return Rollout(
        f"{problem_id}#0", problem_id, problem_id, (1,), ids, (0.0,) * len(ids), (True,) * len(ids),
        "eos", 1.0, 0, "pseudocode", source, None if text else Verdict(True, (case,)), float(passed),
    )  # fmt: skip


def test_the_policys_wrong_programs_are_different_few_and_fail(tmp_path):
    root = epath.Path(tmp_path)
    config = dataclasses.replace(preset("nano"), vocab_size=len(TOKENIZER), n_layers=1)
    save_policy(root / "policy" / "policy", config, init_params(config, 0, make_mesh())[1], TOKENIZER)
    said = [
        rollout("add", LESS, False),
        rollout("add", LESS, False),
        rollout("add", SUM, True),
        rollout("add", "", False, text="malformed"),
        rollout("add", "print(1)\n", False),
        rollout("add", "print(2)\n", False),
        rollout("solved", SUM, True),
    ]
    write_records(root / "wrong" / "rollouts" / "pseudocode.parquet", Rollout, said)
    inputs = {"policy": root / "policy", "wrong": root / "wrong"}
    assert evaluate.policy_wrong(inputs, 2) == {"add": [LESS, "print(1)\n"]}
    write_problems(root / "others", [dataclasses.replace(ADD, id="other")])
    with pytest.raises(InputError, match="wrong: wrong programs of 1 problems, of none of those in .*others"):
        evaluate.run(root / "out", evaluate.Settings(), {**inputs, "problems": root / "others"}, 0)


CHOICE = selection.Settings(sample=SampleSettings(n=4, style="nano", limits=SHORT))


def choice(problem, cases, *texts, scorer=None):
    written = Written(tuple(cases), (), 3, 10)
    return asked(lambda w: selection._choose(w, CHOICE, problem, written, 0, scorer), Scripted(*texts))


class LikesSums:
    """Scores programs that add."""

    async def score(self, paths):
        texts = [chat.decode(TOKENIZER, of.token_ids) for of in paths]
        return [
            (0.5,) * (len(of.step_ends) - 1) + ((0.1, 0.9)[SUM in t],)
            for of, t in zip(paths, texts, strict=True)
        ]


def test_programs_vote_by_their_scores():
    texts = (path(LESS), "malformed", path(LESS), path(SUM))
    voted = choice(ADD, [], *texts, scorer=LikesSums())
    assert (voted.prm_vote, voted.majority) == (1.0, 0.0)
    assert choice(ADD, [], *texts).prm_vote == 0.0, "without a reward model the majority's"


def test_kept_cases_choose_and_chance_is_among_what_can_be_chosen():
    texts = (path(LESS), "malformed", path(LESS), path(SUM))
    telling = choice(ADD, [TestCase("9 1\n", "10\n"), TestCase("8 1\n", "9\n")], *texts)
    assert (telling.agreement, telling.majority, telling.any_passes) == (1.0, 0.0, 1.0)
    assert telling.random == pytest.approx(1 / 3)  # of the well-formed ones
    assert choice(ADD, [TestCase("0 0\n", "0\n")], *texts).agreement == 0.0  # degenerate
    assert choice(ADD, [TestCase("0 0\n", "0\n")], "malformed").random == 0.0


def test_a_choice_is_refused_before_anything_is_sampled(problems):
    inputs = {"problems": problems}  # no policy and no generator: neither is opened
    with pytest.raises(InputError, match="problem hidden: has no visible tests.*shown_tests"):
        selection.run(problems.parent / "out", CHOICE, inputs, 0)


def test_cases_that_the_judge_cannot_read_do_not_choose():
    programs = ["def f(x):\n    return x", "def f(x):\n    return x[0]"]
    ellipsis = [TestCase("[[1, 2, ..., 9]]", "1"), TestCase("[[1, 2]]", "..."), TestCase("[[5, 6]]", "5")]
    assert asked(lambda w: agreement(w.judge, FIRST, programs, ellipsis, SHORT)) == 1
    assert asked(lambda w: agreement(w.judge, FIRST, programs, ellipsis[:2], SHORT)) == 0
    asserted = dataclasses.replace(FIRST, form="assertion")
    for text in ("hello world", "assert f([5]) == 5"):
        assert (
            asked(lambda w, text=text: agreement(w.judge, asserted, programs, [TestCase(text)], SHORT)) == 0
        )


def test_no_generator_is_shown_the_tests_of_an_mbpp_question():
    record = {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def twice(x):\n    return 2 * x",
        "test_list": ["assert twice(3) == 61234", "assert twice(4) == 8"],
        "challenge_test_list": [],
        "test_setup_code": "",
    }
    problem = as_calls(mbpp.problem_of(record, 0, "record 0"))
    assert (
        problem.form == "call" and "61234" in problem.question and "61234" in problem.hidden_tests[0].output
    )
    for style in ("nano", "full"):
        for source in (None, record["code"]):
            (message,) = prompt.messages(problem, source, style=style)
            assert "61234" not in message["content"] and record["text"] in message["content"]
    assert "named `twice`" in prompt.messages(problem, None)[0]["content"]
