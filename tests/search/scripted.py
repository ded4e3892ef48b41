"""A scripted engine, a judge that reads its verdict in the source, and a tokenizer of bytes."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from o1jax.engine.interface import Completion, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import pseudocode
from o1jax.records import CaseResult, Problem, Status, Step, TestCase, Tree, Verdict
from o1jax.sandbox.interface import Job
from o1jax.search import growth, mcts
from o1jax.stages.leases import work_through
from o1jax.store import ShardWriter, read_trees

ASSISTANT = "<|assistant|>"
EOS = "<|im_end|>"


def byte_tokenizer(reserved: Sequence[str] = ("<Step_Begin>", pseudocode.STOP)) -> PreTrainedTokenizerFast:
    """One token a byte, and one for each of `reserved`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_tokens([AddedToken(text, normalized=False) for text in (ASSISTANT, *reserved)])
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + ASSISTANT
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token=EOS)
    tokenizer.chat_template = template
    return tokenizer


class ScriptedEngine:
    """Answers with `script(text after the prompt, seed of the sample)`: the rest of the whole path, which
    is cut at stops and at max_tokens as an engine does. Arrival order is random when `jitter_s` > 0."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        script: Callable[[str, int], str],
        *,
        jitter_s: float = 0.0,
        max_context: int = 4096,
    ):
        self.tokenizer, self.script, self.jitter_s, self.max_context = (
            tokenizer,
            script,
            jitter_s,
            max_context,
        )
        self.requests: list[Request] = []

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        await asyncio.sleep(random.random() * self.jitter_s)
        self.requests += requests
        return [[self._sample(request, i) for i in range(request.n)] for request in requests]

    def _sample(self, request: Request, i: int) -> Completion:
        prefix = self.tokenizer.decode(request.prompt_ids).split(ASSISTANT)[1]
        text = self.script(prefix, fold_seed(request.seed, i))
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        reason = "eos"
        for end in range(1, len(ids)):
            if any(stop in self.tokenizer.decode(ids[:end]) for stop in request.stop):
                ids, reason = ids[:end], "stop"
                break
        if len(ids) > request.max_tokens:
            ids, reason = ids[: request.max_tokens], "length"
        text = self.tokenizer.decode(ids[:-1] if reason == "eos" else ids)
        return Completion(tuple(ids), (-0.5,) * len(ids), text, reason, 0)


class ReadingJudge:
    """good: all tests pass; half: the first does; broken: does not compile; else none passes."""

    isolation = "none"

    def __init__(self):
        self.sources: list[str] = []

    async def judge(self, job: Job) -> Verdict:
        self.sources.append(job.source)
        passes = {"good": len(job.tests), "half": 1}
        n = next((count for word, count in passes.items() if word in job.source), 0)
        statuses = [Status.AC] * n + [Status.WA] * (len(job.tests) - n)
        return Verdict(
            "broken" not in job.source, tuple(CaseResult(s, cpu_s=random.random()) for s in statuses)
        )


def step(number: int, action: int, text: str) -> str:
    return pseudocode.render_step(Step(action, text), number)


def path(*steps: str) -> str:
    return "\n".join(steps)


def problem(name: str = "p") -> Problem:
    tests = (TestCase("1", "1"), TestCase("2", "2"))
    return Problem(id=name, question=f"Solve {name}.", form="stdin", tests=tests)


def random_script(prefix: str, seed: int) -> str:
    """A random rest of a path: few different steps, some of them malformed, programs of every kind."""
    draw = random.Random(seed)
    number = prefix.count(pseudocode.STOP) + 1
    lead, steps = "\n" if prefix else "", []
    while True:
        if draw.random() < 0.08:
            return lead + path(*steps, "a step that is never closed")
        if number > 1 and draw.random() < 0.5:
            program = f"print({draw.choice(['good', 'half', 'bad', 'broken'])!r}, {draw.randrange(3)})"
            return lead + path(*steps, step(number, 3, program))
        steps.append(step(number, 1 if number == 1 else 2, draw.choice(["sort", "count", "scan", "join"])))
        number += 1


PROBLEMS = [problem(f"p{i}") for i in range(12)]
SETTINGS = growth.SearchSettings(max_depth=3, top_p=1.0, top_k=0, max_path_tokens=800)


def searcher_of(jitter_s: float = 0.002) -> growth.Searcher:
    """With the random script."""
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, random_script, jitter_s=jitter_s)
    return growth.Searcher(engine, ReadingJudge(), tokenizer, SETTINGS)


async def search_some(concurrency: int, seed: int = 0) -> list[Tree]:
    """The trees of PROBLEMS with the random script."""
    return await mcts.search_many(searcher_of(), PROBLEMS, seed, concurrency=concurrency)


async def search_and_keep(
    searcher: growth.Searcher,
    problems: Sequence[Problem],
    kept: ShardWriter[Tree],
    concurrency: int,
    on_tree: Callable[[Tree], None] = lambda tree: None,
) -> list[Tree]:
    """The trees of `problems` by way of a store, as a stage searches; `on_tree` is told of each new one."""

    async def work(problem: Problem) -> None:
        tree = await mcts.search_of(searcher, problem, 0).run()
        kept.append(tree)
        on_tree(tree)

    with kept:
        await work_through(kept.directory, "trees", problems, work, kept, concurrency)
    return read_trees(kept.directory, [problem.id for problem in problems])


if __name__ == "__main__":
    store = ShardWriter(sys.argv[1], Tree, rows=2)
    asyncio.run(search_and_keep(searcher_of(jitter_s=0.05), PROBLEMS, store, 3))
