"""Per-token log-probs straight from hidden states and the head: [B, T, V] never exists.

On a mesh every device holds the logits of its own tokens and its own share of the vocabulary (`tensor`
axis): what crosses it are maxima, sums and the gradient of hidden states, never logits. Everything that
needs a log-prob (losses, engines' checks) comes here; what one device computes is logprob_blocks.py.
"""

from __future__ import annotations

import functools

import jax

from o1jax.losses.logprob_blocks import Form, local_backward, local_forward
from o1jax.parallel.traced import per_device, traced_mesh

HIDDEN, HEAD, TOKENS = ("batch", "length", None), ("embed", "vocab"), ("batch", "length")


def token_log_probs(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> jax.Array:
    """log softmax(hidden @ head / temperature) at the targets: log_probs_BT, float32.

    `chunk` is how many tokens' logits exist at once on a device; it changes memory, not values.
    Gradients flow to hidden_BTD and head_DV. Logits are float32, whatever the inputs' dtype.
    """
    check(hidden_BTD, head_DV, targets_BT)
    form = Form(temperature, chunk, False, traced_mesh())
    return figures(form, hidden_BTD, head_DV, targets_BT)[0]


def token_log_probs_and_entropy(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[jax.Array, jax.Array]:
    """(log_probs_BT as token_log_probs, entropy_BT of the whole distribution in nats), float32."""
    check(hidden_BTD, head_DV, targets_BT)
    form = Form(temperature, chunk, True, traced_mesh())
    return figures(form, hidden_BTD, head_DV, targets_BT)


def check(hidden_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array) -> None:
    """The shapes fit together."""
    B, T, D = hidden_BTD.shape
    assert targets_BT.shape == (B, T) and head_DV.shape[0] == D


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def figures(form: Form, hidden_BTD, head_DV, targets_BT) -> tuple[jax.Array, jax.Array]:
    """(log_probs_BT, entropy_BT), the latter 0 unless the form asks for it."""
    return forward(form, hidden_BTD, head_DV, targets_BT)[0]


def forward(form: Form, hidden_BTD, head_DV, targets_BT):
    """(figures, what the backward pass needs: the inputs, each token's normaliser and entropy)."""
    local = functools.partial(local_forward, form)
    on_devices = per_device(local, form.mesh, [HIDDEN, HEAD, TOKENS], [TOKENS] * 3)
    log_probs_BT, entropy_BT, normaliser_BT = on_devices(hidden_BTD, head_DV, targets_BT)
    return (log_probs_BT, entropy_BT), (hidden_BTD, head_DV, targets_BT, normaliser_BT, entropy_BT)


def backward(form: Form, saved, gradients):
    """Gradients to hidden and head."""
    local = functools.partial(local_backward, form)
    on_devices = per_device(local, form.mesh, [HIDDEN, HEAD] + [TOKENS] * 5, [HIDDEN, HEAD])
    return *on_devices(*saved, *gradients), None


figures.defvjp(forward, backward)
