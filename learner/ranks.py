"""What learner ranks say to one another: one sum of all gradients per optimiser step, and nothing else.

A rank adds up the gradients of its micro-batches before it speaks, so ranks with different numbers of them never wait inside an
accumulation. Every rank receives the same bytes, so weights and optimisers stay bitwise equal without being compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch.nn import Parameter


class CollectiveFailed(RuntimeError):
    """Another rank died, hangs or left: this rank's update is lost, its group must be built anew."""


class Ranks(Protocol):
    """This process among the ranks of one learner."""

    rank: int
    num_ranks: int

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replaces each gradient by its sum over all ranks; a parameter that no rank has a gradient for keeps None."""
        ...


class OneRank:
    """A learner alone."""

    rank = 0
    num_ranks = 1

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Nothing: the gradients are the sums already."""


class GroupRanks:
    """A rank of the default process group of `torch.distributed`."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        self._num_sums = 0

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """One all-reduce of the gradients, and of who has one; raises CollectiveFailed."""
        first = parameters[0]
        has_one = torch.tensor([float(each.grad is not None) for each in parameters], dtype=first.dtype)
        parts = [(each.grad if each.grad is not None else torch.zeros_like(each)).reshape(-1) for each in parameters]
        packed = torch.cat([*parts, has_one.to(first.device)])
        self._num_sums += 1
        try:
            dist.all_reduce(packed)
        except RuntimeError as error:
            raise CollectiveFailed(
                f"rank {self.rank} of {self.num_ranks}, sum {self._num_sums} since the group met, of {packed.numel()} numbers: "
                f"{_first_line(error)}; the stacks of a rank that hangs are in its log"
            ) from error
        *sums, counts = packed.split([each.numel() for each in (*parts, has_one)])
        for parameter, total, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = total.view_as(parameter).clone() if count else None


def open_store(host: str, *, timeout_s: float) -> dist.TCPStore:
    """The meeting point of a group, on a free port of this machine; `store.port` says which."""
    return dist.TCPStore(host, 0, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def join_group(
    store: dist.TCPStore | tuple[str, int], *, rank: int, num_ranks: int, device: str, timeout_s: float
) -> GroupRanks:
    """Becomes `rank` of the group that meets at `store`, gloo on CPUs and NCCL on GPUs; raises CollectiveFailed.

    `timeout_s` bounds the meeting and every later sum.
    """
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    try:
        if isinstance(store, tuple):
            store = dist.TCPStore(*store, is_master=False, timeout=timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=timeout)
    except RuntimeError as error:
        raise CollectiveFailed(f"rank {rank} of {num_ranks} did not meet the others: {_first_line(error)}") from error
    return GroupRanks()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
