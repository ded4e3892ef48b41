"""RL in small with real parts: it learns, resumes to the same bits, and refuses what cannot be."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny_rl
from etils import epath

from o1jax.parallel.mesh import make_mesh
from o1jax.policy import found
from o1jax.records import InputError, Node, Rollout
from o1jax.rl.examples import examples_of
from o1jax.rl.learner import Learner, optimizer_of
from o1jax.rl.policy_rl import Settings
from o1jax.rl.rollouts import (
    Answer,
    ReplayedSample,
    RewardedRollout,
    parts_of,
    replayed_path,
    rewards_path,
)
from o1jax.rl.settings import Average
from o1jax.search.steps import path_of
from o1jax.stages import settings
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.training import open_policy
from o1jax.stages.workers import scorer_of
from o1jax.store import read_records, read_shards
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.optimizer import make_optimizer
from o1jax.train.reference import token_log_probs_of
from o1jax.train.resumable import Preempted
from o1jax.train.step import init_state

SAMPLE = tiny_rl.SETTINGS["sample"]
GREEDY = {"sample": {**SAMPLE, "temperature": 0.01}}  # answers to one problem are all alike
FALLING = {"reward": {"alpha": {"kind": "linear", "start": 1.0, "floor": 0.5, "rate": 0.25}}}
WITH_PRM = ("policy", "problems", "prm")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the stage reads."""
    root = tmp_path_factory.mktemp("tiny_rl")
    tiny_rl.make(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    return out, tiny_rl.run(root, out, updates=6)


def params(place):
    return open_policy(epath.Path(place)).params


def same_bits(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), params(a), params(b))))


def rewards_of(out, t):
    return read_records(rewards_path(epath.Path(out), t), RewardedRollout)


def rollouts_of(out, t):
    return read_records(epath.Path(out) / "rollouts" / f"update_{t:05d}.parquet", Rollout)


def test_a_run_by_outcome_alone_logs_every_update_and_keeps_its_answers(root, undisturbed):
    out, result = undisturbed
    rows = tiny_rl.rows(out)
    assert [(row["step"], row["update"]) for row in rows] == [(t + 1, t) for t in range(6)]
    for t, row in enumerate(rows):
        rollouts = rollouts_of(out, t)
        assert {rollout.policy_version for rollout in rollouts} == {t} and row["staleness"] == 0
        assert row["generated_tokens"] == sum(len(rollout.token_ids) for rollout in rollouts)
        assert row["outcome"] == row["reward"] == sum(r.reward for r in rollouts) / len(rollouts)
        assert "process" not in row and "false_accept" not in row
    learned = [row for row in rows if "loss" in row]
    assert learned and all(row["sampler_difference"] < 1e-4 and row["grad_norm"] > 0 for row in learned)
    figures = result.figures
    assert figures["updates"] == figures["next_update"] == 6
    assert figures["updates_without_signal"] == 6 - len(learned)
    assert figures["trained_tokens"] == sum(row["trained_tokens"] for row in rows)
    assert figures["groups_kept"] + figures["groups_dropped"] == 12
    assert 0 < figures["first_outcome"] < 1 and figures["first_process"] is None
    assert all(row["push_difference"] < 1e-4 for row in rows)
    differences = {"sampler_difference", "push_difference"}
    assert figures["watch"].keys() == {"entropy", "steps", "complete"} | differences
    assert figures["watch"]["steps"] == {"first": rows[0]["steps"], "last": rows[-1]["steps"]}
    assert not same_bits(root / "policy", out)


