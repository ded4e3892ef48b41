"""The precision of matrix products: float32 stays float32 on accelerators too.

There JAX rounds the factors of a float32 product, to TF32 on a GPU and to bfloat16 on a TPU, unless a
product asks for more. Products of bfloat16 are left as they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def exact(x: jax.Array) -> jax.lax.Precision | None:
    """The `precision` of a product with `x`, in forward and backward passes."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
