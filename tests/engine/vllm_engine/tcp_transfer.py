"""vLLM's nccl weight transfer with its TCP store where NCCL would be, for machines without a GPU.

Both sides' engines: a server imports this with --worker-extension-cls, and the trainer's side is a test's.
All but the broadcast itself is vLLM's own: the handshake, the life of an update, the layer-wise loading.
"""

import dataclasses
from typing import ClassVar

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
)

BACKEND = "tcp"


class TcpGroup:
    def __init__(self, info, rank):
        self._group = StatelessProcessGroup.create(
            info.master_address, info.master_port, rank, info.world_size
        )

    def broadcast(self, tensor):
        return self._group.broadcast(tensor, src=0)

    def destroy(self):
        self._group = None


class TcpEngine(NCCLWeightTransferEngine):
    """A server's side."""

    def init_transfer_engine(self, init_info):
        self.model_update_group = TcpGroup(init_info, init_info.rank_offset)

    def update_weights(self, update_info):
        info = self.parse_update_info(update_info)
        for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
            tensor = self.model_update_group.broadcast(None)
            assert (str(tensor.dtype), list(tensor.shape)) == (f"torch.{dtype}", shape)
            self.model.load_weights([(name, tensor)])


class TcpSender(NCCLTrainerWeightTransferEngine):
    """The trainer's side."""

    def _broadcast(self, source, meta):
        for _, tensor in self._checked_iter(source, meta):
            self.model_update_group.broadcast(tensor.clone(memory_format=torch.contiguous_format))


@dataclasses.dataclass
class TcpInitInfo(NCCLTrainerInitInfo):
    backend: ClassVar[str] = BACKEND


class Extension:
    """Adds nothing to a worker: to name it is to import this file there."""


WeightTransferEngineFactory.register_engine(BACKEND, TcpEngine)
WeightTransferTrainerFactory.register_engine(BACKEND, TcpSender)