def test_what_was_rewarded_is_kept_an_update_at_a_time(undisturbed):
    out, result = undisturbed
    for t, row in enumerate(tiny_rl.rows(out)):
        rewarded, rollouts = rewards_of(out, t), rollouts_of(out, t)
        assert [(r.rollout_id, r.problem_id) for r in rewarded] == [(r.id, r.problem_id) for r in rollouts]
        assert [r.outcome for r in rewarded] == [r.reward for r in rollouts]
        assert np.mean([r.reward for r in rewarded]) == pytest.approx(row["reward"])
        assert {(r.update, r.alpha, r.step_scores) for r in rewarded} == {(t, row["alpha"], ())}
        kept = {r.problem_id for r in rewarded if r.kept}
        assert len(kept) == row["groups_kept"]
        assert [r.trained for r in rewarded] == [r.problem_id in kept for r in rewarded]
    assert not (out / "replayed").exists()


def test_the_policy_learns_the_right_answers(root, tmp_path):
    more = {"sample": {**SAMPLE, "n": 8}, "advantage": "leave_one_out", "train": {"learning_rate": 4e-4}}
    tiny_rl.run(root, tmp_path, updates=24, checkpoint_every=0, **more)
    outcomes = [row["outcome"] for row in tiny_rl.rows(tmp_path)]
    gain = np.mean(outcomes[-8:]) - np.mean(outcomes[:4])
    assert gain > 0.1, outcomes  # of five seeds the least was 0.22


def test_alpha_falls_with_the_global_update_and_scores_enter_the_reward(root, tmp_path):
    names = (*WITH_PRM, "audit")
    result = tiny_rl.run(root, tmp_path, names, updates=3, first_update=1, **FALLING)
    rows = tiny_rl.rows(tmp_path)
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [row["alpha"] for row in rows] == [0.75, 0.5, 0.5]
    assert all(0 < row["process"] < 1 and row["reward"] != row["outcome"] for row in rows)
    assert {row["false_accept"] for row in rows if row["outcome"] > 0} == {1.0}
    assert result.figures["next_update"] == 4 and 0 < result.figures["last_process"] < 1
    assert result.figures["watch"]["false_accept"] == {"first": 1.0, "last": 1.0}
    assert {rollout.policy_version for rollout in rollouts_of(tmp_path, 3)} == {3}
    rewarded = rewards_of(tmp_path, 2)
    assert all(r.step_scores and r.alpha == 0.5 for r in rewarded)
    assert all(r.reward == 0.5 * r.outcome + 0.5 * r.process for r in rewarded)
    assert any(0 < r.process < max(r.step_scores) for r in rewarded)


