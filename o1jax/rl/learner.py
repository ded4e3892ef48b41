"""One update's training: the answers' columns by the model, then an optimizer step an epoch.

Holds compiled programs and no state. Samples nothing, decides no reward and saves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from o1jax.batches.encode import Example, as_replay, with_column
from o1jax.batches.stream import Batches
from o1jax.engine.step_scorer import score_ids
from o1jax.model.init import NO_PARAMS
from o1jax.model.lora import switched_off
from o1jax.parallel.mesh import batch_spec, own_rows, place_batch, replicated
from o1jax.parallel.seeds import fold_seed
from o1jax.parallel.traced import on_mesh
from o1jax.rl.examples import Lesson, examples_of, gae_examples_of, step_starts
from o1jax.rl.objective import policy_gradient
from o1jax.rl.settings import Settings
from o1jax.train.checkpoint import Policy
from o1jax.train.loop import NonFiniteLoss, describe_non_finite
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.reference import log_probs_program, scores_program, token_values
from o1jax.train.step import DeviceBatch, Metrics, Total, TrainState, stepped, sums_and_gradient

# One optimizer step on all of some batches, however many they are: what policy_rl trains with.
#
# Two programs of fixed shapes instead of one: `add` a micro-batch's sums and gradient to those so far, and
# `apply` their quotient. Gives the step that make_train_step takes on all the rows at once. Does not choose
# what is trained on and saves nothing.


class Updater:
    """Compiled once for batches of one shape. `like` is a state, or an abstract one, with the shardings to
    keep; `frozen` are parameters of the model that are not trained."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        objective: Objective,
        optimizer: OptimizerSettings,
        like: TrainState,
        mesh: Mesh,
        frozen: nnx.State = NO_PARAMS,
    ):
        self.mesh, self.frozen = mesh, frozen
        transformation, schedule = make_optimizer(optimizer), make_schedule(optimizer)
        gradient = functools.partial(sums_and_gradient, graphdef, objective, optimizer.gradient_dtype)

        def zero(params: nnx.State, batch: DeviceBatch, frozen: nnx.State) -> Total:
            shapes = jax.eval_shape(gradient, params, batch, frozen)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total: Total, params: nnx.State, batch: DeviceBatch, frozen: nnx.State) -> Total:
            return jax.tree.map(jnp.add, total, gradient(params, batch, frozen))

        def apply(state: TrainState, total: Total, at: jax.Array) -> tuple[TrainState, Metrics]:
            return stepped(transformation, schedule, state, total, at)

        states = jax.tree.map(lambda leaf: leaf.sharding, like)
        rows, fixed = NamedSharding(mesh, batch_spec()), jax.tree.map(lambda leaf: leaf.sharding, frozen)
        totals = (replicated(mesh), states.params)  # a gradient lies like its parameter
        self._zero = jax.jit(
            on_mesh(zero, mesh), in_shardings=(states.params, rows, fixed), out_shardings=totals
        )
        self._add = jax.jit(
            on_mesh(add, mesh),
            donate_argnums=0,
            in_shardings=(totals, states.params, rows, fixed),
            out_shardings=totals,
        )
        self._apply = jax.jit(
            on_mesh(apply, mesh),
            donate_argnums=0,
            in_shardings=(states, totals, replicated(mesh)),
            out_shardings=(states, replicated(mesh)),
        )

    def update(
        self, state: TrainState, batches: Batches, epoch: int = 0, *, at: float
    ) -> tuple[TrainState, dict[str, float]]:
        """(state, figures) after one step on every row of the epoch; the old state is donated. `at`: where
        in the schedule the step is taken.

        The gradient is that of sum of losses / sum of weights over all rows. figures: loss, grad_norm,
        learning_rate, weight (sum), and the objective's own means. Waits for the device. Raises
        NonFiniteLoss, which names the examples.
        """
        total, own = None, own_rows(batches.rows_per_batch, self.mesh)
        for batch in batches.epoch(epoch, own.indices):
            placed = place_batch(batch, self.mesh, own)
            total = self._zero(state.params, placed, self.frozen) if total is None else total
            total = self._add(total, state.params, placed, self.frozen)
        state, metrics = self._apply(state, total, np.float32(at))
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(figures["loss"]) or not math.isfinite(figures["grad_norm"]):
            raise NonFiniteLoss(describe_non_finite(int(state.step), figures, list(batches.ids)))
        return state, figures


class Learner:
    """Trains a policy by `settings`; with a KL term the `policy` it was made with is the reference."""

    def __init__(self, policy: Policy, like: TrainState, settings: Settings, mesh: Mesh, seed: int):
        self.settings, self.mesh, self.seed = settings, mesh, seed
        own_rows(settings.train.rows_per_batch, mesh)  # refuses rows that do not divide over the devices
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
        if not self.settings.train.lora.rank:
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
            **self.settings.train.shape,
            seed=fold_seed(self.seed, "batches", t),
        )


def optimizer_of(settings: Settings) -> OptimizerSettings:
    """The schedule runs over every step that there may be."""
    return settings.train.optimizer(settings.updates * settings.epochs)


def _unweighted(token_ids: tuple[int, ...]) -> Example:
    return Example("", token_ids, (0.0,) * len(token_ids))
