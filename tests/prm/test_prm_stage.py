"""The prm stage on trees made by rule."""

import asyncio
import dataclasses
import random

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.engine.step_scorer import Path as prm_path
from o1jax.losses.prm import calibrated
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prm import prm
from o1jax.prm.figures import (
    ranking,
)
from o1jax.prm.head import Head, HeadInputs, fit_head, prompt_states
from o1jax.prm.leakage import learned_by, refuse_leakage, warn_of_memory
from o1jax.prm.nodes import node_logits, nodes_of
from o1jax.prompts import nano_tokenizer
from o1jax.records import CaseResult, InputError, Node, Status, Tree, Verdict
from o1jax.search.samples import step_pairs
from o1jax.stages import manifest, provenance
from o1jax.stages.provenance import Provenance
from o1jax.stages.training import TrainSettings, open_policy
from o1jax.stages.workers import scorer_of
from o1jax.store import write_records
from o1jax.train.checkpoint import save_policy

EOS = 1  # of the nano tokenizer
ENDS = (EOS,)
GOOD = 40  # a step that holds this token is a good one
PASS, FAIL = (Verdict(True, (CaseResult(status),)) for status in (Status.AC, Status.WA))
TRAIN = TrainSettings(row_length=64, rows_per_batch=16, learning_rate=3e-3, weight_decay=0.01)
SETTINGS = prm.Settings(train_tokens=25_000, trains="body", train=TRAIN)


def tree_of(number, rng):
    """Four first steps, two programs below each; a program passes if it and the step before are good."""
    nodes = [Node(index=0, parent=-1, depth=0, action=0)]

    def add(parent, is_good, verdict=None, error=""):
        ids = [rng.randrange(50, 200) for _ in range(rng.randrange(3, 9))]
        ids = tuple([*ids, GOOD] if is_good else [*ids, 41])
        ids = tuple(rng.sample(ids, len(ids))) + ((EOS,) if verdict else ())
        nodes.append(
            Node(
                index=len(nodes),
                parent=parent,
                depth=nodes[parent].depth + 1,
                action=3 if verdict else 1,
                token_ids=ids,
                terminal=verdict is not None,
                value=None if verdict is None and not error else float(verdict is PASS),
                verdict=verdict,
                error=error,
            )
        )
        return len(nodes) - 1

    for _ in range(4):
        first_is_good = rng.random() < 0.5
        first = add(0, first_is_good)
        for is_good in (True, False):
            add(first, is_good, PASS if first_is_good and is_good else FAIL)
    add(0, False, error="malformed")
    return Tree(f"p{number}", (3, 60 + number % 140, 7), tuple(nodes), 0, 1.0, 4, 50, 8)


def trees_of(numbers, seed=0):
    return [tree_of(number, random.Random(seed * 1000 + number)) for number in numbers]


def search_stage(place, trees):
    write_records(place / "trees" / "trees.parquet", Tree, trees)
    manifest.finish(place, manifest.StageSpec("search", {}, 0, {}), manifest.StageResult({}, {}))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = epath.Path(tmp_path_factory.mktemp("prm"))
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=300, d_model=64, n_layers=2, n_heads=2, d_ff=128)
    save_policy(root / "policy", config, init_params(config, 0, make_mesh())[1], tokenizer)
    for name, numbers in (
        ("found", range(60)),
        ("held_out", range(70, 95)),
        ("calibration", range(100, 140)),
    ):
        search_stage(root / name, trees_of(numbers))
    return {"policy": root / "policy", "found_0": root / "found", "held_out": root / "held_out"}


