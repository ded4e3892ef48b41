"""The policy_sft stage on trees made by rule: the mixture's shares, and what its terms do to log-probs."""

import dataclasses
import json
import random
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.policy import sft
from o1jax.policy.credit import CreditedAnswer
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.prompts.chat import render
from o1jax.records import CaseResult, InputError, Node, Problem, Status, Step, Tree, Verdict
from o1jax.search.tree import path_ids
from o1jax.stages import manifest, provenance, run, settings
from o1jax.stages.manifest import StageSpec
from o1jax.stages.problems import write_problems
from o1jax.stages.training import open_policy
from o1jax.store import read_records, write_records
from o1jax.train.checkpoint import Policy, save_policy
from o1jax.train.reference import token_log_probs_of

EOS = 1  # of the nano tokenizer
# What first steps begin with: one that passes half the time, half of the tests, or never.
GOOD, FAIR, BAD = 40, 41, 42
AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
PASS, HALF, FAIL = Verdict(True, (AC, AC)), Verdict(True, (AC, WA)), Verdict(True, (WA, WA))
FIRST = {1: GOOD, 4: BAD, 7: FAIR}
SHAPE = {"row_length": 64, "rows_per_batch": 8}
TRAIN = {**SHAPE, "learning_rate": 2e-3, "weight_decay": 0.0}
CONFIG = {"train_tokens": 6_000, "train": TRAIN, "style": "nano"}
N_PROBLEMS = 30
CHAIN = Step(1, "x"), Step(3, "print(x)")


def prompt_of(problem_id):
    return (3, 60 + sum(problem_id.encode()) % 100, 7)


def tree_of(problem_id):
    """1 good: 2 passes, 3 fails; 4 bad: 5 and 6 fail; 7 fair: 8 passes half of the tests."""
    rng, nodes = random.Random(problem_id), [Node(index=0, parent=-1, depth=0, action=0)]
    rows = (0, None), (1, PASS), (1, FAIL), (0, None), (4, FAIL), (4, FAIL), (0, None), (7, HALF)
    for index, (parent, verdict) in enumerate(rows, 1):
        ids = tuple(rng.randrange(50, 200) for _ in range(3))
        ids, depth = (FIRST[index], *ids) if verdict is None else ids, nodes[parent].depth + 1
        step = Step(3, f"print({index})") if verdict else Step(1, "plan")
        nodes.append(
            Node(
                index=index,
                parent=parent,
                depth=depth,
                action=step.action,
                token_ids=ids,
                text=pseudocode.render_step(step, depth),
                terminal=verdict is not None,
                value=None if verdict is None else verdict.pass_rate,
                verdict=verdict,
            )
        )
    return Tree(problem_id, prompt_of(problem_id), tuple(nodes), 0, 1.0, 4, 50, 4)


def with_log_probs(trees, policy):
    """The trees with the policy's own log-probs."""
    sequences = [(*t.prompt_ids, *path_ids(t.nodes, n.index)) for t in trees for n in t.nodes[1:]]
    rows = iter(log_probs_of(policy, sequences))
    return [
        dataclasses.replace(
            tree,
            nodes=(
                tree.nodes[0],
                *(
                    dataclasses.replace(node, log_probs=tuple(next(rows)[-len(node.token_ids) :]))
                    for node in tree.nodes[1:]
                ),
            ),
        )
        for tree in trees
    ]


def log_probs_of(policy, sequences):
    """Of every token but the first, under its sequence."""
    examples = [Example(f"{i}", ids, (0.0,) * len(ids)) for i, ids in enumerate(sequences)]
    batches = Batches(examples, seed=0, **SHAPE)
    values = token_log_probs_of(policy.graphdef, policy.params, batches, make_mesh())
    return [row[:-1].tolist() for row in values]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tiny untrained policy, a search by it, its problems, and others with references."""
    root = epath.Path(tmp_path_factory.mktemp("policy_sft"))
    tokenizer = nano_tokenizer.train([pseudocode.render_path(CHAIN)] * 9, 300)
    config = dataclasses.replace(
        preset("nano"), n_kv_heads=1, vocab_size=300, d_model=32, n_layers=1, n_heads=1, d_ff=64
    )
    graphdef, params = init_params(config, 0, make_mesh())
    save_policy(root / "start" / "policy", config, params, tokenizer)
    policy = Policy(config, graphdef, params, tokenizer)
    ids = [f"p{n:02d}" for n in range(N_PROBLEMS)]
    trees = with_log_probs([tree_of(id) for id in ids], policy)
    write_records(root / "search" / "trees" / "trees.parquet", Tree, trees)
    write_problems(root / "problems", [Problem(id, f"Say {id}.", "stdin") for id in ids])
    references = [
        Problem(f"r{n}", f"x {n}", "stdin", solutions=("print(x)",), reasoning=(CHAIN,)) for n in range(12)
    ]
    write_problems(root / "references", references)
    for name, stage in {"start": "warm_up", "search": "search"}.items():
        manifest.finish(root / name, StageSpec(stage, {}, 0, {}), manifest.StageResult({}, {}))
    for name in ("problems", "references"):
        manifest.finish(root / name, StageSpec("check_problems", {}, 0, {}), manifest.StageResult({}, {}))
    return root


def trained(house, out, inputs=("references",), **config):
    """The stage's figures."""
    places = {"policy": "start", "found_0": "search", **{name: name for name in inputs}}
    spec = StageSpec("policy_sft", {**CONFIG, **config}, 0, {k: str(house / v) for k, v in places.items()})
    return run.run(epath.Path(out), spec)["figures"]


