"""Evaluation of public problems through the stage itself, with an engine that answers by a script.

Reference programs pass all of MBPP's test tasks and wrong ones none, by every prompt; samples that are kept
are judged again without an engine. The first records are made up, in the published format; the published ones
are used where they are at hand.
"""

import contextlib
import dataclasses
import json
import pathlib
import time

import pytest
from etils import epath
from scripted import ASSISTANT, ScriptedEngine, byte_tokenizer, path, step

from o1jax.evaluation import evaluate
from o1jax.problems.load import load_problems
from o1jax.prompts import direct
from o1jax.prompts.chat import save_tokenizer
from o1jax.records import InputError, Rollout, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.stages import run
from o1jax.stages.manifest import StageResult, StageSpec, begin, finish
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.workers import Workers
from o1jax.store import read_records

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
PUBLISHED = {
    f"mbpp:{DATA}/mbpp/mbpp.jsonl:test": 500,
    f"mbpp_sanitized:{DATA}/mbpp/sanitized-mbpp.json:test": 257,
    f"humaneval:{DATA}/humaneval/HumanEval.jsonl.gz": 164,
}
PROMPTS = ("pseudocode", "direct", "completion")
SETTINGS = {
    "sample": {"n": 2, "max_tokens": 4000, "limits": {"cpu_s": 10.0, "wall_s": 60.0}},
    "search": {
        "rollouts": 2,
        "max_path_tokens": 4000,
        "max_step_tokens": 4000,
        "limits": {"cpu_s": 10.0, "wall_s": 60.0},
    },
    "prompts": PROMPTS,
    "ks": (1, 2),
}
WRONG = "def wrong():\n    return 'nothing'\n"


class AnsweringEngine(ScriptedEngine):
    """Answers the problem that a prompt ends in with program_of(problem); counts what it was asked."""

    def __init__(self, tokenizer, problems, program_of):
        super().__init__(tokenizer, None, max_context=1 << 20)
        self.problems, self.program_of = problems, program_of

    def _sample(self, request, i):
        prompt, _, prefix = self.tokenizer.decode(request.prompt_ids).partition(ASSISTANT)
        asked = max(self.problems, key=lambda p: prompt.rfind((p.starter_code or p.question).strip()))
        program, is_chat = self.program_of(asked), ASSISTANT in self.tokenizer.decode(request.prompt_ids)
        self.script = lambda _, seed: self.answer(asked, program, prompt if is_chat else None, prefix)
        chat_ids = request.prompt_ids if is_chat else (*request.prompt_ids, *self.ids(ASSISTANT))
        return super()._sample(dataclasses.replace(request, prompt_ids=chat_ids), i)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def answer(self, problem, program, prompt, prefix):
        if prompt is None:
            end = "\ndef another():" if problem.starter_code else f"\n{direct.DONE}"
            return program.removeprefix(problem.starter_code) + end
        if "<Step_Begin>" not in prompt:
            return direct.render_answer(program)
        whole = path(step(1, 1, "plan"), step(2, 3, program))
        return whole[len(prefix) :]

    def stats(self):
        return {"busy_s": 0.0}


def mbpp_records(n):
    for i in range(n):
        yield {
            "task_id": 11 + i,
            "text": f"Write a function to add {i} to a number.",
            "code": f"def add_{i}(x):\r\n    return x + {i}",
            "test_list": [f"assert add_{i}({x}) == {x + i}" for x in (1, 2, 5)],
            "test_setup_code": "",
            "challenge_test_list": [],
        }


@pytest.fixture
def house(tmp_path):
    """A directory with a policy that has a tokenizer, and two made-up MBPP test tasks with a visible test."""
    save_tokenizer(str(tmp_path / "policy" / "tokenizer"), byte_tokenizer())
    done(tmp_path / "policy", "policy_sft")
    file = tmp_path / "mbpp.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in mbpp_records(3)))
    prepare(tmp_path, f"mbpp:{file}")
    return tmp_path


def done(place, stage):
    begin(epath.Path(place), StageSpec(stage, {}, 0, {}))
    finish(epath.Path(place), StageSpec(stage, {}, 0, {}), StageResult({}, {}))


