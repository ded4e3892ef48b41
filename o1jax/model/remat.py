"""Rematerialisation by name: what a layer keeps for the backward pass, the rest being computed again."""

from __future__ import annotations

from collections.abc import Callable

import jax

POLICIES = {
    "none": None,  # everything is kept
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with parameters are kept
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),  # and the layer's input
    "full": jax.checkpoint_policies.nothing_saveable,  # only the layer's input is kept
}


def remat(layer: Callable, name: str) -> Callable:
    """`layer` under the policy of this name, one of POLICIES."""
    return layer if name == "none" else jax.checkpoint(layer, policy=POLICIES[name])
