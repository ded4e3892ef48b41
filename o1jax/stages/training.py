"""What the stages that train share: the policy they start from, its adapters, and training for a number of
tokens.

Makes no examples or pairs, and chooses no engine. With LoRA of rank 0 the functions about adapters return
their argument unchanged.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from o1jax.batches.encode import Example, encode_pair, keep_short
from o1jax.batches.stream import Batches, Rotation
from o1jax.model.config import ModelConfig, Remat
from o1jax.model.hf import checkpoint as hf
from o1jax.model.init import NO_PARAMS, abstract_params, kernel_of
from o1jax.model.lora import LoraSettings, adapted, merged, save_adapters
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, replicated
from o1jax.parallel.processes import is_leader
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer, check_embedding, load_tokenizer, size
from o1jax.prompts.gguf_tokenizer import tokenizer_of
from o1jax.records import InputError, PreferencePair
from o1jax.stages.manifest import StageResult
from o1jax.train.checkpoint import Policy, load_policy, save_policy
from o1jax.train.loop import FitSettings, Fitted, fit
from o1jax.train.objectives import Objective, dpo
from o1jax.train.optimizer import AdamW, OptimizerSettings, Schedule
from o1jax.train.reference import with_reference


def as_trained(policy: Policy, train: TrainSettings, seed: int) -> Policy:
    """The policy whose program is that of its training, with adapters to train that add nothing yet.

    Its config stays as it is: what the program is like is kept with no policy. Its frozen parameters are
    those given, or made of them: let go of `policy`, or there are two copies.
    """
    config, mesh = train.program_of(policy.config), make_mesh()
    if not train.lora.rank:
        if config == policy.config:
            return policy
        graphdef, _ = abstract_params(config, mesh)
        return dataclasses.replace(policy, graphdef=graphdef)
    seed = fold_seed(seed, "lora")
    graphdef, adapters, frozen = adapted(config, policy.params, train.lora, seed, mesh)
    return dataclasses.replace(policy, graphdef=graphdef, params=adapters, frozen=frozen)


def without_adapters(policy: Policy, lora: LoraSettings) -> Policy:
    """The plain policy that computes what the adapted one does."""
    if not lora.rank:
        return policy
    mesh = make_mesh()
    graphdef, _ = abstract_params(policy.config, mesh)
    params = merged(policy.config, policy.params, policy.frozen, lora, mesh)
    return dataclasses.replace(policy, graphdef=graphdef, params=params, frozen=NO_PARAMS)


def save_trained(out: epath.Path, policy: Policy, params: nnx.State, lora: LoraSettings) -> Policy:
    """Writes out/policy, the policy with the parameters that were trained, and returns it, plain; where they
    are adapters, they are written alone too, as out/adapters."""
    trained = dataclasses.replace(policy, params=params)
    if lora.rank:
        whole = jax.device_put(params, replicated(make_mesh()))
        if is_leader():
            save_adapters(out / "adapters", policy.config, whole, lora)
    plain = without_adapters(trained, lora)
    save_policy(out / "policy", plain.config, plain.params, plain.tokenizer)
    return plain


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a stage trains its policy; how long, its own settings say."""

    row_length: PositiveInt = 256  # tokens of a packed row; a longer example is left out and counted
    rows_per_batch: PositiveInt = 16  # of all processes; of policy_rl, whose updates differ, of a micro-batch
    micro_batches: PositiveInt = (
        1  # the parts of a batch whose gradients are added up: less memory, more time
    )
    learning_rate: NonNegativeFloat = 2e-3  # at the peak
    schedule: Schedule = "cosine"  # from the peak to the last step, down to adamw.final_share of it
    warmup_steps: NonNegativeInt = 10  # from 0 up to the peak
    weight_decay: NonNegativeFloat = 0.1  # AdamW's, of matrices alone
    adamw: AdamW = AdamW()  # what is rarely changed
    model: str = ""  # the preset that the policy must have the shape of; "": any
    remat: Literal["", Remat] = ""  # what a layer keeps for the backward pass; "": as the policy says
    unroll: NonNegativeInt = 0  # layers that a turn of the loop computes; 0: as the policy says
    attention: str = ""  # the kernel of packed rows; "": as the policy says
    lora: LoraSettings = LoraSettings()  # with rank 0 all parameters are trained

    def optimizer(self, total_steps: int) -> OptimizerSettings:
        """AdamW and its schedule over `total_steps`."""
        return OptimizerSettings(
            learning_rate=self.learning_rate,
            total_steps=total_steps,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            **dataclasses.asdict(self.adamw),
        )

    def program_of(self, config: ModelConfig) -> ModelConfig:
        """The config of the same parameters, with what these settings say of the program. InputError for a
        kernel that is unknown, or that does not run here."""
        said = {"remat": self.remat, "unroll": self.unroll, "attention": self.attention}
        config = dataclasses.replace(config, **{name: value for name, value in said.items() if value})
        kernel_of(config, make_mesh())
        return config

    @property
    def shape(self) -> dict[str, int]:
        """The shape of packed batches, as keyword arguments."""
        return {"row_length": self.row_length, "rows_per_batch": self.rows_per_batch}


