"""Step 5: policy-gradient RL of a policy on its own answers, rewarded by outcome and process (O1-CODER, 3.5).

`Run.update` is one whole update. It is GRPO (Shao et al. 2024, arXiv 2402.03300) but for this:

 1. The advantage is the reward less the group's mean, not divided by the group's std, which would blow up the
    groups that are almost solved or almost hopeless (Dr. GRPO, arXiv 2503.20783).  [advantage]
 2. Groups whose answers all pass or all fail are dropped whole, before anything is divided.  [keep_groups]
 3. The loss is a mean over the tokens of all answers. A mean over answers of their means would count a token
    of a long answer for less (DAPO, arXiv 2503.14476).  [loss.normalize]
 4. The ratio is clipped at 1 - .2 and 1 + .28, so that a rare token may rise further than it may fall (DAPO).
    With one step an update and no staleness the ratio is 1, and nothing is clipped.  [loss.clip_low,
    loss.clip_high, epochs, minibatches]
 5. There is no KL term to a reference policy.  [loss.kl_weight]
 6. A token's loss is weighted by min(p_trainer / p_sampler, 2): the engine's arithmetic is not the trainer's,
    and its weights may be older.  [loss.importance_cap]
 7. The reward is phi = alpha(t) R + (1 - alpha(t)) * process term: as updates go by, the outcome R gives
    weight to what the process reward model says of the steps.  [reward; with alpha always 1 it is R alone]
 8. A group in which nothing passes is sampled on, up to max_samples answers.  [max_samples; off at 0]
 9. Answers of others are replayed beside the policy's own, by their log-likelihood.  [replay; off at 0]
10. Update t + 1 is sampled while update t trains, by the weights before t.  [max_staleness; off at 0]
11. What an answer says after its program, or after a malformed step, is not trained on.
12. With advantage "progress" the process term is not one scalar: each step is credited with what it adds to
    the reward model's score, and the last with what the outcome adds.  [advantage]
13. The saved policy may be a mean over the last updates' weights.  [average; off]
14. An answer much longer than any that has passed is cut, and has failed.  [cut_after; off at 0]

Inputs: policy; problems (check_problems), whose own tests judge; prm; audit: a check_problems stage of the
same problems with more tests, which only measures; references and found_<k> (searches), to be replayed; by
what found_<k> and scout, the newest such stage, found, draws by difficulty choose problems.
Update t is a pure function of (seed, t, parameters, history), so that a run killed at any instant goes on to
the same curve. Of several processes each samples an equal share of the update's answers (of a problem that
several share, process 0 joins them before any mean is taken), and all train: their number changes no figure
but for rounding. With more of them, more problems_per_update keep every engine full. Changes no reward model.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx

from o1jax.model.init import NO_PARAMS
from o1jax.parallel.memory import report_held
from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.processes import is_leader
from o1jax.records import InputError, Problem
from o1jax.rl import draw
from o1jax.rl.examples import Group, examples_of, gae_examples_of, groups_that_teach, reward_of
from o1jax.rl.learner import Learner, optimizer_of, tokens_of
from o1jax.rl.progress import Progress, figures_of, identity_of, read_rows, reward_figures, timings_of
from o1jax.rl.rollouts import RolloutCollector, write_rewards
from o1jax.rl.settings import Settings, check
from o1jax.search.sampling import Sampler
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import as_trained, check_model, open_policy, save_trained, without_adapters
from o1jax.stages.workers import WeightSync, open_scorer, open_workers, scorer_timings
from o1jax.train.checkpoint import Policy
from o1jax.train.metrics import MetricsLog, ProgressLine
from o1jax.train.optimizer import make_optimizer
from o1jax.train.resumable import Resumable, open_resumable
from o1jax.train.step import abstract_state, moved
from o1jax.train.throughput import Profiler, Throughput, flops_per_token


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: updates, first_update, next_update, generated_tokens, trained_tokens, groups_kept,
    groups_dropped, updates_without_signal, first_ and last_outcome and _process (means of the first and
    the last tenth of the updates), watch and flags (progress.py). Raises Preempted after saving, and
    NonFiniteLoss."""
    problems = read_problems(inputs["problems"])
    check(settings, inputs, len(problems))
    identity = identity_of(settings, problems, seed)
    clock = {"every": settings.checkpoint_every, "every_s": settings.checkpoint_every_s}
    with open_resumable(out / "fit", identity, **clock) as resumable:
        training = Run(out, settings, inputs, problems, seed, resumable)
        timings = asyncio.run(training.until_done())
        save_trained(out, training.trained, training.learned, settings.train.lora)
    if not is_leader():
        return StageResult({}, {})
    rows = read_rows(out / "fit" / "metrics.jsonl")
    return StageResult(figures_of(rows, settings), timings | timings_of(rows))


