"""An update over any number of micro-batches is one step on all their rows."""

import jax
import numpy as np
import pytest
import tiny_run

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import make_mesh, place_batch
from o1jax.rl.learner import Updater, parts_of
from o1jax.train import objectives
from o1jax.train.step import NonFiniteLoss


def updater():
    """(state, updater) of the tiny model."""
    graphdef, params = tiny_run.model()
    state, _ = tiny_run.trainer(graphdef, params, make_mesh())
    return state, Updater(graphdef, objectives.sft, tiny_run.OPTIMIZER, state, make_mesh())


def in_rows(n, rows_per_batch):
    return Batches(tiny_run.examples(n), row_length=64, rows_per_batch=rows_per_batch, seed=1)


def test_an_update_is_the_train_step_on_all_rows_at_once():
    one = in_rows(24, 8)
    assert len(one.plan(0)) == 1 and len(in_rows(24, 2).plan(0)) == 4
    state, step = tiny_run.trainer(*tiny_run.model(), make_mesh())
    whole, wanted = step(state, place_batch(one.at(0), make_mesh()))
    state, programs = updater()
    state, figures = programs.update(state, in_rows(24, 2), at=0)
    for name, value in figures.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, state.params)


def test_updates_of_any_size_compile_once_and_count_as_steps():
    state, programs = updater()
    losses = []
    for n in (24, 5, 40, 24):
        state, figures = programs.update(state, in_rows(n, 2), at=len(losses))
        losses.append(figures["loss"])
    assert int(state.step) == 4 and losses[3] < losses[0]
    assert programs._zero._cache_size() == programs._add._cache_size() == programs._apply._cache_size() == 1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tiny_run.model()[1]))


def test_the_parts_of_an_update_share_out_its_answers_and_what_is_replayed():
    answers, replay = tiny_run.examples(10), tiny_run.examples(7, seed=1)
    parts = parts_of(answers, replay, 4, 3)
    assert [sum(example in answers for example in part) for part in parts] == [3, 3, 2, 2]
    assert [len(part) for part in parts] == [5, 5, 4, 3]
    of_parts = [example for part in parts for example in part]
    assert all(of_parts.count(example) == 1 for example in [*answers, *replay])
    assert parts == parts_of(answers, replay, 4, 3) != parts_of(answers, replay, 4, 4)
    assert parts_of(answers, replay, 1, 3) == [[*answers, *replay]]
    assert [len(part) for part in parts_of(answers[:2], replay, 4, 3)] == [5, 4]


def test_a_loss_that_is_not_finite_names_its_examples():
    bad = Example("the bad one", tuple(range(60)), (float("inf"),) * 60)
    data = Batches([*tiny_run.examples(4), bad], row_length=64, rows_per_batch=2, seed=0)
    state, programs = updater()
    with pytest.raises(NonFiniteLoss, match="step 1: .*the bad one"):
        programs.update(state, data, at=0)
