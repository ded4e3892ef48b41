"""One step: packing and micro-batches change nothing, nothing is compiled or transferred twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import make_mesh, place_batch
from o1jax.records import InputError
from o1jax.stages.settings import parse
from o1jax.train import objectives, optimizer
from o1jax.train.step import sums_and_gradient


def trainer(**options):
    """(state, step, mesh) of the tiny model."""
    mesh = make_mesh()
    return *tiny_run.trainer(*tiny_run.model(), mesh, **options), mesh


def test_a_packed_batch_and_the_same_sequences_alone_give_the_same_loss_and_gradient():
    graphdef, params = tiny_run.model()
    program = jax.jit(
        lambda params, batch: sums_and_gradient(graphdef, objectives.sft, None, params, batch),
        compiler_options=tiny_run.UNOPTIMIZED,
    )

    def sums(examples):
        """Loss, weight and gradient, summed over all batches."""
        batches = Batches(examples, row_length=64, rows_per_batch=4, seed=0)
        parts = [program(params, batch) for batch in batches.epoch()]
        return jax.tree.map(lambda *leaves: sum(leaves), *parts)

    examples = tiny_run.examples(12)
    (loss, weight, _), gradient = sums(examples)
    parts = [sums([example]) for example in examples]
    (loss_1, weight_1, _), gradient_1 = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert weight == weight_1
    np.testing.assert_allclose(loss, loss_1, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, gradient_1)


def test_nothing_is_recompiled_and_nothing_moves_to_the_host_inside_a_step():
    now, step, mesh = trainer()
    stream = tiny_run.batches()
    now, _ = step(now, place_batch(stream.at(0), mesh))
    for at in range(1, 4):
        batch = place_batch(stream.at(at), mesh)
        with jax.transfer_guard("disallow"):
            now, metrics = step(now, batch)
    assert step._cache_size() == 1
    assert int(now.step) == 4 and set(metrics) >= {
        "loss",
        "grad_norm",
        "learning_rate",
        "padding_share",
        "tokens",
    }


def test_the_old_state_is_donated_and_the_callers_parameters_are_not():
    now, step, mesh = trainer()
    step(now, place_batch(tiny_run.batches().at(0), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(now.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tiny_run.model()[1]))


def test_micro_batches_give_the_whole_batchs_step():
    batch = tiny_run.batches().at(0)
    (whole, step, mesh), (parts, step_4, _) = trainer(), trainer(micro_batches=4)
    (whole, metrics), (parts, metrics_4) = (
        step(whole, place_batch(batch, mesh)),
        step_4(parts, place_batch(batch, mesh)),
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_4[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params)


def test_gradients_in_bfloat16_give_nearly_the_same_step():
    batch = tiny_run.batches().at(0)
    (exact, step, mesh), (half, step_half, _) = trainer(), trainer(gradient_dtype="bfloat16")
    exact, metrics = step(exact, place_batch(batch, mesh))
    half, metrics_half = step_half(half, place_batch(batch, mesh))
    np.testing.assert_allclose(metrics_half["grad_norm"], metrics["grad_norm"], rtol=0.03)
    assert jax.tree.map(lambda x: x.dtype, half) == jax.tree.map(lambda x: x.dtype, exact)


def test_moments_have_the_dtype_that_is_asked_for():
    settings = dataclasses.replace(tiny_run.OPTIMIZER, moment_dtype="bfloat16")
    state = jax.eval_shape(optimizer.make_optimizer(settings).init, tiny_run.model()[1])
    moments = optax.tree_utils.tree_get(state, "mu"), optax.tree_utils.tree_get(state, "nu")
    assert [{leaf.dtype.name for leaf in jax.tree.leaves(tree)} for tree in moments] == [
        {"bfloat16"},
        {"float32"},
    ]


def test_rows_that_do_not_split_into_micro_batches_are_refused():
    now, step, mesh = trainer(micro_batches=3)
    with pytest.raises(InputError, match="8 rows a batch do not split into 3"):
        step(now, place_batch(tiny_run.batches().at(0), mesh))


def test_a_batch_without_weights_has_no_gradient_and_no_nan():
    batch = tiny_run.batches().at(0) | {"weights_BT": np.zeros((8, 64), np.float32)}
    now, step, mesh = trainer()
    _, metrics = step(now, place_batch(batch, mesh))
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0


def test_schedules_warm_up_and_decay_as_told():
    def rates(name):
        settings = optimizer.OptimizerSettings(1.0, 100, schedule=name, warmup_steps=4, final_share=0.1)
        return [float(optimizer.make_schedule(settings)(jnp.int32(step))) for step in (0, 3, 4, 52, 100)]

    np.testing.assert_allclose(rates("constant"), [0.25, 1, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(rates("linear"), [0.25, 1, 1, 0.55, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates("cosine"), [0.25, 1, 1, 0.55, 0.1], rtol=1e-5)


def test_without_warm_up_the_first_step_has_the_peak():
    assert optimizer.make_schedule(optimizer.OptimizerSettings(0.5, 10))(jnp.int32(0)) == 0.5


@pytest.mark.parametrize(
    "bad", [{"b1": 1.0}, {"clip_norm": -1.0}, {"gradient_dtype": "bf16"}, {"final_share": 2.0}, {"eps": 0.0}]
)
def test_settings_outside_their_ranges_are_named(bad):
    (name,) = bad
    with pytest.raises(InputError, match=f"adamw.*{name}"):
        parse(optimizer.AdamW, bad, "adamw")


def test_matrices_decay_and_norms_and_biases_do_not():
    mask = optimizer.decay_mask(tiny_run.model()[1])
    flags = {jax.tree_util.keystr(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(mask)}
    decayed = {name for name, flag in flags.items() if flag}
    assert any("embed_VD" in name for name in decayed) and any("q_DNH" in name for name in decayed)
    kept = {name for name in flags if "norm" in name or "q_NH" in name or "k_KH" in name or "v_KH" in name}
    assert kept == set(flags) - decayed and len(kept) == 6
