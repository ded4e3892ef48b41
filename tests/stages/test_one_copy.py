"""A stage that only samples holds its weights once, and a model that does not fit is refused unread."""

import asyncio
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from o1jax.engine.interface import Request
from o1jax.parallel import memory
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError
from o1jax.stages.training import open_policy
from o1jax.stages.workers import EngineSettings, open_workers, sampling_workers
from o1jax.train.checkpoint import load_policy, save_policy
from tests.model.tiny_models import CONFIGS, perturbed

SETTINGS = EngineSettings(slots=2, context=64, judge_slots=1)


@pytest.fixture
def policy(tmp_path):
    tokenizer = nano_tokenizer.train(["ab"], 300)
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=len(tokenizer), d_ff=3000)
    save_policy(tmp_path / "policy", config, perturbed(config)[1], tokenizer)
    return epath.Path(tmp_path / "policy")


async def answers(opened):
    async with opened as workers:
        (sampled,) = await workers.engine.generate([Request((5, 6, 7), n=2, max_tokens=8)])
        return [(answer.token_ids, answer.log_probs) for answer in sampled]


def test_the_engine_s_weights_are_the_only_ones_and_the_answers_the_same(policy):
    kept, given = open_policy(policy), open_policy(policy)
    wanted = asyncio.run(answers(open_workers(kept, SETTINGS)))
    assert asyncio.run(answers(open_workers(given, SETTINGS, owned=True))) == wanted
    assert asyncio.run(answers(sampling_workers(policy, SETTINGS))) == wanted
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept.params))
    stacked = jax.tree.leaves(given.params["blocks"])
    assert stacked and all(leaf.is_deleted() for leaf in stacked)


def test_weights_are_loaded_in_the_engine_s_dtype(policy):
    loaded = load_policy(policy, make_mesh(), "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"bfloat16"}


def test_a_model_larger_than_the_memory_is_refused_with_both_sizes(policy, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda device: 100_000)
    with pytest.raises(InputError, match=r"its weights take .* GB as float32, and the memory is 0\.0 GB"):
        open_policy(policy)


def test_what_is_held_is_said_once_a_buffer(capsys, monkeypatch):
    monkeypatch.setattr(memory, "WORTH_SAYING", 0)
    large = jnp.ones((25_000, 1000))
    memory.report_held({"parameters": [large, large], "optimizer": jnp.ones((50_000, 1000))})
    assert "GB: parameters 0.1, optimizer 0.2" in capsys.readouterr().err
