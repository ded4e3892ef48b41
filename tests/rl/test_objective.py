"""Policy gradients through a real model: equal to naive sums, whatever the packing, and they learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from tiny_run import UNOPTIMIZED

from o1jax.batches.encode import as_replay, encode_rollout, encode_sft, with_column
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError, Rollout, SftSample
from o1jax.rl.objective import PolicyGradient, policy_gradient
from o1jax.stages.settings import parse
from o1jax.train import loop
from o1jax.train.optimizer import OptimizerSettings
from o1jax.train.reference import token_log_probs_of
from o1jax.train.step import accumulate, sums_and_gradient

CONFIG = dataclasses.replace(tiny_run.CONFIG, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32)
GOOD, BAD = 5, 9
LONGEST = 14  # tokens of a rollout
TEMPERATURE = 0.8
SHAPE = {"row_length": 30, "rows_per_batch": 3}  # of every batch, so that a case is compiled once
CASES = {
    "ppo by token": PolicyGradient(temperature=TEMPERATURE, importance_cap=1.5),
    "gspo by sequence": PolicyGradient(
        ratio="sequence", normalize="sequence", clip_low=0.05, clip_high=0.05, kl_weight=0.2, importance_cap=0
    ),
    "cispo by constant": PolicyGradient(
        ratio="cispo", normalize="constant", constant=13, value_weight=0.7, good_id=GOOD, bad_id=BAD
    ),
    "reinforce by sequence, values": PolicyGradient(
        ratio="none", normalize="sequence", value_weight=0.3, kl_weight=0.1, good_id=GOOD, bad_id=BAD
    ),
}


@functools.cache
def model(seed: int = 0, scale: float = 3.0):
    """(graphdef, params): weights larger than an initialisation's, so that log-probs differ."""
    graphdef, params = init_params(CONFIG, seed, make_mesh())
    return graphdef, jax.tree.map(lambda leaf: leaf * scale, params)


@functools.cache
def examples(without_old: bool = False, n: int = 5):
    """Rollouts of several lengths, two of their tokens forced, and log-probs of nearby policies."""
    random = np.random.RandomState(1)
    made = []
    for i in range(n):
        prompt, answer = random.randint(0, 64, size=2 + i), random.randint(0, 64, size=(5, 9)[i % 2])
        sampled = np.ones(len(answer), bool)
        sampled[[0, 3]] = False
        near = near_log_probs(tuple(prompt.tolist()), tuple(answer.tolist()))
        noisy = {name: near + 0.3 * random.standard_normal(len(answer)) for name in ("old", "reference")}
        values = {
            "value_target": random.random_sample(len(answer)),
            "value_weight": (random.random_sample(len(answer)) < 0.4) * 1.0,
        }
        columns = noisy | values
        if without_old:
            del columns["old"]
        behaviour = np.where(sampled, near + 0.4 * random.standard_normal(len(answer)), np.nan)
        rollout = Rollout(
            id=f"r{i}",
            group_id="g",
            problem_id="p",
            prompt_ids=tuple(prompt.tolist()),
            token_ids=tuple(answer.tolist()),
            log_probs=tuple(behaviour.tolist()),
            is_policy_token=tuple(sampled.tolist()),
            finish_reason="stop",
            temperature=TEMPERATURE,
            policy_version=0,
            prompt="pseudocode",
            program="",
        )
        advantages = np.where(sampled, random.standard_normal(len(answer)), np.inf)
        made.append(encode_rollout(rollout, advantages.tolist(), columns=columns))
    return made


def near_log_probs(prompt, answer):
    """The model's own log-probs of an answer, at the temperature."""
    log_probs_TV = jax.nn.log_softmax(full_logits(model()[1], prompt + answer) / TEMPERATURE)
    at = np.arange(len(prompt), len(prompt) + len(answer))
    return np.asarray(log_probs_TV)[at - 1, np.array(answer)]


def full_logits(params, token_ids):
    """logits_TV of one sequence, computed whole and unpacked; padded to LONGEST, as all its shapes."""
    tokens_BT = np.zeros((1, LONGEST), np.int32)
    tokens_BT[0, : len(token_ids)] = token_ids
    return logits_program()(params, tokens_BT, len(token_ids))


@functools.cache
def logits_program():
    @jax.jit
    def program(params, tokens_BT, length):
        segments_BT = (jnp.arange(LONGEST) < length)[None].astype(int)
        network = merge(model()[0], params)
        return network.logits(network(tokens_BT, jnp.arange(LONGEST)[None], segments_BT))[0]

    return program


@functools.cache
def gradient_program(case: str, micro_batches: int = 1):
    gradient = functools.partial(sums_and_gradient, model()[0], policy_gradient(CASES[case]), None)
    return jax.jit(
        lambda params, batch: accumulate(gradient, params, batch, micro_batches),
        compiler_options=UNOPTIMIZED,
    )


