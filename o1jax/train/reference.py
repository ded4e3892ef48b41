"""What a fixed model says of every token of some examples: log-probs, to compare a policy with, or scores.

One pass over the data instead of a second model beside the trained one. Does not train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1jax.batches.encode import Example, with_column
from o1jax.batches.stream import Batches
from o1jax.losses.prm import step_logits
from o1jax.model.init import merge
from o1jax.parallel.mesh import place_batch, replicated
from o1jax.parallel.traced import on_mesh
from o1jax.train.objectives import Batch, batch_hidden, batch_log_probs

Program = Callable[[nnx.State, Batch], jax.Array]  # a jitted one: (params, batch) -> values_BT


def with_reference(
    examples: Sequence[Example], graphdef: nnx.GraphDef, params: nnx.State, mesh: Mesh, **shape: int
) -> list[Example]:
    """The examples with the column `reference`: these parameters' log-probs, as token_log_probs_of, from
    batches of this `shape` (row_length, rows_per_batch)."""
    batches = Batches(examples, **shape, seed=0)
    log_probs = token_log_probs_of(graphdef, params, batches, mesh)
    return [
        with_column(example, "reference", values.tolist())
        for example, values in zip(examples, log_probs, strict=True)
    ]


def token_log_probs_of(
    graphdef: nnx.GraphDef, params: nnx.State, batches: Batches, mesh: Mesh
) -> list[np.ndarray]:
    """Every example's log-probs, in order, float32, one a token: at position t that of token t + 1,
    and 0 at the last position of each part."""
    return token_values(log_probs_program(graphdef, mesh), params, batches, mesh)


def token_values(program: Program, params: nnx.State, batches: Batches, mesh: Mesh) -> list[np.ndarray]:
    """What the program says of every example, in order, float32, one value a token. One epoch. Each process
    computes its devices' part, and all get all values."""
    by_example: dict[int, np.ndarray] = {}
    for batch in batches.epoch():
        values_BT = np.asarray(program(params, place_batch(batch, mesh)))
        examples_BT = batch["example_id_BT"]
        by_example |= {int(i): values_BT[examples_BT == i] for i in np.unique(examples_BT) if i >= 0}
    return [by_example[i] for i in range(len(batches.ids))]


def log_probs_program(graphdef: nnx.GraphDef, mesh: Mesh, temperature: float = 1.0) -> Program:
    """(params, batch) -> log_probs_BT of the targets, 0 where a part ends; compiled once a shape."""

    def log_probs(params: nnx.State, batch: Batch) -> jax.Array:
        segments_BT = batch["segment_ids_BT"]
        goes_on_BT = segments_BT == jnp.pad(segments_BT[:, 1:], ((0, 0), (0, 1)))
        return jnp.where(goes_on_BT, batch_log_probs(merge(graphdef, params), batch, temperature), 0.0)

    return jax.jit(on_mesh(log_probs, mesh), out_shardings=replicated(mesh))


def scores_program(graphdef: nnx.GraphDef, mesh: Mesh, good_id: int, bad_id: int) -> Program:
    """(params, batch) -> scores_BT in (0, 1), by the model's own score head, of what is read up to each
    position; compiled once a shape."""

    def scores(params: nnx.State, batch: Batch) -> jax.Array:
        model = merge(graphdef, params)
        return jax.nn.sigmoid(
            step_logits(batch_hidden(model, batch), model.padded_head_DV(), good_id, bad_id)
        )

    return jax.jit(on_mesh(scores, mesh), out_shardings=replicated(mesh))
