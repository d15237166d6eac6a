"""An encoded corpus and its frozen model: retrieve passages, put them into weights or prompt, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.errors import ArtifactError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning
from coldframe.inference.predictions import Predictions
from coldframe.inference.run import by_length
from coldframe.methods.weight_deltas.passage_prompts import PassagePrompts
from coldframe.methods.weight_deltas.prag import PRAGConfig
from coldframe.parametric.banks import Bank
from coldframe.parametric.folder import Described, read_folder, same_model
from coldframe.parametric.settings import AskConfig, Combination
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.files import atomic_path
from coldframe.tasks.corpus import Corpus, Question
from coldframe.tasks.text_metrics import published_answer


class Encoded:
    """A corpus in weights.

    Args:
        lm: The model that it was encoded for.
        described: What is known of it.
        corpus: Its passages.
        bank: Their adapters.

    Raises:
        ArtifactError: The model is another one.
    """

    def __init__(self, lm: FrozenLM, described: Described, corpus: Corpus, bank: Bank) -> None:
        same_model(described, lm)
        self.lm, self.described, self.corpus, self.bank = lm, described, corpus, bank
        self.prompts = described.config.prompts
        self._retrievers: dict[tuple[int, str], Retriever] = {}

    @classmethod
    def load(cls, folder: str | Path, lm: FrozenLM | None = None) -> Self:
        """Read what ``coldframe encode`` wrote.

        Args:
            folder: Where it is.
            lm: The model, if it is loaded already; else it is loaded by the name in the folder.
        """
        described, corpus, bank = read_folder(Path(folder))
        base = described.base_model
        if lm is None and base.get("source") == "memory":
            raise ArtifactError("The corpus was encoded for a model that was made in memory", fix="Pass the model.")
        if lm is None:
            dtype = str(base["dtype"]).removeprefix("torch.")
            lm = load_lm(str(base["name"]), dtype=dtype, revision=base.get("revision"))
        return cls(lm, described, corpus, bank)

    @cached_property
    def store(self) -> Store:
        """The passages as what may be retrieved."""
        return Store.of([passage.example() for passage in self.corpus.passages])

    def retrieve(self, questions: Sequence[Question], config: AskConfig) -> Retrieved:
        """The k nearest passages of each question."""
        return self.retriever(config).retrieve([one.example() for one in questions], exclude_same_key=False)

    def retriever(self, config: AskConfig) -> Retriever:
        """What finds them, made once."""
        k = min(config.k, len(self.corpus))
        key = (k, config.similarity)
        if key not in self._retrievers:
            settings = RetrievalConfig(similarity=config.similarity)
            self._retrievers[key] = Retriever(self.store, "text", k, settings)
        return self._retrievers[key]

    def condition(self, retrieved: Retrieved, config: AskConfig, adapters_of: Retrieved | None = None) -> Conditioning:
        """What was retrieved, as the ports take it.

        Args:
            retrieved: For a batch of questions.
            config: Where it goes.
            adapters_of: The adapters of these passages instead (a control).
        """
        rows = range(len(retrieved))
        found = Conditioning()
        if config.mode in ("passages", "both"):
            shown = [tuple(self.prompts.block(e.text) for e in reversed(retrieved.examples(row))) for row in rows]
            found = Conditioning(contexts=tuple(shown))
        if config.mode in ("parameters", "both"):
            source = retrieved if adapters_of is None else adapters_of
            ids = [[example.id for example in source.examples(row)] for row in rows]
            factors = self.bank.factors(ids, config.combine, config.routing)
            moved = [(a.to(self.lm.device), b.to(self.lm.device)) for a, b in factors]
            found = found.merge(Conditioning(deltas=self.bank.layout.deltas(moved, self.bank.scale)))
        return found

    @torch.no_grad()
    def answer(self, questions: Sequence[Question], config: AskConfig | None = None) -> Predictions:
        """Greedy answers, cut at the end of their line, with what was retrieved.

        Raises:
            DataError: There is no question, or nobody to swap with.
        """
        config = config or AskConfig()
        if not questions:
            raise DataError("There is no question")
        if config.routing != "learned" and self.described.method != "poly-prag":
            raise ConfigError("Only Poly-PRAG has a routing", got=config.routing, fix="Leave it out.")
        closed = config.mode == "closed-book"
        if not closed:
            _ = self.retriever(config).index  # the passages are indexed once, which is no question's time
        started = time.perf_counter()
        retrieved = Retrieved.nothing(self.store, len(questions)) if closed else self.retrieve(questions, config)
        adapters_of = _others(retrieved) if config.swapped and not closed else retrieved

        def condition(places: NDArray[np.int64]) -> Conditioning:
            return self.condition(retrieved.rows(places), config, adapters_of.rows(places))

        written = answers(self.lm, self.prompts, questions, config, condition)
        names = np.array([*(example.id for example in self.store.examples), ""])
        return as_predictions(
            questions,
            written,
            method=name_of(self.described.method, config),
            seed=self.described.config.seed,
            task=self.corpus.name,
            neighbours=names[retrieved.indices].reshape(retrieved.indices.shape),
            similarities=retrieved.scores,
            seconds=time.perf_counter() - started,
        )

    def export(self, ids: Sequence[str], out: str | Path, combine: Combination = "auto") -> Path:
        """Write the adapter of one passage, or of several combined, as a LoRA folder that peft loads.

        Args:
            ids: Of the passages.
            out: The folder; it must not exist.
            combine: As in :class:`AskConfig`.

        Raises:
            DataError: A passage is unknown.
        """
        from coldframe.parametric.export import write_lora

        for one in ids:
            if one not in self.corpus.by_id:
                raise DataError(
                    f"There is no passage {one!r} in {self.corpus.name}", fix="Ids stand in passages-*.jsonl."
                )
        if not ids:
            raise DataError("There is no passage to export")
        if Path(out).exists():
            raise ConfigError(f"{out} exists already", fix="Choose another folder.")
        factors = [(a[0], b[0]) for a, b in self.bank.factors([ids], combine)]
        with atomic_path(out) as folder:
            write_lora(folder, self.lm, self.bank.layout, factors, self.bank.scale)
        return Path(out)

    def summary(self) -> dict[str, Any]:
        """Method, size and cost in plain data."""
        rank = self.described.config.rank
        return {
            "method": self.described.method,
            "model": self.described.base_model["name"],
            "corpus": self.corpus.name,
            "passages": len(self.corpus),
            "rank": rank,
            "numbers_per_adapter": self.bank.layout.numbers,
            "bytes": self.bank.nbytes,
            "bytes_per_passage": self.bank.nbytes / len(self.corpus),
            "trained_alone": isinstance(self.described.config, PRAGConfig),
            "failed": len(self.described.extra["failed"]),
        }


@torch.no_grad()
def answers(
    lm: FrozenLM,
    prompts: PassagePrompts,
    questions: Sequence[Question],
    config: AskConfig,
    condition: Callable[[NDArray[np.int64]], Conditioning],
) -> tuple[str, ...]:
    """Greedy answers, read in batches of like length.

    Args:
        lm: The model.
        prompts: How a question is put, and where an answer ends.
        questions: At least one.
        config: Length, cut and batch.
        condition: What the questions at these positions are answered with.
    """
    written = [""] * len(questions)
    for batch in by_length([one.text for one in questions], config.batch_size):
        asked = [prompts.prompt(questions[i].text) for i in batch]
        conditioning = condition(np.array(batch))
        found = lm.generate(asked, conditioning, max_new_tokens=config.max_new_tokens, stop=(prompts.end, "\n"))
        for i, answer in zip(batch, found, strict=True):
            written[i] = published_answer(answer) if config.cut == "published" else answer.strip()
    return tuple(written)


def as_predictions(questions: Sequence[Question], written: Sequence[str], **about: Any) -> Predictions:
    """Written answers beside their questions.

    Args:
        questions: What was asked.
        written: The answers.
        about: The other fields of :class:`Predictions`.
    """
    return Predictions(
        ids=tuple(one.id for one in questions),
        texts=tuple(one.text for one in questions),
        labels=(),
        targets=np.full(len(questions), -1, np.int64),
        probabilities=np.zeros((len(questions), 0)),
        references=tuple(one.answers for one in questions),
        generated=tuple(written),
        **about,
    )


def name_of(method: str, config: AskConfig) -> str:
    """A row of a table: which method, where the passages go, which control.

    >>> name_of("prag", AskConfig()), name_of("prag", AskConfig(mode="passages"))
    ('prag', 'text-rag')
    """
    shown = {"closed-book": "closed-book", "passages": "text-rag", "parameters": method, "both": f"{method}+text"}
    name, adapted = shown[config.mode], config.mode in ("parameters", "both")
    for control, on in (
        ("swapped", adapted and config.swapped),
        (f"{config.routing} routing", adapted and config.routing != "learned"),
        (config.combine, adapted and config.combine != "auto"),
        ("published cut", config.cut != "line"),
    ):
        name += f" ({control})" if on else ""
    return name


def _others(retrieved: Retrieved) -> Retrieved:
    """For every question as many passages that were not retrieved for it.

    They are those of the next question that shares none with it; where all share some, others of the store.
    """
    found = np.empty_like(retrieved.indices)
    sets = [frozenset(row[row >= 0].tolist()) for row in retrieved.indices]
    for i, own in enumerate(sets):
        following = ((i + step) % len(sets) for step in range(1, len(sets)))
        apart = next((j for j in following if not own & sets[j]), None)
        if apart is not None:
            found[i] = retrieved.indices[apart]
            continue
        rest = [row for row in range(len(retrieved.store)) if row not in own][: retrieved.k]
        if not rest:
            raise DataError("Adapters cannot be swapped: every passage is retrieved for a question", fix="Lower k.")
        found[i] = np.pad(rest, (0, retrieved.k - len(rest)), constant_values=-1)
    return Retrieved(retrieved.store, found, np.zeros_like(retrieved.scores))
