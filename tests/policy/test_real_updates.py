"""An update each of SFT, reward model, DPO and policy gradient on SmolLM2-135M, all its weights and LoRA.

Needs the model: make test-real. Whether they teach is measured elsewhere; here they run at real shapes.
"""

import json
import math

import jax
import numpy as np
import pytest
from download_models import path_of
from etils import epath

from o1jax.model.hf import checkpoint
from o1jax.parallel.mesh import make_mesh
from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import chat, pseudocode
from o1jax.prompts.ends import end_ids
from o1jax.records import CaseResult, Status, Tree, Verdict
from o1jax.search.steps import SampledStep
from o1jax.search.tree import ROOT, GrowingTree
from o1jax.stages import run
from o1jax.stages.manifest import StageResult, StageSpec, finish
from o1jax.stages.problems import write_problems
from o1jax.stages.training import open_policy, open_tokenizer
from o1jax.store import write_records

MODEL = path_of("smollm2")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there; make real-models"),
]
ROW = 256
TRAIN = {"row_length": ROW, "rows_per_batch": 1, "learning_rate": 1e-3, "warmup_steps": 0}
LORA = {"lora": {"rank": 4, "alpha": 8.0}}
SAMPLE = {"n": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24, "style": "nano"}
SETTINGS = {  # of the stages, beside TRAIN
    "policy_sft": {"train_tokens": 1, "style": "nano"},
    "prm": {"train_tokens": 1, "trains": "body"},
    "policy_dpo": {
        "train_tokens": 1,
        "pairs": "paths",
        "train": {"row_length": 2 * ROW, "rows_per_batch": 1},
    },
    # A model that cannot solve them has groups alike, which teach nothing; by its own values it learns.
    "policy_rl": {
        "updates": 1,
        "problems_per_update": 2,
        "sample": SAMPLE,
        "engine": {"slots": 4, "context": ROW},
        "reward": {"alpha": {"kind": "constant", "start": 1.0}},
        "advantage": "gae",
        "loss": {"value_weight": 0.5},
    },
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Two problems, and a tree of each with a path that passes and one that fails."""
    root = epath.Path(tmp_path_factory.mktemp("real"))
    problems, tokenizer = ladder.make_problems("pool", {1: 2}, 0), open_tokenizer(MODEL)
    write_problems(root / "problems", problems)
    write_records(
        root / "search" / "trees" / "trees.parquet", Tree, [tree_of(p, tokenizer) for p in problems]
    )
    for name, stage in (("problems", "check_problems"), ("search", "search")):
        finish(root / name, StageSpec(stage, {}, 0, {}), StageResult({}, {}))
    return root


@pytest.fixture(scope="module")
def before():
    """The parameters that every update begins with."""
    return jax.tree.leaves(checkpoint.load(MODEL, make_mesh())[1])


def tree_of(problem, tokenizer):
    growing = GrowingTree(end_ids(tokenizer))
    for program, status in ((problem.reasoning[0][-1].text, Status.AC), ("print(0)\n", Status.WA)):
        parent, verdict = ROOT, Verdict(True, (CaseResult(status),))
        for depth, step in enumerate(problem.reasoning[0], 1):
            is_last = depth == len(problem.reasoning[0])
            text = pseudocode.render_step(type(step)(step.action, program) if is_last else step, depth)
            ids = chat.encode(tokenizer, text)
            made = {"finish_reason": "stop", "policy_version": 0, "program": program if is_last else ""}
            sampled = SampledStep(ids, (-1.0,) * len(ids), text, step.action, **made)
            value = float(verdict.passed) if is_last else None
            parent = growing.add(parent, sampled, value, verdict if is_last else None)
    prompt_ids = chat.render(tokenizer, pseudocode.messages(problem, style="nano"))
    return Tree(problem.id, prompt_ids, tuple(growing.nodes), 0, 1.0, 2, 99, 2)


@pytest.mark.parametrize("adapters", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", list(SETTINGS))
def test_an_update_of_a_real_model_changes_it(house, before, tmp_path, stage, adapters):
    config = SETTINGS[stage] | {"train": TRAIN | SETTINGS[stage].get("train", {}) | adapters}
    found = (
        {"problems": str(house / "problems")} if stage == "policy_rl" else {"found_0": str(house / "search")}
    )
    out = epath.Path(tmp_path) / stage
    figures = run.run(out, StageSpec(stage, config, 0, {"policy": str(MODEL), **found}))["figures"]
    assert figures["updates" if stage == "policy_rl" else "steps"] == 1 and figures["trained_tokens"] > 0
    (row,) = map(json.loads, (out / "fit" / "metrics.jsonl").read_text().splitlines())
    assert math.isfinite(row["loss"]) and row["grad_norm"] > 0
    pairs = zip(before, jax.tree.leaves(open_policy(out).params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)
