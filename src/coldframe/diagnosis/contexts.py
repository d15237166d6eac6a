"""Any pipeline as two callables: what it retrieves, and how good its answer is with given passages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.queries import Case, Query
from coldframe.errors import ConfigError, DataError
from coldframe.tasks.task import Example

Measure: TypeAlias = Callable[[str, Sequence[str], str], float]
MeasureMany: TypeAlias = Callable[[Sequence[Case]], Iterable[float]]


class ContextSubject(PassageSubject):
    """Any retrieval pipeline, given as ``retrieve`` and one of ``loss``, ``score`` and ``losses``.

    The pipeline must take passages that it did not retrieve itself: a chain that retrieves and answers in one
    call is split into its retriever and its answering half.

    Args:
        queries: At least 2, as :func:`Query`, examples, or pairs of question and answer; a verdict needs 30.
        retrieve: The passages for a question, most relevant first; called once per query.
        loss: Of the gold answer: ``(text, passages, answer)``, lower is better; without passages it is the
            model alone.
        score: The same, higher is better; the loss is ``-score``.
        losses: A loss for each of a list of :class:`Case`, in their order, for pipelines that are faster so.
        **options: As for :class:`coldframe.diagnosis.passages.PassageSubject`; ``unit`` is ``"score"`` for scores.

    Raises:
        ConfigError: Not exactly one of the three is given.
        DataError: What comes back from the pipeline is unusable; names the query.

    Example:
        >>> store = {"Ada": "Ada lives in Rome.", "Bo": "Bo lives in Oslo."}
        >>> queries = [Query(f"Where does {name} live?", text.split()[-1][:-1]) for name, text in store.items()]
        >>> subject = ContextSubject(
        ...     queries,
        ...     retrieve=lambda text: [store[text.split()[2]]],
        ...     score=lambda text, passages, answer: float(any(answer in passage for passage in passages)),
        ... )
        >>> subject.losses("full"), subject.losses("swapped")
        (array([-1., -1.]), array([0., 0.]))
    """

    def __init__(
        self,
        queries: Sequence[Example | tuple[str, str]],
        retrieve: Callable[[str], Sequence[str]],
        loss: Measure | None = None,
        *,
        score: Measure | None = None,
        losses: MeasureMany | None = None,
        **options: Any,
    ) -> None:
        if sum(measure is not None for measure in (loss, score, losses)) != 1:
            raise ConfigError("A pipeline is measured in one way", fix="Pass exactly one of loss, score and losses.")
        single = loss or score
        super().__init__(queries, retrieve, **{"unit": "nats" if score is None else "score", **options})
        self.greater_is_better = score is not None
        self._measure_all = losses or (lambda cases: (single(*case) for case in cases if single))

    def measure(self, cases: Sequence[Case]) -> Iterator[tuple[int, float]]:
        """Losses (or scores) in the order of the cases."""
        for i, loss in enumerate(self._measure_all(cases)):
            if i == len(cases):
                raise DataError("The pipeline gave more losses than there are cases", expected=len(cases))
            yield i, loss


__all__ = ["Case", "ContextSubject", "Query"]
