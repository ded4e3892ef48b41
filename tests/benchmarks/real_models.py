"""How a real model fares here and elsewhere: verdicts, tokens, log-probs, memory. One JSON line.

    make real-models MODELS="smollm2 qwen2.5-coder-1.5b"
    python tests/benchmarks/real_models.py verdicts --model=qwen2.5-coder-1.5b \\
        --evaluation=runs/evaluate_humaneval --data=HumanEval.jsonl.gz
    .venv-vllm/bin/python tests/benchmarks/real_models.py engines --model=smollm2 [--problems=runs/mbpp]
    python tests/benchmarks/real_models.py memory --model=qwen2.5-coder-1.5b --problems=runs/mbpp

verdicts: an evaluation of HumanEval judged again as its own harness does (Chen et al., arXiv 2107.03374:
program, test and `check(entry_point)` in one module of a process of its own); where evalplus is installed, of
what its sanitizer finds in the answers too. engines: greedy answers of the JAX engine, transformers and vLLM
to four short questions, or to the first --count of --problems, in float32. memory: the peak of
launch/evaluate.py beside its weights and cache, in float32. pass@1 itself comes
from launch/evaluate.py: RESULTS.md has the commands.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from download_models import path_of  # noqa: E402

TIMEOUT_S = 20.0  # of a program with its tests
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Explain what a hash table is.",
    "Write a haiku about the sea.",
)
TOKENS = 32  # of an answer


def verdicts(options: argparse.Namespace) -> dict:
    """How many answers pass here and by HumanEval's own method, and those whose verdicts differ."""
    from etils import epath

    from o1jax.problems.files import read_records as read_published
    from o1jax.prompts.chat import decode
    from o1jax.records import Rollout
    from o1jax.stages.training import open_tokenizer
    from o1jax.store import read_records

    evaluation = epath.Path(options.evaluation)
    rollouts = read_records(evaluation / "rollouts" / "direct.parquet", Rollout)
    published = {r["task_id"].replace("HumanEval", "humaneval"): r for r in read_published(options.data)}
    tokenizer = open_tokenizer(epath.Path(path_of(options.model)))
    has_evalplus = importlib.util.find_spec("evalplus") is not None
    ours, theirs, sanitized = {}, {}, {}
    for rollout in rollouts:
        record, name = published[rollout.problem_id], rollout.problem_id
        ours[name] = bool(rollout.reward)
        theirs[name] = passes(rollout.program, record)
        if has_evalplus:
            from evalplus.sanitize import sanitize

            text = decode(tokenizer, rollout.token_ids, special=False)
            sanitized[name] = passes(sanitize(text, record["entry_point"]), record)
    return {
        "ours": sum(ours.values()),
        "humaneval": sum(theirs.values()),
        "evalplus_sanitized": sum(sanitized.values()) if sanitized else None,
        "differ_humaneval": sorted(name for name in ours if ours[name] != theirs[name]),
        "differ_evalplus": sorted(name for name in sanitized if ours[name] != sanitized[name]),
    }