def examples_of(house, out, inputs=("references",), **config):
    """(examples, rotation) of the stage with these settings."""
    wanted = settings.parse(sft.Settings, {**CONFIG, **config}, "policy_sft")
    policy = open_policy(house / "start")
    places = {"found_0": house / "search", **{name: house / name for name in inputs}}
    answers, failing = sft.examined(epath.Path(out), wanted, places, policy.tokenizer, 0)
    return sft.mixture(answers, failing, wanted, policy)[:2]


def test_the_references_have_their_share_of_the_tokens_of_every_epoch(house, tmp_path):
    examples, rotation = examples_of(house, tmp_path, reference_share=0.5, reference_prompts=("pseudocode",))
    assert rotation.first == N_PROBLEMS and len(examples) == N_PROBLEMS + 12
    batches = Batches(examples, seed=0, rotation=rotation, **SHAPE)
    for epoch in range(3):
        planned = [i for batch in batches.plan(epoch) for row in batch for i in row]
        tokens = [len(examples[i].token_ids) for i in planned]
        references = sum(n for i, n in zip(planned, tokens, strict=True) if i >= N_PROBLEMS)
        assert references / sum(tokens) == pytest.approx(0.5, abs=0.03)
    examples, rotation = examples_of(house, tmp_path)
    assert rotation is None and len(examples) == N_PROBLEMS + 24
    figures = trained(house, tmp_path / "out", reference_share=0.5)
    assert figures["found"] == N_PROBLEMS and figures["references"] == 24
    assert figures["references_an_epoch"] == pytest.approx(N_PROBLEMS * 12 / 60, rel=0.9)


def test_a_hand_made_trees_steps_have_their_exact_weights(house, tmp_path):
    # V_0 = .3, V_1 = V_7 = .5, V_4 = 0: steps 1 and 7 gain .2, 4 loses .3 and program 3 .5, others nothing.
    progress, negatives = {"weight": 0.4}, {"weight": 0.2, "threshold": 0.1}
    config = {"progress": progress, "negatives": negatives, "credit": {"kappa": 0.0}}
    examples, _ = examples_of(house, tmp_path, (), **config)
    by_id = {example.id: example for example in examples}
    assert len(examples) == 4 * N_PROBLEMS
    both, blamed, fair = (by_id[f"0/p00#{node}"] for node in (3, 4, 7))
    assert both.weights == pytest.approx((0,) * 3 + (0.08,) * 4 + (0,) * 3)
    assert both.columns["push"] == pytest.approx((0,) * 6 + (0.1,) * 3 + (0,))
    assert blamed.weights == (0,) * 7
    assert blamed.columns["push"] == pytest.approx((0, 0) + (0.06,) * 4 + (0,))
    assert fair.weights == pytest.approx((0,) * 3 + (0.08,) * 4) and not any(fair.columns["push"])
    found = by_id["0/p00#2"]
    assert not any(found.columns["push"]) and found.weights == (0,) * 3 + (1,) * 8


def mean_of(policy, house, index):
    """The mean log-prob of a token of the steps of this index, under what stands before them."""
    trees = read_records(house / "search" / "trees" / "trees.parquet", Tree)
    rows = log_probs_of(policy, [(*t.prompt_ids, *path_ids(t.nodes, index)) for t in trees])
    return float(np.mean([row[-len(trees[0].nodes[index].token_ids) :] for row in rows]))


