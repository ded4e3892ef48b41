"""Every objective of a model with padded rows of the vocabulary equals that of the model without them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import test_preference_objectives as preferences
import tiny_run

from o1jax.batches.encode import encode_step_labels
from o1jax.batches.stream import Batches
from o1jax.model.hf.names import untied
from o1jax.model.init import abstract_params, init_params
from o1jax.parallel.mesh import make_mesh
from o1jax.records import StepLabel
from o1jax.rl.objective import PolicyGradient, policy_gradient
from o1jax.train import objectives
from o1jax.train.reference import token_log_probs_of
from o1jax.train.step import sums_and_gradient

N_TOKENS, PADDING = 64, 30
SHAPE = {"row_length": 61, "rows_per_batch": 2}


@functools.cache
def padded(tied: bool):
    """(config, params), the rows of padding likelier than any token, if they were tokens."""
    config = dataclasses.replace(
        preferences.CONFIG,
        vocab_size=N_TOKENS + PADDING,
        n_tokens=N_TOKENS,
        tie_embeddings=tied,
        score_likelihood=0.2,
    )
    _, params = init_params(config, 0, make_mesh())
    params = jax.tree.map(lambda leaf: leaf * 4, params)
    rows = params["embed_VD"]
    params["embed_VD"] = rows.replace(rows[...].at[N_TOKENS:].multiply(8))
    if not tied:
        columns = params["untied_head_DV"]
        params["untied_head_DV"] = columns.replace(columns[...].at[:, N_TOKENS:].multiply(8))
    return config, params


def programs():
    """A path whose last step is a program."""
    label = StepLabel("l", "p", (1, 2, 3), (4, 5, 6, 7, 8), (1, 4), (0.5, 1.0), (1.0, 1.0), (2, 2))
    return [encode_step_labels(label, "soft")]


def rollouts():
    """Sequences with the columns of a policy gradient."""
    columns = {"advantage": 0.7, "behaviour": -2.0, "reference": -3.0}
    return [
        dataclasses.replace(e, columns={name: (v,) * len(e.token_ids) for name, v in columns.items()})
        for e in tiny_run.examples(4)
    ]


CASES = {
    "sft": (objectives.sft, lambda: tiny_run.examples(4)),
    "dpo": (objectives.dpo(0.5, nll_weight=0.3), preferences.preferences),
    "prm with likelihood": (objectives.prm_pointwise(5, 9), programs),
    "prm of pairs": (objectives.prm_pairwise(5, 9), preferences.step_pairs),
    "policy gradient": (policy_gradient(PolicyGradient(temperature=0.7, kl_weight=0.2)), rollouts),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_no_loss_metric_or_gradient_knows_of_padded_rows(case, tied):
    objective, examples = CASES[case]
    batch, mesh = Batches(examples(), **SHAPE, seed=0).at(0), make_mesh()

    def result(config, params):
        gradient = functools.partial(sums_and_gradient, abstract_params(config, mesh)[0], objective, None)
        return jax.jit(gradient, compiler_options=tiny_run.UNOPTIMIZED)(params, batch)

    config, params = padded(tied)
    cut_config = dataclasses.replace(config, vocab_size=N_TOKENS, n_tokens=0)
    _, like = abstract_params(cut_config, mesh)
    cut_params = jax.tree.map(lambda leaf, to: leaf[tuple(map(slice, to.shape))], params, like)
    (loss, _, sums), gradients = result(config, params)
    (cut_loss, _, cut_sums), cut_gradients = result(cut_config, cut_params)
    np.testing.assert_allclose(loss, cut_loss, rtol=1e-5)
    for name, value in cut_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    same = jax.tree.map(lambda leaf, to: leaf[tuple(map(slice, to.shape))], gradients, cut_gradients)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(cut_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))
    for name in ("embed_VD",) if tied else ("embed_VD", "untied_head_DV"):
        gradient = np.asarray(gradients[name][...])
        assert not (gradient[N_TOKENS:] if name == "embed_VD" else gradient[:, N_TOKENS:]).any()


@pytest.mark.parametrize("tied", [True, False])
def test_what_vllm_gets_has_no_padded_rows_and_computes_the_same(tied):
    config, params = padded(tied)
    batches, mesh = Batches(tiny_run.examples(3), **SHAPE, seed=0), make_mesh()
    served, served_params = untied(config, params)
    assert (served.vocab_size, served.token_rows, served.tie_embeddings) == (N_TOKENS, N_TOKENS, False)
    ours = token_log_probs_of(abstract_params(config, mesh)[0], params, batches, mesh)
    theirs = token_log_probs_of(abstract_params(served, mesh)[0], served_params, batches, mesh)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
