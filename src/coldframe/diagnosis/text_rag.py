"""Retrieved passages in the prompt of a local model: the plainest retrieval pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch

from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.queries import Case, in_prompt
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example, Template, content_hash


class TextRAG(PassageSubject):
    """A retriever over a local model: header, passages (the most relevant last), question, answer.

    ``loss = -1/T sum_t log p(a_t | a_<t, passages, question)``, the mean over the T tokens of the gold answer and of
    what ends it, nats.

    Where the model's context is too short the least relevant passages are left out; :attr:`notes` counts them.

    Args:
        lm: The model.
        retrieve: The passages for a question, most relevant first; called once per query.
        queries: At least 2; a verdict needs 30.
        template: How a question is put; its separator stands after every passage.
        batch_size: Questions per forward pass, at least 1.
        **options: As for :class:`coldframe.diagnosis.passages.PassageSubject`.

    Raises:
        DataError: A question without passages is longer than the model's context.

    Cost:
        One pass over all prompts per condition; nothing is generated.

    Example:
        >>> from coldframe import load_lm
        >>> lm = load_lm("smollm2")                                             # doctest: +SKIP
        >>> people = ["Ada lives in Rome.", "Bo lives in Oslo."]
        >>> queries = [("Where does Ada live?", "Rome"), ("Where does Bo live?", "Oslo")]
        >>> subject = TextRAG(lm, lambda text: [people["Bo" in text]], queries)  # doctest: +SKIP
        >>> bool((subject.losses("full") < subject.losses("empty")).all())      # doctest: +SKIP
        True
    """

    deterministic: ClassVar[bool] = True

    def __init__(
        self,
        lm: FrozenLM,
        retrieve: Callable[[str], Sequence[str]],
        queries: Sequence[Example | tuple[str, str]],
        *,
        template: Template = QUESTION,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(queries, retrieve, **{"name": "text RAG", "model": lm.provenance["name"], **options})
        self.lm, self.template, self.batch_size = lm, template, batch_size
        self._dropped = self._total = 0

    def measure(self, cases: Sequence[Case]) -> Iterator[tuple[int, float]]:
        """Losses in batches of like length."""
        order = sorted(range(len(cases)), key=lambda i: (sum(map(len, cases[i].passages)) + len(cases[i].text), i))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from zip(batch, self._mean_token_nll([cases[i] for i in batch]), strict=True)

    @torch.no_grad()
    def _mean_token_nll(self, cases: Sequence[Case]) -> list[float]:
        before = self.lm.dropped_contexts
        prompts = [Prompt(self.template.query(case.text), self.template.header, self.template.end) for case in cases]
        answers = [self.template.answer(case.answer.strip()) for case in cases]
        contexts = tuple(in_prompt(self.template, case.passages) for case in cases)
        sums = self.lm.loss(prompts, answers, Conditioning(contexts=contexts)).tolist()
        self._dropped += self.lm.dropped_contexts - before
        self._total += sum(map(len, contexts))
        lengths = [len(self.lm.answer_tokens(answer, self.template.end)) for answer in answers]
        return [total / length for total, length in zip(sums, lengths, strict=True)]

    def fingerprint(self) -> str:
        """Names model, template and task."""
        return content_hash(self.lm.weight_hash, str(self.lm.dtype), repr(self.template), super().fingerprint())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, in sentences."""
        if not self._dropped:
            return super().notes
        left_out = (
            f"{self._dropped} of {self._total} passages, over all conditions, did not fit into the model's "
            f"{self.lm.anatomy.max_positions} tokens and were left out, the least relevant first."
        )
        return (*super().notes, left_out)