def prepare(house, source, **changes):
    settings = {"source": source, "shown_tests": 1, "cpu_s": 10.0, **changes}
    return run.run(epath.Path(house / "problems"), StageSpec("check_problems", settings, 0, {}))["figures"]


def evaluated(house, monkeypatch, program_of, name="evaluation", examples=(), **changes):
    """The figures of an evaluation whose model says program_of(problem), and the engine that said it."""
    problems = read_problems(house / "problems")
    engine = AnsweringEngine(byte_tokenizer(), problems, program_of)

    @contextlib.asynccontextmanager
    async def sampling_workers(policy, settings):
        async with ForkJudge(slots=settings.judge_slots) as judge:
            yield Workers(engine, judge, engine.tokenizer, time.monotonic())

    monkeypatch.setattr(evaluate, "sampling_workers", sampling_workers)
    inputs = {key: str(house / key) for key in ("policy", "problems", *examples)}
    inputs |= {key: str(house / changes.pop(key)) for key in ("samples",) if key in changes}
    spec = StageSpec("evaluate", {**SETTINGS, **changes}, 0, inputs)
    return run.run(epath.Path(house / name), spec)["figures"], engine


def reference(problem):
    return problem.solutions[0]


def rates(figures, prompts=PROMPTS):
    return {figures[prompt][f"pass_at_{k}"]["mean"] for prompt in prompts for k in (1, 2)}


def test_reference_programs_pass_everything_and_wrong_ones_nothing(house, monkeypatch):
    figures, _ = evaluated(house, monkeypatch, reference, with_search=True)
    assert rates(figures) == {1.0}
    assert {arm["pass_rate"]["mean"] for arm in figures["search"].values()} == {1.0}
    assert figures["aspr"]["pseudocode"]["mean"] == figures["aspr"]["common"]["direct"]["mean"] == 1.0
    figures, _ = evaluated(house, monkeypatch, lambda problem: WRONG, "wrong", with_search=True)
    assert rates(figures) == {0.0}
    assert {arm["pass_rate"]["mean"] for arm in figures["search"].values()} == {0.0}
    assert figures["aspr"]["pseudocode"] is None


def test_a_difference_of_prompts_is_paired_and_the_table_has_every_figure(house, monkeypatch):
    figures, _ = evaluated(house, monkeypatch, reference, with_search=True)
    assert figures["prompt_differences"]["pseudocode - direct"] == {
        "mean": 0.0, "low": 0.0, "high": 0.0, "n": 3,
    }  # fmt: skip
    table = (house / "evaluation" / "table.md").read_text()
    for what in ("direct, pass@1", "pseudocode, pass@2", "search", "best-of-n", "ASPR, problems that search"):
        assert f"| {what}" in table, table


def test_kept_samples_are_judged_again_without_an_engine(house, monkeypatch):
    before, _ = evaluated(house, monkeypatch, reference, with_search=True)
    kept = read_problems(house / "problems")
    harder = [dataclasses.replace(kept[0], hidden_tests=(TestCase("assert add_0(1) == 'one'"),)), *kept[1:]]
    write_problems(house / "problems", harder)
    after, engine = evaluated(house, monkeypatch, reference, "again", samples="evaluation", with_search=True)
    assert not engine.requests
    assert rates(before) == {1.0} and rates(after) == {0.6667}
    assert {arm["pass_rate"]["mean"] for arm in after["search"].values()} == {0.6667}
    assert after["aspr"]["pseudocode"]["mean"] == 0.6667
    assert after["generated_tokens"] == before["generated_tokens"]


