"""Evaluation on held-out problems: pass@k of the prompts and, with search, ASPR and best-of-n.

Inputs: policy, problems and perhaps
  prm, tcg     which add arms to the comparison with search,
  examples     solved problems that the completion prompt begins with,
  samples      an earlier evaluation of the same problems, perhaps with other tests: nothing is sampled then,
               its samples are judged, and of the policy only the tokenizer is needed.
Samples are judged on the problems' hidden tests (where there are none, on their tests), which nothing else
ever sees; search and best-of-n choose by the visible ones. Every sample and tree is kept: a stage that was
killed goes on. The figures are in the manifest, and as a table in table.md. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from pydantic import NonNegativeInt, PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.evaluation.choice import CasesOf, ChoiceArms
from o1jax.evaluation.comparison import Comparison, tokens_of
from o1jax.evaluation.sample_store import SampleStore, only_judging
from o1jax.intervals import mean_with_interval, pass_at_k
from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem, Prompt, Rollout
from o1jax.rewards.outcome import final_tests, search_tests
from o1jax.search.mcts import SearchSettings
from o1jax.search.sampling import Sampler, SampleSettings, sample_paths, strict_program
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import joined, my_share, wait_for
from o1jax.stages.training import open_tokenizer
from o1jax.stages.workers import EngineSettings, open_scorer, sampling_workers, scorer_timings
from o1jax.store import read_records, write_records
from o1jax.tcg.writing import WriteSettings, write_cases

PROMPTS = ("direct", "pseudocode", "completion")  # in the order of the table
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
    """figures: a prompt -> pass_at_<k>, by_rung, malformed_share, no_program_share, cut_share,
    tokens_a_sample; prompt_differences; search; aspr; search_differences, with a PRM or a TCG;
    generated_tokens."""
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
        (out / "table.md").write_text(table(figures), encoding="utf-8")
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
        groups, as_asked = {}, with_extract(settings.sample)
        for prompt in settings.prompts:
            sample = dataclasses.replace(as_asked, prompt=prompt)
            sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, sample, examples)
            groups[prompt] = await store.groups(
                f"rollouts/{prompt}",
                problems,
                lambda p, sampler=sampler: sample_paths(sampler, p, final_tests(p), seed),
                sampler,
                are_whole=True,
            )
            figures[prompt] = _prompt_figures(problems, groups[prompt], sampler, settings.ks, seed)
            figures["generated_tokens"] += tokens_of(groups[prompt])
        figures["prompt_differences"] = _prompt_differences(groups, seed)
        if settings.with_search:
            comparison = Comparison(
                workers, settings.search, as_asked, settings.aspr_samples, searched, seed, store
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

            async def write(problem: Problem) -> CasesOf:
                written = await write_cases(workers, problem, None, settings.write, seed)
                return CasesOf(problem.id, written.cases, written.generated_tokens, written.long_prompts)

            mine = await run_in_order(write, my_share(problems), settings.concurrency)
        parts = store.out / "tcg_cases.parts"
        cases = await joined(store.out, parts, CasesOf, mine, problems, lambda cases: cases.problem_id)
        if this_process().index == 0:
            write_records(path, CasesOf, cases)
        await wait_for(store.out, [path], "process 0")
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
    rates = {
        prompt: [sum(r.reward for r in group) / len(group) for group in rollouts_P_G]
        for prompt, rollouts_P_G in groups.items()
    }
    direct = rates.pop("direct", None)
    if direct is None:
        return {}
    # Paired: how hard a problem is would widen the interval of a difference of two means.
    return {
        f"{prompt} - direct": mean_with_interval([a - b for a, b in zip(rate, direct, strict=True)], seed)
        for prompt, rate in rates.items()
    }


def with_extract(sample: SampleSettings) -> SampleSettings:
    """The settings with the way to find programs that "" means in an evaluation."""
    # A chat model was not trained on our form, and other harnesses judge what it writes in its own; a nano
    # policy was.
    by_style = "lenient" if sample.style == "full" else "strict"
    return dataclasses.replace(sample, extract=sample.extract or by_style)


def _prompt_figures(
    problems: Sequence[Problem],
    rollouts_P_G: Sequence[Sequence[Rollout]],
    sampler: Sampler,
    ks: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """pass@k with intervals over problems, in all and by difficulty; the shares of answers that are not in
    the form that was asked for, that have no program, and that were cut by the token limit."""
    rollouts = [rollout for group in rollouts_P_G for rollout in group]
    by_rung: dict[str, list[Sequence[Rollout]]] = {}
    for problem, group in zip(problems, rollouts_P_G, strict=True):
        by_rung.setdefault(problem.difficulty or "all", []).append(group)
    return {
        **_pass_figures(rollouts_P_G, ks, seed),
        "by_rung": {rung: _pass_figures(groups, ks, seed) for rung, groups in sorted(by_rung.items())},
        "malformed_share": _share(not strict_program(sampler, rollout) for rollout in rollouts),
        "no_program_share": _share(not rollout.program for rollout in rollouts),
        "cut_share": _share(rollout.finish_reason == "length" for rollout in rollouts),
        "tokens_a_sample": round(tokens_of(rollouts_P_G) / len(rollouts), 1),
    }


def _share(holds: Iterable[bool]) -> float:
    held = list(holds)
    return round(sum(held) / len(held), 4)


def _pass_figures(groups: Sequence[Sequence[Rollout]], ks: Sequence[int], seed: int) -> dict[str, Any]:
    return {
        f"pass_at_{k}": mean_with_interval(
            [pass_at_k(len(group), int(sum(r.reward for r in group)), k) for group in groups], seed
        )
        for k in ks
    }


# The figures as one Markdown table, for a terminal and for table.md.

# What it is, {mean, low, high, n}, generated tokens, and the prompt's figures where it is of one.
Row = tuple[str, Figures | None, int | None, Figures]


def table(figures: Figures) -> str:
    """A row for each figure that is there: what it is, its mean, its 95 % interval, over how many problems,
    at how many generated tokens; of a prompt the shares of its answers without a program and of those that
    the token limit cut."""
    names = ("what", "mean", "95 % interval", "problems", "no program", "cut", "generated tokens")
    head = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}"
    return "\n".join([head, *(_line(*row) for row in _rows(figures) if row[1] is not None)]) + "\n"


def _rows(figures: Figures) -> Iterator[Row]:
    for prompt in PROMPTS:
        of_prompt = figures.get(prompt, {})
        for key, figure in of_prompt.items():
            if key.startswith("pass_at_"):
                yield f"{prompt}, pass@{key.removeprefix('pass_at_')}", figure, None, of_prompt
    for pair, figure in figures.get("prompt_differences", {}).items():
        yield f"pass@1, {pair}", figure, None, {}
    for arm, result in figures.get("search", {}).items():
        yield _words(arm), result["pass_rate"], result["generated_tokens"], {}
    for pair, figure in figures.get("search_differences", {}).items():
        yield _words(pair), figure, None, {}
    aspr = figures.get("aspr", {"pseudocode": None, "common": {}})
    yield "ASPR, problems that search solved", aspr["pseudocode"], None, {}
    for prompt, figure in aspr["common"].items():
        yield f"ASPR, commonly solved problems, {prompt}", figure, None, {}


def _words(name: str) -> str:
    return name.replace("best_of_n", "best-of-n").replace("_", " ")


def _line(what: str, figure: Figures, tokens: int | None, of_prompt: Figures) -> str:
    interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    shares = (of_prompt.get(name) for name in ("no_program_share", "cut_share"))
    no_program, was_cut = ("" if share is None else f"{share:.3f}" for share in shares)
    spent = "" if tokens is None else f"{tokens:,}"
    cells = (what, f"{figure['mean']:.3f}", interval, str(figure["n"]), no_program, was_cut, spent)
    return f"| {' | '.join(cells)} |"