def test_a_run_killed_at_a_random_moment_resumes_to_the_same_bits(root, tmp_path):
    more = {"updates": 6, "max_staleness": 1, "draw": "by_difficulty"}
    wanted, out, moment = tmp_path / "wanted", tmp_path / "killed", random.randrange(3, 5)
    figures = tiny_rl.run(root, wanted, **more).figures
    command = [sys.executable, tiny_rl.__file__, str(root), str(out), json.dumps(more)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(tiny_rl.rows(out)) < moment and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert tiny_rl.run(root, out, **more).figures == figures
    assert tiny_rl.rows(out) == tiny_rl.rows(wanted), f"killed at row {moment}"
    assert same_bits(out, wanted)
    assert all(rewards_of(out, t) == rewards_of(wanted, t) for t in range(6))
    assert [row["staleness"] for row in tiny_rl.rows(out)] == [0, *[1] * 5]


def test_sigterm_saves_and_exits_in_order(root, undisturbed, tmp_path):
    out, lost = tmp_path / "out", tmp_path / "lost"

    def terminate():
        while len(tiny_rl.rows(out)) < 3:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(Preempted) as exit_:
        tiny_rl.run(root, out, updates=6)
    assert exit_.value.code == 143 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    seen = len(tiny_rl.rows(out))
    assert 3 <= seen < 6 and (out / "fit" / "checkpoints" / str(seen)).exists()
    shutil.copytree(out, lost)
    shutil.rmtree(lost / "fit" / "checkpoints" / str(seen))  # updates are done again,
    shutil.rmtree(lost / "rollouts")  # and what is sampled again is the same
    for place in (out, lost):
        assert tiny_rl.run(root, place, updates=6).figures == undisturbed[1].figures
        assert tiny_rl.rows(place) == tiny_rl.rows(undisturbed[0]) and same_bits(place, undisturbed[0])


def test_a_checkpoint_of_other_settings_is_refused(root, undisturbed):
    with pytest.raises(InputError, match=r"other settings or data \(train\)"):
        tiny_rl.run(root, undisturbed[0], updates=6, train={"learning_rate": 1e-4})


def test_updates_in_which_all_answers_are_alike_are_counted_and_change_nothing(root, tmp_path):
    result = tiny_rl.run(root, tmp_path, updates=2, max_samples=12, **GREEDY)
    rows = tiny_rl.rows(tmp_path)
    assert result.figures["updates_without_signal"] == 2 and result.figures["groups_dropped"] == 4
    assert all("loss" not in row and row["trained_tokens"] == 0 for row in rows)
    assert sum(row["all_pass"] + row["all_fail"] for row in rows) == 4
    assert same_bits(root / "policy", tmp_path)
    groups = {}
    for rollout in read_shards(epath.Path(tmp_path) / "rollouts", Rollout):
        groups.setdefault(rollout.problem_id, []).append(rollout)
    sizes = {len(group) for group in groups.values() if any(rollout.reward for rollout in group)}
    sizes_without_pass = {len(group) for group in groups.values() if not any(r.reward for r in group)}
    assert sizes <= {6} and sizes_without_pass <= {12} and len(groups) == 4
    assert all(len({rollout.id for rollout in group}) == len(group) for group in groups.values())


def test_values_epochs_and_a_reference_have_their_columns_and_metrics(root, tmp_path):
    loss = {"value_weight": 0.5, "kl_weight": 0.01}
    more = {"advantage": "gae", "whiten": True, "loss": loss, "epochs": 2, "updates": 2, **FALLING}
    tiny_rl.run(root, tmp_path, WITH_PRM, **more)
    first, second = tiny_rl.rows(tmp_path)
    assert first["groups_dropped"] == second["groups_dropped"] == 0
    assert first["value_error"] > 0 and first["kl"] > 0 and second["kl"] > 0
    assert first["ratio"] != 1.0 and first["sampler_difference"] < 1e-4
    assert first["trained_tokens"] == 2 * sum(
        len(r.prompt_ids + r.token_ids) for r in rollouts_of(tmp_path, 0)
    )


def test_an_update_in_parts_takes_a_step_for_each_against_the_policy_of_its_beginning(root, tmp_path):
    more = {"minibatches": 3, "epochs": 2, "updates": 2, "train": {"schedule": "linear", "warmup_steps": 0}}
    tiny_rl.run(root, tmp_path, **more)
    learned = [row for row in tiny_rl.rows(tmp_path) if "loss" in row]
    assert all(row["ratio"] != 1.0 and row["sampler_difference"] < 1e-4 for row in learned)
    # The mean over its 6 steps, of 12 in all, of a rate that falls to a tenth at the last.
    wanted = [3e-4 * (1 - 0.9 * (6 * row["update"] + np.arange(6)) / 12).mean() for row in learned]
    np.testing.assert_allclose([row["learning_rate"] for row in learned], wanted, rtol=1e-4)
    first = rewards_of(tmp_path, 0)
    trained = {r.rollout_id for r in first if r.trained}
    tokens = sum(len(r.prompt_ids + r.token_ids) for r in rollouts_of(tmp_path, 0) if r.id in trained)
    assert tiny_rl.rows(tmp_path)[0]["trained_tokens"] == 2 * tokens


def params_after(out, update):
    with Checkpoints(epath.Path(out) / "fit" / "checkpoints") as checkpoints:
        return checkpoints.restore(update, {"params": params(out)})["params"]


def test_the_policy_is_the_mean_of_the_last_updates_weights_also_after_a_kill(root, tmp_path):
    more = {"average": {"kind": "tail", "tail": 0.5}, "checkpoint_every": 1}
    whole, again = tmp_path / "whole", tmp_path / "again"
    figures = tiny_rl.run(root, whole, **more).figures
    third, last = (params_after(whole, update) for update in (3, 4))
    means = jax.tree.map(lambda a, b: (a + b) / 2, third, last)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), means, params(whole))
    assert not np.array_equal(jax.tree.leaves(last)[0], jax.tree.leaves(params(whole))[0])
    shutil.copytree(whole, again)
    shutil.rmtree(again / "fit" / "checkpoints" / "4")
    shutil.rmtree(again / "policy")
    assert tiny_rl.run(root, again, **more).figures == figures and same_bits(whole, again)


