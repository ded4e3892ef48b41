"""The policy_dpo stage on trees made by rule: what it pairs, that the preference is learned, and resumed."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.batches.encode import encode_pair
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.policy import dpo
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.records import CaseResult, InputError, Node, Status, Step, Tree, Verdict
from o1jax.stages import manifest, run
from o1jax.stages.manifest import StageSpec
from o1jax.stages.training import open_policy
from o1jax.store import write_records
from o1jax.train.checkpoint import save_policy
from o1jax.train.reference import token_log_probs_of

EOS = 1  # of the nano tokenizer
ENDS = (EOS,)
GOOD, BAD = 40, 41  # the token that tells a good step from a bad one
AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
PASS, HALF, FAIL = Verdict(True, (AC, AC)), Verdict(True, (AC, WA)), Verdict(True, (WA, WA))
CONFIG = {"train_tokens": 12_000, "train": {"row_length": 64, "rows_per_batch": 8, "learning_rate": 2e-3}}
ANY = dpo.Settings(train_tokens=1, max_per_parent=0, max_per_problem=0)


def tree_of(problem_id, rng, verdicts=((PASS, HALF), (HALF, FAIL))):
    """A first step for each row of `verdicts`, the first a good one, and its programs, good if they pass."""
    nodes = [Node(index=0, parent=-1, depth=0, action=0)]

    def add(parent, is_good, verdict=None):
        ids = [rng.randrange(50, 200) for _ in range(rng.randrange(2, 5))]
        ids.insert(rng.randrange(3), GOOD if is_good else BAD)
        depth = nodes[parent].depth + 1
        step = Step(3, f"print({len(nodes)})") if verdict else Step(1, "plan")
        nodes.append(
            Node(
                index=len(nodes),
                parent=parent,
                depth=depth,
                action=step.action,
                token_ids=(*ids, EOS) if verdict else tuple(ids),
                text=pseudocode.render_step(step, depth),
                terminal=verdict is not None,
                value=verdict.pass_rate if verdict else None,
                verdict=verdict,
            )
        )
        return len(nodes) - 1

    for row in verdicts:
        first = add(0, row is verdicts[0])
        for verdict in row:
            add(first, verdict is PASS, verdict)
    prompt_ids = (3, 60 + sum(problem_id.encode()) % 100, 7)
    return Tree(problem_id, prompt_ids, tuple(nodes), 0, 1.0, 4, 50, 8)


def trees_of(numbers, seed=0, **shape):
    return [tree_of(f"p{n:02d}", random.Random(1000 * seed + n), **shape) for n in numbers]


def search_stage(place, trees):
    write_records(place / "trees" / "trees.parquet", Tree, trees)
    manifest.finish(place, StageSpec("search", {}, 0, {}), manifest.StageResult({"name": place.name}, {}))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tiny untrained policy, and searches of which the second holds the first's trees and others."""
    root = epath.Path(tmp_path_factory.mktemp("policy_dpo"))
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=300, d_model=64, n_layers=1, n_heads=2, d_ff=128)
    save_policy(root / "start" / "policy", config, init_params(config, 0, make_mesh())[1], tokenizer)
    manifest.finish(root / "start", StageSpec("warm_up", {}, 0, {}), manifest.StageResult({}, {}))
    search_stage(root / "first", trees_of(range(40)))
    search_stage(root / "second", trees_of(range(50)))
    search_stage(root / "unsolved", trees_of(range(5), verdicts=((HALF, FAIL),)))
    search_stage(root / "equal", trees_of(range(5), verdicts=((FAIL, FAIL), (FAIL, FAIL))))
    return root


def spec_of(house, config, *found, policy="start"):
    places = {f"found_{k}": str(house / name) for k, name in enumerate(found)}
    return StageSpec("policy_dpo", {**CONFIG, **config}, 0, {"policy": str(house / policy), **places})


def ids(trees, kind, seed=0, **settings):
    rounds = trees if isinstance(trees[0], list) else [trees]
    settings = dataclasses.replace(ANY, **settings)
    return [pair.id for pair in dpo.pairs_of(rounds, kind, settings, ENDS, seed)]


