"""What a policy imitates: answers that passed in search and sample stages (D+), and reference programs.

Also the programs that failed there, for a test-case generator to learn from; what failing answers teach the
policy is in credit.py. Trains nothing, and chooses no problems: a pool whose references must not be trained
on is never passed in.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from etils import epath

from o1jax.batches.encode import encode_sft
from o1jax.parallel.seeds import drawn, fold_seed
from o1jax.prompts import direct, pseudocode
from o1jax.prompts.chat import Message, Tokenizer, encode, render
from o1jax.prompts.ends import end_ids
from o1jax.prompts.fence import Style
from o1jax.records import InputError, PreferencePair, Problem, Prompt, Rollout, SftSample, Tree, Verdict
from o1jax.search.hidden import program_from, program_prompt
from o1jax.search.posterior import Counts, added, counts_of, finder_manifest
from o1jax.search.samples import passing_samples, program_of, whole_sample
from o1jax.search.steps import cut, without_eos
from o1jax.stages import provenance
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import Provenance, Source
from o1jax.store import read_shards, read_trees

Sample = TypeVar("Sample", SftSample, PreferencePair)
# Inputs: the warm-up's problems, and the pool's, whose references no self-play may see: they are the upper
# bound that a run is compared with.
REFERENCES = ("references", "pool_references")
ReferencePrompts = tuple[Literal["pseudocode", "direct"], ...]
# Both, because evaluation may compare what the policy does under one with the other.
BOTH: ReferencePrompts = ("pseudocode", "direct")


class Played(NamedTuple):
    """What a search stage or a sample stage left."""

    trees: list[Tree]
    rollouts: list[Rollout]


class Answers(NamedTuple):
    """What SFT trains on, and RL replays."""

    found: list[SftSample]  # passing_paths of the inputs found_<k>
    references: dict[str, list[SftSample]]  # input of REFERENCES -> reference_samples of its problems

    def all(self) -> list[SftSample]:
        return [*self.found, *(sample for samples in self.references.values() for sample in samples)]


def found_directories(inputs: Mapping[str, epath.Path]) -> dict[str, epath.Path]:
    """The inputs found_<k>, in the order whose index k an id begins with (that of the names: found_10 is
    before found_2). InputError for a stage of another kind."""
    found = {name: directory for name, directory in sorted(inputs.items()) if name.startswith("found_")}
    for directory in found.values():
        finder_manifest(directory, "found")
    return found


def search_trees(directory: epath.Path) -> list[Tree]:
    """The trees of a search stage; InputError if it has none."""
    trees = read_trees(directory / "trees")
    if not trees:
        raise InputError(f"{directory}: no trees there; wanted a search stage, which keeps them in trees/")
    return trees


def refuse_hidden(played: Sequence[Played], stage: str, wanted: str) -> None:
    """InputError for answers of style nano_hidden, of which `stage` cannot lay out the programs."""
    for of_stage in played:
        for record in (*of_stage.trees, *of_stage.rollouts):
            if record.program_prompt_ids:
                raise InputError(
                    f"{stage}: saw problem {record.problem_id} answered in style nano_hidden, whose programs "
                    f"stand after a prompt of their own; wanted {wanted}"
                )


def read_played(inputs: Mapping[str, epath.Path]) -> list[Played]:
    """What each of the inputs found_<k> left, in their order."""
    places = found_directories(inputs).values()
    return [Played(read_trees(at / "trees"), read_shards(at / "rollouts", Rollout)) for at in places]


def read_answers(
    inputs: Mapping[str, epath.Path],
    tokenizer: Tokenizer,
    seed: int,
    *,
    max_per_problem: int,
    variants: int,
    style: Style,
    prompts: ReferencePrompts = BOTH,
) -> Answers:
    """passing_paths and read_references of a stage's inputs."""
    found = passing_paths(read_played(inputs), tokenizer, max_per_problem, seed)
    return Answers(found, read_references(inputs, tokenizer, variants, style, prompts))


def read_references(
    inputs: Mapping[str, epath.Path],
    tokenizer: Tokenizer,
    variants: int,
    style: Style,
    prompts: ReferencePrompts,
) -> dict[str, list[SftSample]]:
    """reference_samples of the problems of each input of REFERENCES."""
    problems = {name: read_problems(inputs[name]) for name in REFERENCES if name in inputs}
    return {name: reference_samples(of, tokenizer, variants, style, prompts) for name, of in problems.items()}


def provenance_of(
    answers: Answers, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, row_length: int
) -> list[Provenance]:
    """A row for every answer; those longer than `row_length` are left out of training."""
    directories = found_directories(inputs)
    found = []
    for sample in answers.found:
        facts = {"weight": round(sample.weight, 4)} if sample.weight != 1 else {}
        sources, example = found_sources(sample.id, directories), encode_sft(sample)
        found.append(provenance.row(sample, "found path", sources, example, row_length, facts))
    return found + [
        row
        for name, samples in answers.references.items()
        for row in reference_provenance(samples, name, tokenizer, row_length)
    ]


