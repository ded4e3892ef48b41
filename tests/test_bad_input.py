"""Bad input through the launch scripts: one clear line, exit code 2, nothing written before is lost."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from etils import epath

from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import nano_tokenizer
from o1jax.stages.manifest import StageResult, StageSpec, begin, finish
from o1jax.stages.problems import write_problems
from o1jax.train.checkpoint import save_policy

ROOT = pathlib.Path(__file__).parents[1]


def launch(script, *flags):
    command = [sys.executable, f"launch/{script}.py", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    return done.returncode, done.stderr.strip().splitlines()


def write_stage(place, stage):
    spec = StageSpec(stage, {}, 0, {})
    begin(epath.Path(place), spec)
    finish(epath.Path(place), spec, StageResult({}, {"seconds": 0.0}))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A finished policy stage with an untrained nano policy, and a finished problems stage."""
    root = tmp_path_factory.mktemp("inputs")
    problems = ladder.make_problems("held_out", {2: 3}, 0)
    tokenizer = nano_tokenizer.train([p.question for p in problems], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer))
    save_policy(root / "policy_stage" / "policy", config, init_params(config, 0, make_mesh())[1], tokenizer)
    write_stage(root / "policy_stage", "policy_sft")
    (root / "problems").mkdir()
    write_problems(epath.Path(root / "problems"), problems)
    write_stage(root / "problems", "check_problems")
    return root


def evaluate(inputs, workdir, *flags):
    return launch(
        "evaluate",
        f"--config.inputs.policy={inputs / 'policy_stage'}",
        f"--config.inputs.problems={inputs / 'problems'}",
        f"--workdir={workdir}",
        "--config.evaluate.with_search=False",
        "--config.evaluate.sample.max_tokens=16",
        *flags,
    )


def test_a_model_that_never_closes_a_step_is_evaluated_as_malformed(inputs, tmp_path):
    code, errors = evaluate(inputs, tmp_path)
    assert code == 0, errors
    figures = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["figures"]
    assert (
        figures["pseudocode"]["malformed_share"] == 1.0 and figures["pseudocode"]["pass_at_1"]["mean"] == 0.0
    )


def test_a_corrupt_checkpoint_is_named(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path / "inputs")
    shards = [p for p in (tmp_path / "inputs" / "policy_stage").rglob("d/*") if p.is_file()]
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    code, errors = evaluate(tmp_path / "inputs", tmp_path / "out")
    assert shards and code == 2 and len(errors) == 1
    assert "policy_stage" in errors[0]


def test_a_missing_policy_is_named(inputs, tmp_path):
    code, errors = evaluate(inputs, tmp_path, f"--config.inputs.policy={tmp_path / 'none'}")
    assert code == 2 and len(errors) == 1 and str(tmp_path / "none") in errors[0]


def test_a_prompt_longer_than_the_context_names_its_problem(inputs, tmp_path):
    (tmp_path / "problems").mkdir()
    problem = ladder.make_problems("held_out", {2: 1}, 0)[0]
    long = dataclasses.replace(problem, id="too_long", question=problem.question * 40)
    write_problems(epath.Path(tmp_path / "problems"), [long])
    write_stage(tmp_path / "problems", "check_problems")
    code, errors = evaluate(inputs, tmp_path / "out", f"--config.inputs.problems={tmp_path / 'problems'}")
    assert code == 2 and len(errors) == 1 and "tokens" in errors[0]


@pytest.mark.parametrize("text", ["", '{"question": 3}\n', "not json\n"])
def test_an_empty_or_malformed_problem_file_is_named(tmp_path, text):
    path = tmp_path / "problems.jsonl"
    path.write_text(text, encoding="utf-8")
    code, errors = launch(
        "prepare", f"--config.check_problems.source={path}", f"--workdir={tmp_path / 'out'}"
    )
    assert code == 2 and len(errors) == 1 and "problems.jsonl" in errors[0]


@pytest.mark.parametrize(
    "flag, word",
    [
        ("--config.search.rolouts=3", "rolouts"),
        ("--config=configs/search.py:giant", "giant"),
        ("--config.search.concurrency=many", "many"),
        ("--no_such_flag=1", "no_such_flag"),
    ],
)
def test_wrong_flags_are_one_line(flag, word):
    code, errors = launch("search", flag)
    assert code == 2 and len(errors) == 1 and word in errors[0]


def test_problems_without_tests_cannot_be_searched(inputs, tmp_path):
    problem = ladder.make_problems("held_out", {2: 1}, 0)[0]
    bare = dataclasses.replace(problem, tests=())
    (tmp_path / "problems").mkdir()
    write_problems(epath.Path(tmp_path / "problems"), [bare])
    write_stage(tmp_path / "problems", "check_problems")
    code, errors = launch(
        "search",
        f"--config.policy={inputs / 'policy_stage'}",
        f"--config.problems={tmp_path / 'problems'}",
        f"--workdir={tmp_path / 'out'}",
    )
    assert code == 2 and len(errors) == 1 and "no tests" in errors[0]


def test_launch_profile_does_not_stand_before_pythons_own():
    program = "import entry; entry.run(lambda argv: print(__import__('profile').run.__module__))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        cwd=ROOT / "launch",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "profile", done.stderr
