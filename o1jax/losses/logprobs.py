"""Per-token log-probs straight from hidden states and the head: [B, T, V] never exists.

On a mesh every device holds the logits of its own tokens and its own share of the vocabulary (`tensor`
axis): what crosses it are maxima, sums and the gradient of hidden states, never logits. Everything that
needs a log-prob (losses, engines' checks) comes here.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh

from o1jax.losses.likelihood import sft_loss
from o1jax.parallel.traced import axis_size, exact, gathered, narrowed, per_device, summed, traced_mesh

# On a device the vocabulary is walked in blocks and, for each, the tokens in chunks; the backward pass makes
# the logits of a block and a chunk again. Blocks are the outer loop, so that a block's gradient of the head
# is whole before the next one begins: the gathered head and its float32 gradient exist a block at a time.
BLOCK_AT_MOST = 1 << 26  # bytes of float32 of a block of the head, [D, W]
# The same without a mesh, where nothing is gathered and large products are faster: heads of models of up to
# 1.5 B are one block. With LoRA a larger head's copy in the compute dtype would be much of what a step takes.
WHOLE_AT_MOST = 1 << 30
# Tokens whose logits a device holds at once: enough for a product at a GPU's full speed, and 1.2 GB of
# float32 logits for the 151,936 words of Qwen2.5-1.5B.
CHUNK = 2048
LANES = 128  # a TPU's tile: blocks that end elsewhere are copied
MASKED = -1e30  # finite: 0 * MASKED is 0
HIDDEN, HEAD, TOKENS = ("batch", "length", None), ("embed", "vocab"), ("batch", "length")


class Form(NamedTuple):
    """What is fixed when the program is traced."""

    temperature: float
    n_tokens: int | None  # words from here on are padding; None: there are none
    chunk: int  # tokens whose logits a device holds at once
    mesh: AbstractMesh | None


class Running(NamedTuple):
    """What is known of every token after some blocks of words."""

    highest_BX: Array  # the largest logit
    sum_BX: Array  # of exp(logit - highest)
    target_BX: Array  # the target's logit, 0 until it was seen


class Block(NamedTuple):
    """W words of a device's vocabulary."""

    head_DW: Array  # their columns of the head
    words_W: Array  # their ids
    # Which are tokens, and new: the last block may reach back into the one before, and a vocabulary may be
    # padded.
    counts_W: Array


def token_log_probs(
    hidden_BTD: Array,
    head_DV: Array,
    targets_BT: Array,
    *,
    temperature: float = 1.0,
    n_tokens: int | None = None,
    chunk: int = CHUNK,
) -> Array:
    """log softmax(hidden @ head / temperature) at the targets: log_probs_BT, float32. `chunk` is how many
    tokens' logits exist at once on a device; it changes memory, not values. Gradients flow to hidden_BTD and
    head_DV. Logits are float32, whatever the inputs' dtype.

    Columns of the head from `n_tokens` on (None: there are none), the padding of a vocabulary, are out of the
    softmax and have no gradient; as a target one has -inf.
    """
    (B, T, D), mesh = hidden_BTD.shape, traced_mesh()
    assert targets_BT.shape == (B, T) and head_DV.shape[0] == D
    form = Form(temperature, tokens_of(head_DV, n_tokens), chunk, mesh)
    if mesh is not None:
        return log_probs(form, hidden_BTD, head_DV, targets_BT)
    # All tokens as one row: chunks are then slices of what is there, and products have one axis of tokens.
    one_row = log_probs(form, hidden_BTD.reshape(1, B * T, D), head_DV, targets_BT.reshape(1, B * T))
    return one_row.reshape(B, T)


def negative_log_likelihood(
    hidden_BTD: Array,
    head_DV: Array,
    targets_BT: Array,
    weights_BT: Array,
    *,
    n_tokens: int | None = None,
    chunk: int = CHUNK,
) -> Array:
    """sft_loss's sum of -log p * weight, with the log-probs of token_log_probs. Gradients flow to hidden_BTD
    and head_DV, none to the weights.

    Without a mesh, where the vocabulary is one block, they are made with the sum, from the same logits. A
    loss of another form has to know its derivative by each log-prob first, and makes the logits twice.
    """
    (B, T, D), mesh = hidden_BTD.shape, traced_mesh()
    assert targets_BT.shape == weights_BT.shape == (B, T) and head_DV.shape[0] == D
    form = Form(1.0, tokens_of(head_DV, n_tokens), chunk, mesh)
    if mesh is not None or blocks(form, head_DV)[0] > 1:
        log_probs_BT = token_log_probs(hidden_BTD, head_DV, targets_BT, n_tokens=n_tokens, chunk=chunk)
        return sft_loss(log_probs_BT, weights_BT)[0]
    of_tokens = (x.reshape(1, B * T) for x in (targets_BT, weights_BT))
    return nll(form, hidden_BTD.reshape(1, B * T, D), *of_tokens, head_DV)