class TokenBudget(Protocol):
    """What the settings of a stage have that trains for a number of tokens."""

    train_tokens: int  # tokens to train on, padding not counted, in as many epochs as that takes
    train: TrainSettings


def train_tokens(
    out: epath.Path,
    title: str,
    policy: Policy,
    objective: Objective,
    examples: Sequence[Example],
    settings: TokenBudget,
    seed: int,
    rotation: Rotation | None = None,
) -> Fitted:
    """Trains the policy's parameters in out/fit, or resumes there, and saves them as out/policy. The result's
    are those of the plain policy, adapters merged. `rotation`: of examples that take turns in the epochs."""
    batches = Batches(examples, seed=seed, rotation=rotation, **settings.train.shape)
    steps = steps_for(batches, settings.train_tokens)
    fitted = fit(
        out / "fit",
        policy.graphdef,
        policy.params,
        objective,
        batches,
        settings.train.optimizer(steps),
        FitSettings(steps, micro_batches=settings.train.micro_batches),
        mesh=make_mesh(),
        title=title,
        frozen=policy.frozen,
    )
    plain = save_trained(out, policy, fitted.params, settings.train.lora)
    return dataclasses.replace(fitted, params=plain.params)


@dataclasses.dataclass(frozen=True)
class PreferenceSettings:
    """What every stage's settings have that trains by DPO."""

    train_tokens: PositiveInt  # tokens to train on, both sides of a pair counted, padding not
    beta: PositiveFloat = 0.1  # of DPO: how far the policy may go from its reference
    nll_weight: NonNegativeFloat = 0.0  # of the chosen answer's likelihood in the loss; 0: as published
    train: TrainSettings = TrainSettings(
        row_length=512, rows_per_batch=8, learning_rate=2e-4, weight_decay=0.0
    )


def train_preferences(
    out: epath.Path,
    title: str,
    policy: Policy,
    pairs: Sequence[PreferencePair],
    settings: PreferenceSettings,
    seed: int,
) -> tuple[Fitted, int]:
    """DPO of the policy, which is the reference too, as train_tokens; and how many pairs were left out for
    being longer than a row. InputError if that is all of them. New adapters add nothing, so that with them
    the policy is its base, frozen or not."""
    examples, long = keep_short([encode_pair(pair) for pair in pairs], settings.train.row_length)
    if not examples:
        raise InputError(
            f"{out}: nothing to train on: {long} pairs were longer than train.row_length, "
            f"{settings.train.row_length}; raise it: both sides of a pair share a row"
        )
    mesh, shape = make_mesh(), settings.train.shape
    examples = with_reference(examples, policy.graphdef, policy.all_params, mesh=mesh, **shape)
    objective = dpo(settings.beta, settings.nll_weight)
    return train_tokens(out, title, policy, objective, examples, settings, seed), long