def test_bad_steps_become_less_likely_until_the_clip(house, tmp_path):
    before = mean_of(open_policy(house / "start"), house, 4)
    # With a weight that drowns the found paths, so that what moves is the term.
    negatives = {"weight": 100.0, "threshold": 0.1, "clip": 0.3}
    config = {"credit": {"kappa": 0.0}, "train_tokens": 20_000, "negatives": negatives}
    figures = trained(house, tmp_path, (), **config)
    assert figures["failing"] == figures["losing_steps"] == 2 * N_PROBLEMS and not figures["gaining_steps"]
    fell_by = before - mean_of(open_policy(tmp_path), house, 4)
    assert 0.2 < fell_by < 1.2, fell_by  # the bound is .36 nats; steps overshoot, and tokens are shared
    rows = [json.loads(line) for line in (tmp_path / "fit" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["clipped"] == 0 and rows[-1]["clipped"] / rows[-1]["push_share"] > 0.5


def test_steps_of_failing_answers_that_gain_become_likelier(house, tmp_path):
    config = {"credit": {"kappa": 0.0}, "progress": {"weight": 5.0}, "train_tokens": 12_000}
    figures = trained(house, tmp_path, (), **config)
    assert figures["gaining_steps"] == 2 * N_PROBLEMS and not figures["losing_steps"]
    gains = [
        mean_of(open_policy(tmp_path), house, node) - mean_of(open_policy(house / "start"), house, node)
        for node in (7, 4)
    ]
    assert gains[0] > 0.5 > gains[1], gains  # fair steps, of which no answer passes, and bad ones


def test_what_a_failing_answer_taught_is_traced_to_its_node(house, tmp_path):
    config = {"negatives": {"weight": 0.1, "was": "start"}, "credit": {"kappa": 0.0}, "prompt": "bare"}
    trained(house, tmp_path, ("problems",), **config)
    rows = {row.id: row for row in provenance.read(epath.Path(tmp_path), "policy_sft")}
    row = rows["0/p00#4"]
    assert row.kind == "steps of a failing answer" and not row.left_out
    assert json.loads(row.facts) == {"advantage of step 1": -0.3}
    assert [(source.input, source.node) for source in row.sources] == [("found_0", 4)]
    kept = read_records(tmp_path / "failing.parquet", CreditedAnswer)
    assert {answer.id for answer in kept} == {id for id, r in rows.items() if r.kind != "found path"}


def test_bare_prompts_are_trained_under_and_compared_with_the_start(house, tmp_path):
    config = {"negatives": {"weight": 0.1, "was": "start"}, "credit": {"kappa": 0.0}, "prompt": "bare"}
    examples, _ = examples_of(house, tmp_path, ("problems",), **config)
    policy = open_policy(house / "start")
    asked = pseudocode.messages(Problem("p00", "Say p00.", "stdin"), style="nano")
    prompt_ids = render(policy.tokenizer, asked)
    by_id = {example.id: example for example in examples}
    assert all(by_id[f"0/p00#{n}"].token_ids[: len(prompt_ids)] == prompt_ids for n in (2, 3, 4))
    (values,) = log_probs_of(policy, [by_id["0/p00#4"].token_ids])
    np.testing.assert_allclose(by_id["0/p00#4"].columns["behaviour"][:-1], values, atol=1e-5)


def test_steps_are_valued_by_a_reward_model_and_resumed_with_the_values_they_had(house, tmp_path):
    config = {"progress": {"weight": 0.5}, "train_tokens": 1_000}
    places = {"policy": "start", "found_0": "search", "prm": "start"}
    spec = StageSpec("policy_sft", {**CONFIG, **config}, 0, {k: str(house / v) for k, v in places.items()})
    figures = run.run(tmp_path / "out", spec)["figures"]
    assert figures["failing"] > 0
    kept = read_records(tmp_path / "out" / "failing.parquet", CreditedAnswer)
    assert len({answer.advantages for answer in kept}) > 1  # the scores differ from problem to problem
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "out" / "failing.parquet", tmp_path / "again")
    assert run.run(epath.Path(tmp_path) / "again", spec)["figures"] == figures
    policies = [jax.tree.leaves(open_policy(epath.Path(tmp_path) / at).params) for at in ("out", "again")]
    assert all(np.array_equal(a, b) for a, b in zip(*policies, strict=True))


@pytest.mark.parametrize(
    "config, inputs, words",
    [
        ({"hardness_bound": 0.5}, (), "hardness_bound: saw 0.5, wanted 0"),
        ({"reference_prompts": ()}, (), "reference_prompts: saw none"),
        ({"reference_prompts": ("both",)}, (), "reference_prompts.*'both'"),
        ({"reference_share": 1.0}, (), "reference_share: saw 1.0"),
        ({"prompt": "bare"}, (), "prompt: saw 'bare' without an input problems"),
        ({"prompt": "bare", "negatives": {"weight": 1.0}}, ("problems",), "wanted 'start'"),
        ({}, ("prm",), "progress.weight and negatives.weight 0"),
    ],
)
def test_bad_input_is_one_line(house, tmp_path, config, inputs, words):
    places = {"policy": "start", "found_0": "search"} | {n: "start" if n == "prm" else n for n in inputs}
    spec = StageSpec("policy_sft", {**CONFIG, **config}, 0, {k: str(house / v) for k, v in places.items()})
    with pytest.raises(InputError, match=words) as error:
        run.run(epath.Path(tmp_path) / "out", spec)
    assert "\n" not in str(error.value)