def tokens_of(head_DV: Array, n_tokens: int | None) -> int | None:
    """`n_tokens`, or None where all columns are tokens: one program, whichever way it is said."""
    return None if n_tokens is not None and n_tokens >= head_DV.shape[1] else n_tokens


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_probs(form: Form, hidden_BTD, head_DV, targets_BT) -> Array:
    """log_probs_BT, with a backward pass that keeps no logits."""
    return forward(form, hidden_BTD, head_DV, targets_BT)[0]


def forward(form: Form, hidden_BTD, head_DV, targets_BT):
    """(log_probs_BT, what the backward pass needs: the inputs and each token's normaliser)."""
    local = functools.partial(local_forward, form)
    on_devices = per_device(local, form.mesh, [HIDDEN, HEAD, TOKENS], [TOKENS] * 2)
    log_probs_BT, normaliser_BT = on_devices(hidden_BTD, head_DV, targets_BT)
    return log_probs_BT, (hidden_BTD, head_DV, targets_BT, normaliser_BT)


def backward(form: Form, saved, d_log_probs_BT):
    """Gradients to hidden and head."""
    local = functools.partial(local_backward, form)
    on_devices = per_device(local, form.mesh, [HIDDEN, HEAD] + [TOKENS] * 3, [HIDDEN, HEAD])
    return *on_devices(*saved, d_log_probs_BT), None


