"""What earlier stages found, over all rounds: their trees, the paths that passed, as SFT samples (D+), and
the programs that failed.

Reads trees/ of search stages and rollouts/ of sample stages. Trains nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, direct, pseudocode
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Rollout, SftSample, Tree, Verdict
from o1jax.search.samples import passing_samples, program_of
from o1jax.search.sampling import steps_of_rollout
from o1jax.search.steps import without_eos
from o1jax.stages.manifest import read_manifest
from o1jax.store import read_shards, read_trees

FINDERS = ("search", "sample")


def places_of(inputs: Mapping[str, epath.Path]) -> list[epath.Path]:
    """The inputs found_<k>, in the order by whose numbers the ids of samples begin. InputError for another
    stage than search and sample: what an evaluation found is of problems that nothing may train on."""
    places = [place for name, place in sorted(inputs.items()) if name.startswith("found_")]
    for place in places:
        if (stage := read_manifest(place)["stage"]) not in FINDERS:
            raise InputError(f"found: {place} is a stage {stage}, wanted one of {' and '.join(FINDERS)}")
    return places


def passing_paths(
    places: Sequence[epath.Path], tokenizer: Tokenizer, max_per_problem: int, seed: int
) -> list[SftSample]:
    """At most `max_per_problem` different passing answers a problem, drawn by seed from all `places`.

    The cap keeps problems that pass often from drowning those that pass rarely.
    """
    by_problem: dict[str, dict[tuple[int, ...], SftSample]] = {}
    for number, place in enumerate(places):
        for sample in _of_stage(place, tokenizer):
            answers = by_problem.setdefault(sample.problem_id, {})
            answers.setdefault(sample.answer_ids, _renamed(sample, number))
    chosen = []
    for problem_id, answers in sorted(by_problem.items()):
        samples = list(answers.values())
        random.Random(fold_seed(seed, "passing_paths", problem_id)).shuffle(samples)
        chosen += samples[:max_per_problem]
    return chosen


def trees_of(place: epath.Path) -> list[Tree]:
    """The trees of a search stage; InputError if it has none."""
    trees = read_trees(place / "trees")
    if not trees:
        raise InputError(f"{place}: no trees there; wanted a search stage, which keeps them in trees/")
    return trees


def wrong_programs(
    places: Sequence[epath.Path], max_per_problem: int, seed: int, tokenizer: Tokenizer | None = None
) -> dict[str, list[str]]:
    """Problem id -> at most `max_per_problem` different programs that compiled and failed a test, drawn by
    seed from all `places`: search stages, or, with the `tokenizer` of their policy, sample stages.

    InputError for a place that is neither, and for rollouts without a tokenizer or with another one.
    """
    by_problem: dict[str, set[str]] = {}
    for place in places:
        for problem_id, program in _wrong_of_stage(place, tokenizer):
            by_problem.setdefault(problem_id, set()).add(program)
    drawn = {}
    for problem_id, programs in sorted(by_problem.items()):
        rng = random.Random(fold_seed(seed, "wrong_programs", problem_id))
        drawn[problem_id] = rng.sample(sorted(programs), min(max_per_problem, len(programs)))
    return drawn


def _of_stage(place: epath.Path, tokenizer: Tokenizer) -> list[SftSample]:
    if (place / "trees").exists():
        eos_id, trees = tokenizer.eos_token_id, read_trees(place / "trees")
        return [s for tree in trees for s in passing_samples(tree, eos_id=eos_id)]
    passing = [rollout for rollout in read_shards(place / "rollouts", Rollout) if rollout.reward == 1.0]
    found = (_sft_sample(rollout, tokenizer) for rollout in passing)
    return [sample for sample in found if sample is not None]


def _sft_sample(rollout: Rollout, tokenizer: Tokenizer) -> SftSample | None:
    """An answer as a tree would keep it: up to its program, and then its end. One to another prompt than the
    pseudocode's is kept whole, or not at all where it did not end."""
    eos_id, answer_ids = tokenizer.eos_token_id, rollout.token_ids
    steps = steps_of_rollout(tokenizer, rollout, len(answer_ids) + 1)
    if steps[-1].program:
        path = without_eos(tuple(i for step in steps for i in step.token_ids), eos_id)
        answer_ids = (*path, eos_id)
    elif answer_ids[-1] != eos_id:
        return None
    return SftSample(
        id=rollout.id,
        problem_id=rollout.problem_id,
        prompt_ids=rollout.prompt_ids,
        answer_ids=answer_ids,
        is_trained=(True,) * len(answer_ids),
    )


def _renamed(sample: SftSample, number: int) -> SftSample:
    return dataclasses.replace(sample, id=f"{number}/{sample.id}")


def _wrong_of_stage(place: epath.Path, tokenizer: Tokenizer | None) -> Iterator[tuple[str, str]]:
    """(problem id, program), equal ones too."""
    if (place / "trees").exists():
        for tree in read_trees(place / "trees"):
            yield from ((tree.problem_id, program_of(n)) for n in tree.nodes if _is_wrong(n.verdict))
    elif not (place / "rollouts").exists():
        raise InputError(f"{place}: no trees/ and no rollouts/ there; wanted a search or a sample stage")
    elif tokenizer is None:
        raise InputError(f"{place}: rollouts hold token ids; give the policy that sampled them as well")
    else:
        for rollout in read_shards(place / "rollouts", Rollout):
            if _is_wrong(rollout.verdict):
                yield rollout.problem_id, rollout.program


def _is_wrong(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.compiled and not verdict.passed


# Reference programs and reasoning of problems -> SFT samples, for both prompts.
#
# Does not choose problems: a pool whose references must not be trained on is never passed in.


def samples(
    problems: Sequence[Problem], tokenizer: chat.Tokenizer, variants: int, style: Style
) -> list[SftSample]:
    """The first `variants` reasoning chains of each problem under the pseudocode prompt, and as many of
    its programs under the direct one; `style` is the prompts'."""
    return [
        _sample(f"{problem.id}/{name}", problem, messages, answer, tokenizer)
        for problem in problems
        for name, messages, answer in _answers(problem, variants, style)
    ]


def texts(problems: Sequence[Problem], variants: int) -> Iterator[str]:
    """What a tokenizer for these problems is trained on: questions and answers."""
    for problem in problems:
        yield problem.question
        yield from (answer for _, _, answer in _answers(problem, variants, "nano"))


def _answers(
    problem: Problem, variants: int, style: Style
) -> Iterator[tuple[str, Sequence[Mapping[str, str]], str]]:
    for i, steps in enumerate(problem.reasoning[:variants]):
        yield f"reasoning_{i}", pseudocode.messages(problem, style=style), pseudocode.render_path(steps)
    for i, source in enumerate(problem.solutions[:variants]):
        yield f"direct_{i}", direct.messages(problem, style=style), direct.render_answer(source)


def _sample(
    id: str,
    problem: Problem,
    messages: Sequence[Mapping[str, str]],
    answer: str,
    tokenizer: chat.Tokenizer,
) -> SftSample:
    answer_ids = (*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id)
    return SftSample(
        id=id,
        problem_id=problem.id,
        prompt_ids=chat.render(tokenizer, messages),
        answer_ids=answer_ids,
        is_trained=(True,) * len(answer_ids),
    )
