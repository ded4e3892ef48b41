"""The policy_sft stage on trees made by rule: the mixture's shares, and what its terms do to log-probs."""

import dataclasses
import json
import random

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
from o1jax.stages import manifest, provenance, run, settings
from o1jax.stages.manifest import StageSpec
from o1jax.stages.problems import write_problems
from o1jax.stages.training import open_policy
from o1jax.store import read_records, write_records
from o1jax.train.checkpoint import Policy, save_policy
from o1jax.train.reference import token_log_probs_of

EOS = 1  # of the nano tokenizer
GOOD, BAD = 40, 41  # what a first step that passes half the time begins with, and one that never does
PASS, FAIL = (Verdict(True, (CaseResult(status),)) for status in (Status.AC, Status.WA))
SHAPE = {"row_length": 64, "rows_per_batch": 8}
TRAIN = {**SHAPE, "learning_rate": 2e-3, "weight_decay": 0.0}
CONFIG = {"train_tokens": 6_000, "train": TRAIN, "style": "nano"}
N_PROBLEMS = 30


def prompt_of(problem_id):
    return (3, 60 + sum(problem_id.encode()) % 100, 7)


def tree_of(problem_id, policy):
    """1 good: 2 passes, 3 fails; 4 bad: 5 and 6 fail. Log-probs are the policy's own."""
    rng, nodes = random.Random(problem_id), [Node(index=0, parent=-1, depth=0, action=0)]
    for parent, verdict in ((0, None), (1, PASS), (1, FAIL), (0, None), (4, FAIL), (4, FAIL)):
        index, depth = len(nodes), nodes[parent].depth + 1
        ids = tuple(rng.randrange(50, 200) for _ in range(3))
        if verdict is None:
            ids = (GOOD if index == 1 else BAD, *ids)
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
                value=None if verdict is None else float(verdict is PASS),
                verdict=verdict,
            )
        )
    paths = {node.index: (*nodes[node.parent].token_ids, *node.token_ids) for node in nodes[1:]}
    log_probs = log_probs_of(policy, [(*prompt_of(problem_id), *ids) for ids in paths.values()])
    for index, values in zip(paths, log_probs, strict=True):
        own = tuple(values[-len(nodes[index].token_ids) :])
        nodes[index] = dataclasses.replace(nodes[index], log_probs=own)
    return Tree(problem_id, prompt_of(problem_id), tuple(nodes), 0, 1.0, 4, 50, 4)


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
    tokenizer = nano_tokenizer.train(["x = x + 1\nprint(x)"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=300, d_model=64, n_layers=1, n_heads=2, d_ff=128)
    graphdef, params = init_params(config, 0, make_mesh())
    save_policy(root / "start" / "policy", config, params, tokenizer)
    policy = Policy(config, graphdef, params, tokenizer)
    ids = [f"p{n:02d}" for n in range(N_PROBLEMS)]
    write_records(root / "search" / "trees" / "trees.parquet", Tree, [tree_of(id, policy) for id in ids])
    write_problems(root / "problems", [Problem(id, f"Say {id}.", "stdin") for id in ids])
    chain = (Step(1, "x"), Step(3, "print(x)"))
    references = [
        Problem(f"r{n}", f"x {n}", "stdin", solutions=("print(x)",), reasoning=(chain,)) for n in range(12)
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
    examples, rotation = examples_of(house, tmp_path, reference_share=0.25, reference_prompts=("pseudocode",))
    assert rotation.first == N_PROBLEMS and len(examples) == N_PROBLEMS + 12
    batches = Batches(examples, seed=0, rotation=rotation, **SHAPE)
    for epoch in range(3):
        planned = [i for batch in batches.plan(epoch) for row in batch for i in row]
        tokens = [sum(len(examples[i].token_ids) for i in of) for of in (
            [i for i in planned if i >= N_PROBLEMS], planned)]  # fmt: skip
        assert tokens[0] / tokens[1] == pytest.approx(0.25, abs=0.03)
    examples, rotation = examples_of(house, tmp_path)
    assert rotation is None and len(examples) == N_PROBLEMS + 24
    figures = trained(house, tmp_path / "out", reference_share=0.5)
    assert figures["found"] == N_PROBLEMS and figures["references"] == 24
    assert figures["references_an_epoch"] == pytest.approx(N_PROBLEMS * 12 / 60, rel=0.9)


def test_a_hand_made_trees_steps_have_their_exact_weights(house, tmp_path):
    # V_0 = 1/4, V_1 = 1/2, V_4 = 0: step 1 gains 1/4, step 4 loses it, program 3 loses 1/2, 5 and 6 nothing.
    progress, negatives = {"weight": 0.4}, {"weight": 0.2, "threshold": 0.1}
    config = {"progress": progress, "negatives": negatives, "credit": {"kappa": 0.0}}
    examples, _ = examples_of(house, tmp_path, (), **config)
    by_id = {example.id: example for example in examples}
    assert len(examples) == 3 * N_PROBLEMS
    both, blamed = by_id["0/p00#3"], by_id["0/p00#4"]
    assert both.weights == pytest.approx((0,) * 3 + (0.1,) * 4 + (0,) * 3)
    assert both.columns["push"] == pytest.approx((0,) * 6 + (0.1,) * 3 + (0,))
    assert blamed.weights == (0,) * 7
    assert blamed.columns["push"] == pytest.approx((0, 0) + (0.05,) * 4 + (0,))
    assert by_id["0/p00#2"].columns["push"] == (0,) * 11 and sum(by_id["0/p00#2"].weights) == 8


def means_of(policy, house):
    """Mean log-probs of the good first steps, the bad ones, and the programs that fail after a good one."""
    trees = read_records(house / "search" / "trees" / "trees.parquet", Tree)
    found = {}
    for index in (1, 4, 3):
        paths = [(*t.nodes[t.nodes[index].parent].token_ids, *t.nodes[index].token_ids) for t in trees]
        rows = log_probs_of(policy, [(*t.prompt_ids, *ids) for t, ids in zip(trees, paths, strict=True)])
        n = len(trees[0].nodes[index].token_ids)
        found[index] = np.array([row[-n:] for row in rows])
    return found


def test_good_steps_become_likelier_and_bad_ones_less_until_the_clip(house, tmp_path):
    before = means_of(open_policy(house / "start"), house)
    credit = {"credit": {"kappa": 0.0}, "train_tokens": 20_000}
    push = {"weight": 1.0, "threshold": 0.1, "clip": 0.3}
    # With a weight that drowns the other terms, so that what moves is the term.
    figures = trained(
        house, tmp_path / "negatives", (), **credit, negatives={**push, "weight": 100.0},
    )  # fmt: skip
    assert (
        figures["failing"] == figures["losing_steps"] / 1 == 2 * N_PROBLEMS and not figures["gaining_steps"]
    )
    after = means_of(open_policy(tmp_path / "negatives"), house)
    fell_by = before[4].mean() - after[4].mean()
    assert 0.2 < fell_by < 1.2, fell_by  # the bound is .36 nats; steps overshoot, and tokens are shared
    rows = [json.loads(line) for line in (tmp_path / "negatives/fit/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["clipped"] == 0 and rows[-1]["clipped"] / rows[-1]["push_share"] > 0.5
    figures = trained(house, tmp_path / "progress", (), **credit, progress={"weight": 4.0})
    assert figures["gaining_steps"] == N_PROBLEMS and not figures["losing_steps"]
    plain = trained(house, tmp_path / "plain", (), **credit)
    assert plain["failing"] == 0 and not (tmp_path / "plain" / "failing.parquet").exists()
    good = {name: means_of(open_policy(tmp_path / name), house)[1].mean() for name in ("progress", "plain")}
    assert good["progress"] > good["plain"] > before[1].mean()


def test_what_a_failing_answer_taught_is_traced_to_its_node(house, tmp_path):
    config = {"negatives": {"weight": 0.1, "was": "start"}, "credit": {"kappa": 0.0}, "prompt": "bare"}
    trained(house, tmp_path, ("problems",), **config)
    rows = {row.id: row for row in provenance.read(epath.Path(tmp_path), "policy_sft")}
    row = rows["0/p00#4"]
    assert row.kind == "steps of a failing answer" and not row.left_out
    assert json.loads(row.facts) == {"advantage of step 1": -0.25}
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
    (tmp_path / "out" / "failing.parquet").copy(tmp_path / "again" / "failing.parquet")
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