log_probs.defvjp(forward, backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def nll(form: Form, hidden_BTD, targets_BT, weights_BT, head_DV) -> Array:
    """negative_log_likelihood in one block, without a mesh; where no gradient is asked for, none is made."""
    return sft_loss(local_forward(form, hidden_BTD, head_DV, targets_BT)[0], weights_BT)[0]


def nll_and_gradients(form: Form, hidden_BTD, targets_BT, weights_BT, head_DV):
    """(loss_sum, its gradients by hidden and head), of one block."""
    weights_BT = weights_BT.astype(jnp.float32)
    size, block = chunk_size(form, targets_BT), block_of(form, head_DV, jnp.int32(0), hidden_BTD.dtype)
    chunks = tuple(split_chunks(x, size) for x in (hidden_BTD, targets_BT, weights_BT))

    def one_chunk(carry, chunk):
        (loss_sum, d_head_DV), (hidden_BXD, targets_BX, weights_BX) = carry, chunk
        logits_BXW = chunk_logits(form, hidden_BXD, block)
        running = seen(block, nothing_seen(targets_BX), logits_BXW, targets_BX)
        log_probs_BX, normaliser_BX = ends(form, running, targets_BX)
        d_logits_BXW = d_logits(block, logits_BXW, targets_BX, normaliser_BX, -weights_BX)
        d_logits_BXW = d_logits_BXW.astype(hidden_BXD.dtype)
        d_hidden_BXD = product("BXW,DW->BXD", d_logits_BXW, block.head_DW).astype(hidden_BXD.dtype)
        d_head_DV += product("BXD,BXW->DW", hidden_BXD, d_logits_BXW)
        return (loss_sum + sft_loss(log_probs_BX, weights_BX)[0], d_head_DV), d_hidden_BXD

    start = jnp.float32(0), jnp.zeros(head_DV.shape, jnp.float32)
    (loss_sum, d_head_DV), d_hidden_CBXD = jax.lax.scan(one_chunk, start, chunks)
    return loss_sum, (join_chunks(d_hidden_CBXD, targets_BT.shape[1]), d_head_DV.astype(head_DV.dtype))


def scaled_gradients(form: Form, gradients, d_loss_sum):
    """Gradients to hidden and head; targets and weights have none."""
    d_hidden_BTD, d_head_DV = (d_loss_sum.astype(x.dtype) * x for x in gradients)
    return d_hidden_BTD, None, None, d_head_DV


nll.defvjp(nll_and_gradients, scaled_gradients)


def local_forward(form: Form, hidden_BTD, head_DV, targets_BT):
    """(log_probs_BT, normaliser_BT) of one device's tokens, over all devices' vocabularies."""
    size, T = chunk_size(form, targets_BT), targets_BT.shape[1]
    hidden_CBXD, targets_CBX = split_chunks(hidden_BTD, size), split_chunks(targets_BT, size)

    def one_block(running: Running, number: Array):
        block = block_of(form, head_DV, number, hidden_BTD.dtype)

        def one_chunk(chunk):
            running, hidden_BXD, targets_BX = chunk
            return seen(block, running, chunk_logits(form, hidden_BXD, block), targets_BX)

        return jax.lax.map(one_chunk, (running, hidden_CBXD, targets_CBX)), None

    numbers = jnp.arange(blocks(form, head_DV)[0])
    running, _ = jax.lax.scan(one_block, nothing_seen(targets_CBX), numbers)
    return tuple(join_chunks(x_CBX, T) for x_CBX in ends(form, running, targets_CBX))


def nothing_seen(targets_BX: Array) -> Running:
    """What is known of every token before the first block."""
    nothing_BX = jnp.zeros(targets_BX.shape, jnp.float32)
    return Running(nothing_BX + MASKED, nothing_BX, nothing_BX)


def ends(form: Form, running: Running, targets_BX: Array) -> tuple[Array, Array]:
    """(log_probs_BX, normaliser_BX) after all blocks, over all devices' vocabularies."""
    highest_BX = running.highest_BX
    if axis_size(form.mesh, "tensor") > 1:
        highest_BX = jax.lax.pmax(highest_BX, "tensor")
    kept_BX = jnp.exp(running.highest_BX - highest_BX)
    sum_BX = summed(running.sum_BX * kept_BX, form.mesh, "tensor")
    target_BX = summed(running.target_BX, form.mesh, "tensor")
    if form.n_tokens is not None:  # no block has met such a target, whose logit is still 0
        target_BX = jnp.where(targets_BX < form.n_tokens, target_BX, -jnp.inf)
    normaliser_BX = highest_BX + jnp.log(sum_BX)
    return target_BX - normaliser_BX, normaliser_BX


def seen(block: Block, running: Running, logits_BXW: Array, targets_BX: Array) -> Running:
    """What is known of one chunk's tokens after this block too."""
    highest_BX = jnp.maximum(running.highest_BX, logits_BXW.max(axis=-1))
    kept_BX = jnp.exp(running.highest_BX - highest_BX)
    exp_BXW = jnp.exp(logits_BXW - highest_BX[..., None])
    target_BX = jnp.where(is_target(targets_BX, block), logits_BXW, 0.0).sum(axis=-1)
    sum_BX = running.sum_BX * kept_BX + exp_BXW.sum(axis=-1)
    return Running(highest_BX, sum_BX, running.target_BX + target_BX)


def local_backward(form: Form, hidden_BTD, head_DV, targets_BT, normaliser_BT, d_log_probs_BT):
    """(d_hidden_BTD, d_head_DV) of one device's tokens and vocabulary."""
    size, dtype = chunk_size(form, targets_BT), hidden_BTD.dtype
    of_tokens = hidden_BTD, targets_BT, normaliser_BT, d_log_probs_BT
    hidden_CBXD, *tokens = (split_chunks(x, size) for x in of_tokens)

    def one_block(carry, number: Array):
        d_hidden_CBXD, d_head_DV = carry
        block = block_of(form, head_DV, number, dtype)

        def one_chunk(d_block_DW, chunk):
            hidden_BXD, d_hidden_BXD, *tokens = chunk
            d_logits_BXW = d_logits(block, chunk_logits(form, hidden_BXD, block), *tokens)
            d_logits_BXW = (d_logits_BXW / form.temperature).astype(dtype)
            d_hidden_BXD += product("BXW,DW->BXD", d_logits_BXW, block.head_DW)
            return d_block_DW + product("BXD,BXW->DW", hidden_BXD, d_logits_BXW), d_hidden_BXD

        zero_DW = jnp.zeros(block.head_DW.shape, jnp.float32)
        d_block_DW, d_hidden_CBXD = jax.lax.scan(one_chunk, zero_DW, (hidden_CBXD, d_hidden_CBXD, *tokens))
        return (d_hidden_CBXD, add_block(form, d_head_DV, own_share(form, d_block_DW), number)), None

    zeros = jnp.zeros(hidden_CBXD.shape, jnp.float32), jnp.zeros(head_DV.shape, jnp.float32)
    (d_hidden_CBXD, d_head_DV), _ = jax.lax.scan(one_block, zeros, jnp.arange(blocks(form, head_DV)[0]))
    d_hidden_BTD = join_chunks(d_hidden_CBXD.astype(dtype), targets_BT.shape[1])
    return summed(d_hidden_BTD, form.mesh, "tensor"), d_head_DV.astype(head_DV.dtype)


def d_logits(block: Block, logits_BXW, targets_BX, normaliser_BX, d_log_probs_BX) -> Array:
    """d_logits_BXW, float32, of logits after the temperature: d log p / d logits is onehot(target) - p."""
    probs_BXW = jnp.exp(logits_BXW - normaliser_BX[..., None])
    return (is_target(targets_BX, block) - probs_BXW) * d_log_probs_BX[..., None]


def blocks(form: Form, head_DV: Array) -> tuple[int, int]:
    """(number of blocks, words W of each) that a device's share of the head is walked in."""
    D, V = head_DV.shape[0] * axis_size(form.mesh, "fsdp"), head_DV.shape[1]
    if 4 * D * V <= (WHOLE_AT_MOST if form.mesh is None else BLOCK_AT_MOST):
        return 1, V
    W = max(LANES, BLOCK_AT_MOST // (4 * D) // LANES * LANES)
    return -(-V // W), W


def first_word(form: Form, head_DV: Array, number: Array) -> Array:
    """Where block `number` starts in a device's vocabulary."""
    W = blocks(form, head_DV)[1]
    return jnp.minimum(number * W, head_DV.shape[1] - W)


def block_of(form: Form, head_DV: Array, number: Array, dtype: jnp.dtype) -> Block:
    """Block `number` with all rows of the head, cast before they travel."""
    (D, V), W, first = head_DV.shape, blocks(form, head_DV)[1], first_word(form, head_DV, number)
    head_DW = narrowed(jax.lax.dynamic_slice(head_DV, (0, first), (D, W)), dtype)
    local_W = first + jnp.arange(W)
    before = 0 if axis_size(form.mesh, "tensor") == 1 else jax.lax.axis_index("tensor") * V
    words_W, counts_W = before + local_W, local_W >= number * W
    if form.n_tokens is not None:
        counts_W &= words_W < form.n_tokens
    return Block(gathered(head_DW, form.mesh, "fsdp", 0), words_W, counts_W)


def own_share(form: Form, d_block_DW: Array) -> Array:
    """The sum of all devices' gradients of a block, of which each keeps the rows that it holds."""
    d_block_DW = summed(d_block_DW, form.mesh, "data", "context")
    if axis_size(form.mesh, "fsdp") == 1:
        return d_block_DW
    return jax.lax.psum_scatter(d_block_DW, "fsdp", scatter_dimension=0, tiled=True)


def add_block(form: Form, d_head_DV: Array, d_block_DW: Array, number: Array) -> Array:
    """d_head_DV with the gradient of block `number`."""
    at = (0, first_word(form, d_head_DV, number))
    before_DW = jax.lax.dynamic_slice(d_head_DV, at, d_block_DW.shape)
    return jax.lax.dynamic_update_slice(d_head_DV, before_DW + d_block_DW, at)


def chunk_logits(form: Form, hidden_BXD: Array, block: Block) -> Array:
    """One chunk's logits_BXW of a block's words, float32; MASKED where a word does not count."""
    logits_BXW = product("BXD,DW->BXW", hidden_BXD, block.head_DW) / form.temperature
    return jnp.where(block.counts_W, logits_BXW, MASKED)


def is_target(targets_BX: Array, block: Block) -> Array:
    """here_BXW: whether a word is the target, and counts."""
    return (targets_BX[..., None] == block.words_W) & block.counts_W


def product(axes: str, x: Array, y: Array) -> Array:
    """An einsum with float32 sums."""
    return jnp.einsum(axes, x, y, precision=exact(x), preferred_element_type=jnp.float32)


def chunk_size(form: Form, targets_BT: Array) -> int:
    """Positions a chunk: as many as make at most `chunk` tokens of all rows, and chunks of one size."""
    B, T = targets_BT.shape
    most = min(max(1, form.chunk // B), T)
    return -(-T // -(-T // most))


def split_chunks(x_BT: Array, size: int) -> Array:
    """x_CBX (further axes follow) of C chunks of X = `size` positions, zero-padded at the end."""
    B, T, *rest = x_BT.shape
    padding = [(0, 0), (0, -T % size)] + [(0, 0)] * len(rest)
    return jnp.moveaxis(jnp.pad(x_BT, padding).reshape(B, -1, size, *rest), 1, 0)


def join_chunks(x_CBX: Array, T: int) -> Array:
    """The inverse of split_chunks, x_BT."""
    _, B, _, *rest = x_CBX.shape
    return jnp.moveaxis(x_CBX, 0, 1).reshape(B, -1, *rest)[:, :T]
