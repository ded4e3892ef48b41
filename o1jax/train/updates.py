"""One optimizer step on all of some batches, however many they are: what policy_rl trains with.

Two programs of fixed shapes instead of one: `add` a micro-batch's sums and gradient to those so far, and
`apply` their quotient. Gives the step that make_train_step takes on all the rows at once. Does not choose
what is trained on and saves nothing.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from o1jax.batches.stream import Batches
from o1jax.model.init import NO_PARAMS
from o1jax.parallel.mesh import batch_spec, own_rows, place_batch, replicated
from o1jax.parallel.traced import on_mesh
from o1jax.train.loop import NonFiniteLoss, describe_non_finite
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.state import TrainState
from o1jax.train.step import DeviceBatch, Metrics, Total, stepped, sums_and_gradient


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
