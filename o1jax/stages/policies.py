"""The policy that a stage starts from: of an earlier stage, a policy directory, or published weights; and
what the stage leaves when there was nothing to learn from.

Does not train and does not choose an engine.
"""

from __future__ import annotations

import dataclasses
import logging

from etils import epath
from jax.sharding import Mesh

from o1jax.model import hf
from o1jax.model.init import abstract_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts.chat import Tokenizer, load_tokenizer
from o1jax.records import InputError
from o1jax.train.checkpoint import Policy, load_policy, save_policy


def open_policy(place: epath.Path, mesh: Mesh | None = None) -> Policy:
    """The policy of a stage (place/policy), a policy directory, or a Hugging Face directory of
    safetensors, on the mesh, or on that of all devices. InputError if there is none, or it is damaged."""
    mesh = mesh or make_mesh()
    for directory in (place / "policy", place):
        if (directory / "checkpoint").exists():
            return load_policy(directory, mesh)
    if (place / "config.json").exists():
        config, params = hf.load(place, mesh)
        config = dataclasses.replace(config, remat="full")  # config.json has no say in it, and they are large
        graphdef, _ = abstract_params(config, mesh)
        return Policy(config, graphdef, params, load_tokenizer(str(place)))
    raise _none_there(place)


def open_tokenizer(place: epath.Path) -> Tokenizer:
    """The tokenizer of open_policy's policy, without its parameters."""
    for directory in (place / "policy" / "tokenizer", place / "tokenizer"):
        if directory.exists():
            return load_tokenizer(str(directory))
    if (place / "config.json").exists():
        return load_tokenizer(str(place))
    raise _none_there(place)


def _none_there(place: epath.Path) -> InputError:
    return InputError(
        f"{place}: no policy there; wanted a stage that trained one, a policy directory, or published "
        "weights (config.json and safetensors)"
    )


def check_model(stage: str, model: str, policy: Policy) -> None:
    """InputError unless the policy has the layers and width of the preset `model` ("": any will do)."""
    if model:
        seen, wanted = policy.config, preset(model)
        if (seen.n_layers, seen.d_model) != (wanted.n_layers, wanted.d_model):
            raise InputError(
                f"{stage}.model: saw {seen.n_layers} layers of width {seen.d_model}, wanted those of "
                f"{model} ({wanted.n_layers} of {wanted.d_model}); give another policy or model"
            )


def keep_unchanged(out: epath.Path, policy: Policy, why: str) -> dict[str, int]:
    """Saves the policy as it is as what the stage in `out` made of it, and warns: a round that has nothing to
    learn from must not end a run. Returns the figures of a training that was none."""
    logging.warning("%s: nothing to train on, so the policy stays as it is: %s", out, why)
    save_policy(out / "policy", policy.config, policy.params, policy.tokenizer)
    return {"dropped_long": 0, "steps": 0, "trained_tokens": 0}
