"""Evaluation on held-out problems: pass@k of the prompts and, with search, ASPR and best-of-n.

Inputs: policy, problems and perhaps
  prm, tcg     which add arms to the comparison with search,
  examples     solved problems that the completion prompt begins with,
  samples      an earlier evaluation of the same problems, perhaps with other tests or another `extract`:
               nothing is sampled then, programs are read in its samples again and judged, and of the policy
               only the tokenizer is needed.
Samples are judged on the problems' hidden tests (where there are none, on their tests), which nothing else
ever sees; search and best-of-n choose by the visible ones. Every sample and tree is kept: a stage that was
killed goes on. The figures are in the manifest, and as a table in table.md. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from pydantic import NonNegativeInt, PositiveInt

from o1jax.engine.step_scorer import StepScorer
from o1jax.evaluation.choice import CasesOf, ChoiceArms
from o1jax.evaluation.comparison import Comparison, tokens_of
from o1jax.evaluation.sample_store import SampleStore, only_judging
from o1jax.intervals import mean_with_interval, pass_at_k
from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem, Prompt, Rollout
from o1jax.rewards.outcome import final_tests, is_lost, search_tests, share_passed
from o1jax.search.growth import SearchSettings
from o1jax.search.sampling import Sampler, SampleSettings, for_evaluation, judged, read, sample_paths
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import my_share, shared, wait_for
from o1jax.stages.training import open_tokenizer
from o1jax.stages.workers import EngineSettings, open_scorer, sampling_workers, scorer_timings
from o1jax.store import read_records, write_records
from o1jax.tcg.writing import WriteSettings, write_cases
from o1jax.train.metrics import ProgressLine
from o1jax.writing import write_whole

PROMPTS = ("direct", "pseudocode", "completion")  # in the order of the table
LOST = {
    "no_program_share": "no program",  # nothing to judge
    "malformed_share": "malformed",  # not in the form that search and RL teach, though a program may be there
    "cut_share": "cut by length",  # at sample.max_tokens
}
Figures = Mapping[str, Any]
Inputs = Mapping[str, epath.Path]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which prompts, samples and searches a policy is measured by."""

    sample: SampleSettings = SampleSettings()
    prompts: tuple[Prompt, ...] = ("pseudocode", "direct")  # each is measured, and compared with direct
    ks: tuple[PositiveInt, ...] = (1, 8)  # which pass@k; none is above sample.n
    with_search: bool = False  # adds search, best-of-n at its tokens, and ASPR
    search_problems: NonNegativeInt = 0  # the first so many (0: all)
    aspr_samples: PositiveInt = 8  # programs from the last pseudocode step of a passing path
    search: SearchSettings = SearchSettings()
    engine: EngineSettings = EngineSettings()
    concurrency: PositiveInt = 64  # problems at once
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model
    write: WriteSettings = WriteSettings()  # of the test-case generator, where there is one
    tcg_engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Inputs, seed: int) -> StageResult:
    """figures: a prompt -> pass_at_<k>, by_rung, tokens_a_sample, extract (how programs were found), and the
    shares of answers in LOST; prompt_differences; search; aspr; search_differences, with a PRM or a TCG;
    generated_tokens."""
    settings = dataclasses.replace(settings, sample=for_evaluation(settings.sample))
    if max(settings.ks) > settings.sample.n:
        raise InputError(
            f"evaluate.ks: pass@{max(settings.ks)} needs sample.n of at least that, saw {settings.sample.n}; "
            "set the one or the other, as in --config.evaluate.ks='(1,)'"
        )
    for name in ("prm", "tcg"):
        if name in inputs and not settings.with_search:
            raise InputError(
                f"evaluate.with_search: saw False with an input {name}, which only search uses; set it"
            )
    problems = read_problems(inputs["problems"])
    for problem in problems:
        if not final_tests(problem):
            raise InputError(f"problem {problem.id} has no tests: nothing could judge it; leave it out")
    for problem in problems[: settings.search_problems or None] if settings.with_search else ():
        search_tests(problem)  # InputError for a problem that a search cannot see a test of
    figures, timings = asyncio.run(_evaluate(out, settings, inputs, problems, seed))
    figures = {"problems": len(problems), "samples_a_problem": settings.sample.n, **figures}
    if this_process().index == 0:
        write_whole(out / "table.md", table(figures))
    return StageResult(figures, timings)