def passes(program: str, record: dict) -> bool:
    """HumanEval's own verdict. The answers are a model's: run this where they may do what they like."""
    module = f"{record['prompt']}\n    pass\n\n{program}\n{record['test']}\ncheck({record['entry_point']})\n"
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-I", "-c", module]
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def engines(options: argparse.Namespace) -> dict:
    """Tokens a second, whether the ids are the same, and the largest difference of log-probs."""
    import numpy as np
    import torch
    import transformers

    model = path_of(options.model)
    questions = [list(QUESTIONS)] * 2
    if options.problems:
        from etils import epath

        from o1jax.stages.problems import read_problems

        asked = [p.question for p in read_problems(epath.Path(options.problems))[: 2 * options.count]]
        questions = [asked[options.count :], asked[: options.count]]
    answers = {name: asyncio.run(answers_of(name, model, *questions)) for name in ("jax", "vllm")}
    prompts = answers["jax"][2]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        model.parent, gguf_file=model.name, dtype=torch.float32
    )
    length, same, worst = max(map(len, prompts)), {"jax": 0, "vllm": 0}, {"jax": 0.0, "vllm": 0.0}
    ends = theirs.generation_config.eos_token_id
    padded = [[ends] * (length - len(prompt)) + [*prompt] for prompt in prompts]  # on the left
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    batch = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    theirs.generate(**batch, max_new_tokens=1, do_sample=False)
    began = time.monotonic()
    out = theirs.generate(**batch, max_new_tokens=TOKENS, do_sample=False, pad_token_id=ends)
    seconds = time.monotonic() - began
    generated = [upto(row[length:].tolist(), ends) for row in out]
    for prompt, ids, *pairs in zip(prompts, generated, answers["jax"][0], answers["vllm"][0], strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()
        for name, answer in zip(("jax", "vllm"), pairs, strict=True):
            same[name] += list(answer.token_ids) == ids
            n = min(len(ids), len(answer.log_probs))
            if list(answer.token_ids[:n]) == ids[:n]:
                worst[name] = max(worst[name], float(np.abs(wanted[:n] - answer.log_probs[:n]).max()))
    return {
        "prompts": len(prompts),
        "same_ids_as_transformers": same,
        "largest_log_prob_difference": worst,
        "tokens_per_second": {
            "jax": answers["jax"][1],
            "vllm": answers["vllm"][1],
            "transformers": round(sum(map(len, generated)) / seconds, 1),
        },
    }


def upto(ids: list[int], end: int) -> list[int]:
    """The ids up to the first end token, with it: what follows is padding."""
    return ids[: ids.index(end) + 1] if end in ids else ids


async def answers_of(
    name: str, model: pathlib.Path, first: list[str], questions: list[str]
) -> tuple[list, float, list]:
    """One engine's answers, tokens a second of them, and the prompts; asked after `first`, which compiles."""
    from o1jax.engine.interface import Request
    from o1jax.prompts import chat
    from o1jax.stages.workers import EngineSettings, sampling_workers

    slots, context = (len(questions), 256) if len(questions) <= 4 else (16, 1024)
    async with sampling_workers(model, EngineSettings(name=name, slots=slots, context=context)) as workers:

        async def ask(questions: list[str]) -> tuple[list, list]:
            turns = [[{"role": "user", "content": question}] for question in questions]
            prompts = [chat.render(workers.tokenizer, turn) for turn in turns]
            asked = [Request(ids, max_tokens=TOKENS, temperature=0.0) for ids in prompts]
            return prompts, [answer for (answer,) in await workers.engine.generate(asked)]

        await ask(first)
        began = time.monotonic()
        prompts, answers = await ask(questions)
        seconds = time.monotonic() - began
    return answers, round(sum(len(a.token_ids) for a in answers) / seconds, 1), prompts


def memory(options: argparse.Namespace) -> dict:
    """Peak resident bytes of launch/evaluate.py over its weights and cache, which are in float32."""
    slots, context = 8, 1024
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "launch/evaluate.py", "--config=configs/evaluate.py:humaneval",
            f"--workdir={directory}/evaluate", f"--config.inputs.policy={path_of(options.model)}",
            f"--config.inputs.problems={options.problems}", "--config.inputs.examples=",
            "--config.evaluate.prompts=('direct',)", "--config.evaluate.ks=(1,)",
            "--config.evaluate.sample.n=1", "--config.evaluate.sample.max_tokens=32",
            "--config.evaluate.engine.dtype=float32", f"--config.evaluate.engine.slots={slots}",
            f"--config.evaluate.engine.context={context}", "--config.evaluate.engine.judge_slots=1",
        ]  # fmt: skip
        began = time.monotonic()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the largest of them
    weights, cache = sizes(options.model, slots, context)
    return {
        "peak_gb": round(peak / 1e9, 2),
        "weights_gb": round(weights / 1e9, 2),
        "cache_gb": round(cache / 1e9, 2),
        "ratio": round(peak / (weights + cache), 3),
        "seconds": round(seconds, 1),
    }


def sizes(model: str, slots: int, context: int) -> tuple[int, int]:
    """Bytes of the weights and of the slots' keys and values, in float32."""
    from o1jax.model.hf.config import config_from_hf
    from o1jax.model.hf.gguf import open_gguf
    from o1jax.model.init import abstract_params, parameter_count
    from o1jax.parallel.mesh import make_mesh

    config = config_from_hf(open_gguf(path_of(model)).fields, "float32")
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 4
    return 4 * parameter_count(abstract_params(config, make_mesh())[1]), slots * context * token


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("verdicts", "engines", "memory"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--evaluation", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--problems", default="")
    parser.add_argument("--count", type=int, default=64)  # of the problems that `engines` asks
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = parser.parse_args()
    run = {"verdicts": verdicts, "engines": engines, "memory": memory}[options.what]
    print(json.dumps(run(options)))