def reference_provenance(
    samples: Sequence[SftSample], input: str, tokenizer: Tokenizer, row_length: int
) -> list[Provenance]:
    """A row for every answer of reference_samples on the problems of this input."""
    rows = []
    for sample in samples:
        name = sample.id.removeprefix(f"{sample.problem_id}/")
        source = provenance.text_source(input, name, sample.answer_ids, tokenizer)
        rows.append(provenance.row(sample, "reference", [source], encode_sft(sample), row_length))
    return rows


def found_sources(id: str, directories: Mapping[str, epath.Path]) -> Sequence[Source]:
    """Of an answer of one of the inputs found_<k>, by its id, which begins with k: its node, or rollout."""
    names = list(directories)
    number, _, rollout = id.partition("/")  # the first: a problem's id may hold more of them
    if (directories[names[int(number)]] / "trees").exists():
        return provenance.node_sources(id, names)
    return [Source("answer", names[int(number)], rollout=rollout)]


def passing_paths(
    played: Sequence[Played],
    tokenizer: Tokenizer,
    max_per_problem: int,
    seed: int,
    bare: Mapping[str, tuple[int, ...]] | None = None,
) -> list[SftSample]:
    """At most `max_per_problem` (0: all) different passing answers a problem, drawn by seed from all stages;
    an id begins with its stage's index. Answers to the pseudocode prompt get the prompts `bare`
    (bare_prompts), where they are given; InputError if one is missing."""
    rounds = [_passing(of_stage, tokenizer, bare) for of_stage in played]
    return drawn_of_rounds(rounds, lambda s: s.answer_ids, max_per_problem, seed, "passing_paths")


def bare_prompts(
    problems: Sequence[Problem], tokenizer: Tokenizer, style: Style
) -> dict[str, tuple[int, ...]]:
    """Problem id -> its pseudocode prompt without worked examples, to be trained under in the place of the
    one that an answer was sampled under: the policy learns to do without them (context distillation, Snell et
    al. 2022, arXiv 2209.15189)."""
    return {problem.id: render(tokenizer, pseudocode.messages(problem, style=style)) for problem in problems}


def bare_prompt(bare: Mapping[str, tuple[int, ...]], problem_id: str) -> tuple[int, ...]:
    """InputError for a problem that has none."""
    if problem_id not in bare:
        raise InputError(
            f"problems: no problem {problem_id}, whose question prompt 'bare' needs; give the problems that "
            "were searched or sampled"
        )
    return bare[problem_id]


def weighted_by_hardness(
    found: Sequence[SftSample], played: Sequence[Played], bound: float
) -> list[SftSample]:
    """The samples weighted by sqrt((1 - p) / p) of their problem, between 1 / bound and bound, then scaled to
    a mean of 1 over their tokens: hard problems count for more, and all together for what they did.

    p = (passes + 1) / (samples + 2), the posterior mean of the problem's pass rate from a uniform prior, by
    the counts of all stages (search/posterior.py).
    """
    counts: Counts = {}
    for of_stage in played:
        counts = added(counts, counts_of(*of_stage))
    weights = []
    for sample in found:
        n, passes = counts[sample.problem_id]
        p = (passes + 1) / (n + 2)
        weights.append(min(max(((1 - p) / p) ** 0.5, 1 / bound), bound))
    tokens = [sum(sample.is_trained) for sample in found]
    mean = sum(w * n for w, n in zip(weights, tokens, strict=True)) / max(1, sum(tokens))
    return [dataclasses.replace(s, weight=w / mean) for s, w in zip(found, weights, strict=True)]


def drawn_of_rounds(
    rounds: Sequence[Sequence[Sample]], key: Callable[[Sample], tuple], most: int, seed: int, *parts: str
) -> list[Sample]:
    """At most `most` (0: all) samples a problem that differ by `key`, drawn by seed from all rounds, problem
    by problem; an id begins with its round's index."""
    by_problem: dict[str, dict[tuple, Sample]] = collections.defaultdict(dict)
    for number, samples in enumerate(rounds):
        for sample in samples:
            # Ids differ between rounds; what two of them found counts once, as the first round's.
            named = dataclasses.replace(sample, id=f"{number}/{sample.id}")
            by_problem[sample.problem_id].setdefault(key(sample), named)
    # Without the cap, problems with many samples (that pass often, say) would drown the hard ones.
    return [
        sample
        for problem_id, different in sorted(by_problem.items())
        for sample in drawn(different.values(), most, seed, *parts, problem_id)
    ]


