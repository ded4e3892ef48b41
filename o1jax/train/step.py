"""What a train step changes, and the one jitted step for every objective.

A step is jit over split state: it merges the model inside, donates the old state, and returns scalars on the
device. Does not read batches, fetch metrics or decide when to stop; that is loop.py. Saves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from o1jax.model.init import NO_PARAMS, merge
from o1jax.parallel.mesh import batch_spec, replicated
from o1jax.parallel.traced import on_mesh
from o1jax.records import InputError
from o1jax.train.objectives import Objective, Sums

DeviceBatch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Total = tuple[Sums, nnx.State]  # an objective's sums over rows, and the gradient of the loss sum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a train step changes, a pytree on the mesh."""

    params: nnx.State  # those that are trained
    opt_state: optax.OptState
    step: jax.Array  # finished updates, and with that the data position: the next batch is the one at `step`
    average: nnx.State | None = None  # a mean of the parameters so far; None: nobody keeps one


class NonFiniteLoss(FloatingPointError):
    """The loss or the gradient is NaN or infinite: the message names the step and its examples."""


def check_finite(step: int, figures: Mapping[str, float], ids: Sequence[str]) -> None:
    """NonFiniteLoss where the loss or the gradient of a step is not finite; `ids`: its batch's examples."""
    loss, norm = figures["loss"], figures["grad_norm"]
    if not math.isfinite(loss) or not math.isfinite(norm):
        shown = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        raise NonFiniteLoss(f"step {step}: loss {loss}, gradient norm {norm}; its examples: {shown}")


def abstract_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """ShapeDtypeStructs with shardings for the whole state of training `params` (arrays, or abstract ones):
    moments lie like their parameters."""
    # Without this, jit(optimizer.init) would replicate the moments on every device.
    params = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), params)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda moment, param: struct(moment, param.sharding),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda leaf: struct(leaf, replicated(mesh)),
    )
    return TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)))


def struct(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The shape and dtype of `leaf`, with this sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Step 0 of training `params`. They are copied: the step donates its state, the caller's stay his."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(params, optimizer, mesh))

    def init(params: nnx.State) -> TrainState:
        return TrainState(jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.int32(0))

    return jax.jit(init, out_shardings=shardings)(params)


def make_train_step(
    graphdef: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    like: TrainState,
    mesh: Mesh,
    *,
    schedule: optax.Schedule,
    micro_batches: int = 1,
    frozen: nnx.State = NO_PARAMS,
    gradient_dtype: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """(state, batch) -> (state, metrics); the old state is donated.

    Where the model has parameters that are not trained, `frozen` is they, or abstract ones, and the step is
    (state, batch, frozen) -> ....

    The gradient is that of sum of losses / sum of weights over the global batch, accumulated over
    `micro_batches` by scan, in `gradient_dtype`. `like` is a state, or an abstract one, with the
    shardings to keep.
    metrics: loss, grad_norm, learning_rate (by `schedule`), weight (sum), tokens, padding_share, and
    the objective's own means.
    """
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    batch_sharding = NamedSharding(mesh, batch_spec())
    frozen_shardings = (jax.tree.map(lambda leaf: leaf.sharding, frozen),) if frozen else ()

    def step(
        state: TrainState, batch: DeviceBatch, frozen: nnx.State = NO_PARAMS
    ) -> tuple[TrainState, Metrics]:
        gradient = functools.partial(sums_and_gradient, graphdef, objective, gradient_dtype, frozen=frozen)
        total = accumulate(gradient, state.params, batch, micro_batches)
        state, metrics = stepped(optimizer, schedule, state, total)
        return state, metrics | occupancy(batch)

    return jax.jit(
        on_mesh(step, mesh),
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding, *frozen_shardings),
        out_shardings=(state_shardings, replicated(mesh)),
    )


def stepped(
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    state: TrainState,
    total: Total,
    at: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """The state after one optimizer step with the mean gradient, and the metrics but for occupancy's. `at`:
    where in the schedule, if not at the state's step."""
    (loss_sum, weight_sum, sums), gradients = total
    divisor = jnp.where(weight_sum == 0, 1.0, weight_sum)
    gradients = jax.tree.map(lambda g, p: (g / divisor).astype(p.dtype), gradients, state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    rate = schedule(state.step if at is None else at)
    updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
    params = optax.apply_updates(state.params, updates)
    means = jax.tree.map(lambda total: total / divisor, {"loss": loss_sum, **sums})
    norm = optax.tree.norm(gradients)
    metrics = means | {"grad_norm": norm, "learning_rate": rate, "weight": weight_sum}
    return TrainState(params, opt_state, state.step + 1, state.average), metrics


@functools.partial(jax.jit, donate_argnums=0)
def moved(average: nnx.State, params: nnx.State, rate: jax.Array) -> nnx.State:
    """The average, `rate` of the way towards the parameters; the old one is donated."""
    return jax.tree.map(lambda a, p: a + (rate * (p - a)).astype(a.dtype), average, params)


def sums_and_gradient(
    graphdef: nnx.GraphDef,
    objective: Objective,
    gradient_dtype: str | None,
    params: nnx.State,
    batch: DeviceBatch,
    frozen: nnx.State = NO_PARAMS,
) -> Total:
    """The objective's sums on a batch, and the gradient of its loss sum by `params`, of this dtype (None:
    theirs)."""
    params = jax.tree.map(lambda p: p.astype(gradient_dtype or p.dtype), params)

    def loss_sum(params: nnx.State):
        sums = objective(merge(graphdef, params, frozen), batch)
        return sums[0], sums

    (_, sums), gradients = jax.value_and_grad(loss_sum, has_aux=True)(params)
    return sums, gradients


def accumulate(
    gradient: Callable[[nnx.State, DeviceBatch], Total],
    params: nnx.State,
    batch: DeviceBatch,
    micro_batches: int,
) -> Total:
    """The sums and the gradient (as sums_and_gradient gives them), over all micro-batches."""
    if micro_batches == 1:
        return gradient(params, batch)
    first, rest = split_rows(batch, micro_batches)

    def add(total, batch):
        return jax.tree.map(jnp.add, total, gradient(params, batch)), None

    return jax.lax.scan(add, gradient(params, first), rest)[0]


def split_rows(batch: DeviceBatch, parts: int) -> tuple[DeviceBatch, DeviceBatch]:
    """The first of `parts` micro-batches, and the others stacked. Each takes every parts-th row, so
    that rows stay on their devices."""
    B = batch["tokens_BT"].shape[0]
    if B % parts:
        raise InputError(f"{B} rows a batch do not split into {parts} micro-batches; make it a multiple")
    stacked = {name: rows.reshape(B // parts, parts, -1).swapaxes(0, 1) for name, rows in batch.items()}
    return jax.tree.map(lambda rows: rows[0], stacked), jax.tree.map(lambda rows: rows[1:], stacked)


def occupancy(batch: DeviceBatch) -> Metrics:
    """How many tokens a batch holds, and the share of its places that is padding."""
    taken = jnp.count_nonzero(batch["segment_ids_BT"])
    return {"tokens": taken, "padding_share": 1 - taken / batch["segment_ids_BT"].size}
