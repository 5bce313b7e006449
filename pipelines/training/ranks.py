"""Several processes that train one ranker together, as `torchrun` starts them: each with its share of lists.

Who starts them makes the process group; without one, a process trains alone, by the same code. Gradients are
summed in one message a step. DistributedDataParallel would overlap that with the backward pass, which pays for
models of many layers; rankers here have few, and their weights keep their names without a wrapper.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from pipelines.errors import TrainingRefused


@dataclass(frozen=True, slots=True)
class Ranks:
    """rank: this process's number, from 0; of: how many there are. Only rank 0 writes and reports."""

    rank: int = 0
    of: int = 1

    @staticmethod
    def joined() -> "Ranks":
        """Those of the process group that this process is in, if it is in one."""
        if distributed.is_available() and distributed.is_initialized():
            return Ranks(distributed.get_rank(), distributed.get_world_size())
        return Ranks()

    def device(self, name: str) -> torch.device:
        """What `auto`, `cpu` or `cuda` is to this rank: ranks of a machine take its GPUs in turn.

        Raises TrainingRefused if there is no GPU and one is asked for.
        """
        count = torch.cuda.device_count()
        if name == "cpu" or (name == "auto" and not count):
            return torch.device("cpu")
        if not count:
            raise TrainingRefused(f"train.device={name!r}: this machine has none: use auto or cpu")
        return torch.device("cuda", self.rank % count)

    def share(self, lists: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's of a step's lists; may be none of them."""
        return lists[self.rank :: self.of]

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Every rank gets the sum of all ranks' gradients, and of their losses (a scalar), which is returned."""
        if self.of == 1:
            return float(loss)
        owners = list(parameters)
        parts = [torch.zeros_like(owner) if owner.grad is None else owner.grad for owner in owners]
        together = torch.cat([*(part.flatten() for part in parts), loss.detach().reshape(1)])
        distributed.all_reduce(together)
        start = 0
        for owner in owners:
            owner.grad = together[start : start + owner.numel()].view_as(owner)
            start += owner.numel()
        return float(together[-1])

    def first_says(self, content: bytes, device: torch.device) -> bytes:
        """What rank 0 gives, at every rank; the others' is ignored."""
        if self.of == 1:
            return content
        size = torch.tensor([len(content)], device=device)
        distributed.broadcast(size, src=0)
        if self.rank == 0:
            message = torch.from_numpy(np.array(bytearray(content), dtype=np.uint8)).to(device)
        else:
            message = torch.empty(int(size), dtype=torch.uint8, device=device)
        if len(message):
            distributed.broadcast(message, src=0)
        return message.cpu().numpy().tobytes()