def _passing(
    played: Played, tokenizer: Tokenizer, bare: Mapping[str, tuple[int, ...]] | None
) -> list[SftSample]:
    def shown(sample: SftSample, prompt: Prompt) -> SftSample:
        if bare is None or prompt != "pseudocode":
            return sample
        return dataclasses.replace(sample, prompt_ids=bare_prompt(bare, sample.problem_id))

    # The answers that sampling found are as good as those of search; both are kept as a tree would keep them.
    ends, passing = end_ids(tokenizer), (r for r in played.rollouts if r.reward == 1.0)
    whole = ((_rollout_sample(rollout, tokenizer), rollout.prompt) for rollout in passing)
    paths = (sample for tree in played.trees for sample in passing_samples(tree, ends=ends))
    return [shown(sample, "pseudocode") for sample in paths] + [
        shown(sample, prompt) for sample, prompt in whole if sample is not None
    ]


def _rollout_sample(rollout: Rollout, tokenizer: Tokenizer) -> SftSample | None:
    """An answer as a tree would keep it, or None of one to another prompt than the pseudocode's that did not
    end."""
    ends, answer_ids = end_ids(tokenizer), rollout.token_ids
    steps = cut(tokenizer, rollout, 1, len(answer_ids) + 1)
    if steps[-1].program:
        # What comes after the program was never judged, so it is not imitated. The end is added where the
        # token limit cut it off: a policy must learn to stop.
        answer_ids = tuple(i for step in steps for i in step.token_ids)
    elif answer_ids[-1] not in ends:
        return None  # of a direct answer, where the program ends is not known by tokens
    answer_ids = (*without_eos(answer_ids, ends), ends[0])  # of several ends one is taught
    hides = rollout.program_prompt_ids, rollout.program_from
    return whole_sample(rollout.id, rollout.problem_id, rollout.prompt_ids, answer_ids, *hides)


def wrong_programs(
    directories: Sequence[epath.Path], max_per_problem: int, seed: int
) -> dict[str, list[str]]:
    """Problem id -> at most `max_per_problem` different programs that compiled and failed a test, drawn by
    seed from all `directories` of search and sample stages. InputError for a directory that is neither."""
    by_problem: dict[str, set[str]] = {}
    for directory in directories:
        for problem_id, program in _wrong(directory):
            by_problem.setdefault(problem_id, set()).add(program)
    chosen = {}
    for problem_id, programs in sorted(by_problem.items()):
        # Sorted first: a set of texts has another order in every process.
        rng = random.Random(fold_seed(seed, "wrong_programs", problem_id))
        chosen[problem_id] = rng.sample(sorted(programs), min(max_per_problem, len(programs)))
    return chosen


def _wrong(directory: epath.Path) -> Iterator[tuple[str, str]]:
    """(problem id, program), equal ones too."""
    if (directory / "trees").exists():
        for tree in read_trees(directory / "trees"):
            yield from ((tree.problem_id, program_of(n)) for n in tree.nodes if _is_wrong(n.verdict))
    elif (directory / "rollouts").exists():
        rollouts = read_shards(directory / "rollouts", Rollout)
        yield from ((r.problem_id, r.program) for r in rollouts if _is_wrong(r.verdict))
    else:
        raise InputError(f"{directory}: no trees/ and no rollouts/ there; wanted a search or a sample stage")


def _is_wrong(verdict: Verdict | None) -> bool:
    # One that does not compile says nothing of tests: any test fails it.
    return verdict is not None and verdict.compiled and not verdict.passed


def reference_samples(
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    variants: int,
    style: Style,
    prompts: ReferencePrompts = BOTH,
) -> list[SftSample]:
    """The first `variants` reasoning chains of each problem under the pseudocode prompt, and as many of
    its programs under the direct one, or those of one of the `prompts`; `style` is the prompts'."""
    samples, end = [], end_ids(tokenizer)[0]
    hidden_ids = program_prompt(tokenizer, style)
    for problem in problems:
        for name, messages, answer in _reference_answers(problem, variants, style, prompts):
            answer_ids = (*encode(tokenizer, answer), end)
            prompt_ids = render(tokenizer, messages)
            hides = (hidden_ids, program_from(tokenizer, answer_ids)) if hidden_ids else ()
            samples.append(whole_sample(f"{problem.id}/{name}", problem.id, prompt_ids, answer_ids, *hides))
    return samples


def reference_texts(problems: Sequence[Problem], variants: int) -> Iterator[str]:
    """What a tokenizer for these problems is trained on: questions and answers."""
    for problem in problems:
        yield problem.question
        yield from (answer for _, _, answer in _reference_answers(problem, variants, "nano", BOTH))


def _reference_answers(
    problem: Problem, variants: int, style: Style, prompts: ReferencePrompts
) -> Iterator[tuple[str, Sequence[Message], str]]:
    for i, steps in enumerate(problem.reasoning[:variants] if "pseudocode" in prompts else ()):
        yield f"reasoning_{i}", pseudocode.messages(problem, style=style), pseudocode.render_path(steps)
    for i, source in enumerate(problem.solutions[:variants] if "direct" in prompts else ()):
        yield f"direct_{i}", direct.messages(problem, style=style), direct.render_answer(source)
