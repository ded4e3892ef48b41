"""Published weights with more rows than their tokenizer has tokens: engine and trainer agree (promise 2)."""

import asyncio
import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from o1jax.engine.interface import Request
from o1jax.losses.logprobs import token_log_probs
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.stages.training import open_policy
from o1jax.stages.workers import EngineSettings, WeightSync, open_engine
from o1jax.train.checkpoint import export_policy, save_policy

PADDING = 30
SHAPE = {"slots": 4, "context": 96}
# temperature, top_p, top_k
SAMPLED = [(1.0, 1.0, 0), (0.6, 1.0, 0), (0.7, 0.9, 0), (1.3, 1.0, 5), (0.0, 1.0, 0)]


def published(directory, tied):
    """A Llama's directory, and its policy as a stage opens it. The rows of padding are likelier than any
    token, if they were tokens."""
    tokenizer = nano_tokenizer.train(["def area(width, height):\n    return width * height\n"], 300)
    config = ModelConfig(
        family="llama",
        vocab_size=len(tokenizer) + PADDING,
        d_model=64,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        head_dim=32,  # the smallest that vLLM serves
        d_ff=96,
        max_context=128,
        tie_embeddings=tied,
    )
    _, params = init_params(config, 0, make_mesh())
    params = jax.tree.map(lambda leaf: leaf * 5, params)
    name = "embed_VD" if tied else "untied_head_DV"
    rows = (slice(len(tokenizer), None),) if tied else (slice(None), slice(len(tokenizer), None))
    params[name] = params[name].replace(params[name][...].at[rows].multiply(4))
    export_policy(directory, config, params, tokenizer)
    return open_policy(epath.Path(directory))


def distribution(logits_V, temperature, top_p, top_k):
    """Log-probs of what is sampled from, float64."""
    logits_V = logits_V.astype(np.float64) / (temperature or 1.0)
    if top_k:
        logits_V = np.where(logits_V >= np.sort(logits_V)[-top_k], logits_V, -np.inf)
    probs_V = np.exp(logits_V - logits_V.max())
    probs_V /= probs_V.sum()
    order = np.argsort(-probs_V)
    before_V = np.cumsum(probs_V[order]) - probs_V[order]
    probs_V[order[before_V >= top_p]] = 0
    with np.errstate(divide="ignore"):
        return np.log(probs_V / probs_V.sum())


@functools.partial(jax.jit, static_argnums=(0, 3))
def full_forward(graphdef, params, ids_T, temperature):
    """(logits_TV, log_probs_T of the next tokens) of one sequence."""
    model, T = merge(graphdef, params), ids_T.shape[0]
    hidden_BTD = model(ids_T[None], jnp.arange(T)[None], jnp.ones((1, T), int))
    # By head_DV, which has no padding; WeightSync goes the trainer's way, which masks it.
    log_probs_BT = token_log_probs(
        hidden_BTD, model.head_DV(), jnp.roll(ids_T, -1)[None], temperature=temperature
    )
    return model.logits(hidden_BTD)[0], log_probs_BT[0]


async def agrees(engine, policy, params):
    """Asserts that samples are of tokens, with the log-probs of a plain softmax over the tokens' logits, and
    of the trainer's own where nothing is filtered."""
    n_tokens = len(policy.tokenizer)
    prompt = tuple(policy.tokenizer.encode("def area(width, height):", add_special_tokens=False))
    asked = [
        Request(prompt, n=3 if t else 1, max_tokens=20, temperature=t, top_p=p, top_k=k, seed=3)
        for t, p, k in SAMPLED
    ]
    for (temperature, top_p, top_k), samples in zip(SAMPLED, await engine.generate(asked), strict=True):
        for sample in samples:
            assert max(sample.token_ids) < n_tokens
            ids_T = np.zeros(SHAPE["context"], int)
            ids_T[: len(prompt + sample.token_ids)] = prompt + sample.token_ids
            answer = slice(len(prompt) - 1, len(prompt + sample.token_ids) - 1)
            found = full_forward(policy.graphdef, params, ids_T, temperature or 1.0)
            logits_TV, trainers_T = (np.asarray(array)[answer] for array in found)
            logits_TV = logits_TV[:, :n_tokens]
            wanted = [
                distribution(logits_V, temperature, top_p, top_k)[token]
                for logits_V, token in zip(logits_TV, sample.token_ids, strict=True)
            ]
            np.testing.assert_allclose(sample.log_probs, wanted, atol=1e-4)
            if (top_p, top_k) == (1.0, 0):
                np.testing.assert_allclose(trainers_T, wanted, atol=1e-4)
            if not temperature:
                assert tuple(logits_TV.argmax(axis=-1)) == sample.token_ids


@contextlib.contextmanager
def endpoints_of(name, directory, policy):
    """URLs of a server that serves what launch/serve.py would write, where the engine wants one."""
    if name != "vllm_server":
        yield ()
        return
    import served

    model = policy.config, policy.params, policy.tokenizer
    with served.servers(directory, 1, *model, **SHAPE) as started:
        yield tuple(server.url for server in started)


@pytest.mark.parametrize(
    "name, tied",
    [
        ("jax", False),
        ("jax", True),
        pytest.param("vllm", False, marks=pytest.mark.vllm),
        pytest.param("vllm_server", True, marks=pytest.mark.vllm),
    ],
)
def test_an_engine_samples_tokens_alone_with_the_trainers_log_probs(tmp_path, name, tied):
    policy = published(tmp_path / "published", tied)
    assert policy.config.vocab_size == policy.config.token_rows + PADDING == len(policy.tokenizer) + PADDING
    pushed = jax.tree.map(lambda leaf: leaf * 0.9, policy.params)

    async def use(settings):
        engine = await open_engine(policy, settings)
        try:
            sync = WeightSync(policy)
            assert await sync.difference(engine, policy.params) < 1e-4
            await agrees(engine, policy, policy.params)
            assert await sync.push(engine, pushed, 1) < 1e-4
            await agrees(engine, policy, pushed)
        finally:
            await engine.close()

    with endpoints_of(name, tmp_path, policy) as endpoints:
        asyncio.run(use(EngineSettings(name, endpoints=endpoints, **SHAPE)))


def test_a_policy_that_was_saved_without_its_number_of_tokens_gets_it(tmp_path):
    policy = published(tmp_path / "published", True)
    old = dataclasses.replace(policy.config, n_tokens=0)
    text = old.to_json().replace('"n_tokens": 0, ', "")
    assert "n_tokens" not in text and ModelConfig.from_json(text) == old
    save_policy(tmp_path / "policy", old, policy.params, policy.tokenizer)
    assert open_policy(epath.Path(tmp_path / "policy")).config == policy.config
    assert jnp.array_equal(open_policy(epath.Path(tmp_path)).params["embed_VD"], policy.params["embed_VD"])
