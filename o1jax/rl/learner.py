"""One update's training: the columns that the loss asks a model for, then optimizer steps on its answers.

Holds compiled programs and no state. Samples nothing, decides no reward and saves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

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
from o1jax.parallel.processes import is_leader, reporting_slow
from o1jax.parallel.seeds import fold_seed
from o1jax.parallel.traced import on_mesh
from o1jax.rl.examples import Group, step_starts
from o1jax.rl.objective import policy_gradient
from o1jax.rl.settings import Settings
from o1jax.train.checkpoint import Policy
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.reference import log_probs_program, scores_program, token_values
from o1jax.train.step import DeviceBatch, Metrics, Total, TrainState, check_finite, stepped, sums_and_gradient


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

    def _reference(self, policy: Policy) -> nnx.State:
        """What the policy was: its parameters, or its frozen ones with adapters that add nothing."""
        # With adapters the reference costs no second copy of the model.
        if not self.settings.train.lora.rank:
            return jax.tree.map(jnp.copy, policy.params)  # for the trainer donates its own
        return dataclasses.replace(policy, params=switched_off(policy.params)).all_params

    def values(self, params: nnx.State, groups: Sequence[Group], t: int) -> list[np.ndarray]:
        """For each answer of update t, the values before its steps (gae's): what the policy's own score head
        says of all that is read up to there."""
        answers = [answer for group in groups for answer in group]
        token_ids = [answer.rollout.prompt_ids + answer.rollout.token_ids for answer in answers]
        batches = self._batches([Example("", ids, (0.0,) * len(ids)) for ids in token_ids], t)
        scores = token_values(self.scores, nnx.merge_state(params, self.frozen), batches, self.mesh)
        return [
            scores_T[len(answer.rollout.prompt_ids) - 1 + np.array(step_starts(answer))]
            for answer, scores_T in zip(answers, scores, strict=True)
        ]

    def train(
        self, state: TrainState, examples: list[Example], replay: Sequence[Example], t: int, at: float
    ) -> tuple[TrainState, dict[str, float]]:
        """(state, figures) after the optimizer steps of settings.epochs and minibatches on the examples of
        update t and the replayed ones. Without an example nothing changes, and there is no figure but
        trained_tokens.

        `at`: where the run stands among the settings' updates, for the learning rate. figures: the updater's,
        means over the steps, but for sampler_difference, which is the first one's. The old state is donated.
        """
        if not examples:
            return state, {"trained_tokens": 0}
        # All columns before the first step: `old` is the policy of the update's beginning for every part.
        whole, n = self.with_columns(state.params, examples, replay, t), len(examples)
        figures_S = []
        for epoch in range(self.settings.epochs):
            seed = fold_seed(self.seed, "parts", t, epoch)
            parts = parts_of(whole[:n], whole[n:], self.settings.minibatches, seed)
            for number, part in enumerate(parts):
                done = at + (epoch + number / len(parts)) / self.settings.epochs
                step = done * self.settings.steps_per_update
                state, figures = self.updater.update(state, self._batches(part, t), epoch, at=step)
                figures_S.append(figures)
        means = {name: float(np.mean([figures[name] for figures in figures_S])) for name in figures_S[0]}
        # After the first step the policy is meant to differ from the sampler; before it, it must not.
        first = {"sampler_difference": figures_S[0]["sampler_difference"]}
        return state, means | first | {"trained_tokens": tokens_of([*examples, *replay], self.settings)}

    def with_columns(
        self, params: nnx.State, examples: list[Example], replay: Sequence[Example], t: int
    ) -> list[Example]:
        """The examples, then the replayed ones, with every column that the loss asks for."""
        batches, models = self._batches(examples, t), {}
        # One step by the policy that sampled needs no column `old`: the ratio is 1, with the gradient of the
        # log-prob. The engine's own log-probs stay beside it, for the importance weights.
        if self.settings.needs_proximal:
            models["old"] = nnx.merge_state(params, self.frozen)
        if self.reference is not None:
            models["reference"] = self.reference
        for name, model in models.items():
            values = token_values(self.log_probs, model, batches, self.mesh)
            examples = [with_column(e, name, v.tolist()) for e, v in zip(examples, values, strict=True)]
        if not replay:
            return examples
        examples = [with_column(e, "replay", (0.0,) * len(e.token_ids)) for e in examples]
        return examples + [as_replay(example, examples[0]) for example in replay]

    def _batches(self, examples: list[Example], t: int) -> Batches:
        return Batches(examples, **self.settings.train.shape, seed=fold_seed(self.seed, "batches", t))


def parts_of(
    answers: Sequence[Example], replay: Sequence[Example], count: int, seed: int
) -> list[list[Example]]:
    """Disjoint parts of about equal size, each with its share of the replayed examples; at most `count`, and
    as many as there are answers."""
    # A part without an answer would be replay alone, divided by no token of the policy's.
    count = min(count, len(answers))
    if count == 1:
        return [[*answers, *replay]]
    random = np.random.RandomState(seed)
    own, others = random.permutation(len(answers)), random.permutation(len(replay))
    return [
        [*(answers[i] for i in own[k::count]), *(replay[i] for i in others[k::count])] for k in range(count)
    ]


def tokens_of(examples: Sequence[Example], settings: Settings) -> int:
    """The tokens, prompts included, that all epochs of an update on these examples train on."""
    return sum(len(example.token_ids) for example in examples) * settings.epochs


def optimizer_of(settings: Settings) -> OptimizerSettings:
    """The schedule runs over every step that there may be."""
    return settings.train.optimizer(settings.updates * settings.steps_per_update)


class Updater:
    """One optimizer step on all of some batches, however many they are: that of make_train_step on all their
    rows at once. Compiled once for batches of one shape. `like` is a state, or an abstract one, with the
    shardings to keep; `frozen` are parameters of the model that are not trained."""

    # An update has another number of rows each time, and a program has one shape. So there are three of fixed
    # shapes instead of one: `zero` makes empty sums, `add` adds a micro-batch's sums and gradient to those so
    # far, and `apply` takes the step by their quotient.

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        objective: Objective,
        optimizer: OptimizerSettings,
        like: TrainState,
        mesh: Mesh,
        frozen: nnx.State = NO_PARAMS,
    ):
        self.mesh, self.frozen, self.is_new = mesh, frozen, True
        transformation, schedule = make_optimizer(optimizer), make_schedule(optimizer)
        gradient = functools.partial(sums_and_gradient, graphdef, objective, optimizer.gradient_dtype)

        def zero(params: nnx.State, batch: DeviceBatch, frozen: nnx.State) -> Total:
            shapes = jax.eval_shape(gradient, params, batch, frozen)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total: Total, params: nnx.State, batch: DeviceBatch, frozen: nnx.State) -> Total:
            return jax.tree.map(jnp.add, total, gradient(params, batch, frozen))

        def apply(state: TrainState, total: Total, at: jax.Array) -> tuple[TrainState, Metrics]:
            return stepped(transformation, schedule, state, total, at)

        def compiled(function, takes, gives, donated=()):
            return jax.jit(
                on_mesh(function, mesh), donate_argnums=donated, in_shardings=takes, out_shardings=gives
            )

        states = jax.tree.map(lambda leaf: leaf.sharding, like)
        rows, fixed = NamedSharding(mesh, batch_spec()), jax.tree.map(lambda leaf: leaf.sharding, frozen)
        whole = replicated(mesh)
        totals = (whole, states.params)  # a gradient lies like its parameter
        self._zero = compiled(zero, (states.params, rows, fixed), totals)
        self._add = compiled(add, (totals, states.params, rows, fixed), totals, donated=0)
        self._apply = compiled(apply, (states, totals, whole), (states, whole), donated=0)

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
            # One batch ahead of the device, and no more: each that waits takes its memory, and processes on
            # CPUs that run further ahead of one another can hang (see model/hf/names.py).
            jax.block_until_ready(total)
            with reporting_slow("compiled the update", says=self.is_new and is_leader()):
                total = self._zero(state.params, placed, self.frozen) if total is None else total
                total = self._add(total, state.params, placed, self.frozen)
            self.is_new = False
        state, metrics = self._apply(state, total, np.float32(at))
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(int(state.step), figures, batches.ids)
        return state, figures
