"""The ladder's warm-up: a nano tokenizer and policy trained on few reference programs, to the plateau.

Inputs: references (check_problems; these are trained on), validation (check_problems; samples on
these say when the policy stops getting better). Real models start from published weights instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from flax import nnx
from pydantic import NonNegativeInt, PositiveInt

from o1jax.batches.encode import encode_sft, keep_short
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params, parameter_count
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.seeds import fold_seed
from o1jax.policy.found import reference_provenance, reference_samples, reference_texts
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError, Problem
from o1jax.rewards.outcome import is_lost, search_tests
from o1jax.search.sampling import Sampler, SampleSettings, sample_many
from o1jax.stages import provenance
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import TrainSettings, as_trained
from o1jax.stages.workers import EngineSettings, WeightSync, Workers, open_workers
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy, save_policy
from o1jax.train.loop import FitSettings, fit


@dataclasses.dataclass(frozen=True)
class Settings:
    """A new nano policy, trained on reference problems until its pass rate on others stops rising."""

    preset: str = "nano"  # the model's shape (model/presets.py)
    vocab_size: PositiveInt = 640  # of the tokenizer that is made of the references
    variants: PositiveInt = 1  # reasoning chains, and programs, to learn of each problem (the ladder has two)
    train: TrainSettings = TrainSettings(learning_rate=5e-3, warmup_steps=50)
    max_steps: PositiveInt = 600  # an end, plateau or not
    evaluate_every: NonNegativeInt = 150  # steps
    patience: NonNegativeInt = 2  # evaluations without a higher pass rate that end the warm-up (0: none do)
    sample: SampleSettings = SampleSettings()  # of an evaluation
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, dropped_long, parameters, steps, best_step, validation_pass_at_1, trained_tokens."""
    if settings.train.lora.rank or settings.train.model:
        raise InputError("warm_up.train: saw lora or model; a new policy is trained whole, shaped by preset")
    problems = read_problems(inputs["references"])
    # Made of the references alone: validation problems, and those of evaluation, must be new to it too.
    tokenizer = nano_tokenizer.train(reference_texts(problems, settings.variants), settings.vocab_size)
    config = dataclasses.replace(preset(settings.preset), vocab_size=len(tokenizer))
    mesh = make_mesh()
    graphdef, params = init_params(config, fold_seed(seed, "init"), mesh)
    style = "nano_hidden" if settings.sample.style == "nano_hidden" else "nano"
    samples = reference_samples(problems, tokenizer, settings.variants, style)
    provenance.write(out, reference_provenance(samples, "references", tokenizer, settings.train.row_length))
    examples, dropped = keep_short([encode_sft(sample) for sample in samples], settings.train.row_length)
    batches = Batches(examples, seed=seed, **settings.train.shape)
    policy = as_trained(Policy(config, graphdef, params, tokenizer), settings.train, seed)
    with contextlib.closing(Validation(policy, settings, inputs["validation"], seed)) as validation:
        # What ends it is the pass rate on other problems, not the loss: that of these few references falls on
        # while the policy learns them by heart.
        fitted = fit(
            out / "fit",
            policy.graphdef,
            params,
            objectives.sft,
            batches,
            settings.train.optimizer(settings.max_steps),
            FitSettings(
                settings.max_steps,
                micro_batches=settings.train.micro_batches,
                evaluate_every=settings.evaluate_every,
                patience=settings.patience,
            ),
            mesh=mesh,
            evaluate=validation,
            title="warm_up",
        )
    save_policy(out / "policy", config, fitted.params, tokenizer)
    progress = fitted.progress
    figures = {
        "problems": len(problems),
        "dropped_long": dropped,
        "parameters": parameter_count(params),
        "vocab_size": len(tokenizer),
        "steps": progress.step,
        "best_step": progress.best_step,
        "stopped": fitted.stopped,
        "validation_pass_at_1": round(1 - progress.best_loss, 4),
        "trained_tokens": progress.tokens,
    }
    return StageResult(figures, {})


class Validation:
    """params -> {loss: 1 - pass@1 on the validation problems, pass_at_1}; an engine held open."""

    def __init__(self, policy: Policy, settings: Settings, problems: epath.Path, seed: int):
        self.problems = read_problems(problems)
        self.settings, self.seed = settings, fold_seed(seed, "validation")
        self.weight_sync = WeightSync(policy)
        # `fit` calls this between steps, from plain code: engine and judge have an event loop of their own,
        # which stands still in between, so that nothing is started or compiled twice.
        self.runner = asyncio.Runner()
        self.opened = open_workers(policy, settings.engine)
        self.workers: Workers = self.runner.run(self.opened.__aenter__())
        self.version = 0

    def __call__(self, params: nnx.State) -> dict[str, float]:
        self.version += 1
        return self.runner.run(self._evaluate(params))

    async def _evaluate(self, params: nnx.State) -> dict[str, float]:
        workers = self.workers
        difference = await self.weight_sync.push(workers.engine, params, self.version)
        sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, self.settings.sample)
        # The same seed each time: two evaluations differ by the policy, not by the draw.
        rollouts_P_G = await sample_many(sampler, self.problems, search_tests, self.seed)
        rewards_P_G = [[r.reward for r in rollouts if not is_lost([r])] for rollouts in rollouts_P_G]
        rates = _pass_at_1(self.problems, rewards_P_G)
        return rates | {"push_difference": difference}

    def close(self) -> None:
        self.runner.run(self.opened.__aexit__(None, None, None))
        self.runner.close()


def _pass_at_1(problems: Sequence[Problem], rewards_P_G: Sequence[Sequence[float]]) -> dict[str, float]:
    """The pass rate, by difficulty the same, and what `fit` minimizes: `loss`, 1 less the pass rate."""
    by_difficulty: dict[str, list[float]] = {}
    for problem, rewards_G in zip(problems, rewards_P_G, strict=True):
        by_difficulty.setdefault(problem.difficulty.replace(" ", "_"), []).extend(rewards_G)
    total = [reward for rewards in by_difficulty.values() for reward in rewards]
    rate = sum(total) / len(total)
    return {"loss": 1 - rate, "pass_at_1": rate} | {
        f"pass_at_1_{key}": sum(v) / len(v) for key, v in sorted(by_difficulty.items())
    }