def test_pairs_are_siblings_or_passing_against_failing_answers():
    #            0
    #     1(.75)      4(.25)
    #   2(1) 3(.5)  5(.5) 6(0)
    trees = trees_of([7])
    assert sorted(ids(trees, "siblings")) == [
        "0/siblings/p07#1>4",
        "0/siblings/p07#2>3",
        "0/siblings/p07#5>6",
    ]
    assert sorted(ids(trees, "paths")) == ["0/paths/p07#2>3", "0/paths/p07#2>5", "0/paths/p07#2>6"]
    (pair,) = dpo.pairs_of([trees], "siblings", dataclasses.replace(ANY, max_per_problem=1), ENDS, 2)
    assert pair.prompt_ids[:3] == trees[0].prompt_ids and pair.margin == 0.5


def test_a_margin_is_exceeded_by_pairs_of_either_kind():
    trees = trees_of([7])
    assert sorted(ids(trees, "paths", margin=0.5)) == ["0/paths/p07#2>6"]
    assert ids(trees, "siblings", margin=0.5) == []
    assert len(ids(trees, "siblings", margin=0.49)) == 3


def test_caps_are_for_a_parent_and_for_a_problem_over_all_rounds_and_drawn_by_seed():
    wide = trees_of(range(3), verdicts=((PASS, HALF, FAIL), (FAIL, FAIL)))
    assert len(ids(wide, "siblings")) == 3 * 4 and len(ids(wide, "siblings", max_per_parent=1)) == 3 * 2
    rounds = [wide, trees_of(range(4), seed=1)]
    for kind in ("siblings", "paths"):
        every, draws = ids(rounds, kind), [ids(rounds, kind, s, max_per_problem=3) for s in (0, 0, 1)]
        assert {len(draw) for draw in draws} == {12} and draws[0] == draws[1] != draws[2]
        assert all(set(draw) < set(every) for draw in draws)


def test_a_pair_that_two_rounds_found_counts_once():
    trees = trees_of(range(3))
    assert ids([trees, trees], "paths") == ids(trees, "paths")
    assert len(set(ids([trees, trees_of(range(3), seed=1)], "paths"))) == 2 * len(ids(trees, "paths"))


def log_probs(policy, pairs):
    """(chosen, rejected) log-probs of whole answers, each [P]."""
    examples = [encode_pair(pair) for pair in pairs]
    batches = Batches(examples, row_length=64, rows_per_batch=8, seed=0)
    values = token_log_probs_of(policy.graphdef, policy.params, batches, make_mesh())
    sums = []
    for example, row in zip(examples, values, strict=True):
        weighted = np.append(example.weights[1:], 0.0) * row
        sums.append((weighted[: example.parts[0] - 1].sum(), weighted[example.parts[0] :].sum()))
    return np.array(sums).T


@pytest.mark.parametrize("kinds, nll_weight", [("siblings", 0.0), ("paths", 1.0), ("both", 0.0)])
def test_the_chosen_answers_margin_rises_also_on_other_problems(house, tmp_path, kinds, nll_weight):
    out = epath.Path(tmp_path) / "out"
    spec = spec_of(house, {"pairs": kinds, "nll_weight": nll_weight}, "first", "second")
    figures = run.run(out, spec)["figures"]
    each = {"siblings": 150, "paths": 150}
    assert figures["pairs_by_kind"] == ({kinds: 150} if kinds != "both" else each)
    assert figures["pairs"] == sum(figures["pairs_by_kind"].values()) and figures["problems"] == 50
    assert figures["dropped_long"] == 0 and figures["trained_tokens"] >= CONFIG["train_tokens"]
    lines = [json.loads(line) for line in (out / "fit" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == figures["steps"] and abs(lines[0]["margin"]) < 1e-3  # the reference is the start
    assert lines[-1]["margin"] > 5 and lines[-1]["accuracy"] > 0.9
    kind = "siblings" if kinds == "siblings" else "paths"
    pairs = dpo.pairs_of([trees_of(range(60, 80))], kind, ANY, ENDS, 0)
    before = log_probs(open_policy(house / "start"), pairs)
    after = log_probs(open_policy(out), pairs)
    margin_P = (after[0] - before[0]) - (after[1] - before[1])
    assert (margin_P > 0).mean() > 0.75  # of steps that are mostly random tokens
    if nll_weight:
        assert after[0].mean() > before[0].mean()


def curve(out):
    path = out / "fit" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["step"], line["loss"], line["margin"]) for line in lines]


