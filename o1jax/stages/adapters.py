"""Training by LoRA in a stage: the policy gets adapters, and what was trained becomes a plain policy again.

With rank 0 all of this is the identity. Trains nothing; what adapters are is model/lora.py.
"""

from __future__ import annotations

import dataclasses

import jax
from etils import epath
from flax import nnx

from o1jax.model.init import NO_PARAMS, abstract_params
from o1jax.model.lora import LoraSettings, adapted
from o1jax.model.lora_merge import merged, save_adapters
from o1jax.parallel.mesh import make_mesh, replicated
from o1jax.parallel.processes import is_leader
from o1jax.parallel.seeds import fold_seed
from o1jax.train.checkpoint import Policy, save_policy


def with_adapters(policy: Policy, lora: LoraSettings, seed: int) -> Policy:
    """The policy with adapters to train that add nothing yet.

    Its frozen parameters are those given, or made of them: let go of `policy`, or there are two copies.
    """
    if not lora.rank:
        return policy
    graphdef, adapters, frozen = adapted(
        policy.config, policy.params, lora, fold_seed(seed, "lora"), make_mesh()
    )
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
