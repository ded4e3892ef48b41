"""New weights from the trainer's GPU to servers' by vLLM's weight-transfer API, nccl or ipc.

Untested on GPUs: on the CPU the tests put another broadcast in NCCL's place, and IPC does not run. One
channel a server, so that one which fails breaks no other's. What is sent is weight_source.py's; pausing,
labels and what happens after a fault are replica.py's and fleet.py's, as with files. Needs vLLM in the
trainer's environment.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import requests
import torch
from flax import nnx
from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
from vllm.utils.network_utils import get_open_port

from o1jax.engine.vllm_engine.replica import Delivery, Replica, ReplicaFault
from o1jax.engine.vllm_engine.weight_source import JaxSource
from o1jax.engine.weights import cast
from o1jax.model.config import ModelConfig
from o1jax.records import InputError

DEVICE = "cuda"
BUFFER = 256 << 20  # bytes that are sent at once, or the largest tensor


class WeightTransfer:
    """Implements replica.Transfer. `work_s`: how long one server's transfer may take. InputError where this
    machine cannot send."""

    def __init__(self, backend: str, config: ModelConfig, *, work_s: float = 600.0):
        check_device(backend)
        self._backend, self._config, self._work_s = backend, config, work_s
        self._channels: dict[str, Channel] = {}  # by the servers' URLs

    def delivery(self, params: nnx.State) -> Delivery:
        """See Transfer.delivery. A copy is kept, sharded as `params` are: a server that comes back later
        wants it, when the trainer has long donated its own."""
        dtype = jnp.dtype(self._config.param_dtype)
        kept = cast(params, (dtype,) * len(jax.tree.leaves(params)))
        return functools.partial(self._deliver, JaxSource(self._config, kept, DEVICE))

    async def _deliver(self, source: JaxSource, replica: Replica) -> None:
        workers = await replica.workers(self._backend)
        channel = self._channels.pop(replica.url, None) or Channel(replica.url, self._work_s)
        try:
            async with asyncio.timeout(self._work_s):
                await asyncio.to_thread(channel.send, self._backend, workers, source)
            self._channels[replica.url] = channel
        except (requests.RequestException, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise ReplicaFault(f"{replica.url}: weights not sent, {type(error).__name__} {said}") from error
        finally:
            if replica.url not in self._channels:
                channel.close()

    def close(self) -> None:
        """Ends all channels."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()


class Channel(HTTPVLLMWeightSyncClient):
    """Both sides' engines of one server's transfers: vLLM's client to it, and the trainer's end."""

    def __init__(self, url: str, work_s: float):
        super().__init__(url, timeout=work_s)
        self._sender: TrainerWeightTransferEngine | None = None

    def send(self, backend: str, workers: int, source: JaxSource) -> None:
        """Sends the source's tensors to the server's `workers` processes; opens the channel before the
        first. Blocks."""
        if self._sender is None:
            self.shutdown_weight_transfer_engine()  # what another trainer has left there
            info = init_info(backend, self.base_url, workers, max(BUFFER, source.largest()))
            self._sender = WeightTransferTrainerFactory.trainer_init(info, client=self, source=source)
        self._sender.source = source
        self._sender.send_weights()

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Aborts the broadcast where the server breaks off, which else would wait for it for ever."""
        try:
            super().update_weights(update_info)
        except requests.RequestException:
            if isinstance(self._sender, NCCLTrainerWeightTransferEngine):
                self._sender.model_update_group.destroy()
            raise

    def close(self) -> None:
        """Ends it, and what it was sending."""
        if self._sender is not None:
            self._sender.shutdown()


def check_device(backend: str) -> None:
    """InputError unless this machine can send weights so."""
    fix = (
        "run the trainer with vLLM's GPU build (third_party/constraints/vllm-gpu.txt), "
        "or take engine.transfer 'files'"
    )
    if not torch.cuda.is_available():
        raise InputError(
            f"engine.transfer {backend!r}: torch {torch.__version__} sees no CUDA device here; {fix}"
        )
    try:
        if backend == "nccl":
            NCCLLibrary()
    except (OSError, ValueError) as error:
        raise InputError(f"engine.transfer 'nccl': NCCL is not here ({error}); {fix}") from error


def init_info(backend: str, url: str, workers: int, buffer: int) -> TrainerInitInfo:
    """What the two ends of a channel agree on; `buffer` in bytes."""
    if backend == "ipc":
        return IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=buffer)
    return NCCLTrainerInitInfo(
        own_address(url), get_open_port(), 1 + workers, rank=0, packed=True, packed_buffer_size_bytes=buffer
    )


def own_address(url: str) -> str:
    """The address by which a server that is reached at `url` reaches us."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname, port), timeout=20) as connection:
        return connection.getsockname()[0]