class Sampled(NamedTuple):
    """The answers of one update, groups_P_G, and the seconds that they took."""

    groups: list[Group]
    seconds: float


class Run:
    """The state of one run: the train state, the progress, and what is held open to sample."""

    def __init__(
        self,
        out: epath.Path,
        settings: Settings,
        inputs: Mapping[str, epath.Path],
        problems: Sequence[Problem],
        seed: int,
        resumable: Resumable,
    ):
        self.out, self.settings, self.inputs, self.problems = out, settings, inputs, problems
        self.seed, self.resumable = seed, resumable
        self.busy_s = 0.0  # of the engine, up to the last update
        policy = open_policy(inputs["policy"])
        check_model("policy_rl", settings.train.model, policy)
        self.weight_sync = WeightSync(policy)
        policy = as_trained(policy, settings.train, seed)
        self.trained = dataclasses.replace(policy, params=NO_PARAMS)  # which are the state's
        self.replay_buffer = draw.replay_buffer(out, settings, inputs, policy.tokenizer, seed)
        self.found = draw.found_counts(settings, inputs)
        mesh, transformation = make_mesh(), make_optimizer(optimizer_of(settings))
        like = abstract_state(policy.params, transformation, mesh)
        if settings.average.kind != "none":
            like = dataclasses.replace(like, average=like.params)
        self.learner = Learner(policy, like, settings, mesh, seed)
        self.state, self.progress = resumable.begin(like, Progress(), policy.params, transformation, mesh)

    @property
    def t(self) -> int:
        """The next update, counted over all rounds; also the version of the parameters."""
        return self.settings.first_update + self.progress.updates

    async def until_done(self) -> dict[str, float]:
        """All updates, with what they need held open; returns timings."""
        engine, slots = self.settings.engine, self.settings.scorer_slots
        async with (
            open_workers(self.policy(), engine) as workers,
            open_scorer(self.inputs, self.trained.tokenizer, slots=slots, context=engine.context) as scorer,
        ):
            audit = audit_of(self.inputs, self.problems)
            sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, self.settings.sample)
            self.collector = RolloutCollector(sampler, scorer, self.settings, audit, self.out, self.seed)
            self.collector.check(self.problems)
            self.collector.remove_parts()
            await self.weight_sync.push(workers.engine, self.policy().params, self.t)
            report_held(self.held() | ({} if scorer is None else {"reward model": scorer.params}))
            line = ProgressLine("policy_rl", self.settings.updates, writes=is_leader())
            with (
                MetricsLog(self.out / "fit", self.progress.updates, writes=is_leader()) as log,
                contextlib.closing(Throughput(self.out / "fit", "policy_rl")) as self.throughput,
                contextlib.closing(Profiler(self.out / "fit")) as profiler,
            ):
                ahead = None
                while not self.progress.is_done(self.settings):
                    profiler.before(self.progress.updates)
                    ahead = await self.update(ahead, log, line)
                    self.resumable.between_steps(self.progress.updates, self.save)
                self.save()
            self.collector.remove_parts()
            return workers.timings() | scorer_timings(scorer)

    async def update(self, ahead: Sampled | None, log: MetricsLog, line: ProgressLine) -> Sampled | None:
        """One update, the whole of it. `ahead`: its answers, if they were sampled during the update before;
        returns those of the next update if they were sampled during this one."""
        settings, t = self.settings, self.t

        # 1. Draw problems. 2. Sample answers to them, run their programs on the tests, score their steps.
        groups, sampling_seconds = ahead or await self._unless_sigterm(self._draw_and_sample())

        # 3. Reward every answer: phi, of its outcome and its steps' scores, by the alpha of this update.
        began = time.monotonic()
        rewards_P_G = [[reward_of(answer, settings, t) for answer in group] for group in groups]

        # 4. Drop the groups that teach nothing, for within them every answer is worth the same.
        kept = groups_that_teach(groups, rewards_P_G, settings)

        # 5. Advantages: the reward less the group's mean, on every token of an answer. By gae the baseline is
        #    not the group's mean but the policy's own value of what stands before each step.
        if settings.advantage == "gae":
            values = await asyncio.to_thread(self.learner.values, self.state.params, kept, t)
            examples = gae_examples_of(kept, settings, t, values)
        else:
            examples = examples_of(kept, settings, t)

        # Found paths and references go beside them; without an answer to go beside they would be plain SFT.
        replay = draw.replay(self.replay_buffer, settings.replay.examples, self.seed, t) if examples else []
        scored = self.collector.scorer is not None
        if is_leader():  # every process has the same answers, and makes the same of them
            write_rewards(self.out, t, groups, rewards_P_G, examples, replay, scored=scored)

        # 6. Loss and optimizer step, in a thread. With max_staleness the next answers are sampled meanwhile,
        #    by the weights that the engine still has; they are for t + 1, so progress goes on first. Both end
        #    before the weights are pushed and anything is saved: an answer is of one policy, and there is no
        #    checkpoint without the answers that only the weights before it could give.
        staleness, at = t - groups[0][0].rollout.policy_version, self.progress.position(settings)
        training = asyncio.to_thread(self._train, began, examples, replay, t, at)
        self.progress = self.progress.after(groups, tokens_of([*examples, *replay], settings))
        if settings.max_staleness and not self.progress.is_done(settings):
            learned, ahead = await asyncio.gather(training, self._draw_and_sample())
        else:
            learned, ahead = await training, None

        self._average()

        # 7. Push the new weights into the engine, and see how far its log-probs are from the trainer's.
        difference = await self.weight_sync.push(self.collector.sampler.engine, self.policy().params, self.t)

        # 8. Log.
        figures = reward_figures(groups, rewards_P_G, len(kept), scored=scored) | learned
        figures |= {"update": t, "staleness": staleness, "push_difference": difference}
        log.write(self.progress.updates, figures | {"sampling_seconds": sampling_seconds})
        log.flush()
        self._count(figures, sampling_seconds)
        line.show(self.progress.updates, f"outcome {figures['outcome']:.3f}, reward {figures['reward']:.3f}")
        return ahead

    def _count(self, figures: Mapping[str, float], sampling_seconds: float) -> None:
        """Says where the time of an update went. While answers are judged the engine idles."""
        busy_s = self.collector.sampler.engine.stats()["busy_s"]
        sampling, self.busy_s = min(busy_s - self.busy_s, sampling_seconds), busy_s
        per_token = flops_per_token(self.state.params, self.trained.frozen) / jax.process_count()
        generated, trained = figures["generated_tokens"], figures["trained_tokens"]
        work = {"tokens": generated, "flops": generated * per_token / 3}
        self.throughput.spent("sampling", sampling, **work)
        self.throughput.spent("judging", sampling_seconds - sampling)
        work = {"tokens": trained, "flops": trained * per_token}
        self.throughput.spent("training", figures["training_seconds"], **work)

    async def _draw_and_sample(self) -> Sampled:
        """The answers of update self.t, by the weights that the engine has."""
        began = time.monotonic()
        of_update = self.seed, self.t, self.progress.history, self.found
        drawn = draw.of_update(self.problems, self.settings, *of_update)
        longest = self.settings.longest(self.progress.longest_pass)
        return Sampled(await self.collector.collect(drawn, self.t, longest), time.monotonic() - began)

    def _train(self, began: float, *of_update: Any) -> dict[str, float]:
        """Learner.train on the run's state; its figures."""
        self.state, figures = self.learner.train(self.state, *of_update)
        return figures | {"training_seconds": time.monotonic() - began}

    def _average(self) -> None:
        """Moves the average of the weights, where one is kept, towards those of the update that has ended."""
        if self.state.average is not None:
            done = self.progress.position(self.settings) / self.settings.updates
            rate, averaged = self.settings.average.step(self.progress.averaged, done)
            average = moved(self.state.average, self.state.params, jnp.float32(rate))
            self.state = dataclasses.replace(self.state, average=average)
            self.progress = dataclasses.replace(self.progress, averaged=averaged)

    async def _unless_sigterm(self, work: Coroutine) -> Any:
        """What the work gives; if SIGTERM comes first, stops without waiting for it."""
        # Sampling may take minutes, more than a preemption leaves. Of several processes none stops alone in
        # the middle: they agree after an update (resumable.py).
        task = asyncio.create_task(work)
        while not task.done():
            if self.resumable.sigterm.is_set() and jax.process_count() == 1:
                task.cancel()
                await asyncio.wait([task])
                self.resumable.stop(self.save)
            await asyncio.wait([task], timeout=0.2)
        return task.result()

    def policy(self) -> Policy:
        """The policy as it is now, without adapters."""
        trained = dataclasses.replace(self.trained, params=self.state.params)
        return without_adapters(trained, self.settings.train.lora)

    @property
    def learned(self) -> nnx.State:
        """What the run leaves: the parameters, or their average."""
        return self.state.params if self.state.average is None else self.state.average

    def held(self) -> dict[str, Any]:
        """What the run itself keeps on the devices, by name."""
        state, reference = self.state, self.learner.reference
        kept = {"parameters": state.params, "optimizer": state.opt_state, "frozen": self.trained.frozen}
        kept |= {} if state.average is None else {"average": state.average}
        return kept | ({} if reference is None else {"reference": reference})

    def save(self) -> None:
        """Begins to save where the run stands, once."""
        self.resumable.save(self.progress.updates, self.state, self.progress)


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
