"""What methods are trained on: sets of items in batches, and problems that are trained one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Task, content_hash

if TYPE_CHECKING:
    from coldframe.methods.base import Method

Objective: TypeAlias = Literal["labels", "answer"]

_POOL = 16  # batches that are sorted by length together: little padding, still well mixed


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Items that a method's ``loss`` takes, a batch at a time.

    Attributes:
        items: Whatever the method's loss understands.
        lengths: Tokens of each item, for batches of like length.
        weights: How much each item's loss counts; all alike, if empty.
        names: Of the items, for errors; their positions, if empty.
    """

    items: Sequence[Any]
    lengths: Sequence[int]
    weights: Sequence[float] = ()
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Sequence[int]) -> Any:
        """A batch."""
        return [self.items[i] for i in rows]

    def weight(self, row: int) -> float:
        """How much an item counts."""
        return self.weights[row] if self.weights else 1.0

    def name(self, row: int) -> str:
        """What an item is called in an error."""
        return self.names[row] if self.names else f"item {row}"

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch: shuffled rows, sorted by length within pools, cut into batches, shuffled again.

        >>> sorted(i for batch in TrainingSet("abcde", [3, 1, 2, 9, 8]).batches(2, seed=0, epoch=0) for i in batch)
        [0, 1, 2, 3, 4]
        """
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self.lengths))
        batches: list[list[int]] = []
        pool_size = _POOL * batch_size
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size].tolist(), key=lambda i: self.lengths[i])
            batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    @cached_property
    def fingerprint(self) -> str:
        """Names the content."""
        return content_hash(*map(repr, self.items))


@dataclasses.dataclass(frozen=True)
class RetrievedRows(TrainingSet):
    """Rows of a task, each with what was retrieved for it; a batch is a smaller one of these.

    Attributes:
        items: The rows, examples with their targets.
        retrieved: A set for each row.
        objective: ``"labels"`` is cross-entropy over the label words, ``"answer"`` the negative log-likelihood of the
            answer's tokens over the whole vocabulary, which generation tasks always have.
    """

    items: Sequence[Example]
    retrieved: Retrieved = dataclasses.field(kw_only=True)
    objective: Objective = "labels"

    @property
    def texts(self) -> list[str]:
        """The inputs."""
        return [example.text for example in self.items]

    def take(self, rows: Sequence[int]) -> RetrievedRows:
        """Part of the rows, with what was retrieved for them."""
        places = np.array(rows, np.int64)
        items = [self.items[i] for i in rows]
        return RetrievedRows(items, (), retrieved=self.retrieved.rows(places), objective=self.objective)

    def name(self, row: int) -> str:
        """The row's id."""
        return self.items[row].id

    @cached_property
    def fingerprint(self) -> str:
        """Names rows, targets and what was retrieved."""
        retrieved = self.retrieved
        arrays = (retrieved.indices.tobytes().hex(), retrieved.scores.tobytes().hex())
        rows = (f"{example.id} {example.text} {example.target}" for example in self.items)
        return content_hash(self.objective, *rows, retrieved.store.hash, *arrays)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """All that a method may be trained on.

    Attributes:
        task: Schema and rows.
        retrieve: Retrieves for rows; a row gets neither itself nor its duplicates.
        workspace: Folder for what is finished before all is trained: the artifact's. None: it goes with the method.
        seed: Of all that is drawn.
        settings: The training settings, for fingerprints of what is stored as it is finished.
        quiet: No progress bars.
    """

    task: Task
    retrieve: Callable[[Sequence[Example]], RetrievedRows]
    workspace: Path | None = None
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quiet: bool = False

    @cached_property
    def train(self) -> RetrievedRows:
        """The training rows; nothing is retrieved for them before a method asks."""
        return self.retrieve(self.task.train)

    @cached_property
    def validation(self) -> RetrievedRows:
        """The validation rows; they may be none."""
        return self.retrieve(self.task.validation)


@dataclasses.dataclass
class Problem:
    """One thing that is trained to its end.

    Attributes:
        method: Whose ``loss`` is made smaller, and whose ``state_dict`` is kept.
        items: What it is trained on.
        validation: What the best epoch is chosen on; the training loss chooses, if there is nothing.
        parameters: Optimiser groups; those of ``method.parameter_groups``, if None.
        settings: Changes to the training settings for this problem.
        rate: Factor of the learning rate at a step, from 0; that of the settings' schedule, if None.
        name: As progress and checkpoint have it.
        from_start: Whether the weights before training are a candidate too: they are validated first, and it is an
            error if no epoch does better.
        folder: Where its checkpoint is; beside the artifact, if None.
        fingerprint: Names all that its result depends on, where tasks share it; if empty, task, settings and items do.
        checkpoints: Whether it has one. A problem that ends within minutes is trained anew instead.
        summed: Whether a batch's loss is the weighted sum of its items' losses, and not their weighted mean: for items
            whose parameters are their own.
        at_once: Most items of a batch that are read together; 0 lets the loop choose by memory.
        search: Trains it in the place of the loop, for what no gradient reaches: called with the problem, and with what
            :class:`coldframe.training.trainer.Trainer` is; gives the records.
        alone: Whether one process trains it, where several were started together.
        records: What the loop recorded, one for each epoch.
    """

    method: Method
    items: TrainingSet
    validation: TrainingSet | None = None
    parameters: list[dict[str, Any]] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rate: Callable[[int], float] | None = None
    name: str = ""
    from_start: bool = False
    folder: Path | None = None
    fingerprint: str = ""
    checkpoints: bool = True
    summed: bool = False
    at_once: int = 0
    search: Callable[..., list[dict[str, float]]] | None = None
    alone: bool = False
    records: list[dict[str, float]] = dataclasses.field(default_factory=list)
