"""Step 5: policy-gradient RL of a policy on its own answers, rewarded by outcome and process (O1-CODER, 3.5).

Inputs: policy; problems (check_problems), whose own tests judge; prm, where alpha is below 1; audit: a
check_problems stage of the same problems with more tests, which only measures; references and found_<k>
(searches), of which something is replayed in every update. An update: draw problems (rl_draw) and what to
replay (rl_replay), sample and score answers (rl_rollouts), reward them (rl_examples), take the optimizer's
steps (rl_learner), hand the engine the new weights. All of update t is a pure function of (seed, t,
parameters, history), so that a run killed at any instant goes on to the same curve. Changes no reward model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from o1jax.model.init import NO_PARAMS
from o1jax.parallel.mesh import make_mesh, own_copy
from o1jax.parallel.processes import agreed, is_leader
from o1jax.records import InputError, Problem
from o1jax.rl import draw
from o1jax.rl.examples import Group, Lesson, lesson_of
from o1jax.rl.learner import Learner, optimizer_of
from o1jax.rl.progress import Progress, after, figures_of, identity_of, read_rows, timings_of
from o1jax.rl.rollouts import Player
from o1jax.rl.settings import Settings, check
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import check_model, open_policy, save_trained, with_adapters, without_adapters
from o1jax.stages.workers import WeightSync, open_scorer, open_workers, scorer_timings
from o1jax.train.checkpoint import Checkpoints, Policy
from o1jax.train.loop import Preempted, items_of, preempted, refuse_other, sigterm_noted
from o1jax.train.metrics import MetricsLog, ProgressLine
from o1jax.train.optimizer import make_optimizer
from o1jax.train.step import TrainState, abstract_state, init_state, struct


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: updates, first_update, next_update, generated_tokens, trained_tokens, groups_kept,
    groups_dropped, updates_without_signal, first_ and last_outcome and _process (means of the first and
    the last tenth of the updates), flags (rl_watch). Raises Preempted after saving, and NonFiniteLoss."""
    problems = read_problems(inputs["problems"])
    check(settings, inputs, len(problems))
    with Checkpoints(out / "fit" / "checkpoints") as checkpoints, sigterm_noted() as sigterm:
        training = Run(settings, inputs, problems, seed, checkpoints, sigterm)
        timings = asyncio.run(training.play_and_learn(out))
        save_trained(out, training.trained, training.state.params, settings.train.lora)
    if not is_leader():
        return StageResult({}, {})
    rows = read_rows(out / "fit" / "metrics.jsonl")
    return StageResult(figures_of(rows, settings), timings | timings_of(rows))