def test_an_average_begins_as_a_plain_mean_and_a_tail_with_its_first_update():
    ema, tail = Average("ema", decay=0.75), Average("tail", tail=0.5)
    assert [ema.step(n, 0.0) for n in range(5)] == [(1, 1), (1 / 2, 2), (1 / 3, 3), (1 / 4, 4), (1 / 4, 5)]
    assert tail.step(0, 0.5) == (1, 0) and tail.step(0, 0.6) == (1, 1) and tail.step(2, 1.0) == (1 / 3, 3)


def test_progress_of_a_reward_model_is_learned_from_where_all_fail_if_told_so(root, tmp_path):
    more = {"advantage": "progress", "updates": 2, "keep_groups": "fails", **FALLING, "first_update": 3}
    tiny_rl.run(root, tmp_path, WITH_PRM, **more)
    for row in tiny_rl.rows(tmp_path):
        mixed = 2 - row["all_pass"] - row["all_fail"]
        assert row["groups_kept"] == mixed + row["all_fail"] and np.isfinite(row.get("loss", 0.0))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 24, 256])
def test_every_process_has_as_many_answers_to_sample_as_any_other(monkeypatch, count):
    """And all of them together each answer once."""
    problems, n, sampled = tiny_rl.problems()[:4], 6, []
    monkeypatch.setenv("O1JAX_COORDINATOR", "localhost:1")
    monkeypatch.setenv("O1JAX_PROCESSES", str(count))
    for index in range(count):
        monkeypatch.setenv("O1JAX_PROCESS_INDEX", str(index))
        parts = parts_of(problems, n)
        sampled.append([(p.problem.id, i) for p in parts for i in range(p.first, p.first + p.n)])
        assert len(parts) <= len(problems) // count + 2 and all(p.n for p in parts)
    assert [pair for share in sampled for pair in share] == [(p.id, i) for p in problems for i in range(n)]
    assert {len(share) for share in sampled} <= {24 // count, -(-24 // count)}


def test_an_answer_has_no_more_room_than_a_multiple_of_the_longest_that_passed(root, tmp_path):
    tiny_rl.run(root, tmp_path, updates=3, cut_after=1.0)
    passed = [[len(r.token_ids) for r in rollouts_of(tmp_path, t) if r.reward] for t in range(3)]
    longest = [max(len(r.token_ids) for r in rollouts_of(tmp_path, t)) for t in range(3)]
    assert longest == [row["longest_answer"] for row in tiny_rl.rows(tmp_path)]
    assert passed[0] and longest[0] > max(passed[0])  # there was something to cut
    assert longest[1] <= max(passed[0]) and longest[2] <= max(passed[0] + passed[1])
    chosen = settings.parse(Settings, tiny_rl.SETTINGS | {"cut_after": 1.5}, "policy_rl")
    assert [chosen.longest(passed) for passed in (0, 3, 51, 80)] == [80, 5, 77, 80]


def test_references_are_replayed_beside_the_answers(root, undisturbed, tmp_path):
    shutil.copytree(root / "problems", root / "references", dirs_exist_ok=True)
    names, replay = ("policy", "problems", "references"), {"examples": 3, "weight": 2.0}
    tiny_rl.run(root, tmp_path, names, updates=3, replay=replay)
    first, _, last = tiny_rl.rows(tmp_path)
    assert first["replay"] > last["replay"] > 0  # the sum of their nats, by action token
    assert first["trained_tokens"] > tiny_rl.rows(undisturbed[0])[0]["trained_tokens"]  # of the same answers
    tokenizer = open_policy(root / "policy").tokenizer
    ids = {s.id for s in found.reference_samples(tiny_rl.problems(), tokenizer, 1, "nano")}
    replayed = read_records(replayed_path(epath.Path(tmp_path), 0), ReplayedSample)
    assert len(replayed) == 3 and {sample.sample_id for sample in replayed} <= ids
    assert {sample.update for sample in replayed} == {0}


def test_a_run_ends_after_the_update_that_reaches_its_tokens(root, tmp_path):
    for name in ("generated_tokens", "trained_tokens"):
        out = tmp_path / name
        result = tiny_rl.run(root, out, max_staleness=1, advantage="step_group_normalized", **{name: 1})
        assert result.figures["updates"] == 1
        assert [path.name for path in sorted((out / "rollouts").iterdir())] == ["update_00000.parquet"]


def test_the_learning_rate_falls_by_the_limit_that_is_nearest(root, tmp_path):
    page = {"updates": 4, "train": {"schedule": "linear", "learning_rate": 1e-3}}
    tiny_rl.run(root, tmp_path / "by_updates", **page)
    by_updates = tiny_rl.rows(tmp_path / "by_updates")
    rates = [row["learning_rate"] for row in by_updates]
    np.testing.assert_allclose(rates, 1e-3 * (1 - 0.9 * np.arange(4) / 4), rtol=1e-5)
    tokens = np.cumsum([0, *(row["trained_tokens"] for row in by_updates)])
    limit = int(tokens[2])  # which the second update reaches
    tiny_rl.run(root, tmp_path / "by_tokens", **page, trained_tokens=limit)
    rates = [row["learning_rate"] for row in tiny_rl.rows(tmp_path / "by_tokens")]
    np.testing.assert_allclose(rates, 1e-3 * (1 - 0.9 * tokens[:2] / limit), rtol=1e-5)


def learner_of(policy, **more):
    wanted = settings.parse(Settings, tiny_rl.SETTINGS | more, "policy_rl")
    state = init_state(policy.params, make_optimizer(optimizer_of(wanted)), make_mesh())
    return Learner(policy, state, wanted, make_mesh(), 0)


def test_the_reference_is_the_policy_of_the_beginning_and_the_old_one_that_of_now(root, undisturbed):
    first, now = (open_policy(epath.Path(place)) for place in (root / "policy", undisturbed[0]))
    learner = learner_of(first, loss={"kl_weight": 0.1}, epochs=2)
    answers = [Answer(rollout) for rollout in rollouts_of(undisturbed[0], 0)]
    examples = examples_of([answers], learner.settings, 0)
    examples = learner.with_columns(now.params, examples, [], 0)
    batches = learner._batches(examples, 0)
    for name, policy, other in (("reference", first, now), ("old", now, first)):
        found = [example.columns[name] for example in examples]
        theirs, others = (
            token_log_probs_of(p.graphdef, p.params, batches, make_mesh()) for p in (policy, other)
        )
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, theirs, strict=True))
        assert not any(np.allclose(a, b, atol=1e-3) for a, b in zip(found, others, strict=True))


