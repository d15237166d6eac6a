"""Training by several processes: which rows are whose, and what they tell each other.

They are started by ``torchrun`` or ``accelerate launch``, hold the same model and parameters, and each reads its own
rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from torch.utils._pytree import tree_map_only

from coldframe.config import local_path
from coldframe.errors import ConfigError, TrainingError
from coldframe.progress import several_processes
from coldframe.storage.folders import claimed
from coldframe.tasks.task import content_hash

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this is.

    Attributes:
        rank: From 0, who alone writes and shows progress.
        count: Among how many the rows are divided; 1 where a process trains alone, or all read the same rows.
        in_step: Whether they read the same rows at the same time, because the model is spread over them. All then do
            everything, and what the first comes to counts.
    """

    rank: int = 0
    count: int = 1
    in_step: bool = False

    @classmethod
    def of(cls, alone: bool = False, sharded: bool = False) -> Self:
        """Those that were started together; this one only, if it trains something ``alone``.

        Where the model is ``sharded`` they go in step.

        Raises:
            ConfigError: Each is to train ``alone``, with a model that is spread over all of them.
        """
        if alone and sharded:
            raise ConfigError(
                "The method trains each passage in one process; a sharded model needs all processes in step",
                fix="Leave --shard out, or use another method.",
            )
        if alone or not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), 1, in_step=True) if sharded else cls(dist.get_rank(), dist.get_world_size())

    @classmethod
    def join(cls, cpu: bool) -> Self:
        """Those that were started together, whoever has to start talking first: gloo on processors, else NCCL."""
        if several_processes():
            PartialState(cpu=cpu)
        return cls.of()

    @property
    def first(self) -> bool:
        """Whether this process writes and shows progress."""
        return self.rank == 0

    def own(self, rows: Sequence[int]) -> list[int]:
        """The rows of a batch that this process reads.

        A row is always the same process's, so that the states of its text are computed and kept there alone. Which
        one looks drawn: rows that are alike often stand at even distances.
        """
        if self.count == 1:
            return list(rows)
        return [row for row in rows if (row * 2_654_435_761 % 2**32 >> 16) % self.count == self.rank]

    def if_first(self, rows: Sequence[int]) -> list[int]:
        """All rows for a process that validates: the first, or all that go in step; none for the others."""
        return list(rows) if self.first or self.count == 1 else []

    def check_retry(self, error: Exception) -> None:
        """Refuse to try again what ran out of memory in this process, where the others wait for it inside a layer."""
        if self.in_step:
            raise TrainingError(
                "Out of memory, and the processes of a sharded model cannot try again one by one",
                fix="Lower --batch-size and raise --accumulation.",
            ) from error

    def seed(self, seed: int, step: int) -> None:
        """Let each process draw numbers of its own in a step, the same when the run is resumed."""
        if self.count > 1:
            torch.manual_seed(int(content_hash(str(seed), str(step), str(self.rank))[:12], 16))

    def from_first(self, value: Callable[[], T]) -> T:
        """What the first process makes, on all of them; tensors are on the processor. Its error is that of all."""
        if self.in_step:
            own: T = tree_map_only(Tensor, Tensor.cpu, value())
            return self._first_of(own)
        if self.count == 1:
            return value()
        told: list[Any] = self.together(lambda: [tree_map_only(Tensor, Tensor.cpu, value())] if self.first else [])
        result: T = told[0]
        return result

    def together(self, work: Callable[[], list[T]]) -> list[T]:
        """Do something on each process, and put what comes of it side by side; an error of one is that of all.

        Raises:
            Exception: The error of this process, or a TrainingError that says what another met.
        """
        if self.count == 1:
            return work()
        error: Exception | None = None
        results: list[T] = []
        try:
            results = work()
        except Exception as caught:  # the others wait for an answer
            error = caught
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, (results, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if problems := [(rank, problem) for rank, (_, problem) in enumerate(told) if problem is not None]:
            raise TrainingError(f"Process {problems[0][0]} stopped: {problems[0][1]}")
        return [result for results, _ in told for result in results]

    @contextlib.contextmanager
    def claimed(self, out: str | Path | None) -> Iterator[Path | None]:
        """A folder to write to, held by the first process for all; see :func:`coldframe.storage.folders.claimed`."""
        folder = None if out is None else local_path(out)
        with contextlib.ExitStack() as stack:
            self.together(lambda: [stack.enter_context(claimed(folder))] if folder is not None and self.first else [])
            yield folder

    def add_up(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients by their sums over all processes, or by the first's; the same bits on each."""
        if self.in_step:
            for parameter in parameters:
                if parameter.grad is not None and not parameter.grad.is_sparse:
                    dist.broadcast(parameter.grad, 0)
                elif parameter.grad is not None:
                    parameter.grad = self._first_of(parameter.grad.cpu()).to(parameter.device)
            return
        if self.count == 1:
            return
        kinds = torch.tensor([_kind(parameter) for parameter in parameters], device=parameters[0].device)
        dist.all_reduce(kinds, op=dist.ReduceOp.MAX)
        for parameter, kind in zip(parameters, kinds.tolist(), strict=True):
            if kind == _DENSE:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
            elif kind == _ROWS:
                self._add_rows(parameter)

    def _first_of(self, value: T) -> T:
        told: list[Any] = [value]
        dist.broadcast_object_list(told, 0)
        first: T = told[0]
        return first

    def _add_rows(self, parameter: Tensor) -> None:
        """Gradients of some rows: those of all processes, in the order of these."""
        own = None if parameter.grad is None else parameter.grad.coalesce()
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, None if own is None else (own.indices().cpu(), own.values().cpu()))
        pairs = [pair for pair in told if pair is not None]
        indices, values = (torch.cat(parts, dim) for parts, dim in zip(zip(*pairs, strict=True), (1, 0), strict=True))
        gradient = torch.sparse_coo_tensor(indices, values, parameter.shape).coalesce()
        parameter.grad = gradient.to(parameter.device)


_NONE, _DENSE, _ROWS = range(3)


def _kind(parameter: Tensor) -> int:
    if parameter.grad is None:
        return _NONE
    return _ROWS if parameter.grad.is_sparse else _DENSE
