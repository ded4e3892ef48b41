"""RL small enough for tests: a tiny policy that knows a right and a wrong answer to each of a few problems,
and `python tiny_rl.py ROOT OUT SETTINGS` to run the stage in a process of its own."""

import dataclasses
import functools
import json
import pathlib
import sys

from etils import epath

from o1jax.batches.encode import encode_sft
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.processes import start_processes
from o1jax.policy.found import reference_texts
from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import chat, nano_tokenizer, pseudocode
from o1jax.records import SftSample
from o1jax.stages import settings
from o1jax.stages.problems import write_problems
from o1jax.stages.run import module_of
from o1jax.stages.training import TrainSettings, train_tokens
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy

CONTEXT = 128


@functools.cache
def problems():
    """Rung-1 problems of one form, so that one's answer is a well-formed wrong one to another."""
    found = ladder.make_problems("pool", {1: 12}, seed=0)
    return [problem for problem in found if problem.form == "stdin"][:4]


@dataclasses.dataclass(frozen=True)
class Training:
    """The fixture's TokenBudget."""

    train_tokens: int = 60_000
    train: TrainSettings = TrainSettings(
        row_length=CONTEXT, rows_per_batch=4, learning_rate=6e-3, warmup_steps=5, weight_decay=0.0
    )


def make(root):
    """root/policy, root/problems and root/audit (tests that nothing passes), as stages leave them."""
    root = epath.Path(root)
    write_problems(root / "problems", problems())
    impossible = [
        dataclasses.replace(p, tests=(dataclasses.replace(p.tests[0], output="?"),)) for p in problems()
    ]
    write_problems(root / "audit", impossible)
    tokenizer = nano_tokenizer.train(reference_texts(problems(), 1), 480)
    config = dataclasses.replace(
        preset("nano"), vocab_size=len(tokenizer), d_model=64, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=128
    )
    policy = Policy(config, *init_params(config, 0, make_mesh()), tokenizer)
    examples = [encode_sft(sample) for sample in answers(tokenizer)]
    train_tokens(root / "policy", "tiny", policy, objectives.sft, examples, Training(), 0)


def answers(tokenizer):
    """A right answer to each problem, a wrong one, and one that breaks off after its first step."""
    for i, problem in enumerate(problems()):
        right, wrong = problem.reasoning[0], problems()[i - 1].reasoning[0]
        for name, steps in (("right", right), ("wrong", wrong), ("broken", right[:1])):
            text = pseudocode.render_path(steps)
            ids = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
            prompt_ids = chat.render(tokenizer, pseudocode.messages(problem, style="nano"))
            yield SftSample(f"{problem.id}/{name}", problem.id, prompt_ids, ids, (True,) * len(ids))


SETTINGS = {
    "updates": 4,
    "problems_per_update": 2,
    "sample": {"n": 6, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 80, "style": "nano"},
    "engine": {"slots": 12, "context": CONTEXT},
    "train": {"row_length": CONTEXT, "rows_per_batch": 4, "learning_rate": 3e-4},
    "reward": {"alpha": {"kind": "constant", "start": 1.0}},
    "checkpoint_every": 2,
    "checkpoint_every_s": 0.0,
}


def run(root, out, names=("policy", "problems"), seed=0, **more):
    """The stage with SETTINGS, and `more` in their place, on what `make` left."""
    inputs = {name: epath.Path(root) / ("policy" if name == "prm" else name) for name in names}
    stage = module_of("policy_rl")
    train = {**SETTINGS["train"], **more.pop("train", {})}
    parsed = settings.parse(stage.Settings, {**SETTINGS, **more, "train": train}, "policy_rl")
    return stage.run(epath.Path(out), parsed, inputs, seed)


def rows(out):
    """The rows of the log, without what a clock measured."""
    path = pathlib.Path(out) / "fit" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_seconds")} for line in lines]


if __name__ == "__main__":
    start_processes()
    run(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
