"""Preferences and step labels through a real model: right values, whatever the packing, and they learn."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from tiny_run import UNOPTIMIZED

from o1jax.batches.encode import encode_pair, encode_step_labels, encode_step_pair
from o1jax.batches.stream import Batches
from o1jax.losses.prm import soft_label_floor
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.records import PreferencePair, StepLabel, StepPair
from o1jax.train import loop, objectives
from o1jax.train.optimizer import OptimizerSettings
from o1jax.train.reference import token_log_probs_of, with_reference
from o1jax.train.step import accumulate, sums_and_gradient

CONFIG = dataclasses.replace(tiny_run.CONFIG, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32)
GOOD, BAD = 5, 9
LONGEST = 24  # tokens of an example
BETA = 0.5
SHAPE = {"row_length": 61, "rows_per_batch": 2}  # of every batch, so that a case is compiled once


@functools.cache
def model(seed: int = 0, scale: float = 4.0):
    """(graphdef, params): weights larger than an initialisation's, so that log-probs differ."""
    graphdef, params = init_params(CONFIG, seed, make_mesh())
    return graphdef, jax.tree.map(lambda leaf: leaf * scale, params)


def draw(random, low: int, high: int) -> tuple[int, ...]:
    return tuple(random.randint(0, 64, size=random.randint(low, high)).tolist())


def pairs(n: int = 5):
    random = np.random.RandomState(1)
    answers = [(draw(random, 2, 5), draw(random, 1, 8), draw(random, 1, 8)) for _ in range(n)]
    return [encode_pair(PreferencePair(f"p{i}", "p", *answer)) for i, answer in enumerate(answers)]


def step_pairs(n: int = 5):
    random = np.random.RandomState(2)
    steps = [(draw(random, 2, 5), draw(random, 1, 8), draw(random, 1, 8)) for _ in range(n)]
    return [encode_step_pair(StepPair(f"s{i}", "p", *step, 1.0, 0.0)) for i, step in enumerate(steps)]


def step_labels(n: int = 5, kind="soft"):
    random = np.random.RandomState(3)
    return [
        encode_step_labels(
            StepLabel(
                f"l{i}",
                "p",
                draw(random, 2, 8),
                draw(random, 9, 14),
                step_ends=(1, 4, 8),
                soft=tuple(random.random_sample(3).tolist()),
                hard=(1.0, 1.0, 0.0),
                n_leaves=(4, 2, i % 2),
            ),
            kind,
        )
        for i in range(n)
    ]


@functools.cache
def preferences():
    """The pairs with another model's log-probs for reference."""
    return with_reference(pairs(), *model(seed=1), make_mesh(), **SHAPE)


CASES = {
    "dpo": (objectives.dpo(BETA, nll_weight=0.3), preferences),
    "pointwise": (objectives.prm_pointwise(GOOD, BAD), step_labels),
    "pairwise": (objectives.prm_pairwise(GOOD, BAD), step_pairs),
}


def packed(examples) -> Batches:
    return Batches(examples, **SHAPE, seed=4)


@functools.cache
def gradient_program(case: str):
    gradient = functools.partial(sums_and_gradient, model()[0], CASES[case][0], None)
    return jax.jit(
        lambda params, batch: accumulate(gradient, params, batch, 1),
        compiler_options=UNOPTIMIZED,
    )


@functools.cache
def epoch_means(case: str, alone: bool = False):
    """(means of loss and metrics, number, mean gradient) over an epoch, or of one example a batch."""
    examples = CASES[case][1]()
    batches = [packed([example]).at(0) for example in examples] if alone else packed(examples).epoch()
    parts = [jax.device_get(gradient_program(case)(model()[1], batch)) for batch in batches]
    (loss, number, sums), gradients = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    means = {name: float(total / number) for name, total in {"loss": loss, **sums}.items()}
    return means, float(number), jax.tree.map(lambda leaf: leaf / number, gradients)


