"""What a method said about a set of queries, one record per query."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError
from coldframe.storage.files import atomic_path

#: A line of a predictions file longer than this is not ours.
MAX_LINE_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The answers of one method, trained with one seed, to ``n`` queries of a task.

    Attributes:
        method: The method's name as tables show it.
        seed: The training seed; 0 for methods that draw nothing.
        task: The task's name.
        ids: Example ids, in the order of all other rows.
        texts: The queries.
        labels: Class names; empty for a generation task.
        targets: int64 ``[n]``, positions into ``labels``; -1 everywhere for a generation task.
        probabilities: float64 ``[n, labels]``, rows sum to 1; ``[n, 0]`` for a generation task.
        neighbours: ``[n, k]`` ids of the retrieved exemplars, "" where fewer were found.
        similarities: float32 ``[n, k]``.
        attention: float32 ``[n, m, k]``, how strongly each soft token looked at each exemplar, or None.
        references: The accepted answers of each query of a generation task, else None.
        generated: The written answers of a generation task, else None.
        losses: float64 ``[n]``, mean negative log-likelihood of the gold answer's tokens in nats, or None.
        seconds: Wall time for all ``n`` queries, retrieval included.

    Raises:
        DataError: Shapes that do not belong together, probabilities that are none, a target out of range.
    """

    method: str
    seed: int
    task: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    neighbours: NDArray[np.str_]
    similarities: NDArray[np.float32]
    attention: NDArray[np.float32] | None = None
    references: tuple[tuple[str, ...], ...] | None = None
    generated: tuple[str, ...] | None = None
    losses: NDArray[np.float64] | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        n, k = len(self.ids), self.neighbours.shape[-1]
        shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "texts": ((len(self.texts),), (n,)),
            "targets": (self.targets.shape, (n,)),
            "probabilities": (self.probabilities.shape, (n, len(self.labels))),
            "neighbours": (self.neighbours.shape, (n, k)),
            "similarities": (self.similarities.shape, (n, k)),
        }
        if self.attention is not None:
            shapes["attention"] = (self.attention.shape, (n, self.attention.shape[1], k))
        for name in ("references", "generated", "losses"):
            if (rows := getattr(self, name)) is not None:
                shapes[name] = ((len(rows),), (n,))
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise DataError(
                    f"Predictions of {self.method!r}: {name} has the wrong shape", got=got, expected=expected
                )
        if not self.labels:
            if self.generated is None or self.references is None:
                raise DataError(
                    f"Predictions of {self.method!r} have neither labels nor generated texts and references"
                )
            return
        if n and not (0 <= self.targets.min() and self.targets.max() < len(self.labels)):
            raise DataError(f"Predictions of {self.method!r} have a target that is no label position")
        sums = self.probabilities.sum(axis=1)
        if not (np.all(self.probabilities >= 0) and np.allclose(sums, 1.0, atol=1e-6)):
            row = int(np.argmax(~(np.abs(sums - 1.0) <= 1e-6) | (self.probabilities < 0).any(axis=1)))
            raise DataError(
                f"Predictions of {self.method!r}: row {row + 1} (id {self.ids[row]!r}) does not hold probabilities",
                got=self.probabilities[row].tolist(),
                expected="numbers >= 0 that sum to 1",
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def attention_entropy(self) -> float | None:
        """Mean entropy of the attention as a share of the greatest possible; None where there is none.

        See :func:`coldframe.methods.soft_tokens.set_attention.attention_entropy`.
        """
        if self.attention is None:
            return None
        import torch

        from coldframe.methods.soft_tokens.set_attention import attention_entropy

        reached = self.attention.any(axis=(0, 1))  # a part of a composition may look at fewer than were retrieved
        attention, present = self.attention[:, :, reached], (self.neighbours != "")[:, reached]
        return attention_entropy(torch.from_numpy(attention), torch.from_numpy(present))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Position of the most probable label, ``[n]``; the first of equals. There is no other threshold."""
        return np.asarray(np.argmax(self.probabilities, axis=1), np.int64)

    def at(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """Those of some queries, by their positions."""

        def those(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows)

        places = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            ids=those(self.ids),
            texts=those(self.texts),
            targets=self.targets[places],
            probabilities=self.probabilities[places],
            neighbours=self.neighbours[places],
            similarities=self.similarities[places],
            attention=None if self.attention is None else self.attention[places],
            references=None if self.references is None else those(self.references),
            generated=None if self.generated is None else those(self.generated),
            losses=None if self.losses is None else self.losses[places],
        )

    def records(self) -> list[dict[str, Any]]:
        """One dictionary per query, ready for JSON; each says of which method, seed and task it is."""
        predicted = self.predicted if self.labels else None
        records = []
        for i, (id_, text) in enumerate(zip(self.ids, self.texts, strict=True)):
            record: dict[str, Any] = {
                "task": self.task,
                "method": self.method,
                "seed": self.seed,
                "id": id_,
                "text": text,
            }
            if predicted is not None:
                record["target"] = self.labels[self.targets[i]]
                record["predicted"] = self.labels[predicted[i]]
                record["probabilities"] = dict(zip(self.labels, self.probabilities[i].tolist(), strict=True))
            if self.generated is not None and self.references is not None:
                record["generated"] = self.generated[i]
                record["references"] = list(self.references[i])
            if self.losses is not None:
                record["loss"] = float(self.losses[i])
            record["neighbours"] = [self._neighbour(i, j) for j in range(self.neighbours.shape[1])]
            record["soft_tokens"] = None if self.attention is None else self.attention.shape[1]
            record["run_seconds"] = self.seconds
            records.append(record)
        return records

    def _neighbour(self, row: int, rank: int) -> dict[str, Any]:
        neighbour: dict[str, Any] = {
            "id": str(self.neighbours[row, rank]),
            "similarity": float(self.similarities[row, rank]),
        }
        if self.attention is not None:
            neighbour["attention"] = self.attention[row, :, rank].tolist()
        return neighbour

    def save(self, path: str | Path) -> None:
        """Write the records as JSON lines, whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for record in self.records():
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            DataError: A line is not one of our records, or belongs to another run; says which.
        """
        records: list[dict[str, Any]] = []
        try:
            with open(path, encoding="utf-8") as file:
                number = 0
                while line := file.readline(MAX_LINE_BYTES):
                    number += 1
                    record = json.loads(line)
                    run = ("task", "method", "seed")
                    if records and any(record[key] != records[0][key] for key in run):
                        raise DataError(
                            f"{path}, line {number}: belongs to another run",
                            got=[record[key] for key in run],
                            expected=[records[0][key] for key in run],
                            fix="Keep one method and seed per file.",
                        )
                    records.append(record)
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error}") from error
        except (ValueError, RecursionError, KeyError, TypeError) as error:  # JSONDecodeError is a ValueError
            fix = "Write it again with `coldframe predict` or `coldframe evaluate`."
            raise DataError(f"{path}, line {number}: not a record of predictions ({error!r})", fix=fix) from error
        if not records:
            raise DataError(f"{path} holds no record", fix="Predict at least one query.")
        try:
            return cls._of_records(records)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise DataError(f"{path} does not hold records of one kind: {error!r}") from error

    @classmethod
    def _of_records(cls, records: Sequence[dict[str, Any]]) -> Self:
        first = records[0]
        labels = tuple(first.get("probabilities", ()))
        neighbours = [record["neighbours"] for record in records]
        n, k = len(records), len(neighbours[0])
        attention = None
        if (m := first["soft_tokens"]) is not None:
            # [n, k, m] as written, [n, m, k] as held.
            columns = [[neighbour["attention"] for neighbour in row] for row in neighbours]
            attention = np.array(columns, np.float32).reshape(n, k, m).transpose(0, 2, 1)
        return cls(
            method=first["method"],
            seed=first["seed"],
            task=first["task"],
            ids=tuple(record["id"] for record in records),
            texts=tuple(record["text"] for record in records),
            labels=labels,
            targets=np.array([labels.index(r["target"]) if labels else -1 for r in records], np.int64),
            probabilities=np.array(
                [[r["probabilities"][label] for label in labels] for r in records], np.float64
            ).reshape(n, len(labels)),
            neighbours=np.array([[x["id"] for x in row] for row in neighbours], np.str_).reshape(n, k),
            similarities=np.array([[x["similarity"] for x in row] for row in neighbours], np.float32).reshape(n, k),
            attention=attention,
            references=tuple(tuple(r["references"]) for r in records) if "references" in first else None,
            generated=tuple(r["generated"] for r in records) if "generated" in first else None,
            losses=np.array([r["loss"] for r in records], np.float64) if "loss" in first else None,
            seconds=float(first["run_seconds"]),
        )


def same_rows(predictions: Sequence[Predictions]) -> None:
    """Raise unless all predictions are about the same queries, in the same order, with the same targets."""
    if not predictions:
        raise DataError("There are no predictions to score", fix="Pass at least one Predictions.")
    first = predictions[0]
    for other in predictions[1:]:
        if other.ids != first.ids or other.labels != first.labels or not np.array_equal(other.targets, first.targets):
            raise DataError(
                f"{first.method!r} (seed {first.seed}) and {other.method!r} (seed {other.seed}) answered "
                "different queries, so they cannot be compared",
                got=f"{len(first)} and {len(other)} rows",
                expected="the same ids, labels and targets in the same order",
                fix="Predict the same split with both.",
            )
    if not len(first):
        raise DataError("There are no predicted rows to score", fix="Predict at least one query.")