def steps_for(batches: Batches, tokens: int) -> int:
    """The fewest steps that train on at least `tokens`."""
    steps = spent = 0
    while spent < tokens:
        spent += batches.tokens_at(steps)
        steps += 1
    return steps


def result(
    fitted: Fitted, figures: Mapping[str, Any], dropped_long: int, timings: Mapping[str, float] = {}
) -> StageResult:
    """A stage's own figures and timings, and its training's: dropped_long, steps, trained_tokens."""
    progress = fitted.progress
    trained = {"dropped_long": dropped_long, "steps": progress.step, "trained_tokens": progress.tokens}
    speed = {"tokens_per_second": round(progress.tokens / fitted.seconds)}
    return StageResult({**figures, **trained}, {**timings, **speed})


def open_policy(directory: epath.Path, mesh: Mesh | None = None, dtype: str = "") -> Policy:
    """The policy of a stage (directory/policy), a policy directory, or published weights (a Hugging Face
    directory of safetensors, or a GGUF file), on the mesh, or on that of all devices; its parameters in
    `dtype` (ModelConfig.kept_in: "" is a policy's own, of published weights float32). InputError if there is
    none, or it is damaged, or larger than the memory."""
    mesh = mesh or make_mesh()
    for path in (directory / "policy", directory):
        if (path / "checkpoint").exists():
            policy = load_policy(path, mesh, dtype)
            check_embedding(policy.tokenizer, policy.config.vocab_size, f"policy {str(path)!r}")
            return policy
    if not hf.is_published(directory):
        raise _none_there(directory)
    published = hf.open_published(directory)
    tokenizer = _published_tokenizer(published)
    rows = hf.config_from_hf(published.fields, "float32").vocab_size
    check_embedding(tokenizer, rows, f"policy {str(directory)!r}")  # before minutes of reading
    config, params = hf.load_published(published, mesh, dtype)
    config = dataclasses.replace(config, remat="full")  # config.json has no say in it, and they are large
    config = config.with_tokens(size(tokenizer))
    graphdef, _ = abstract_params(config, mesh)
    return Policy(config, graphdef, params, tokenizer)


def open_tokenizer(directory: epath.Path) -> Tokenizer:
    """The tokenizer of open_policy's policy, without its parameters."""
    for path in (directory / "policy" / "tokenizer", directory / "tokenizer"):
        if path.exists():
            return load_tokenizer(str(path))
    if hf.is_published(directory):
        return _published_tokenizer(hf.open_published(directory))
    raise _none_there(directory)


def _published_tokenizer(published: hf.Published) -> Tokenizer:
    if published.metadata:
        return tokenizer_of(published.metadata, str(published.path))
    return load_tokenizer(str(published.path))


def _none_there(directory: epath.Path) -> InputError:
    return InputError(
        f"{directory}: no policy there; wanted a stage that trained one, a policy directory, or published "
        "weights (a directory of config.json and safetensors, or a .gguf file)"
    )


def check_model(stage: str, model: str, policy: Policy) -> None:
    """InputError unless the policy has the layers and width of the preset `model` ("": any will do)."""
    if model:
        seen, wanted = policy.config, preset(model)
        if (seen.n_layers, seen.d_model) != (wanted.n_layers, wanted.d_model):
            raise InputError(
                f"{stage}.train.model: saw {seen.n_layers} layers of width {seen.d_model}, wanted those of "
                f"{model} ({wanted.n_layers} of {wanted.d_model}); give another policy or model"
            )


def keep_unchanged(out: epath.Path, policy: Policy, why: str) -> dict[str, int]:
    """Saves the policy as it is as what the stage in `out` made of it, and warns: a round that has nothing to
    learn from must not end a run. Returns the figures of a training that was none."""
    logging.warning("%s: nothing to train on, so the policy stays as it is: %s", out, why)
    save_policy(out / "policy", policy.config, policy.params, policy.tokenizer)
    return {"dropped_long": 0, "steps": 0, "trained_tokens": 0}