def means_of(parts):
    """(means of loss and metrics, weight, mean gradient) of the sums of some batches."""
    (loss, weight, sums), gradients = jax.tree.map(lambda *leaves: sum(leaves), *jax.device_get(parts))
    means = {name: float(total / weight) for name, total in {"loss": loss, **sums}.items()}
    return means, float(weight), jax.tree.map(lambda leaf: leaf / weight, gradients)


def packed(made) -> Batches:
    return Batches(made, **SHAPE, seed=4)


@functools.cache
def epoch_means(case: str, without_old: bool = False):
    return batch_means(case, packed(examples(without_old)).epoch())


def batch_means(case: str, batches):
    return means_of([gradient_program(case)(model()[1], batch) for batch in batches])


def naive_sequence(settings: PolicyGradient, params, example):
    """(total loss of a sequence's tokens, its number of tokens, metrics as means over its tokens): straight
    from the papers, on full logits."""
    logits_TV = full_logits(params, example.token_ids)
    log_probs_TV = jax.nn.log_softmax(logits_TV / settings.temperature)
    action = np.flatnonzero(example.weights)
    column = {name: np.array(values)[action - 1] for name, values in example.columns.items()}
    lp = log_probs_TV[action - 1, np.array(example.token_ids)[action]]
    now = jax.lax.stop_gradient(lp)
    old = column["old"] if "old" in column else now
    ratio = jnp.exp(lp - old)
    if settings.ratio == "sequence":
        ratio = jnp.exp(jnp.mean(now - old)) * jnp.exp(lp - now)
    bounded = jnp.clip(ratio, 1 - settings.clip_low, 1 + settings.clip_high)
    gain = column["advantage"]
    surrogate = {
        "none": gain * lp,
        "clip": jnp.minimum(ratio * gain, bounded * gain),
        "cispo": jax.lax.stop_gradient(bounded) * gain * lp,
        "sequence": jnp.minimum(ratio * gain, bounded * gain),
    }[settings.ratio]
    stale = jnp.minimum(jnp.exp(old - column["behaviour"]), settings.importance_cap or jnp.inf)
    stale = stale if settings.importance_cap else jnp.ones(len(lp))
    metrics = {
        "importance": stale.mean(),
        "ratio": jnp.exp(now - old).mean(),
        "sampler_difference": jnp.abs(now - column["behaviour"]).mean(),
        "entropy": -now.mean(),
    }
    total = -jnp.sum(stale * surrogate)
    if settings.kl_weight:
        kl = jnp.exp(column["reference"] - lp) - (column["reference"] - lp) - 1
        total, metrics["kl"] = total + settings.kl_weight * kl.sum(), kl.mean()
    if settings.value_weight:
        at = np.flatnonzero(example.columns["value_weight"])
        values = jax.nn.sigmoid(logits_TV[at, GOOD] - logits_TV[at, BAD])
        errors = (values - np.array(example.columns["value_target"])[at]) ** 2
        total += settings.value_weight * errors.sum() / 2
        metrics["value_error"] = errors.mean() if len(at) else jnp.zeros(())
    return total, len(action), metrics


def naive_mean(settings: PolicyGradient, params, made):
    """(loss, metrics) over sequences."""
    totals, tokens, metrics = zip(*(naive_sequence(settings, params, e) for e in made), strict=True)
    tokens = np.array(tokens)
    shares = tokens / tokens.sum() if settings.normalize == "token" else np.full(len(tokens), 1 / len(tokens))
    means = {name: sum(s * m[name] for s, m in zip(shares, metrics, strict=True)) for name in metrics[0]}
    loss = {
        "token": sum(totals) / tokens.sum(),
        "sequence": sum(total / n for total, n in zip(totals, tokens, strict=True)) / len(tokens),
        "constant": sum(totals) / (max(settings.constant, 1) * len(tokens)),
    }[settings.normalize]
    return loss, means


@pytest.mark.parametrize(
    "case, without_old", [*((case, False) for case in CASES), ("ppo by token", True)], ids=str
)
def test_the_objective_equals_naive_sums_on_full_logits(case, without_old):
    params = model()[1]
    (loss, wanted), gradients = jax.value_and_grad(
        lambda params: naive_mean(CASES[case], params, examples(without_old)), has_aux=True
    )(params)
    means, weight, found = epoch_means(case, without_old=without_old)
    assert weight == (5 + 9 + 5 + 9 + 5 - 10 if CASES[case].normalize == "token" else 5)
    clip_share = means.pop("clip_share")
    assert (clip_share > 0) == (not without_old and CASES[case].ratio != "none")
    assert means.keys() == {"loss", *wanted}
    for name, value in {"loss": loss, **wanted}.items():
        np.testing.assert_allclose(means[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), found, gradients)


@pytest.mark.parametrize("case", CASES)
def test_packing_and_padding_change_no_mean_and_no_gradient(case):
    assert max(packed(examples()).at(0)["segment_ids_BT"].max(axis=1)) > 1  # a row holds several
    alone = [packed([example]).at(0) for example in examples()]  # beside two empty rows
    agree(epoch_means(case), batch_means(case, alone))