@functools.cache
def full_logits():
    """A part's tokens -> its logits_TV, computed whole: what the objectives must agree with."""
    graphdef, params = model()

    @jax.jit
    def program(tokens_BT, length):
        segments_BT = (jnp.arange(LONGEST) < length)[None].astype(int)
        network = merge(graphdef, params)
        return network.logits(network(tokens_BT, jnp.arange(LONGEST)[None], segments_BT))[0]

    def logits_TV(token_ids):
        tokens_BT = np.zeros((1, LONGEST), np.int32)
        tokens_BT[0, : len(token_ids)] = token_ids
        return np.asarray(program(tokens_BT, len(token_ids)))[: len(token_ids)]

    return logits_TV


def parts_of(example):
    """(token ids, logits_TV, slice of the example) of each part."""
    start = 0
    for length in example.parts or (len(example.token_ids),):
        at = slice(start, start + length)
        yield example.token_ids[at], full_logits()(example.token_ids[at]), at
        start += length


def answer_log_probs(example):
    """The policy's log-probs at every position of each part, and the weights of what they predict."""
    for tokens, logits_TV, at in parts_of(example):
        log_probs_TV = np.asarray(jax.nn.log_softmax(logits_TV))
        yield log_probs_TV[np.arange(len(tokens) - 1), tokens[1:]], np.array(example.weights[at][1:]), at


@pytest.mark.parametrize("case", CASES)
def test_packing_and_padding_change_no_mean_and_no_gradient(case):
    segments_BT = packed(CASES[case][1]()).at(0)["segment_ids_BT"]
    assert max(segments_BT.max(axis=1)) > 2  # a row holds more than a pair
    means, number, gradients = epoch_means(case)
    other_means, other_number, other_gradients = epoch_means(case, alone=True)  # beside an empty row
    assert number == other_number
    for name in means:
        np.testing.assert_allclose(means[name], other_means[name], rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, other_gradients)


def test_dpo_equals_its_formula_on_full_logits():
    margins, nll = [], []
    for example in preferences():
        ratios = []
        for log_probs, weights, at in answer_log_probs(example):
            reference = np.array(example.columns["reference"][at])[:-1]
            ratios.append(np.sum((log_probs - reference) * weights))
            nll.append(-np.sum(log_probs * weights) / np.sum(weights))
        margins.append(ratios[0] - ratios[1])
    means, number, _ = epoch_means("dpo")
    assert number == len(margins) == 5
    np.testing.assert_allclose(means["margin"], np.mean(margins), rtol=1e-4)
    np.testing.assert_allclose(means["accuracy"], np.mean(np.array(margins) > 0))
    np.testing.assert_allclose(means["chosen_nll"], np.mean(nll[::2]), rtol=1e-5)
    wanted = np.mean(np.log1p(np.exp(-BETA * np.array(margins)))) + 0.3 * np.mean(nll[::2])
    np.testing.assert_allclose(means["loss"], wanted, rtol=1e-5)


def test_pointwise_loss_equals_its_formula_on_full_logits():
    losses, hits, scores = [], [], []
    for example in step_labels():
        ((_, logits_TV, _),) = parts_of(example)
        for at in np.flatnonzero(example.columns["label_weight"]):
            score = 1 / (1 + np.exp(logits_TV[at, BAD] - logits_TV[at, GOOD]))
            label = example.columns["label"][at]
            losses.append(-label * np.log(score) - (1 - label) * np.log(1 - score))
            hits.append((score > 0.5) == (label > 0.5))
            scores.append(score)
    means, number, _ = epoch_means("pointwise")
    assert number == len(losses) == 12, "five paths of three steps, of which three have no leaves"
    wanted = {"loss": np.mean(losses), "accuracy": np.mean(hits), "score": np.mean(scores)}
    assert means == pytest.approx(wanted, rel=1e-5)


def test_pairwise_loss_equals_its_formula_on_full_logits():
    last = [[logits_TV[-1] for _, logits_TV, _ in parts_of(example)] for example in step_pairs()]
    margins = np.array([(c[GOOD] - c[BAD]) - (r[GOOD] - r[BAD]) for c, r in last])
    means, number, _ = epoch_means("pairwise")
    assert number == 5
    wanted = {"loss": np.mean(np.log1p(np.exp(-margins))), "margin": margins.mean()}
    assert means == pytest.approx(wanted | {"accuracy": np.mean(margins > 0)}, rel=1e-5)


