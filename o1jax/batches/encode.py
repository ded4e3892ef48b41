"""Records -> Example: the token ids and loss weights of one training sequence, or of a few kept together.

Does not tokenize (the records hold token ids) and does not pack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from o1jax.records import InputError, PreferencePair, Rollout, SftSample, StepLabel, StepPair

Ids = tuple[int, ...]
LabelWeight = Literal["one", "leaves"]
# Between the outcomes of two leaves below one step: they share the steps after it that led to them.
LEAF_CORRELATION = 0.25


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence, or several parts that share a row, as both sides of a pair do."""

    id: str
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]  # weights[t]: of predicting token_ids[t] in the loss; 0 on the prompt
    # Further values a token, float32, by name; columns[name][t] belongs to position t, where token t is
    # read and t + 1 predicted.
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    parts: tuple[int, ...] = ()  # their lengths; none: all of it is one


def encode_sft(sample: SftSample) -> Example:
    """The prompt with weight 0, then the answer: the sample's weight on its trained tokens, else 0."""
    check_one_each(f"sample {sample.id!r}", {"is_trained": sample.is_trained}, sample.answer_ids)
    if not sample.prompt_ids or not any(sample.is_trained):
        raise InputError(f"sample {sample.id!r}: needs a prompt and at least one trained answer token")
    answer_weights = tuple(sample.weight * trained for trained in sample.is_trained)
    example = Example(
        id=sample.id,
        token_ids=(*sample.prompt_ids, *sample.answer_ids),
        weights=(0.0,) * len(sample.prompt_ids) + answer_weights,
    )
    return _with_program_apart(example, sample)


def encode_pushed(
    id: str,
    prompt_ids: Ids,
    answer_ids: Ids,
    weights: Sequence[float],
    pushes: Sequence[float],
    behaviour: Sequence[float],
) -> Example:
    """The prompt with weight 0, then the answer, a weight a token: that of its log-likelihood. The column
    `push` says how much each token is made less likely, `behaviour` the log-prob that it is compared with;
    one value an answer token."""
    named = {"push": pushes, "behaviour": behaviour}
    check_answers(f"answer {id!r}", prompt_ids, answer_ids)
    check_one_each(f"answer {id!r}", {"weights": weights} | named, answer_ids)
    weights = (0.0,) * len(prompt_ids) + tuple(map(float, weights))
    return Example(id, (*prompt_ids, *answer_ids), weights, before_tokens(prompt_ids, named))


def without_pushes(example: Example) -> Example:
    """An example of encode_sft among those of encode_pushed: none of its tokens is made less likely."""
    zeros = (0.0,) * len(example.token_ids)
    return dataclasses.replace(example, columns={**example.columns, "push": zeros, "behaviour": zeros})