@pytest.mark.parametrize("objective, likelihood", [("soft", 0.0), ("soft", 0.02), ("pair", 0.02)])
def test_a_rule_of_one_token_is_learned_in_seconds(objective, likelihood, inputs, tmp_path):
    out = epath.Path(tmp_path)
    settings = dataclasses.replace(SETTINGS, objective=objective, likelihood=likelihood)
    figures = prm.run(out, settings, inputs, 0).figures
    held_out = figures["held_out"]
    assert held_out["n_nodes"] == 25 * 12 and held_out["n_problems"] == 25
    assert held_out["prm"]["auc"]["mean"] > 0.95 and held_out["prm"]["pair_accuracy"] > 0.95
    assert held_out["prm"]["within_problem_auc"]["mean"] > 0.9
    assert held_out["baseline"]["auc"]["mean"] < 0.8
    assert held_out["auc_difference"]["low"] > 0.1
    assert held_out["labels"] == "soft"
    if objective == "soft":
        assert 0 < held_out["log_loss_floor"] < held_out["prm"]["log_loss"] < 0.5
    # The start knows nothing of the rule: what the model tells beyond its likelihoods it has learned.
    assert held_out["likelihood"]["auc"]["mean"] < 0.7 and held_out["less_likelihood"]["auc"]["low"] > 0.2
    assert held_out["less_likelihood"]["within_problem_auc"]["low"] > 0.1
    assert figures["score_calibration"] == [] and "uncalibrated" not in held_out
    config = open_policy(out).config
    assert config.vocab_size == 300 and config.score_likelihood == likelihood


def test_training_goes_on_from_an_earlier_prm(inputs, tmp_path):
    few = dataclasses.replace(SETTINGS, train_tokens=2_000, objective="hard")
    first, second = epath.Path(tmp_path) / "first", epath.Path(tmp_path) / "second"
    prm.run(first, few, inputs, 0)
    prm.run(
        second,
        dataclasses.replace(few, train=dataclasses.replace(TRAIN, learning_rate=1e-9)),
        {**inputs, "prm": first},
        0,
    )
    before, after = (jax.tree.leaves(open_policy(place).params) for place in (first, second))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_the_calibration_is_fitted_on_other_problems_and_kept_with_the_model(inputs, tmp_path):
    out = epath.Path(tmp_path) / "out"
    calibration = epath.Path(inputs["found_0"]).parent / "calibration"
    few = dataclasses.replace(SETTINGS, train_tokens=12_000)
    figures = prm.run(out, few, {**inputs, "calibration": calibration}, 0).figures
    model = open_policy(out)
    assert len(model.config.score_calibration) == 2 and all(a > 0 for a, _ in model.config.score_calibration)
    held_out = figures["held_out"]
    assert held_out["prm"]["log_loss"] < held_out["uncalibrated"]["log_loss"]
    # By depth it ranks as before.
    assert held_out["prm"]["auc_by_depth"] == held_out["uncalibrated"]["auc_by_depth"]

    async def scored():
        scorer = scorer_of(model, slots=4, context=64)
        path = (tuple(range(3, 23)), (9, 19), (False, False), 3)
        try:
            return await scorer.score([prm_path(*path)]), await scorer.logits([prm_path(*path)])
        finally:
            await scorer.close()

    (scores,), (logits,) = asyncio.run(scored())
    wanted = calibrated(np.array(logits), np.array([1, 2]), model.config.score_calibration)
    np.testing.assert_allclose(scores, wanted)
    assert not np.allclose(scores, calibrated(np.array(logits), np.array([1, 2]), ()))
    # Trained on, it begins without: its logits will be others.
    again = prm.run(epath.Path(tmp_path) / "again", few, {**inputs, "prm": out}, 0)
    assert not open_policy(epath.Path(tmp_path) / "again").config.score_calibration
    assert again.figures["score_calibration"] == []