def test_replayed_examples_add_their_likelihood_and_change_no_metric_of_the_actions():
    settings, rows = CASES["ppo by token"], {"row_length": 30, "rows_per_batch": 6}
    sample = SftSample("s", "p", (1, 2, 3), (4, 5, 6), (True, False, True))
    actions = [with_column(e, "replay", (0.0,) * len(e.token_ids)) for e in examples()]
    mixed = [*actions, as_replay(encode_sft(sample), actions[0])]
    replaying = policy_gradient(dataclasses.replace(settings, replay_weight=0.7))
    found = {}
    for name, objective, made in (
        ("without", policy_gradient(settings), actions),
        ("with", replaying, mixed),
    ):
        sums = objective(merge(*model()), Batches(made, **rows, seed=4).at(0))
        found[name] = jax.tree.map(float, sums)
    (loss, weight, sums), (more, same_weight, more_sums) = found["without"], found["with"]
    log_probs_TV = jax.nn.log_softmax(full_logits(model()[1], (1, 2, 3, 4, 5, 6)) / TEMPERATURE)
    wanted = -float(log_probs_TV[2, 4] + log_probs_TV[4, 6])  # the tokens that are trained
    assert weight == same_weight and more_sums.pop("replay") == pytest.approx(wanted, rel=1e-4)
    assert more - loss == pytest.approx(0.7 * wanted, rel=1e-3)
    assert more_sums == pytest.approx(sums, rel=1e-5)


def test_micro_batches_give_the_whole_batchs_means():
    case = "cispo by constant"
    batch = packed(examples()).at(0)
    whole, parts = (means_of([gradient_program(case, n)(model()[1], batch)]) for n in (1, 3))
    agree(whole, parts)


def agree(found, others):
    """Asserts that two results of means_of are the same."""
    (means, weight, gradients), (other_means, other_weight, other_gradients) = found, others
    assert weight == other_weight and means.keys() == other_means.keys()
    for name in means:
        np.testing.assert_allclose(means[name], other_means[name], rtol=2e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, other_gradients)


@pytest.mark.parametrize("case", CASES)
def test_an_empty_batch_has_no_weight_and_no_nan(case):
    batch = packed(examples()).at(0)
    empty = {name: np.zeros_like(values) for name, values in batch.items()}
    (loss, weight, sums), gradients = gradient_program(case)(model()[1], empty)
    assert loss == weight == 0 and not any(sums.values())
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_the_engines_own_log_probs_make_every_ratio_and_weight_1():
    log_probs = token_log_probs_of(*model(), packed(examples()), make_mesh())
    own = [
        with_column(with_column(example, "old", values.tolist()), "behaviour", values.tolist())
        for example, values in zip(examples(), log_probs, strict=True)
    ]
    means, _, _ = batch_means("cispo by constant", packed(own).epoch())
    np.testing.assert_allclose([means["importance"], means["ratio"]], 1, rtol=1e-5)
    np.testing.assert_allclose([means["sampler_difference"], means["clip_share"]], 0, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"normalize": "constant"}, "constant 0"),
        ({"clip_low": 1.5}, "clip_low: saw 1.5"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"importance_cap": -1.0}, "importance_cap"),
        ({"kl_weight": float("nan")}, "kl_weight: saw nan"),
        ({"temperature": 0.0}, "temperature: saw 0.0"),
        ({"value_weight": 1.0}, "good_id and bad_id are both 0"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(InputError, match=message):
        policy_gradient(parse(PolicyGradient, change))


def test_good_answers_become_likelier_and_bad_ones_less_likely(tmp_path):
    graphdef, params = model(scale=1.0)
    params = jax.tree.map(jnp.copy, params)  # which the fit takes
    random = np.random.RandomState(3)
    signs = np.array([1.0, -1.0] * 4)
    made = [
        encode_rollout(
            Rollout(
                f"r{i}",
                "g",
                "p",
                (1, 2),
                tuple(answer),
                (-4.0,) * 6,
                (True,) * 6,
                "stop",
                1.0,
                0,
                "direct",
                "",
            ),
            [signs[i]] * 6,
        )
        for i, answer in enumerate(random.randint(0, 64, size=(8, 6)).tolist())
    ]
    batches = Batches(made, row_length=32, rows_per_batch=2, seed=0)

    def answer_log_probs(params):
        every = token_log_probs_of(graphdef, params, batches, make_mesh())
        return np.array([log_probs[1:7].sum() for log_probs in every])

    before = answer_log_probs(params)
    fitted = loop.fit(
        tmp_path,
        graphdef,
        params,
        policy_gradient(PolicyGradient()),
        batches,
        OptimizerSettings(3e-3, total_steps=8, schedule="constant"),
        loop.FitSettings(max_steps=8),
        mesh=make_mesh(),
    )
    change = answer_log_probs(fitted.params) - before
    assert (change * signs > 0).all(), change
