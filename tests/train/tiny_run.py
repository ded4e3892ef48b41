"""A run small enough for tests: what to learn, and `python tiny_run.py DIRECTORY` to train in a process."""

import functools
import sys

import jax
import numpy as np

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh, own_rows, place_batch
from o1jax.parallel.traced import on_mesh
from o1jax.train import loop, objectives, step
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.step import init_state

CONFIG = ModelConfig(
    family="qwen2",
    vocab_size=64,
    d_model=32,
    n_layers=1,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=64,
    max_context=64,
    tie_embeddings=True,
    qkv_bias=True,
)
OPTIMIZER = OptimizerSettings(3e-3, total_steps=120, warmup_steps=10, weight_decay=0.1)
STEPS = 120
UNOPTIMIZED = {"xla_backend_optimization_level": 0}  # compiler options of a program that is run a few times


def examples(n: int, seed: int = 0) -> list[Example]:
    """Sequences that count upwards in steps of 3 from a random token."""
    random = np.random.RandomState(seed)
    lengths, starts = random.randint(8, 30, size=n), random.randint(0, 64, size=n)
    return [
        Example(f"e{i}", tuple(((starts[i] + 3 * np.arange(lengths[i])) % 64).tolist()), (1.0,) * lengths[i])
        for i in range(n)
    ]


def batches(n: int = 200, seed: int = 0) -> Batches:
    return Batches(examples(n, seed), row_length=64, rows_per_batch=8, seed=1)


@functools.cache
def model():
    """(graphdef, params) on one device, made once a process."""
    return init_params(CONFIG, 0, make_mesh())


def run(directory, *, evaluate=None, data=None, mesh=None, **settings) -> loop.Fitted:
    """Fits the tiny model in `directory`, on a mesh that is not the default one where it is given."""
    mesh = mesh or make_mesh()
    graphdef, params = init_params(CONFIG, 0, mesh)
    settings = loop.FitSettings(**{"max_steps": STEPS, "checkpoint_every": 20} | settings)
    data = data or batches()
    return loop.fit(
        directory,
        graphdef,
        params,
        objectives.sft,
        data,
        OPTIMIZER,
        settings,
        mesh=mesh,
        evaluate=evaluate,
    )


def validation(mesh=None):
    """parameters -> the mean loss on sequences that are not trained on, over one epoch."""
    graphdef, held_out, mesh = model()[0], batches(20, seed=7), mesh or make_mesh()
    program = jax.jit(on_mesh(lambda params, batch: objectives.sft(merge(graphdef, params), batch), mesh))
    own = own_rows(held_out.rows_per_batch, mesh)

    def evaluate(params):
        placed = (place_batch(batch, mesh, own) for batch in held_out.epoch(0, own.indices))
        losses, weights = zip(*(program(params, batch)[:2] for batch in placed), strict=True)
        return {"loss": sum(map(float, losses)) / sum(map(float, weights))}

    return evaluate


def trainer(graphdef, params, mesh, **options):
    """(state, step) to train these parameters."""
    tx = make_optimizer(OPTIMIZER)
    state = init_state(params, tx, mesh)
    schedule = make_schedule(OPTIMIZER)
    return state, step.make_train_step(
        graphdef, objectives.sft, tx, state, mesh, schedule=schedule, **options
    )


def steps(graphdef, params, mesh, n: int = 6):
    """(losses, last state, how often the step was compiled) of n steps."""
    state, train_step = trainer(graphdef, params, mesh)
    losses = []
    for at in range(n):
        state, metrics = train_step(state, place_batch(batches().at(at), mesh))
        losses.append(float(metrics["loss"]))
    return losses, state, train_step._cache_size()


if __name__ == "__main__":
    run(sys.argv[1])
