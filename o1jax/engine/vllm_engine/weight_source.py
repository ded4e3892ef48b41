"""JAX parameters as the stream of torch tensors that vLLM loads: Hugging Face's names, one tensor at a time.

The names and layouts are model/hf_names.py's, as in an exported checkpoint. Knows of no server: who sends
them is weight_transfer.py, and vllm_engine.py for a model in process.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax
import torch
from flax import nnx
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from o1jax.model.config import ModelConfig
from o1jax.model.hf.names import Order, by_layer, by_parameter, hf_specs, hf_tensors, untied


class JaxSource(WeightSource):
    """vLLM's WeightSource over `params`, which must not be donated while it is in use.

    The wire dtype is config.param_dtype; the order is by layer, so that vLLM need not keep half of each. A
    tied model is sent as the untied copy that the servers serve: its head is one array more during a pass.

    Tensors are on `device`, "cpu" or "cuda", and come through dlpack. On the CPU none is copied. On CUDA each
    is copied once, on the device: JAX does not know of torch's streams, and would write over an array that
    torch has let go of but a stream still reads.
    """

    def __init__(self, config: ModelConfig, params: nnx.State, device: str):
        self._config, self._params, self._device = config, params, device

    def metadata(self) -> list[ParamMeta]:
        """What a pass yields, in its order. Touches no array."""
        sent = dataclasses.replace(self._config, tie_embeddings=False)
        return [
            ParamMeta(name, getattr(torch, dtype), shape) for name, dtype, shape in hf_specs(sent, by_layer)
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """A new pass of (name, tensor); beside the parameters, memory for one tensor and its copies."""
        on_gpu = self._device == "cuda" and jax.default_backend() == "gpu"
        meeting = jax.local_devices(backend="gpu" if on_gpu else "cpu")[0]
        for name, tensor in torch_tensors(*untied(self._config, self._params), meeting, by_layer):
            if self._device == "cuda":
                tensor = tensor.to(self._device, copy=True)
                torch.cuda.current_stream().synchronize()
            yield name, tensor

    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max(math.prod(meta.shape) * meta.dtype.itemsize for meta in self.metadata())


def torch_tensors(
    config: ModelConfig, params: nnx.State, device: jax.Device, order: Order = by_parameter
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor on `device`) of every tensor of the checkpoint, one at a time, from arrays that may be
    sharded over this process's devices; one that is there whole is not copied."""
    for name, array in hf_tensors(config, params, order):
        yield name, torch.from_dlpack(jax.device_put(array, device))
