"""Kernels in 4 or 8 bits, by qwix: made once, and read as dense ones inside the products.

A scale is shared by TILE inputs of one output (QLoRA's blocks, arXiv 2305.14314), so that nothing depends
on how a kernel is split over devices. Does not choose which kernels; that is lora.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import qwix
from jax.sharding import NamedSharding

from o1jax.parallel.traced import narrowed

QuantType = Literal["int8", "nf4"]
TILE = 64  # inputs that share a scale: QLoRA's block size


def quantize(kernel_LX: jax.Array, kind: QuantType, axis: int) -> qwix.QArray:
    """A stacked kernel, tiled along its input axis `axis`, layer by layer: only one layer's numbers are
    ever gathered or widened."""
    shape = kernel_LX.shape[1:]
    others = tuple(i for i in range(len(shape)) if i != axis - 1)

    def of_layer(kernel_X: jax.Array) -> qwix.QArray:
        qtype = jnp.int8 if kind == "int8" else kind
        tile = math.gcd(TILE, shape[axis - 1])  # a nano model's 96 inputs have tiles of 32
        return qwix.quantize(kernel_X, qtype, channelwise_axes=others, tiled_axes={axis - 1: tile})

    return jax.lax.map(of_layer, kernel_LX)


def quantized_like(kernel: jax.ShapeDtypeStruct, kind: QuantType, axis: int) -> qwix.QArray:
    """The shapes and shardings of quantize's result: its numbers lie like the kernel, and so do the scales
    wherever they divide over the devices."""
    shapes = jax.eval_shape(lambda x: quantize(x, kind, axis), kernel)
    mesh, spec = kernel.sharding.mesh, kernel.sharding.spec
    scale_spec = list(spec) + [None] * (len(kernel.shape) - len(spec))
    if shapes.scale.shape[axis] % NamedSharding(mesh, spec).shard_shape(kernel.shape)[axis]:
        scale_spec[axis] = None
    scales = NamedSharding(mesh, jax.sharding.PartitionSpec(*scale_spec))
    return dataclasses.replace(
        shapes,
        qvalue=jax.ShapeDtypeStruct(shapes.qvalue.shape, shapes.qvalue.dtype, sharding=kernel.sharding),
        scale=jax.ShapeDtypeStruct(shapes.scale.shape, shapes.scale.dtype, sharding=scales),
    )


def dense(kernel: jax.Array | qwix.QArray, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A kernel's numbers, in `dtype`.

    qwix.dequantize gives the same and flattens the kernel first, for which a mesh would gather it.
    """
    if not isinstance(kernel, qwix.QArray):
        return narrowed(kernel, dtype)
    values = nf4_levels()[kernel.qvalue.astype(jnp.int32)] if kernel.qtype == "nf4" else kernel.qvalue
    tiled: list[int] = []  # every axis as (tiles, inputs a tile): the scales are broadcast over the second
    for size, scales in zip(kernel.qvalue.shape, kernel.scale.shape, strict=True):
        tiled += [scales, size // scales]
    scale = kernel.scale.reshape([n for count in kernel.scale.shape for n in (count, 1)])
    return (values.astype(scale.dtype).reshape(tiled) * scale).reshape(kernel.qvalue.shape).astype(dtype)


def nf4_levels() -> jax.Array:
    """The sixteen numbers of nf4, [16] float32 from -1 to 1."""
    return qwix.dequantize(qwix.QArray(jnp.arange(16, dtype=jnp.uint4), jnp.ones(1), None, "nf4"))
