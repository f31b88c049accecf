"""Several processes that train one network: their numbers from torchrun, and their communication."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from overnet.errors import BackendError, InputError, one_line


@dataclass(frozen=True)
class Team:
    """The place of this process among all of a run.

    Attributes:
        rank: its number, from 0; process 0 writes the files and reports.
        world: how many there are, over all machines.
        local_rank: its number on this machine, which is the GPU it takes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, the same in each."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world

    def any(self, value: bool) -> bool:
        """Return whether the value is True in any of the processes."""
        if self.world == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return float(self.mean(torch.tensor(float(value), device=device))) > 0

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.broadcast(0.0)

    def broadcast(self, value: float) -> float:
        """Return the number that process 0 gave, in each process."""
        if self.world == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        number = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(number, src=0)
        return float(number.item())


def team_from_environment() -> Team:
    """Read the variables that torchrun sets; without torchrun there is one process.

    Raises:
        InputError: the variables contradict one another.
    """
    try:
        rank, world, local = (
            int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise InputError(f"RANK, WORLD_SIZE or LOCAL_RANK is not a number ({error})") from error
    if not 0 <= rank < world:
        raise InputError(f"RANK is {rank} of WORLD_SIZE {world} processes")
    return Team(rank, world, local)


@contextmanager
def joined(team: Team, device: torch.device, timeout_seconds: float) -> Iterator[None]:
    """Connect the processes for the duration of the block.

    If one is lost, or does not answer for `timeout_seconds`, the block ends with an error in all others.

    Raises:
        BackendError: they cannot be reached, or one of them was lost.
    """
    if team.world == 1:
        yield
        return
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(seconds=timeout_seconds)
        )
    except (RuntimeError, ValueError) as error:
        reason = one_line(error, line=0)
        raise BackendError(f"process {team.rank} of {team.world} cannot reach the others ({reason})") from error
    try:
        yield
        # PyTorch sometimes aborts a process that ends while another still communicates with it.
        distributed.barrier()
    except RuntimeError as error:
        # Gloo's errors about the connection have no class of their own.
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise BackendError(
            f"process {team.rank} of {team.world} stopped, since another was lost or did not answer "
            f"({one_line(error, line=0)})"
        ) from error
    finally:
        distributed.destroy_process_group()
