"""One update's training: the answers' columns by the model, then an optimizer step an epoch.

Holds compiled programs and no state. Samples nothing, decides no reward and saves nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1jax.batches.encode import Example, as_replay, with_column
from o1jax.batches.stream import Batches
from o1jax.model.lora_merge import switched_off
from o1jax.parallel.mesh import own_rows
from o1jax.parallel.seeds import fold_seed
from o1jax.rewards.process import score_ids
from o1jax.stages.rl_examples import Lesson, examples_of, gae_examples_of, step_starts
from o1jax.stages.rl_settings import Settings
from o1jax.train.checkpoint import Policy
from o1jax.train.optimizer import OptimizerSettings
from o1jax.train.policy_objective import policy_gradient
from o1jax.train.reference import log_probs_program, scores_program, token_values
from o1jax.train.state import TrainState
from o1jax.train.updates import Updater


class Learner:
    """Trains a policy by `settings`; with a KL term the `policy` it was made with is the reference."""

    def __init__(self, policy: Policy, like: TrainState, settings: Settings, mesh: Mesh, seed: int):
        self.settings, self.mesh, self.seed = settings, mesh, seed
        own_rows(settings.rows_per_micro_batch, mesh)  # refuses rows that do not divide over the devices
        temperature, graphdef = settings.sample.temperature, policy.graphdef
        weight = settings.replay.weight if settings.replay.examples else 0.0
        loss = dataclasses.replace(settings.loss, temperature=temperature, replay_weight=weight)
        if loss.value_weight:
            good_id, bad_id = score_ids(policy.tokenizer)
            loss = dataclasses.replace(loss, good_id=good_id, bad_id=bad_id)
            self.scores = scores_program(graphdef, mesh, good_id, bad_id)
        self.log_probs = log_probs_program(graphdef, mesh, temperature)
        self.frozen = policy.frozen
        self.reference = self._reference(policy) if loss.kl_weight else None
        objective, optimizer = policy_gradient(loss), optimizer_of(settings)
        self.updater = Updater(graphdef, objective, optimizer, like, mesh, policy.frozen)

    def learn(self, state: TrainState, lesson: Lesson, at: float) -> tuple[TrainState, dict[str, float]]:
        """(state, figures): the updater's, means over the epochs, but for sampler_difference, which is the
        first one's, and trained_tokens. `at`: where the run stands among the settings' updates, for the
        learning rate. A lesson without a group changes nothing, and has no figures but trained_tokens. The
        old state is donated."""
        if not lesson.kept:
            return state, {"trained_tokens": 0}
        batches = self._batches(self._examples(state.params, lesson), lesson.t)
        figures_E = []
        for epoch in range(self.settings.epochs):
            step = at * self.settings.epochs + epoch
            state, figures = self.updater.update(state, batches, epoch, at=step)
            figures_E.append(figures)
        means = {name: float(np.mean([figures[name] for figures in figures_E])) for name in figures_E[0]}
        first = {"sampler_difference": figures_E[0]["sampler_difference"]}
        return state, means | first | {"trained_tokens": lesson.tokens * self.settings.epochs}

    def _reference(self, policy: Policy) -> nnx.State:
        """What the policy was: its parameters, or its frozen ones with adapters that add nothing."""
        if not self.settings.lora.rank:
            return policy.params
        return dataclasses.replace(policy, params=switched_off(policy.params)).all_params

    def _examples(self, params: nnx.State, lesson: Lesson) -> list[Example]:
        """The kept answers with every column that the objective asks for."""
        params = nnx.merge_state(params, self.frozen)
        if self.settings.advantage == "gae":
            examples = gae_examples_of(lesson, self.settings, self._values(params, lesson))
        else:
            examples = examples_of(lesson, self.settings)
        batches, models = self._batches(examples, lesson.t), {}
        if self.settings.needs_proximal:
            models["old"] = params
        if self.reference is not None:
            models["reference"] = self.reference
        for name, model in models.items():
            values = token_values(self.log_probs, model, batches, self.mesh)
            examples = [with_column(e, name, v.tolist()) for e, v in zip(examples, values, strict=True)]
        if not lesson.replay:
            return examples
        examples = [with_column(e, "replay", (0.0,) * len(e.token_ids)) for e in examples]
        return examples + [as_replay(example, examples[0]) for example in lesson.replay]

    def _values(self, params: nnx.State, lesson: Lesson) -> list[np.ndarray]:
        """For each answer, the values before its steps: the scores of what is read up to there."""
        answers = [answer for group in lesson.kept for answer in group]
        examples = [_unweighted(answer.rollout.prompt_ids + answer.rollout.token_ids) for answer in answers]
        scores = token_values(self.scores, params, self._batches(examples, lesson.t), self.mesh)
        return [
            scores_T[len(answer.rollout.prompt_ids) - 1 + np.array(step_starts(answer))]
            for answer, scores_T in zip(answers, scores, strict=True)
        ]

    def _batches(self, examples: list[Example], t: int) -> Batches:
        return Batches(
            examples,
            row_length=self.settings.row_length,
            rows_per_batch=self.settings.rows_per_micro_batch,
            seed=fold_seed(self.seed, "batches", t),
        )


def optimizer_of(settings: Settings) -> OptimizerSettings:
    """The schedule runs over every step that there may be."""
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        total_steps=settings.updates * settings.epochs,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        **dataclasses.asdict(settings.adamw),
    )


def _unweighted(token_ids: tuple[int, ...]) -> Example:
    return Example("", token_ids, (0.0,) * len(token_ids))
