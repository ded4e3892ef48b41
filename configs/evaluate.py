"""Evaluates a policy: pass@k of the prompts, search against best-of-n at equal tokens, ASPR.

    python launch/evaluate.py --config.inputs.policy=runs/demo/round_01/policy_rl \
        --config.inputs.problems=runs/demo/problems/held_out --workdir=runs/evaluate

    for p in mbpp mbpp_few_shot humaneval; do
        python launch/prepare.py --config=configs/prepare.py:$p --workdir=runs/$p; done
    python launch/evaluate.py --config=configs/evaluate.py:mbpp --workdir=runs/evaluate_mbpp \
        --config.inputs.policy=weights/qwen2.5-coder-7b-instruct

`inputs.policy` is a stage that trained one, a policy directory (an Orbax checkpoint with its tokenizer), a
directory of published safetensors, or a .gguf file. `inputs.prm` and `inputs.tcg` add their arms;
`inputs.samples`, an earlier evaluation, has its samples judged again, by other tests perhaps (humaneval's by
humaneval_plus: --config.evaluate.engine.judge_packages="('numpy',)" then) or read otherwise:
evaluate.sample.extract is `lenient` (a program is found as the field's harnesses find one) with style full,
`strict` (in the form that is taught here, and nowhere else) with style nano, unless it is set.

demo: 2 CPU cores, a few minutes. mbpp: the paper's settings, but for search's c (2.0), for Qwen2.5 and
Qwen2.5-Coder, on accelerators that hold the weights (7B: 16 GiB) and 64 sequences of 4,096 tokens. Its MBPP
figures, direct -> pseudocode: pass@1 1.5B 55.8 -> 46.7, 3B 56.3 -> 51.3, 7B 59.8 -> 50.1, Coder-7B 57.7 ->
58.2; ASPR 49.9 -> 54.5, 52.0 -> 70.6, 66.4 -> 78.1, 49.3 -> 74.9. humaneval: pass@k only, for it has no tests
to show to a search.
"""

import ml_collections

NANO = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
PAPER = {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "style": "full",
    "few_shot": 2,
    "limits": {"cpu_s": 10.0, "wall_s": 40.0},
}


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """`demo`: the demo's last policy on the demo's held-out problems; `mbpp`; `humaneval`."""
    pages = {"demo": demo, "mbpp": mbpp, "humaneval": humaneval}
    if variant not in pages:
        raise ValueError(f"variant {variant!r}: there are {', '.join(pages)}")
    inputs, evaluate = pages[variant]()
    others = dict.fromkeys(("prm", "tcg", "examples", "samples"), "")
    return ml_collections.ConfigDict({"seed": 0, "inputs": {**others, **inputs}, "evaluate": evaluate})


def demo() -> tuple[dict, dict]:
    """Inputs and settings of the nano policy."""
    return {"policy": "runs/demo/round_01/policy_rl", "problems": "runs/demo/problems/held_out"}, {
        "sample": {**NANO, "n": 8, "max_tokens": 176},
        "prompts": ("pseudocode", "direct"),
        "ks": (1, 8),
        "with_search": True,
        "search_problems": 0,
        "aspr_samples": 8,
        "search": {
            **NANO,
            "rollouts": 12,
            "max_depth": 3,
            "max_step_tokens": 100,
            "max_path_tokens": 176,
        },
        "engine": {"slots": 64, "context": 256},
        "write": {"answers": 4, "style": "nano", "top_p": 1.0, "top_k": 0, "max_tokens": 160},
        "tcg_engine": {"slots": 64, "context": 640},
    }


def mbpp() -> tuple[dict, dict]:
    """Qwen2.5 on MBPP's test split: all three prompts (completion: three worked examples), search, ASPR."""
    inputs = {
        "policy": "weights/qwen2.5-coder-7b-instruct",
        "problems": "runs/mbpp",
        "examples": "runs/mbpp_few_shot",
    }
    return inputs, {
        "sample": {**PAPER, "n": 8, "max_tokens": 2048},
        "prompts": ("direct", "pseudocode", "completion"),
        "ks": (1, 8),
        "with_search": True,
        "search_problems": 0,
        "aspr_samples": 8,
        "search": {
            **PAPER,
            "rollouts": 12,
            "max_depth": 8,
            "samples": 3,
            "c": 0.4,
            "max_step_tokens": 512,
            "max_path_tokens": 2048,
        },
        "engine": {"slots": 64, "context": 4096, "judge_slots": 8, "judge_packages": ()},
        "scorer_slots": 16,
        "write": {"answers": 4, "max_tokens": 1024},
        "tcg_engine": {"slots": 64, "context": 4096},
    }


def humaneval() -> tuple[dict, dict]:
    """Qwen2.5 on HumanEval: pass@k of the three prompts (completion: the published one)."""
    inputs, evaluate = mbpp()
    inputs = {"policy": inputs["policy"], "problems": "runs/humaneval"}
    return inputs, {**evaluate, "with_search": False}