class Run:
    """The state of one run: the train state and the progress."""

    def __init__(
        self,
        settings: Settings,
        inputs: Mapping[str, epath.Path],
        problems: Sequence[Problem],
        seed: int,
        checkpoints: Checkpoints,
        sigterm: threading.Event,
    ):
        self.settings, self.inputs, self.problems, self.seed = settings, inputs, problems, seed
        self.checkpoints, self.sigterm = checkpoints, sigterm
        self.identity = identity_of(settings, problems, seed)
        policy = open_policy(inputs["policy"])
        check_model("policy_rl", settings.train.model, policy)
        self.weight_sync = WeightSync(policy)
        policy = with_adapters(policy, settings.train.lora, seed)
        self.trained = dataclasses.replace(policy, params=NO_PARAMS)  # which are the state's
        self.replayed = draw.replay_buffer(
            checkpoints.directory.parent.parent, settings, inputs, policy.tokenizer, seed
        )
        mesh, transformation = make_mesh(), make_optimizer(optimizer_of(settings))
        shapes = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), policy.params)
        like = abstract_state(shapes, transformation, mesh)
        self.learner = Learner(policy, like, settings, mesh, seed)
        self.state, self.progress = self._restored(like) or (
            init_state(policy.params, transformation, mesh),
            Progress(),
        )
        self.saved_at = time.monotonic()

    @property
    def t(self) -> int:
        """The next update, counted over all rounds; also the version of the parameters."""
        return self.settings.first_update + self.progress.updates

    def policy(self) -> Policy:
        """The policy as it is now, without adapters; of several processes, each has its own copy."""
        trained = dataclasses.replace(self.trained, params=self.state.params)
        plain = without_adapters(trained, self.settings.train.lora)
        return dataclasses.replace(plain, params=own_copy(plain.params))

    async def play_and_learn(self, out: epath.Path) -> dict[str, float]:
        """All updates, with what they need held open; returns timings."""
        engine, slots = self.settings.engine, self.settings.scorer_slots
        async with (
            open_workers(self.policy(), engine) as workers,
            open_scorer(self.inputs, self.trained.tokenizer, slots=slots, context=engine.context) as scorer,
        ):
            audit = audit_of(self.inputs, self.problems)
            player = Player(workers, scorer, self.settings, audit, out / "rollouts", self.seed)
            player.check(self.problems)
            player.forget()
            await self.weight_sync.push(workers.engine, self.policy().params, self.t)
            with MetricsLog(out / "fit", self.progress.updates, writes=is_leader()) as log:
                await self._until_done(player, log)
            player.forget()
            return workers.timings() | scorer_timings(scorer)

    async def _until_done(self, player: Player, log: MetricsLog) -> None:
        line, ahead = ProgressLine("policy_rl", self.settings.updates, writes=is_leader()), None
        while not self.progress.is_done(self.settings):
            groups, seconds = ahead or await self._unless_sigterm(self._play(player))
            replay = draw.replay(self.replayed, self.settings.replay.examples, self.seed, self.t)
            scored = player.scorer is not None
            lesson = lesson_of(groups, self.settings, self.t, scored=scored, replay=replay)
            row = {"update": self.t, "staleness": self.t - groups[0][0].rollout.policy_version}
            learning, ahead = asyncio.to_thread(self._learn, lesson, self.progress.place(self.settings)), None
            self.progress = after(self.progress, groups, lesson, self.settings)
            if self.settings.max_staleness and not self.progress.is_done(self.settings):
                learned, ahead = await asyncio.gather(learning, self._play(player))
            else:
                learned = await learning
            row["push_difference"] = await self.weight_sync.push(
                player.sampler.engine, self.policy().params, self.t
            )
            log.write(self.progress.updates, row | lesson.figures | learned | {"sampling_seconds": seconds})
            outcome, reward = lesson.figures["outcome"], lesson.figures["reward"]
            line.show(self.progress.updates, f"outcome {outcome:.3f}, reward {reward:.3f}")
            if preempted(self.progress.updates, self.sigterm):
                self._stop()
            if self._save_is_due():
                self._save()
            self.checkpoints.settle()
        self._save()

    async def _play(self, player: Player) -> tuple[list[Group], float]:
        """The answers of the next update, by the weights that the engine has, and the seconds they took."""
        began = time.monotonic()
        drawn = draw.problems_of(self.problems, self.settings, self.seed, self.t, self.progress.history)
        return await player.play(drawn, self.t), time.monotonic() - began

    def _learn(self, lesson: Lesson, at: float) -> dict[str, float]:
        """Trains; in a thread of its own, so that the loop goes on sampling."""
        began = time.monotonic()
        self.state, figures = self.learner.learn(self.state, lesson, at)
        return figures | {"training_seconds": time.monotonic() - began}

    async def _unless_sigterm(self, work: Coroutine) -> Any:
        """What the work gives; if SIGTERM comes first, which need not wait for it, stops. (Several processes
        stop after the same update, no earlier.)"""
        task = asyncio.create_task(work)
        while not task.done():
            if self.sigterm.is_set() and jax.process_count() == 1:
                task.cancel()
                await asyncio.wait([task])
                self._stop()
            await asyncio.wait([task], timeout=0.2)
        return task.result()

    def _restored(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The latest checkpoint's, if there is one."""
        steps = self.checkpoints.steps()
        if not steps:
            return None
        meta = self.checkpoints.meta(steps[-1])
        refuse_other(self.checkpoints.directory, meta["identity"], self.identity)
        items = self.checkpoints.restore(steps[-1], items_of(like))
        return TrainState(items["params"], *items["optimizer"]), Progress(**meta["progress"])

    def _save_is_due(self) -> bool:
        every, seconds = self.settings.checkpoint_every, self.settings.checkpoint_every_s
        waited = bool(seconds) and time.monotonic() - self.saved_at >= seconds
        by_clock = agreed(waited and not self.checkpoints.pending)  # else the save would wait for the last
        return bool(every and self.progress.updates % every == 0 or by_clock)

    def _save(self) -> None:
        """Begins to save where the run stands, once."""
        if self.progress.updates != self.checkpoints.latest:
            meta = {"progress": dataclasses.asdict(self.progress), "identity": self.identity}
            self.checkpoints.save(self.progress.updates, items_of(self.state), meta)
        self.saved_at = time.monotonic()

    def _stop(self) -> None:
        """Saves, and ends the process in order."""
        self._save()
        self.checkpoints.wait()
        raise Preempted()


def audit_of(inputs: Mapping[str, epath.Path], problems: Sequence[Problem]) -> dict[str, Problem]:
    """The problems with more tests, by id; InputError if one is missing."""
    if "audit" not in inputs:
        return {}
    audit = {problem.id: problem for problem in read_problems(inputs["audit"])}
    for problem in problems:
        if problem.id not in audit:
            raise InputError(
                f"{inputs['audit']}: no problem {problem.id}, which is trained on; audit the same problems"
            )
    return audit
