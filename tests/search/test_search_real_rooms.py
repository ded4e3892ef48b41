"""Search with the JAX engine and the fork judge: the same trees at concurrency 1 and 64, bit for bit."""

import asyncio
import dataclasses

import jax
from scripted import step
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from o1jax.engine.jax_engine.engine import JaxEngine
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh
from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import nano_tokenizer
from o1jax.records import Problem, TestCase
from o1jax.rewards.outcome import search_tests
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.search.mcts import search_many
from o1jax.search.sampling import Sampler, SampleSettings, sample_many

PROGRAMS = ["print(int(input()) + 1)", "print(2)", "print(int(input())"]
STEPS = [step(1, 1, f"plan {letter}") for letter in "abcd"] + [
    step(2, 2, "refine"),
    step(2, 2, "refine more"),
]
STEPS += [step(number, 3, program) for number in (2, 3) for program in PROGRAMS]
TESTS = (TestCase("1\n", "2\n"), TestCase("4\n", "5\n"))
PROBLEMS = [Problem(id=f"p{i}", question="1" * i, form="stdin", tests=TESTS) for i in range(10)]


def step_tokenizer() -> PreTrainedTokenizerFast:
    """Whole steps as tokens, so that an untrained model says well-formed ones now and then; of a
    prompt only the ones are seen."""
    model = Tokenizer(models.BPE({"1": 0}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_tokens([AddedToken(text, normalized=False) for text in ("<|assistant|>", *STEPS)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|assistant|>"
    return tokenizer


def untrained_policy(tokenizer, context):
    """Config, graphdef and parameters of a tiny model."""
    config = ModelConfig(
        family="qwen2",
        vocab_size=len(tokenizer),
        d_model=32,
        n_layers=1,
        n_heads=2,
        n_kv_heads=1,
        head_dim=16,
        d_ff=32,
        max_context=context,
        tie_embeddings=False,
        qkv_bias=True,
    )
    return config, *init_params(config, 0, make_mesh(devices=jax.devices()[:1]))


def untrained(tokenizer, context):
    config, _, params = untrained_policy(tokenizer, context)
    return JaxEngine(config, params, tokenizer, slots=8, context=context, chunk=16, prefill_rows=2, block=4)


def play(tokenizer, context, *plays):
    """What `play(engine, judge)` gives for each of `plays`, one after the other on one engine."""

    async def run():
        engine = untrained(tokenizer, context)
        try:
            async with ForkJudge(slots=2) as judge:
                return [await one(engine, judge) for one in plays]
        finally:
            await engine.close()

    return asyncio.run(run())


def search(tokenizer, problems, settings, concurrency):
    return lambda engine, judge: search_many(
        Searcher(engine, judge, tokenizer, settings), problems, 0, concurrency=concurrency
    )


def sample(tokenizer, concurrency):
    settings = SampleSettings(n=6, max_tokens=12, top_p=1.0, top_k=0, style="nano")
    return lambda engine, judge: sample_many(
        Sampler(engine, judge, tokenizer, settings), PROBLEMS, search_tests, 0, concurrency=concurrency
    )


def test_same_trees_and_samples_at_concurrency_1_and_64():
    tokenizer = step_tokenizer()
    settings = SearchSettings(
        samples=4, max_step_tokens=4, max_path_tokens=12, top_p=1.0, top_k=0, style="nano"
    )
    in_waves = dataclasses.replace(settings, wave=3)
    vine = dataclasses.replace(settings, algorithm="vine")
    at_64, at_1, waves_at_64, waves_at_1, vine_at_64, vine_at_1, samples_at_64, samples_at_1 = play(
        tokenizer,
        64,
        search(tokenizer, PROBLEMS, settings, 64),
        search(tokenizer, PROBLEMS, settings, 1),
        search(tokenizer, PROBLEMS, in_waves, 64),
        search(tokenizer, PROBLEMS, in_waves, 1),
        search(tokenizer, PROBLEMS, vine, 64),
        search(tokenizer, PROBLEMS, vine, 1),
        sample(tokenizer, 64),
        sample(tokenizer, 1),
    )
    assert at_1 == at_64 and waves_at_1 == waves_at_64 and samples_at_1 == samples_at_64
    assert vine_at_1 == vine_at_64 and any(tree.rollouts for tree in vine_at_1)
    nodes = [node for tree in at_1 for node in tree.nodes]
    assert {node.action for node in nodes} == {0, 1, 2, 3} and max(node.depth for node in nodes) >= 3
    assert any(tree.solved for tree in at_1) and not all(tree.solved for tree in at_1)
    assert any(rollout.verdict is not None for group in samples_at_1 for rollout in group)


def test_an_untrained_nano_policy_makes_dead_leaves_and_no_crash():
    problems = ladder.make_problems("pool", {1: 3}, seed=0)
    tokenizer = nano_tokenizer.train([problem.question for problem in problems], 300)
    settings = SearchSettings(
        rollouts=2, max_step_tokens=16, max_path_tokens=32, top_p=1.0, top_k=0, style="nano"
    )
    (trees,) = play(tokenizer, 128, search(tokenizer, problems, settings, 8))
    leaves = [node for tree in trees for node in tree.nodes if node.value is not None]
    assert leaves and all(leaf.error and leaf.value == 0.0 for leaf in leaves)
