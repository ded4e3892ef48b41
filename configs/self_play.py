"""Self-play. On the ladder: nano models, no weights, no network, no accelerator.

    python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo
    python launch/self_play.py --config=configs/self_play.py:search --workdir=runs/ladder/seed_0

Hardware: 2 CPU cores, 4 GiB. Expected time and figures: tests/benchmarks/RESULTS.md.

    python launch/self_play.py --config=configs/self_play.py:qwen2.5-coder-7b --workdir=runs/coder_7b

qwen2.5-coder-1.5b-cpu: the loop in small with a trained model and no accelerator. Passing paths, which plain
sampling finds with two worked examples in the prompt, teach by LoRA to write such paths without them (prompt
"bare"). MBPP's training problems 601 to 720; evaluated on its test problems 11 to 110. 2 CPU cores, 12 GiB:
SFT takes 9.6 GiB, vLLM less. About 4 hours where both cores are idle: 40 minutes to sample (20 to 40 tokens a
second), an hour to train 40,000 tokens (10 a second and core), an hour for each of the two evaluations.
Figures: tests/benchmarks/RESULTS.md. Sampled with vLLM, so from the environment of make install-vllm;
qwen.gguf is the path that make real-models prints with MODELS=qwen2.5-coder-1.5b:

    .venv-vllm/bin/python launch/self_play.py --config=configs/self_play.py:qwen2.5-coder-1.5b-cpu \
        --config.policy=qwen.gguf --workdir=runs/coder_1.5b

qwen2.5-coder-7b: published safetensors of it and of deepseek-coder-1.3b-instruct in weights/; TACO's training
problems in standard-input form, evaluated on MBPP's test split. The paper's settings where it gives them. All
weights are trained: 8 devices of 80 GiB or more and O1JAX_MESH=fsdp=*; policies are sampled on the first four
of each process, or by vLLM (--config.<stage>.engine.name, with .engine.tensor=1). Not run yet.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
ENGINE = {"slots": 64, "context": 256}
ANSWER = {**SAMPLING, "max_tokens": 176}
SCOUT = {**ANSWER, "n": 1}  # one answer of many problems before a search of those that seem undecided
# References have a quarter of SFT's tokens, under the prompt that is evaluated alone.
REPLAYED = {"reference_share": 0.25, "reference_prompts": ("pseudocode",)}
# Of all problems drawn, the pool has nine in ten and the calibration of the reward model the others.
OF_POOL, OF_CALIBRATION = {"filter": {"hashed": (0.0, 0.9)}}, {"filter": {"hashed": (0.9, 1.0)}}
SEARCH = {
    **SAMPLING,
    "max_depth": 3,
    "samples": 3,
    "c": 0.4,
    "max_step_tokens": 100,
    "max_path_tokens": 176,
    "compile_weight": 0.1,
}


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """`demo`: all six steps, two short rounds. `ladder`: three longer ones. `search`: search and SFT only,
    and the arms that stand beside them at equal tokens. `qwen2.5-coder-7b`: all six steps with real models.
    --config.steps adds policy_dpo or tcg_adversarial."""
    real = {"qwen2.5-coder-1.5b-cpu": _coder_cpu, "qwen2.5-coder-7b": _coder_7b}
    if variant in real:
        return ml_collections.ConfigDict(real[variant]())
    if variant not in ("demo", "ladder", "search"):
        raise ValueError(f"variant {variant!r}: there are demo, ladder, search, {' and '.join(real)}")
    demo = variant == "demo"
    page = {
        "seed": 0,
        "policy": "",
        "tcg_from": "",
        "rounds": 2 if demo else 3,
        "arms": ("self_play",),
        "generated_tests": True,
        "find": ("scout", "search"),
        "steps": ("policy_sft", "prm", "policy_rl"),
        "evaluations": ("evaluate",),
        "prm_start": "continue",
        "references": problems(
            "warm_up", {1: 60, 2: 120, 3: 120, 4: 100} if demo else {1: 60, 2: 170, 3: 200, 4: 170}
        ),
        "validation": problems("pool", {2: 40, 3: 40, 4: 40}),
        "pool": {
            **problems("pool", {2: 250, 3: 350, 4: 200} if demo else {2: 400, 3: 900, 4: 500}),
            **OF_POOL,
        },
        "held_out": problems("held_out", {2: 70, 3: 70, 4: 70} if demo else {2: 100, 3: 100, 4: 100}),
        "warm_up": {
            "max_steps": 600 if demo else 700,
            "evaluate_every": 150 if demo else 175,
            "sample": {**ANSWER, "n": 4},
            "engine": {**ENGINE},
        },
        "scout": {"sample": {**SCOUT}, "stop": {"answers": 1}, "engine": {**ENGINE}},
        "search": {
            "search": {**SEARCH, "rollouts": 6, "stop_after_passes": 1},
            "draw": {"problems": 300 if demo else 800},
            "engine": {**ENGINE},
        },
        "sample": {"sample": {**ANSWER, "n": 1}, "engine": {**ENGINE}},
        "policy_sft": {
            "train_tokens": 300_000 if demo else 600_000,
            "max_per_problem": 2,
            "style": "nano",
            **REPLAYED,
        },
        "evaluate": {
            "sample": {**ANSWER, "n": 8},
            "prompts": ("pseudocode",),
            "ks": (1, 8),
            "engine": {**ENGINE},
        },
        "search_evaluate": {
            "sample": {**ANSWER, "n": 8},
            "prompts": (),
            "with_search": True,
            "search_problems": 40 if demo else 150,
            "search": {**SEARCH, "rollouts": 12},
            "engine": {**ENGINE},
        },
    }
    page |= _search_alone() if variant == "search" else _generator(demo) | _rewards(demo)
    return ml_collections.ConfigDict(page)


def _search_alone() -> dict:
    """The loop of steps 2, 3 and 6, and what it is compared with."""
    return {
        "arms": ("self_play", "sampling", "more_warm_up", "pool_references"),
        "generated_tests": False,
        "steps": ("policy_sft",),
        "pool": {**problems("pool", {2: 400, 3: 1800, 4: 1400}), **OF_POOL},
    }


def _generator(demo: bool) -> dict:
    """Step 1. The demo's is plain and trained for a minute: few of its cases are true."""
    traced = not demo
    cases = {"max_solutions": 1, "question_only": 0.1, "style": "nano", "traced": traced}
    train = {"row_length": 1024 if traced else 512, "rows_per_batch": 6}
    write = {**SAMPLING, "traced": traced, "temperature": 0.5, "answers": 4}
    write["max_tokens"] = 400 if traced else 100
    engine = {**ENGINE, "context": 640 if traced else 384}
    return {
        "tcg_problems": {
            **problems("warm_up", {1: 300, 2: 100} if demo else {1: 600, 2: 220, 3: 500, 4: 400}),
            "small_tests": 20 if demo else 40,
        },
        "audit": {"drawn_tests": 20},
        "tcg_sft": {
            "train": {**train, "row_length": 512, "learning_rate": 3e-3, "warmup_steps": 20},
            "train_tokens": 600_000 if demo else 16_000_000,
            "cases": {**cases, "sets": 8 if demo else 24},
        },
        "tcg_dpo": {
            "train": {**train, "learning_rate": 2e-4},
            "train_tokens": 60_000 if demo else 600_000,
            "cases": {**cases, "sets": 1},
            "rejected": "near_miss",
            "beta": 0.1,
            "nll_weight": 5.0,
        },
        "tcg_adversarial": {  # if config["steps"] names it
            "train": {**train},
            "train_tokens": 60_000 if demo else 300_000,
            "validity_weight": 0.25,
            "nll_weight": 5.0,
            "write": {**write, "temperature": 1.0, "answers": 8},
            "engine": {**engine},
        },
        "write_tests": {"write": {**write}, "engine": {**engine}},
        "evaluate_tcg": {"write": {**write}, "random_tests": True, "engine": {**engine}},
    }