def test_by_lora_the_frozen_base_is_the_reference_and_the_engine_gets_merged_weights(root, tmp_path):
    lora, out = {"rank": 4, "alpha": 8.0}, tmp_path / "out"
    tiny_rl.run(root, out, updates=2, loss={"kl_weight": 0.1}, train={"lora": lora, "learning_rate": 1e-2})
    first, second = tiny_rl.rows(out)
    assert abs(first["kl"]) < 1e-6 < second["kl"]
    assert max(row["sampler_difference"] for row in (first, second)) < 1e-4
    policy = open_policy(epath.Path(out))
    assert not policy.frozen and (out / "adapters" / "adapter_model.safetensors").exists()


def test_values_are_the_policys_own_scores_before_each_step(root, undisturbed):
    policy = open_policy(epath.Path(root / "policy"))
    learner = learner_of(policy, advantage="gae", loss={"value_weight": 1.0})
    answers = [Answer(r, step_ends=(3, 5, len(r.token_ids))) for r in rollouts_of(undisturbed[0], 0)]
    values = learner.values(policy.params, [answers], 0)

    def before_each_step(rollout):
        steps = (rollout.prompt_ids[-2:], rollout.token_ids[:3], rollout.token_ids[3:5])
        nodes = [Node(i, i - 1, i, 1, token_ids=ids) for i, ids in enumerate(steps)]
        return path_of(rollout.prompt_ids[:-2], nodes, ends=())

    async def scores():
        scorer = scorer_of(policy, slots=4, context=tiny_rl.CONTEXT)
        try:
            return await scorer.score([before_each_step(answer.rollout) for answer in answers])
        finally:
            await scorer.close()

    np.testing.assert_allclose(np.array(values), np.array(asyncio.run(scores())), atol=1e-5)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"sample": {**SAMPLE, "top_p": 0.9}}, "sample.top_p: saw 0.9"),
        ({"sample": {**SAMPLE, "top_k": 40}}, "sample.top_k: saw 40"),
        ({"sample": {**SAMPLE, "temperature": 0.0}}, "sample.temperature: saw 0.0"),
        ({"sample": {**SAMPLE, "n": 1}}, "sample.n: saw 1, wanted at least 2"),
        ({"sample": {**SAMPLE, "prompt": "direct"}, "advantage": "step_group_mean"}, "sample.prompt"),
        ({"advantage": "gae"}, "loss.value_weight: saw 0.0, wanted more than 0"),
        ({"advantage": "progress"}, "reward.alpha.*below 1 with advantage .progress."),
        ({"loss": {"value_weight": 1.0}}, "else 0 .saw 'group_mean'"),
        ({"whiten": True}, "whiten: saw True"),
        (FALLING, "wanted an input prm"),
        ({"first_update": -1}, "first_update: saw -1, wanted at least 0"),
        ({"problems_per_update": 5}, "problems_per_update: saw 5, wanted at most all 4"),
        ({"max_staleness": 2}, "max_staleness: saw 2"),
        ({"max_samples": 3}, "max_samples: saw 3"),
        ({"cut_after": 0.5}, "cut_after: saw 0.5, wanted 0, or at least 1"),
        ({"train": {"row_length": 64}}, "train.row_length: saw 64, wanted at least engine.context"),
        ({"loss": {"normalize": "constant"}}, "constant 0"),
        ({"engine": {"slots": 4, "context": 32}}, "its prompt of .* tokens leaves no room"),
        ({"train": {"model": "nano"}}, "policy_rl.train.model: saw 1 layers"),
        ({"replay": {"examples": 3}}, "replay.examples: saw 3, wanted 0 without references"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(more, words, root, tmp_path):
    with pytest.raises(InputError, match=words) as refusal:
        tiny_rl.run(root, tmp_path, **more)
    assert "\n" not in str(refusal.value)


def test_an_audit_of_other_problems_is_refused(root, tmp_path):
    shutil.copytree(root / "problems", tmp_path / "audit")
    write_problems(epath.Path(tmp_path) / "audit", read_problems(epath.Path(tmp_path) / "audit")[1:])
    for name in ("policy", "problems"):
        (tmp_path / name).symlink_to(root / name)
    with pytest.raises(InputError, match="no problem ladder/1"):
        tiny_rl.run(tmp_path, tmp_path / "out", ("policy", "problems", "audit"))
