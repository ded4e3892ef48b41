"""SmolLM2-135M-Instruct, from its GGUF file, answers here as it does in transformers.

Needs torch and the model: make test-real.
"""

import asyncio

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from download_models import path_of

from o1jax.engine.interface import Request
from o1jax.model.hf import checkpoint
from o1jax.model.init import abstract_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import chat
from o1jax.stages.training import open_tokenizer
from o1jax.stages.workers import EngineSettings, sampling_workers

torch = pytest.importorskip("torch", reason="torch is not installed; make test-real does that")
transformers = pytest.importorskip("transformers")
MODEL = path_of("smollm2")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there; make real-models"),
]
QUESTIONS = ("What is the capital of France?", "Write a Python function that adds two numbers.")
TOKENS = 40  # of an answer, at most


@pytest.fixture(scope="module")
def theirs():
    return transformers.AutoModelForCausalLM.from_pretrained(
        MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32
    )


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(MODEL)


def prompts(tokenizer):
    return [chat.render(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]


def log_probs_of(model, prompt, answer):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0].numpy()


def test_logits_are_those_of_transformers(theirs, tokenizer):
    # A text and no random tokens, on which float32 itself is .0005 off in either.
    ids = np.array(chat.encode(tokenizer, checkpoint.__doc__ + checkpoint.load.__doc__))
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids[None])).logits[0].numpy()
    mesh = make_mesh(devices=jax.devices()[:1])
    config, params = checkpoint.load(MODEL, mesh)
    model = merge(abstract_params(config, mesh)[0], params)
    hidden = model(jnp.asarray(ids)[None], jnp.arange(len(ids))[None], jnp.ones((1, len(ids)), int))
    np.testing.assert_allclose(np.asarray(model.logits(hidden[0])), wanted, atol=2e-4)


def test_greedy_answers_and_log_probs_are_those_of_transformers(theirs, tokenizer):
    async def ours():
        settings = EngineSettings(slots=2, context=256)
        async with sampling_workers(MODEL, settings) as workers:
            asked = [Request(ids, max_tokens=TOKENS, temperature=0.0) for ids in prompts(tokenizer)]
            return [answer for (answer,) in await workers.engine.generate(asked)]

    for prompt, answer in zip(prompts(tokenizer), asyncio.run(ours()), strict=True):
        with torch.no_grad():
            generated = theirs.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
        assert list(answer.token_ids) == generated[0, len(prompt) :].tolist()
        wanted = log_probs_of(theirs, prompt, answer.token_ids)
        np.testing.assert_allclose(answer.log_probs, wanted, atol=1e-3)
    assert "Paris" in asyncio.run(ours())[0].text


def test_text_comes_back_and_digits_stand_alone(tokenizer):
    text = "def f(n):\r\n\treturn n + 12345  # é 日本\n\n    x = 'a'"
    ids = chat.encode(tokenizer, text)
    assert chat.decode(tokenizer, ids) == text
    assert {"1", "2", "3", "4", "5"} <= set(tokenizer.convert_ids_to_tokens(list(ids)))