async def _evaluate(
    out: epath.Path, settings: Settings, inputs: Inputs, problems: Sequence[Problem], seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    store = SampleStore(out, inputs.get("samples"), settings.concurrency)
    searched = problems[: settings.search_problems or None]
    # The generator first, alone: its engine is closed again before the policy's takes the device's memory.
    cases = await _cases(store, settings, inputs, searched, seed)
    examples = tuple(read_problems(inputs["examples"])) if "examples" in inputs else ()
    figures: dict[str, Any] = {"generated_tokens": 0}
    context = settings.engine.context
    if "samples" in inputs:
        opened = only_judging(inputs["samples"], open_tokenizer(inputs["policy"]), settings.engine)
    else:
        opened = sampling_workers(inputs["policy"], settings.engine)
    async with (
        opened as workers,
        open_scorer(inputs, workers.tokenizer, slots=settings.scorer_slots, context=context) as scorer,
    ):
        groups = {}
        for prompt in settings.prompts:
            sample = dataclasses.replace(settings.sample, prompt=prompt)
            sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, sample, examples)
            groups[prompt] = await store.groups(
                f"rollouts/{prompt}",
                problems,
                lambda p, s=sampler: sample_paths(s, p, final_tests(p), seed),
                lambda p, group, s=sampler: judged(s, p, final_tests(p), read(s, p, group)),
            )
            figures[prompt] = _prompt_figures(problems, groups[prompt], settings.ks, seed)
            figures[prompt]["extract"] = "" if prompt == "completion" else settings.sample.extract
            figures["generated_tokens"] += tokens_of(groups[prompt])
        figures["prompt_differences"] = _prompt_differences(groups, seed)
        if settings.with_search:
            comparison = Comparison(
                workers, settings.search, settings.sample, settings.aspr_samples, searched, seed, store
            )
            beside = await _beside(comparison, scorer, cases)
            figures["generated_tokens"] += beside.pop("generated_tokens")
            figures |= beside
        return figures, workers.timings() | scorer_timings(scorer)


async def _cases(
    store: SampleStore, settings: Settings, inputs: Inputs, problems: Sequence[Problem], seed: int
) -> dict[str, CasesOf]:
    """What the test-case generator, if there is one, writes for each problem; nothing in assertion form."""
    if "tcg" not in inputs:
        return {}
    path = (store.earlier or store.out) / "tcg_cases.parquet"
    if store.earlier is None and not path.exists():
        async with sampling_workers(inputs["tcg"], settings.tcg_engine) as workers:
            line, counts = ProgressLine("write tests", len(my_share(problems))), itertools.count(1)

            async def write(problem: Problem) -> list[CasesOf]:
                written = await write_cases(workers, problem, None, settings.write, seed)
                line.count(next(counts))
                return [CasesOf(problem.id, written.cases, written.generated_tokens, written.long_prompts)]

            cases = await shared(store.out, "tcg_cases", CasesOf, problems, write, settings.concurrency)
        if this_process().index == 0:
            write_records(path, CasesOf, cases)
        await wait_for(store.out, [path], 0)
    return {cases.problem_id: cases for cases in read_records(path, CasesOf)}


async def _beside(
    comparison: Comparison, scorer: StepScorer | None, cases: Mapping[str, CasesOf]
) -> dict[str, Any]:
    """Search beside sampling, and the arms of a PRM and a TCG beside both; long_prompts, of a TCG's that were
    longer than its context."""
    generated = await comparison.generate()
    figures = await comparison.figures(generated)
    if scorer is not None or cases:
        more = await ChoiceArms(comparison, generated, scorer, cases).figures()
        figures["search"] |= more["search"]
        figures["search_differences"] = more["search_differences"]
        figures["generated_tokens"] += more["generated_tokens"]
    if cases:
        figures["long_prompts"] = sum(written.long_prompts for written in cases.values())
    return figures


# The prompts: pass@k with intervals, and what one gains on another.


def _prompt_differences(groups: Mapping[str, Sequence[Sequence[Rollout]]], seed: int) -> dict[str, Any]:
    """Pass@1 of each prompt less that of the direct one, paired over problems."""
    rates = {prompt: list(map(share_passed, rollouts_P_G)) for prompt, rollouts_P_G in groups.items()}
    direct = rates.pop("direct", None)
    if direct is None:
        return {}
    # Paired: how hard a problem is would widen the interval of a difference of two means.
    return {
        f"{prompt} - direct": mean_with_interval([a - b for a, b in zip(rate, direct, strict=True)], seed)
        for prompt, rate in rates.items()
    }


