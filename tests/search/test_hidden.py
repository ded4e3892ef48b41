"""Programs that do not see the question: what they are sampled from, and how that is trained."""

import asyncio
import dataclasses

import numpy as np
import pytest
import scripted
from scripted import EOS, ReadingJudge, ScriptedEngine, byte_tokenizer, path, problem, step
from test_search_real_rooms import untrained, untrained_policy
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from o1jax.batches.encode import encode_rollout, encode_sft
from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import own_devices
from o1jax.prompts import fence, pseudocode
from o1jax.search import growth, mcts, sampling
from o1jax.search.samples import passing_samples
from o1jax.train.reference import log_probs_program, token_values

STYLE = "nano_hidden"
SETTINGS = growth.SearchSettings(style=STYLE, max_depth=3, top_p=1.0, top_k=0, max_path_tokens=800)
SAMPLE = sampling.SampleSettings(style=STYLE, n=6, top_p=1.0, top_k=0, max_tokens=800)


def script(prefix, seed):
    """The random script, which goes on with a program where it was asked to."""
    if not prefix.endswith(pseudocode.PROGRAM_BEGINS):
        return scripted.random_script(prefix, seed)
    return "\n" + fence.render(f"print({'good bad half'.split()[seed % 3]!r})") + pseudocode.STOP


def searched(settings, script=script):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, script)
    searcher = growth.Searcher(engine, ReadingJudge(), tokenizer, settings)
    trees = asyncio.run(mcts.search_many(searcher, scripted.PROBLEMS, 0))
    return trees, engine, tokenizer


@pytest.mark.parametrize("algorithm", ["uct", "vine"])
def test_programs_are_asked_for_with_the_steps_alone(algorithm):
    trees, engine, tokenizer = searched(dataclasses.replace(SETTINGS, algorithm=algorithm))
    texts = [tokenizer.decode(request.prompt_ids) for request in engine.requests]
    programs = [text for text in texts if text.endswith(pseudocode.PROGRAM_BEGINS)]
    assert programs and all(text.startswith(pseudocode.PROGRAM_MARKER) for text in programs)
    assert not any("Solve p" in text for text in programs)
    assert all(text.startswith("Solve p") for text in texts if text not in programs)
    # Only the first of an answer's two requests ends there.
    stops = [pseudocode.PROGRAM_BEGINS in request.stop for request in engine.requests]
    assert stops == [text not in programs for text in texts]
    # The answers are what one request would have given.
    leaves = [node for tree in trees for node in tree.nodes if node.terminal]
    assert leaves and all(pseudocode.parse_step(leaf.text, leaf.depth).action == 3 for leaf in leaves)
    for leaf in leaves:
        begun = tokenizer.decode(leaf.token_ids[: leaf.program_from])
        assert begun.endswith(pseudocode.PROGRAM_BEGINS) and len(leaf.log_probs) == len(leaf.token_ids)


def test_every_sampled_token_is_counted_once_and_a_path_keeps_to_its_room():
    whole = path(step(1, 1, "plan"), step(2, 3, "bad" * 100))
    settings = dataclasses.replace(SETTINGS, rollouts=1, samples=1, max_path_tokens=150)
    trees, _, _ = searched(settings, lambda prefix, seed: whole[len(prefix) :])
    for tree in trees:
        assert tree.generated_tokens == 150 == sum(len(node.token_ids) for node in tree.nodes)
        assert "no <Step_End> within" in tree.nodes[-1].error