def encode_pair(pair: PreferencePair) -> Example:
    """Two parts, prompt and chosen answer, then prompt and rejected one: weight 1 on the answers, else 0."""
    check_answers(f"pair {pair.id!r}", pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
    return two_parts(pair.id, pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, answer_weight=1.0)


def encode_step_labels(
    label: StepLabel, kind: Literal["soft", "hard"], weight: LabelWeight = "one"
) -> Example:
    """A path with the columns `label` and `label_weight`, both 0 but at the last token of a step: there
    its label of this kind, and its weight, 0 where the label stands on no leaf. "one": 1, on each of the
    paths that the step is on. "leaves": over those paths together, `independent` of its leaves. The column
    `program_tokens` is the number of the last step's tokens at its end, else 0."""
    values, n_paths = {"soft": label.soft, "hard": label.hard}[kind], label.n_paths or (1,) * len(label.soft)
    check_steps(label, values, n_paths)
    token_ids = (*label.prompt_ids, *label.answer_ids)
    labels, weights, lengths = ([0.0] * len(token_ids) for _ in range(3))
    for end, value, n_leaves, n in zip(label.step_ends, values, label.n_leaves, n_paths, strict=True):
        at = len(label.prompt_ids) + end
        labels[at] = value
        weights[at] = float(n_leaves > 0) if weight == "one" else independent(n_leaves) / n
    lengths[at] = float(label.step_ends[-1] - (-1, *label.step_ends)[-2])
    columns = {"label": tuple(labels), "label_weight": tuple(weights), "program_tokens": tuple(lengths)}
    return Example(label.id, token_ids, (0.0,) * len(token_ids), columns)


def independent(n_leaves: int) -> float:
    """How many independent samples the leaves below a step are worth: n / (1 + (n - 1) LEAF_CORRELATION), as
    many as there are of few, and never more than 1 / LEAF_CORRELATION (Kish's design effect)."""
    return n_leaves / (1 + (n_leaves - 1) * LEAF_CORRELATION)


def encode_step_pair(pair: StepPair) -> Example:
    """Two parts, prefix and chosen step, then prefix and rejected one, with the columns `label_weight` and
    `program_tokens`: at the last token of each part 1 and, of a program, the number of the step's tokens;
    else 0."""
    check_answers(f"step pair {pair.id!r}", pair.prefix_ids, pair.chosen_ids, pair.rejected_ids)
    example = two_parts(pair.id, pair.prefix_ids, pair.chosen_ids, pair.rejected_ids, answer_weight=0.0)
    chosen, rejected = pair.chosen_is_program, pair.rejected_is_program
    programs = (len(pair.chosen_ids) * chosen, len(pair.rejected_ids) * rejected)
    for name, values in (("label_weight", (1, 1)), ("program_tokens", programs)):
        ends = [(0.0,) * (n - 1) + (float(v),) for n, v in zip(example.parts, values, strict=True)]
        example = with_column(example, name, ends[0] + ends[1])
    return example


def encode_rollout(
    rollout: Rollout, advantages: Sequence[float], *, columns: Mapping[str, Sequence[float]] = {}
) -> Example:
    """A rollout with weight 1 on the tokens that the policy sampled, else 0, and with the columns
    `advantage`, `behaviour` (the rollout's log-probs) and those of `columns`. All of them come with one value
    an answer token. What the policy did not sample may have any value."""
    record = f"rollout {rollout.id!r}"
    check_answers(record, rollout.prompt_ids, rollout.token_ids)
    if not any(rollout.is_policy_token):
        raise InputError(f"{record}: none of its tokens is the policy's, so nothing can be learned from it")
    named = {"advantage": advantages, "behaviour": rollout.log_probs}
    if taken := sorted(named.keys() & columns):
        raise InputError(f"{record}: the column {taken[0]!r} is the rollout's own; give yours another name")
    named |= columns
    check_one_each(record, {"is_policy_token": rollout.is_policy_token} | named, rollout.token_ids)
    example = Example(
        id=rollout.id,
        token_ids=(*rollout.prompt_ids, *rollout.token_ids),
        weights=(0.0,) * len(rollout.prompt_ids) + tuple(map(float, rollout.is_policy_token)),
        columns=before_tokens(rollout.prompt_ids, named),
    )
    return _with_program_apart(example, rollout)


def _with_program_apart(example: Example, record: SftSample | Rollout) -> Example:
    """The example, or, where the program does not see the question, two parts: the prompt and the answer up
    to there, and the program's prompt, the same beginning of the answer with weight 0, and the rest."""
    start = len(record.prompt_ids)
    cut = start + record.program_from
    if not record.program_prompt_ids or cut >= len(example.token_ids):
        return example
    shown = len(record.program_prompt_ids) + record.program_from
    return Example(
        id=example.id,
        token_ids=example.token_ids[:cut] + record.program_prompt_ids + example.token_ids[start:],
        weights=example.weights[:cut] + (0.0,) * shown + example.weights[cut:],
        # A value stands one position before its token: the program's first one goes over to the second part.
        columns={
            name: values[: cut - 1] + (0.0,) * shown + values[cut - 1 :]
            for name, values in example.columns.items()
        },
        parts=(cut, shown + len(example.token_ids) - cut),
    )


def before_tokens(prompt_ids: Ids, named: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Columns of values a token of an answer: each belongs where its token is predicted, one position before
    the token."""
    before = (0.0,) * (len(prompt_ids) - 1)
    return {name: (*before, *map(float, values), 0.0) for name, values in named.items()}


def as_replay(example: Example, like: Example) -> Example:
    """An example of encode_sft among those of encode_rollout, with the columns of `like`: its weights go to
    the column `replay`, where each token is predicted, and it has no action."""
    zeros = (0.0,) * len(example.token_ids)
    columns = dict.fromkeys(like.columns, zeros) | {"replay": (*example.weights[1:], 0.0)}
    return dataclasses.replace(example, weights=zeros, columns=columns)


def two_parts(id: str, prompt_ids: Ids, chosen_ids: Ids, rejected_ids: Ids, answer_weight: float) -> Example:
    """The prompt with each of two answers."""
    answers = (chosen_ids, rejected_ids)
    weights = [(0.0,) * len(prompt_ids) + (answer_weight,) * len(answer) for answer in answers]
    return Example(
        id=id,
        token_ids=(*prompt_ids, *chosen_ids, *prompt_ids, *rejected_ids),
        weights=weights[0] + weights[1],
        parts=tuple(len(prompt_ids) + len(answer) for answer in answers),
    )


def with_column(example: Example, name: str, values: Sequence[float]) -> Example:
    """The example with one more column of one value a token, or another in its place."""
    check_one_each(f"example {example.id!r}", {name: values}, example.token_ids, "")
    return dataclasses.replace(example, columns={**example.columns, name: tuple(values)})


def check_one_each(
    record: str, named: Mapping[str, Sequence[float]], token_ids: Sequence[int], of: str = "answer "
) -> None:
    """InputError unless every name has one value a token."""
    for name, values in named.items():
        if len(values) != len(token_ids):
            raise InputError(
                f"{record}: {len(values)} values of {name!r} for {len(token_ids)} {of}tokens; "
                "there must be one a token"
            )


def check_answers(record: str, prompt_ids: Sequence[int], *answers: Sequence[int]) -> None:
    """InputError unless there are a prompt and answers."""
    if not prompt_ids or not all(answers):
        lengths = [len(answer) for answer in answers]
        raise InputError(
            f"{record}: a prompt of {len(prompt_ids)} and answers of {lengths} tokens; none may be empty"
        )


def check_steps(label: StepLabel, values: Sequence[float], n_paths: Sequence[int]) -> None:
    """InputError unless the steps' ends ascend inside the answer, each with its value, leaves and paths."""
    record = f"step label {label.id!r}"
    check_answers(record, label.prompt_ids, label.answer_ids)
    ends = label.step_ends
    if not len(ends) == len(values) == len(label.n_leaves):
        raise InputError(f"{record}: {len(ends)} steps, {len(values)} labels, {len(label.n_leaves)} n_leaves")
    if len(n_paths) != len(ends) or any(n < 1 for n in n_paths):
        raise InputError(f"{record}: n_paths {n_paths}; wanted at least 1 of each of {len(ends)} steps")
    if list(ends) != sorted(set(ends)) or not all(0 <= end < len(label.answer_ids) for end in ends):
        raise InputError(f"{record}: step_ends {ends} must ascend within {len(label.answer_ids)} tokens")
    if not all(0 <= value <= 1 for value in values):
        raise InputError(f"{record}: labels {values} must lie in [0, 1]")


def keep_short(examples: Sequence[Example], row_length: int) -> tuple[list[Example], int]:
    """The examples that fit into a row, and how many were dropped: the explicit choice against raising."""
    kept = [example for example in examples if len(example.token_ids) <= row_length]
    return kept, len(examples) - len(kept)