def _prompt_figures(
    problems: Sequence[Problem], rollouts_P_G: Sequence[Sequence[Rollout]], ks: Sequence[int], seed: int
) -> dict[str, Any]:
    """pass@k with intervals over problems, in all and by difficulty, and the shares that are malformed,
    without a program, and cut by length. lost_problems: of which the judge lost an answer, not in pass@k."""
    rollouts = [rollout for group in rollouts_P_G for rollout in group]
    by_rung: dict[str, list[Sequence[Rollout]]] = {}
    for problem, group in zip(problems, rollouts_P_G, strict=True):
        by_rung.setdefault(problem.difficulty or "all", []).append(group)
    return {
        **_pass_figures(rollouts_P_G, ks, seed),
        "by_rung": {rung: _pass_figures(groups, ks, seed) for rung, groups in sorted(by_rung.items())},
        "malformed_share": _share(bool(r.error) or not r.program for r in rollouts),
        "no_program_share": _share(not r.program for r in rollouts),
        "cut_share": _share(r.finish_reason == "length" for r in rollouts),
        "lost_problems": sum(map(is_lost, rollouts_P_G)),
        "tokens_a_sample": round(tokens_of(rollouts_P_G) / len(rollouts), 1),
    }


def _share(of: Iterable[bool]) -> float:
    found = list(of)
    return round(sum(found) / len(found), 4)


def _pass_figures(groups: Sequence[Sequence[Rollout]], ks: Sequence[int], seed: int) -> dict[str, Any]:
    judged = [group for group in groups if not is_lost(group)]
    return {
        f"pass_at_{k}": mean_with_interval(
            [pass_at_k(len(group), int(sum(r.reward for r in group)), k) for group in judged], seed
        )
        for k in ks
        if judged
    }


# The figures as one Markdown table, for a terminal and for table.md.


@dataclasses.dataclass(frozen=True)
class Row:
    """What it is, and what there is to say of it."""

    what: str
    figure: Figures | None  # {mean, low, high, n}
    tokens: int | None = None  # generated
    prompt: Figures = dataclasses.field(default_factory=dict)  # of pass@k, the prompt's figures


def table(figures: Figures) -> str:
    """A row for each figure that is there: what it is, its mean, its 95 % interval, over how many problems,
    at how many generated tokens; beside pass@k, the shares of the prompt's answers without a program, not in
    the form that is taught, and cut by length. Below, how programs were found in answers."""
    head = ("what", "mean", "95 % interval", "problems", "generated tokens", *LOST.values())
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    lines += [_line(row) for row in _rows(figures) if row.figure is not None]
    found = [f"{p} {figures[p]['extract']}" for p in PROMPTS if figures.get(p, {}).get("extract")]
    return "\n".join([*lines, *(["", f"Programs were found: {', '.join(found)}."] if found else [])]) + "\n"


def _rows(figures: Figures) -> Iterator[Row]:
    for prompt in PROMPTS:
        for key, figure in figures.get(prompt, {}).items():
            if key.startswith("pass_at_"):
                yield Row(f"{prompt}, pass@{key.removeprefix('pass_at_')}", figure, prompt=figures[prompt])
    for pair, figure in figures.get("prompt_differences", {}).items():
        yield Row(f"pass@1, {pair}", figure)
    for arm, result in figures.get("search", {}).items():
        yield Row(_words(arm), result["pass_rate"], result["generated_tokens"])
    for pair, figure in figures.get("search_differences", {}).items():
        yield Row(_words(pair), figure)
    aspr = figures.get("aspr", {"pseudocode": None, "common": {}})
    yield Row("ASPR, problems that search solved", aspr["pseudocode"])
    for prompt, figure in aspr["common"].items():
        yield Row(f"ASPR, commonly solved problems, {prompt}", figure)


def _words(name: str) -> str:
    return name.replace("best_of_n", "best-of-n").replace("_", " ")


def _line(row: Row) -> str:
    figure, spent = row.figure, "" if row.tokens is None else f"{row.tokens:,}"
    interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    lost = (f"{row.prompt[key]:.3f}" if row.prompt else "" for key in LOST)
    cells = (row.what, f"{figure['mean']:.3f}", interval, str(figure["n"]), spent, *lost)
    return "| " + " | ".join(cells) + " |"