def test_a_head_leaves_the_policy_as_it_is_and_scores_as_it_was_fitted(inputs, tmp_path):
    out = epath.Path(tmp_path) / "out"
    settings = dataclasses.replace(SETTINGS, trains="head")
    calibration = epath.Path(inputs["found_0"]).parent / "calibration"
    figures = prm.run(out, settings, {**inputs, "calibration": calibration}, 0).figures
    assert figures["steps"] == figures["trained_tokens"] == 0 and figures["examples"] == 60 * 8
    start, model = open_policy(inputs["policy"]), open_policy(out)
    for old, new in zip(jax.tree.leaves(start.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(old, new)
    kept, trees = model.config, trees_of(range(5))
    head = Head(kept.score_prompt, kept.score_likelihood, kept.score_step_likelihood)
    assert len(head.score_prompt) == 64 and len(model.config.score_calibration) == 2
    assert figures["held_out"]["prm"]["calibration_error"] < 0.1

    async def logits(config):
        scorer = scorer_of(dataclasses.replace(model, config=config), slots=4, context=64)
        try:
            return await node_logits(trees, scorer, ENDS)
        finally:
            await scorer.close()

    nodes = nodes_of(trees, ENDS)
    sum_N = asyncio.run(
        logits(
            dataclasses.replace(
                model.config, score_prompt=(0.0,) * 64, score_likelihood=1.0, score_step_likelihood=1.0
            )
        )
    )
    states_PD = prompt_states(model, [tree.prompt_ids for tree in trees], 4)
    of_programs = np.where(nodes.is_leaf_N, sum_N, 0.0)
    read = HeadInputs(states_PD[nodes.tree_N], of_programs, sum_N - of_programs)
    np.testing.assert_allclose(asyncio.run(logits(model.config)), read.logits(head), atol=1e-3)
    # Without trees to calibrate it on, it is on its own; a body that is trained from it has neither.
    few = {name: path for name, path in inputs.items() if name != "held_out"}
    alone = prm.run(epath.Path(tmp_path) / "alone", settings, few, 0)
    assert len(alone.figures["score_calibration"]) == 2
    short = dataclasses.replace(SETTINGS, train_tokens=500)
    prm.run(epath.Path(tmp_path) / "body", short, {**few, "prm": out}, 0)
    config = open_policy(epath.Path(tmp_path) / "body").config
    assert config.score_prompt == config.score_calibration == ()
    assert config.score_likelihood == config.score_step_likelihood == 0.0


def test_a_head_is_not_fitted_to_pairs():
    with pytest.raises(InputError, match="set prm.trains to 'body'"):
        dataclasses.replace(SETTINGS, trains="head", objective="pair")


def test_a_head_finds_what_the_problem_and_the_likelihood_say():
    rng, P, each = np.random.default_rng(0), 400, 10
    states_PD, problem_N = rng.normal(3.0, 2.0, (P, 8)), np.repeat(np.arange(P), each)
    number_N = np.tile(np.arange(each) % 3 + 1, P)
    sum_N = -rng.exponential(2.0, P * each)
    program_N = np.where(number_N == 3, sum_N, 0.0)
    inputs = HeadInputs(states_PD[problem_N], program_N, sum_N - program_N)
    wanted = Head((0.5, -0.5, *[0.0] * 6), 0.7, 0.2)
    label_N = rng.binomial(4, calibrated(inputs.logits(wanted), number_N, ((1.0, 1.0),))) / 4
    found = fit_head(inputs, number_N, label_N, np.ones(P * each), problem_N)
    np.testing.assert_allclose(found.score_prompt, wanted.score_prompt, atol=0.06)
    np.testing.assert_allclose(found[1:], wanted[1:], atol=0.06)
    backwards = inputs._replace(program_N=-program_N)
    assert fit_head(backwards, number_N, label_N, np.ones(P * each), problem_N).score_likelihood == 0.0


def test_a_head_reads_nothing_from_what_rounding_alone_tells_apart():
    """Prompts that are all alike: fitted on two machines, two heads say the same of another prompt."""
    rng, P, each = np.random.default_rng(0), 3, 4
    problem_N, number_N, nothing_N = (
        np.repeat(np.arange(P), each),
        np.tile([1, 2], P * each // 2),
        np.zeros(12),
    )
    state_D, label_N = rng.normal(0.0, 1.0, 96), np.repeat([0.0, 0.25, 1.0], each)
    other_1D = rng.normal(0.0, 1.0, (1, 96))

    def logit_of_other():
        states_PD = state_D + rng.normal(0.0, 1e-7, (P, 96))  # as float32 rounds
        inputs = HeadInputs(states_PD[problem_N], nothing_N, nothing_N)
        head = fit_head(inputs, number_N, label_N, np.ones(P * each), problem_N)
        return HeadInputs(other_1D, np.zeros(1), np.zeros(1)).logits(head)[0]

    assert logit_of_other() == pytest.approx(logit_of_other(), abs=0.05)


LEAKS = (("held_out", "held out"), ("calibration", "used for the calibration"))


@pytest.mark.parametrize("name, use", LEAKS)
def test_a_problem_both_trained_on_and_measured_by_is_refused_by_name(name, use, inputs, tmp_path):
    leak = epath.Path(tmp_path) / "leak"
    write_records(leak / "trees" / "trees.parquet", Tree, trees_of([99, 7]))
    with pytest.raises(InputError, match=f"problem p7 is both trained on and {use}"):
        prm.run(epath.Path(tmp_path) / "out", SETTINGS, {**inputs, name: leak}, 0)


def test_neither_do_the_calibration_and_the_figures_share_a_problem(inputs, tmp_path):
    same = {**inputs, "calibration": inputs["held_out"]}
    with pytest.raises(InputError, match="both used for the calibration and held out"):
        prm.run(epath.Path(tmp_path) / "out", SETTINGS, same, 0)
    other = [dataclasses.replace(trees_of([7])[0], problem_id="other")]  # the same prompt under another name
    with pytest.raises(InputError, match="problem other is both"):
        refuse_leakage({"trained on": trees_of([7]), "held out": other}, learned_by(epath.Path(tmp_path)))


def trained_stage(place, stage, problem_ids, inputs):
    """A finished stage that trained on these problems."""
    rows = [Provenance(f"0/{id}#1", id, "found path", "", "{}", ()) for id in problem_ids]
    provenance.write(place, [*rows, Provenance("0/long#1", "long", "found path", "too long", "{}", ())])
    spec = manifest.StageSpec(stage, {}, 0, {name: str(path) for name, path in inputs.items()})
    manifest.finish(place, spec, manifest.StageResult({}, {}))
    return place


def test_what_the_start_imitated_is_known_by_the_stages_behind_it(inputs, tmp_path, caplog):
    root = epath.Path(tmp_path)
    sft = trained_stage(root / "sft", "policy_sft", ["p1", "p2"], {"policy": inputs["policy"]})
    dpo = trained_stage(root / "dpo", "policy_dpo", ["p3"], {"policy": sft, "found_0": inputs["found_0"]})
    scorer = trained_stage(root / "prm", "prm", ["p4"], {"policy": dpo})
    learned = learned_by(scorer)
    assert learned.imitated == {"p1": str(sft), "p2": str(sft), "p3": str(dpo)}
    assert learned.scored == {"p4": str(scorer)}
    assert (
        warn_of_memory(trees_of([2, 3, 4, 5]), learned) == 2 and "start from the policy that" in caplog.text
    )
    assert warn_of_memory(trees_of([4, 5]), learned) == 0, "labels may be learned from twice"
    assert learned_by(epath.Path(inputs["policy"])).imitated == {}
    for number, stage in ((2, sft), (4, scorer)):
        with pytest.raises(InputError, match=f"problem p{number} is held out, and {stage}"):
            refuse_leakage({"trained on": trees_of([9]), "held out": trees_of([number])}, learned)
    refuse_leakage({"trained on": trees_of([1, 2, 4]), "held out": trees_of([9])}, learned)


def test_a_model_says_how_many_problems_its_start_knew(inputs, tmp_path):
    start = trained_stage(epath.Path(tmp_path) / "sft", "policy_sft", ["p1", "p2", "p105"], {})
    model = open_policy(inputs["policy"])
    save_policy(start / "policy", model.config, model.params, model.tokenizer)
    few, known = dataclasses.replace(SETTINGS, train_tokens=500), {**inputs, "policy": start}
    assert prm.run(epath.Path(tmp_path) / "out", few, known, 0).figures["start_saw"] == 2
    known["calibration"] = epath.Path(inputs["found_0"]).parent / "calibration"
    with pytest.raises(InputError, match="problem p105 is used for the calibration, and .*sft"):
        prm.run(epath.Path(tmp_path) / "other", few, known, 0)


@pytest.mark.parametrize("objective, words", [("soft", "no labelled path"), ("pair", "no pair of siblings")])
def test_trees_without_a_label_are_refused(objective, words, inputs, tmp_path):
    dead = dataclasses.replace(tree_of(0, random.Random(0)))
    dead = dataclasses.replace(dead, nodes=(dead.nodes[0], dataclasses.replace(dead.nodes[-1], index=1)))
    search_stage(epath.Path(tmp_path) / "dead", [dead])
    settings = dataclasses.replace(SETTINGS, objective=objective)
    with pytest.raises(InputError, match=words):
        prm.run(
            epath.Path(tmp_path) / "out", settings, {**inputs, "found_0": epath.Path(tmp_path) / "dead"}, 0
        )


def test_a_stage_without_trees_is_refused(inputs, tmp_path):
    with pytest.raises(InputError, match="no trees there"):
        prm.run(epath.Path(tmp_path) / "out", SETTINGS, {**inputs, "held_out": epath.Path(tmp_path)}, 0)


def test_a_cap_draws_paths_by_seed():
    trees, capped = trees_of(range(6)), dataclasses.replace(SETTINGS, max_paths_per_problem=3)
    draws = [[s.id for s in prm.samples_of([trees], capped, ENDS, seed)] for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [18] * 3 and draws[0] == draws[1] != draws[2]
    twice = prm.samples_of([trees, trees], SETTINGS, ENDS, 0)
    assert len({sample.id for sample in twice}) == 2 * len(prm.samples_of([trees], SETTINGS, ENDS, 0)) == 96


class LengthScorer:
    """A step's logit is the length of the path up to its end, and 1000 more of a program; counts paths."""

    def __init__(self):
        self.paths = 0

    async def logits(self, paths):
        self.paths += len(paths)
        steps = [zip(path.step_ends, path.is_program, strict=True) for path in paths]
        return [tuple(end + 1 + 1000 * is_program for end, is_program in of) for of in steps]


def test_every_step_is_scored_once_and_malformed_ones_are_not():
    trees, scorer = trees_of(range(3)), LengthScorer()
    nodes = nodes_of(trees, ENDS)
    logits = asyncio.run(node_logits(trees, scorer, ENDS))
    assert len(nodes) == len(logits) == 3 * 12 and scorer.paths == 3 * 8
    ends = nodes.path_tokens_N + 3  # the prompt's; no eos
    np.testing.assert_array_equal(logits, ends + 1000 * nodes.is_leaf_N)
    assert nodes.number_N.tolist()[:3] == [1, 2, 2] and nodes.is_leaf_N.tolist()[:3] == [False, True, True]
    assert nodes.soft_N[0] in (0.0, 0.5) and nodes.hard_N[0] == 2 * nodes.soft_N[0]


def test_pairs_are_those_of_step_pairs():
    trees = trees_of(range(20))
    nodes = nodes_of(trees, ENDS)
    n_pairs = sum(len(step_pairs(tree, ends=ENDS)) for tree in trees)
    assert ranking(nodes, nodes.soft_N, 0)["n_pairs"] == n_pairs > 20
