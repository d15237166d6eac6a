"""Retrieved passages in the prompt of a local model: the plainest retrieval pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch

from coldframe.diagnosis.grading import Grader, grader
from coldframe.diagnosis.passages import PassageSubject, Retrieve
from coldframe.diagnosis.queries import Case, in_prompt
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example, Template, content_hash


class TextRAG(PassageSubject):
    """A retriever over a local model: header, passages (the most relevant last), question, answer.

    ``loss = -1/T sum_t log p(a_t | a_<t, passages, question)``, the mean over the T tokens of the gold answer and of
    what ends it, nats. With ``mode="answers"`` the model writes, and the loss is 1 - score.

    Where the model's context is too short the least relevant passages are left out; :attr:`notes` counts them.

    Args:
        lm: The model.
        retrieve: The passages for a question, most relevant first, called once per query; or those of every query.
        queries: At least 2; a verdict needs 30.
        template: How a question is put; its separator stands after every passage.
        mode: ``"logprobs"`` or ``"answers"``.
        metric: Of a written answer, see :class:`coldframe.diagnosis.endpoint.Endpoint`.
        max_new_tokens: Of a written answer, at most.
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
        retrieve: Retrieve,
        queries: Sequence[Example | tuple[str, str]],
        *,
        template: Template = QUESTION,
        mode: Literal["logprobs", "answers"] = "logprobs",
        metric: str | Grader = "token_f1",
        max_new_tokens: int = 64,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        self.grader = grader(metric)
        named = {"name": "text RAG", "model": lm.provenance["name"]}
        named |= {"unit": self.grader.title} if mode == "answers" else {}
        super().__init__(queries, retrieve, **{**named, **options})
        self.lm, self.template, self.mode = lm, template, mode
        self.at_once, self.max_new_tokens = lm.at_once(batch_size), max_new_tokens
        self._dropped = self._total = 0

    def measure(self, cases: Sequence[Case]) -> Iterator[tuple[int, float]]:
        """Losses in batches of like length."""
        if self.mode == "answers":
            for place, written in self.write(cases):
                case = cases[place]
                yield place, 1.0 - self.grader(case.text, written, self.accepted(case))
            return
        for batch in self._batches(cases):
            yield from zip(batch, self._mean_token_nll([cases[i] for i in batch]), strict=True)

    @torch.no_grad()
    def write(self, cases: Sequence[Case]) -> Iterator[tuple[int, str]]:
        """Greedy answers, in batches of like length."""
        for batch in self._batches(cases):
            prompts, conditioning = self._prompts([cases[i] for i in batch])
            texts = self.lm.generate(prompts, conditioning, max_new_tokens=self.max_new_tokens)
            yield from zip(batch, texts, strict=True)

    def _batches(self, cases: Sequence[Case]) -> Iterator[list[int]]:
        order = sorted(range(len(cases)), key=lambda i: (sum(map(len, cases[i].passages)) + len(cases[i].text), i))
        for start in range(0, len(order), self.at_once):
            yield order[start : start + self.at_once]

    @torch.no_grad()
    def _mean_token_nll(self, cases: Sequence[Case]) -> list[float]:
        before = self.lm.dropped_contexts
        answers = [self.template.answer(case.answer.strip()) for case in cases]
        prompts, conditioning = self._prompts(cases)
        sums = self.lm.loss(prompts, answers, conditioning).tolist()
        self._dropped += self.lm.dropped_contexts - before
        self._total += sum(len(case.passages) for case in cases)
        lengths = [len(self.lm.answer_tokens(answer, self.template.end)) for answer in answers]
        return [total / length for total, length in zip(sums, lengths, strict=True)]

    def _prompts(self, cases: Sequence[Case]) -> tuple[list[Prompt], Conditioning]:
        prompts = [Prompt(self.template.query(case.text), self.template.header, self.template.end) for case in cases]
        return prompts, Conditioning(contexts=tuple(in_prompt(self.template, case.passages) for case in cases))

    def fingerprint(self) -> str:
        """Names model, template, task, and how a written answer is scored."""
        written = (self.grader.name, str(self.max_new_tokens)) if self.mode == "answers" else ()
        model = self.lm.weight_hash, self.lm.numbers, repr(self.template)
        return content_hash(*model, *written, super().fingerprint())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, in sentences."""
        if not self._dropped:
            return super().notes
        left_out = (
            f"{self._dropped} of {self._total} passages, over all conditions, did not fit into the model's "
            f"{self.lm.max_positions} tokens and were left out, the least relevant first."
        )
        return (*super().notes, left_out)
