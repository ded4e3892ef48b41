"""A decoder and a byte-level tokenizer small enough to run in a test, with weights that vary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from o1jax.engine.jax_engine.engine import JaxEngine
from o1jax.losses.logprobs import token_log_probs
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts.ends import with_end_ids

CONTEXT = 64


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens; <end> and <pad> end a sample, and <Step_End> is a reserved stop token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<end>", "<Step_End>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["def add(a, b):\n    return a + b\n", "print(sum(xs)) é"],
        BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<pad>")
    return with_end_ids(fast, [fast.pad_token_id])


@functools.cache
def config() -> ModelConfig:
    return ModelConfig(
        family="qwen2",
        vocab_size=len(tokenizer()),
        d_model=128,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=32,  # the smallest that vLLM serves
        d_ff=48,
        max_context=CONTEXT,
        tie_embeddings=True,
        qkv_bias=True,
    )


@functools.cache
def graphdef_and_params(seed: int = 0):
    """Weights four times those of an initialisation, so that the distributions are not flat."""
    graphdef, params = init_params(config(), seed, make_mesh(devices=jax.devices()[:1]))
    return graphdef, jax.tree.map(lambda leaf: leaf * 4, params)


def full_forward(
    prompt_ids, token_ids, temperature: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(logits_TV, log_probs_T) at an answer's tokens, by one forward pass, as the losses compute them, of
    graphdef_and_params(seed)."""
    ids = [*prompt_ids, *token_ids]
    tokens_BS = np.zeros((1, CONTEXT), np.int32)
    tokens_BS[0, : len(ids)] = ids
    answer = slice(len(prompt_ids) - 1, len(ids) - 1)
    logits_SV, log_probs_S = _full_forward(*graphdef_and_params(seed), tokens_BS, len(ids), temperature)
    return np.asarray(logits_SV)[answer], np.asarray(log_probs_S)[answer]


@functools.partial(jax.jit, static_argnames=("graphdef", "temperature"))
def _full_forward(graphdef, params, tokens_BS: jax.Array, length: jax.Array, temperature: float):
    model, positions_S = merge(graphdef, params), jnp.arange(CONTEXT)
    hidden_BSD = model(tokens_BS, positions_S[None], (positions_S < length)[None].astype(int))
    next_BS = jnp.roll(tokens_BS, -1, axis=1)
    log_probs_BS = token_log_probs(hidden_BSD, model.head_DV(), next_BS, temperature=temperature)
    return model.logits(hidden_BSD)[0], log_probs_BS[0]


def engine(**options) -> JaxEngine:
    options = {
        "slots": 4,
        "context": CONTEXT,
        "chunk": 8,
        "prefill_rows": 2,
        "block": 4,
        "prefix_cache_mb": 1,
        "tensor": jax.local_device_count(),
    } | options
    params = options.pop("params", graphdef_and_params()[1])
    return JaxEngine(config(), params, tokenizer(), **options)