def _rewards(demo: bool) -> dict:
    """Steps 4 and 5. Ten updates, the demo's, only cost at the rate at which sixty or more teach."""
    slow = {"advantage": "group_mean"}
    teaching = {
        "advantage": "group_normalized",
        "keep_groups": "outcome",
        "replay": {"examples": 64, "weight": 1.0, "prompts": REPLAYED["reference_prompts"]},
    }
    slow_rate = {"learning_rate": 1e-4, "warmup_steps": 5}
    teaching_rate = {"learning_rate": 6e-4, "schedule": "cosine", "warmup_steps": 10}
    return {
        "calibration": {
            **problems("pool", {2: 200, 3: 300, 4: 200} if demo else {2: 300, 3: 500, 4: 300}),
            **OF_CALIBRATION,
        },
        "prm": {
            "train_tokens": 300_000 if demo else 1_500_000,
            "objective": "soft",
            "likelihood": 0.3,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 7e-4},
        },
        "policy_dpo": {  # if config["steps"] names it
            "train_tokens": 300_000 if demo else 600_000,
            "pairs": "both",
            "beta": 0.1,
            "nll_weight": 0.1,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 2e-4},
        },
        "policy_rl": {
            "updates": 10 if demo else 100,
            "problems_per_update": 16 if demo else 32,
            "draw": "by_difficulty",
            "sample": {**ANSWER, "n": 8},
            "engine": {**ENGINE},
            "reward": {"alpha": {"kind": "linear", "start": 1.0, "floor": 0.5, "rate": 0.01}},
            "train": {
                "row_length": 256,
                "rows_per_batch": 16,
                **(slow_rate if demo else teaching_rate),
            },
            **(slow if demo else teaching),
        },
    }