def test_trained_answers_are_two_parts_where_the_question_is_hidden():
    trees, _, tokenizer = searched(SETTINGS)
    found = [s for tree in trees for s in passing_samples(tree, ends=(tokenizer.eos_token_id,))]
    rollouts = asyncio.run(sampled(SAMPLE))
    assert found and any(r.reward for r in rollouts)
    advantages = [np.zeros(len(r.token_ids)) for r in rollouts if r.program]
    answers = [r for r in rollouts if r.program]
    examples = [encode_sft(sample) for sample in found]
    examples += [encode_rollout(r, a) for r, a in zip(answers, advantages, strict=True)]
    for example, record in zip(examples, [*found, *answers], strict=True):
        first, second = example.parts
        assert first + second == len(example.token_ids) == len(example.weights)
        texts = tokenizer.decode(example.token_ids[:first]), tokenizer.decode(example.token_ids[first:])
        assert texts[0].endswith(pseudocode.PROGRAM_BEGINS) and "Solve p" in texts[0]
        assert texts[1].startswith(pseudocode.PROGRAM_MARKER) and "Solve p" not in texts[1]
        answer = texts[0].split(scripted.ASSISTANT)[1]
        assert texts[1].split(scripted.ASSISTANT)[1].startswith(answer)
        # Each answer token is trained once.
        trained = [i for i, weight in enumerate(example.weights) if weight]
        answer_ids = record.answer_ids if record in found else record.token_ids
        assert [example.token_ids[i] for i in trained] == list(answer_ids)
    # A sample that never comes to a program is one part, and lies in a batch with the others.
    others = [r for r in rollouts if r.program_from == len(r.token_ids)]
    (one,) = others[:1]
    whole = encode_rollout(one, [0.0] * len(one.token_ids))
    assert not whole.parts and whole.columns.keys() == examples[-1].columns.keys()
    batch = Batches([whole, examples[-1]], row_length=1024, rows_per_batch=1, seed=0).at(0)
    assert len(np.unique(batch["segment_ids_BT"])) == 1 + 3  # padding, and three parts


async def sampled(settings):
    tokenizer = byte_tokenizer()
    sampler = sampling.Sampler(ScriptedEngine(tokenizer, script), ReadingJudge(), tokenizer, settings)
    groups = [await sampling.sample_paths(sampler, p, p.tests, seed=0) for p in scripted.PROBLEMS]
    return [rollout for group in groups for rollout in group]


def test_the_question_stays_where_the_style_does_not_hide_it_and_in_the_direct_prompt():
    for changes in ({"style": "nano"}, {"prompt": "direct"}):
        rollouts = asyncio.run(sampled(dataclasses.replace(SAMPLE, **changes)))
        assert all(r.program_prompt_ids == () and r.program_from == 0 for r in rollouts)


PIECES = (
    "<Step_Begin>### Step 1: <Action 1>\nplan<Step_End>",
    "\n<Step_Begin>### Step 2: <Action 3>\n",
    "```python\nprint(1)\n```<Step_End>",
    "```python\nprint(2)\n```<Step_End>",
)


def piece_tokenizer():
    """Pieces of steps as tokens, so that an untrained model comes to a program now and then."""
    model = Tokenizer(models.BPE({"1": 0, "q": 1}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    texts = ("<|assistant|>", pseudocode.PROGRAM_MARKER, *PIECES)
    model.add_tokens([AddedToken(text, normalized=False) for text in texts])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token=EOS)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|assistant|>"
    return tokenizer


def test_the_engines_log_probs_are_the_trainers_of_both_parts():
    tokenizer = piece_tokenizer()

    async def run():
        engine = untrained(tokenizer, 64)
        try:
            settings = dataclasses.replace(SAMPLE, n=64, max_tokens=8, temperature=1.0)
            sampler = sampling.Sampler(engine, ReadingJudge(), tokenizer, settings)
            one = dataclasses.replace(problem(), question="1q1q")
            return await sampling.sample_paths(sampler, one, one.tests, seed=0)
        finally:
            await engine.close()

    rollouts = asyncio.run(run())
    programs = [r for r in rollouts if 0 < r.program_from < len(r.token_ids)]
    assert len(programs) > 3
    config, graphdef, params = untrained_policy(tokenizer, 64)
    mesh = own_devices()
    program = log_probs_program(graphdef, mesh)
    for rollout in programs[:4]:
        example = encode_rollout(rollout, [0.0] * len(rollout.token_ids))
        batches = Batches([example], row_length=64, rows_per_batch=1, seed=0)
        (values_T,) = token_values(program, params, batches, mesh)
        weights = np.array(example.weights)
        got = np.array(values_T)[np.flatnonzero(weights) - 1]
        np.testing.assert_allclose(got, rollout.log_probs, atol=1e-4)