def test_sums_by_part_and_the_places_that_hold_a_pair():
    segments_BT = jnp.array([[1, 1, 2, 3, 4, 4, 0], [0, 0, 0, 0, 0, 0, 0]])
    values_BT = jnp.arange(14.0).reshape(2, 7)
    sums_BS = objectives.part_sums(values_BT, segments_BT)
    assert sums_BS.tolist() == [[6, 1, 2, 3, 9, 0, 0, 0], [70, 0, 0, 0, 0, 0, 0, 0]]
    chosen_BP, rejected_BP = objectives.pair_sums(values_BT, segments_BT)
    assert chosen_BP.tolist() == [[1, 3, 0], [0, 0, 0]] and rejected_BP.tolist() == [[2, 9, 0], [0, 0, 0]]
    assert objectives.paired(segments_BT).tolist() == [[True, True, False], [False, False, False]]


def test_the_references_log_probs_are_every_examples_own_in_order():
    found = token_log_probs_of(*model(), Batches(pairs(), **SHAPE, seed=8), make_mesh())
    assert len(found) == 5
    for example, log_probs in zip(pairs(), found, strict=True):
        assert log_probs.dtype == np.float32 and len(log_probs) == len(example.token_ids)
        for wanted, _, at in answer_log_probs(example):
            np.testing.assert_allclose(log_probs[at], [*wanted, 0.0], atol=1e-5)


def fit(directory, objective, examples, *, steps: int, rate: float = 1e-2):
    """Every step's metrics of a fit of the tiny model from its initialisation."""
    batches = Batches(examples, row_length=64, rows_per_batch=4, seed=0)
    optimizer = OptimizerSettings(rate, total_steps=steps, schedule="constant")
    settings = loop.FitSettings(max_steps=steps)
    graphdef, params = model(scale=1.0)
    params = jax.tree.map(jnp.copy, params)  # which the fit takes
    loop.fit(directory, graphdef, params, objective, batches, optimizer, settings, mesh=make_mesh())
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_dpo_learns_to_prefer_and_begins_at_ln_2(tmp_path):
    random = np.random.RandomState(0)
    up = [
        [tuple((start + step * np.arange(6)) % 64) for step in (3, -3)]
        for start in random.randint(64, size=24)
    ]
    examples = with_reference(
        [encode_pair(PreferencePair(f"p{i}", "p", a[:2], a[2:], b[2:])) for i, (a, b) in enumerate(up)],
        *model(scale=1.0),
        make_mesh(),
        row_length=64,
        rows_per_batch=4,
    )
    lines = fit(tmp_path, objectives.dpo(BETA), examples, steps=40)
    np.testing.assert_allclose(lines[0]["loss"], np.log(2), atol=1e-5)
    assert all(line["accuracy"] == 1 for line in lines[-6:]) and lines[-1]["loss"] < 0.3
    assert lines[-1]["chosen_reward"] > 0 > lines[-1]["rejected_reward"]


def test_a_scorer_learns_the_values_of_soft_labels(tmp_path):
    steps = {"step_ends": (1, 3), "hard": (1.0, 1.0), "n_leaves": (4, 4)}
    labels = [
        StepLabel("a", "p", (1, 2), (3, 4, 5, 6), soft=(0.75, 0.25), **steps),
        StepLabel("b", "p", (7, 8), (3, 4, 5, 6), soft=(0.25, 0.75), **steps),
    ]
    examples = [encode_step_labels(label, "soft") for label in labels]
    lines = fit(tmp_path, objectives.prm_pointwise(GOOD, BAD), examples, steps=60)
    floor = soft_label_floor(
        np.array([example.columns["label"] for example in examples]),
        np.array([example.columns["label_weight"] for example in examples]),
    )
    np.testing.assert_allclose(floor, 0.562335, atol=1e-6)
    assert lines[0]["loss"] > 0.68 and lines[-1]["accuracy"] == 1
    np.testing.assert_allclose(lines[-1]["loss"], floor, atol=2e-3)