def test_a_preempted_stage_goes_on_to_the_same_policy(house, tmp_path):
    whole, stopped = epath.Path(tmp_path) / "whole", epath.Path(tmp_path) / "stopped"
    spec = spec_of(house, {"train_tokens": 40_000}, "first")
    figures = run.run(whole, spec)["figures"]
    command = [sys.executable, "-m", "o1jax.stages", str(stopped), json.dumps(dataclasses.asdict(spec))]
    with subprocess.Popen(command) as process:
        while len(curve(stopped)) < 5 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143 and not (stopped / "manifest.json").exists()
    assert 5 <= len(curve(stopped)) < figures["steps"]
    assert run.run(stopped, spec)["figures"] == figures
    assert curve(stopped) == curve(whole)
    for a, b in zip(*(jax.tree.leaves(open_policy(out).params) for out in (whole, stopped)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "config, found, words",
    [
        ({"pairs": "cousins"}, ["first"], r"policy_dpo\.pairs: saw 'cousins', wanted one of siblings, paths"),
        ({}, [], "saw no input found_0; give at least one search stage"),
        ({"train": {"row_length": 10}}, ["first"], r"\d+ pairs were longer than train.row_length, 10"),
        ({}, ["start"], "start is a stage warm_up, wanted one of search and sample"),
        ({"margin": 1.0}, ["first"], r"policy_dpo\.margin: saw 1\.0"),
        ({"beta": 0.0}, ["first"], r"policy_dpo\.beta: saw 0.0, wanted more than 0"),
        ({"nll_weight": -1.0}, ["first"], "nll_weight: saw -1.0, wanted at least 0"),
        ({"max_per_problem": -1}, ["first"], "max_per_problem: saw -1, wanted at least 0"),
        ({"train": {"model": "qwen2.5-0.5b"}}, ["first"], r"policy_dpo\.train\.model"),
    ],
)
def test_bad_input_is_one_line(house, tmp_path, config, found, words):
    out = epath.Path(tmp_path) / "out"
    with pytest.raises(InputError, match=words) as error:
        run.run(out, spec_of(house, config, *found))
    assert "\n" not in str(error.value) and not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    "config, found, words",
    [
        ({"pairs": "paths"}, "unsolved", "no pair of paths in 5 trees, 0 of them with a passing path"),
        ({"train": {"lora": {"rank": 2, "base": "nf4"}}}, "equal", "no pair of siblings or paths in 5 trees"),
        ({"margin": 0.9}, "unsolved", "no pair of siblings or paths"),
    ],
)
def test_trees_that_teach_nothing_leave_the_policy_as_it_is(house, tmp_path, caplog, config, found, words):
    out = epath.Path(tmp_path) / "out"
    figures = run.run(out, spec_of(house, config, found))["figures"]
    assert figures["pairs"] == figures["problems"] == figures["steps"] == figures["trained_tokens"] == 0
    assert set(figures["pairs_by_kind"].values()) == {0} and words in caplog.text
    for a, b in zip(*(jax.tree.leaves(open_policy(at).params) for at in (out, house / "start")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_trees_whose_programs_hide_the_question_are_refused(house, tmp_path):
    trees = [dataclasses.replace(tree_of("p", random.Random(0)), program_prompt_ids=(3, 4))]
    hidden = epath.Path(tmp_path) / "hidden"
    search_stage(hidden, trees)
    with pytest.raises(InputError, match="policy_dpo: saw problem p answered in style nano_hidden"):
        run.run(epath.Path(tmp_path) / "out", spec_of(house, {}, str(hidden)))


def test_a_search_without_passing_paths_still_pairs_siblings(house, tmp_path):
    config = {"pairs": "both", "train_tokens": 500}
    figures = run.run(epath.Path(tmp_path) / "out", spec_of(house, config, "unsolved"))["figures"]
    assert figures["pairs_by_kind"] == {"siblings": 5, "paths": 0} and figures["problems"] == 5