def test_the_same_samples_are_read_strictly_and_leniently(house, monkeypatch):
    answer = "pass\n```\n\nNo, so:\n\n```python\n{}"  # in a fence: two programs

    def said(problem):
        return answer.format(reference(problem))

    only = {"prompts": ("direct",)}
    lenient, _ = evaluated(house, monkeypatch, said, **only)
    sample = {**SETTINGS["sample"], "extract": "strict"}
    strict, engine = evaluated(
        house, monkeypatch, said, "strict", samples="evaluation", sample=sample, **only
    )
    again, _ = evaluated(house, monkeypatch, said, "again", samples="strict", **only)
    assert not engine.requests and again["direct"] == lenient["direct"]
    assert rates(lenient, ["direct"]) == {1.0} and rates(strict, ["direct"]) == {0.0}
    shares = [
        [figures["direct"][f"{name}_share"] for name in ("no_program", "malformed", "cut")]
        for figures in (lenient, strict)
    ]
    assert shares == [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert "| no program | malformed | cut by length |" in (house / "evaluation" / "table.md").read_text()
    assert "direct strict" in (house / "strict" / "table.md").read_text()


def test_samples_of_other_problems_or_settings_are_refused(house, monkeypatch):
    evaluated(house, monkeypatch, reference, prompts=("direct",))
    with pytest.raises(InputError, match="pseudocode.parquet: no such file"):
        evaluated(house, monkeypatch, reference, "again", samples="evaluation")
    with pytest.raises(InputError, match="not all samples that are needed are there"):
        evaluated(
            house, monkeypatch, reference, "more", samples="evaluation", prompts=("direct",), with_search=True
        )
    more = [dataclasses.replace(p, id=f"{p.id}/b") for p in read_problems(house / "problems")]
    write_problems(house / "problems", more)
    with pytest.raises(InputError, match="no samples of problem mbpp/11/b"):
        evaluated(house, monkeypatch, reference, "other", samples="evaluation", prompts=("direct",))


@pytest.mark.parametrize(
    "bare, words",
    [({"tests": (), "hidden_tests": ()}, "nothing could judge it"), ({"tests": ()}, "search cannot")],
)
def test_problems_without_tests_are_refused_before_anything_is_sampled(house, monkeypatch, bare, words):
    first, *others = read_problems(house / "problems")
    write_problems(house / "problems", [*others, dataclasses.replace(first, **bare)])
    with pytest.raises(InputError, match=f"problem mbpp/11 has no tests: {words}"):
        evaluated(house, monkeypatch, reference, with_search=True)
    assert not (house / "evaluation" / "rollouts").exists()


def test_an_evaluation_that_was_interrupted_samples_only_what_is_missing(house, monkeypatch):
    calls = []

    def breaks(problem):
        calls.append(problem.id)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return reference(problem)

    one_by_one = {
        "prompts": ("direct",),
        "concurrency": 1,
        "sample": {**SETTINGS["sample"], "n": 1},
        "ks": (1,),
    }
    with pytest.raises(KeyboardInterrupt):
        evaluated(house, monkeypatch, breaks, **one_by_one)
    figures, engine = evaluated(house, monkeypatch, reference, **one_by_one)
    assert len(engine.requests) == 1 and figures["direct"]["pass_at_1"]["mean"] == 1.0
    rollouts = read_records(house / "evaluation" / "rollouts" / "direct.parquet", Rollout)
    assert [rollout.id for rollout in rollouts] == ["mbpp/11#0", "mbpp/12#0", "mbpp/13#0"]
    assert [p.name for p in (house / "evaluation" / "rollouts").iterdir()] == ["direct.parquet"]


@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")
def test_published_references_pass_and_wrong_programs_fail(house, monkeypatch, tmp_path, source):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "policy").symlink_to(house / "policy")
    ids = tuple(problem.id for problem in load_problems(source).problems[::40])
    figures = prepare(tmp_path / "real", source, filter={"ids": ids})
    assert figures["kept"] == len(ids) > 4
    for program_of, rate in ((reference, 1.0), (lambda problem: WRONG, 0.0)):
        figures, _ = evaluated(tmp_path / "real", monkeypatch, program_of, f"rate_{rate}")
        assert rates(figures) == {rate}


@pytest.mark.hostile
@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")
def test_every_published_reference_passes_and_every_wrong_program_fails(house, monkeypatch, tmp_path, source):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "policy").symlink_to(house / "policy")
    assert prepare(tmp_path / "real", source)["kept"] == PUBLISHED[source]
    for program_of, rate in ((reference, 1.0), (lambda problem: WRONG, 0.0)):
        figures, _ = evaluated(tmp_path / "real", monkeypatch, program_of, f"rate_{rate}")
        assert rates(figures) == {rate}
