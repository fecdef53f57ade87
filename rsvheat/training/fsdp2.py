# SPDX-License-Identifier: Apache-2.0
"""FSDP2: parameters, gradients and moments sharded over all processes."""

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from rsvheat.models.layers import HeatBlock


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's FSDP2 as the tasks need it, ``Trainer(strategy="fsdp2")``.

    Every process sees data of its own (Lightning's own default shares it among those of a machine),
    and checkpoints are one file, as without it: written whole, and read by every other command.

    Args:
        process_group_backend: Backend of ``torch.distributed``; by default that of the device.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        """Start the processes' communication."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()


StrategyRegistry.register(
    "fsdp2", FSDP2Strategy, "Parameters, gradients and moments sharded by FSDP2", override=True
)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard gradients, moments and, between steps, parameters over a mesh's processes (FSDP2).

    During a step each process holds all parameters: pretraining gives those of a modality that the
    process did not see zero gradients, and for that they have to be there. The largest variant's
    take 0.8 GB.

    Args:
        network: Network to shard.
        mesh: Lightning's device mesh, with axes ``"data_parallel"`` and ``"tensor_parallel"``.

    Raises:
        ValueError: If tensors themselves are to be split, too.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "the networks cannot be split over tensor_parallel_size="
            f'{mesh["tensor_parallel"].size()} processes: take strategy="fsdp2", or '
            "ModelParallelStrategy with tensor_parallel_size=1"
        )
    data = mesh["data_parallel"]
    for module in network.modules():
        if isinstance(module, HeatBlock):
            fully_shard(module, mesh=data, reshard_after_forward=False)
    fully_shard(network, mesh=data, reshard_after_forward=False)