def _coder_cpu() -> dict:
    """One round of sampling and SFT; filters of the vocabulary would cost more than the model on a CPU."""
    engine = {"name": "vllm", "dtype": "bfloat16", "slots": 48, "context": 3072}
    answer = {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_tokens": 768}
    answer["limits"] = {"cpu_s": 10.0, "wall_s": 40.0}
    greedy = {**answer, "n": 1, "temperature": 0.0, "extract": "strict"}
    evaluate = {"sample": {**greedy}, "prompts": ("direct", "pseudocode"), "ks": (1,), "engine": {**engine}}
    few_shot = {**evaluate, "sample": {**greedy, "few_shot": 2}, "prompts": ("pseudocode",)}
    problems = {"keep": "consistent", "shown_tests": 1, "cpu_s": 10.0}
    test = tuple(f"mbpp/{k}" for k in range(11, 111))
    return {
        "seed": 0,
        "policy": "",
        "rounds": 1,
        "arms": ("self_play",),
        "generated_tests": False,
        "find": ("sample",),
        "steps": ("policy_sft",),
        "evaluations": ("evaluate", "evaluate_few_shot"),
        "pool": {**problems, "source": "mbpp:train", "max_problems": 120},
        "held_out": {**problems, "source": "mbpp:test", "filter": {"ids": test}},
        "sample": {
            "sample": {**answer, "n": 2, "few_shot": 2},
            "stop": {"answers": 4, "passes": 2},
            "engine": {**engine},
        },
        "policy_sft": {
            "train": {
                "row_length": 1024,
                "rows_per_batch": 2,
                "learning_rate": 2e-4,
                "warmup_steps": 3,
                "lora": {"rank": 16, "alpha": 32.0},
            },
            "train_tokens": 40_000,
            "max_per_problem": 2,
            "prompt": "bare",
        },
        "evaluate": evaluate,
        "evaluate_few_shot": few_shot,
    }


def _coder_7b() -> dict:
    """Real models and problems; generated tests judge beside the problems' own."""
    sampling = {"temperature": 0.8, "top_p": 0.95, "top_k": 40}
    search = {**sampling, "max_depth": 8, "samples": 3, "c": 0.4, "max_step_tokens": 512}
    search |= {"max_path_tokens": 2048, "compile_weight": 0.1, "rollouts": 12}
    engine = {
        **ENGINE,
        "tensor": 4,
        "prefix_cache_mb": 4096.0,
        "slots": 256,
        "context": 4096,
        "judge_slots": 16,
    }
    player = {"engine": {**engine}, "concurrency": 256}
    answer = {**sampling, "n": 8, "max_tokens": 2048}
    write = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "answers": 4, "max_tokens": 512}
    train = {"row_length": 4096, "rows_per_batch": 32, "micro_batches": 4, "warmup_steps": 20}
    cases = {"max_solutions": 1, "question_only": 0.1}
    taco = {"source": "taco:train", "keep": "consistent", "max_tests": 20, "keep_apart": ("mbpp:test",)}
    of_pool, others = ({"forms": ("stdin",), **of["filter"]} for of in (OF_POOL, OF_CALIBRATION))
    return {
        "seed": 0,
        "rounds": 3,
        "arms": ("self_play",),
        "generated_tests": True,
        "find": ("scout", "search"),
        "steps": ("policy_sft", "prm", "policy_rl"),
        "evaluations": ("evaluate",),
        "prm_start": "continue",
        "policy": "weights/qwen2.5-coder-7b-instruct",
        "tcg_from": "weights/deepseek-coder-1.3b-instruct",
        "pool": {**taco, "max_problems": 4000, "filter": of_pool},
        "calibration": {**taco, "max_problems": 100, "filter": others},
        "held_out": {"source": "mbpp:test", "keep": "consistent"},
        "tcg_problems": {**taco, "max_problems": 8000, "filter": {"forms": ("stdin",)}},
        "tcg_held_out": {
            "source": "taco:test",
            "max_problems": 300,
            "shown_tests": 1,
            "filter": {"forms": ("stdin",)},
        },
        "tcg_sft": {
            "train": {
                **train,
                "learning_rate": 5e-4,
                "lora": {"rank": 1, "base": "nf4"},
                "model": "deepseek-coder-1.3b",
            },
            "train_tokens": 30_000_000,
            "cases": {**cases, "sets": 4},
        },
        "tcg_dpo": {
            "train": {
                **train,
                "row_length": 8192,
                "learning_rate": 5e-5,
                "lora": {"rank": 1, "base": "nf4"},
                "model": "deepseek-coder-1.3b",
            },
            "train_tokens": 5_000_000,
            "cases": {**cases, "sets": 1},
            "rejected": "shuffled",
            "beta": 0.1,
        },
        "write_tests": {"write": {**write}, "engine": {**engine}},
        "evaluate_tcg": {"write": {**write}, "engine": {**engine}},
        "scout": {"sample": {**answer, "n": 1}, "stop": {"answers": 1}, **player},
        "search": {"search": {**search}, "draw": {"problems": 1000}, **player},
        "sample": {"sample": {**answer, "n": 1}, **player},
        "policy_sft": {
            "train": {**train, "learning_rate": 1e-5, "model": "qwen2.5-coder-7b"},
            "train_tokens": 20_000_000,
            "max_per_problem": 4,
        },
        "prm": {
            "train": {**train, "learning_rate": 1e-5, "model": "qwen2.5-coder-7b"},
            "trains": "body",
            "train_tokens": 30_000_000,
            "objective": "soft",
        },
        "policy_dpo": {  # if config["steps"] names it
            "train": {**train, "row_length": 8192, "learning_rate": 5e-7},
            "train_tokens": 10_000_000,
        },
        "policy_rl": {
            "updates": 100,
            "problems_per_update": 64,
            "draw": "by_difficulty",
            "sample": {**answer, "n": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
            "engine": {**engine},
            "reward": {"gamma": 0.9, "alpha": {"kind": "linear", "start": 1.0, "floor": 0.5, "rate": 0.01}},
            "replay": {"examples": 64, "weight": 0.1},
            "train": {"row_length": 4096, "rows_per_batch": 16, "learning_rate": 1e-6, "warmup_steps": 5},
        },
        "evaluate": {"sample": {**answer}, "prompts": ("pseudocode", "direct"), "ks": (1, 8), **player},
        "search_evaluate": {
            "sample": {**answer},
            "prompts": (),
            "with_search": True,
            "search": {**search},
            **player,
        },
    }


def problems(split: str, counts: dict[int, int]) -> dict:
    """The settings of check_problems for a split of the ladder."""
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
