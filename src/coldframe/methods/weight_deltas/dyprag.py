"""DyPRAG: a network that writes the adapter of a passage from the passage's embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, counted_states, mean_nll, nll_and_kl
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.training_set import Problem, TrainingData
from coldframe.methods.weight_deltas import bank_files
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.bank_files import EMBEDDINGS, HYPERNETWORK
from coldframe.methods.weight_deltas.banks import GeneratedAdapters
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters, passages_of
from coldframe.methods.weight_deltas.passage_sequences import PassageSequences, where
from coldframe.methods.weight_deltas.poly_prag import Pairs
from coldframe.methods.weight_deltas.prag import PRAG, PRAGConfig
from coldframe.storage.artifact import Artifact
from coldframe.tasks.task import Example, Passage

TEACHER = "teacher"
"""Folder of the PRAG adapters that the hypernetwork learns from, below the artifact's; it is no part of it."""


@dataclasses.dataclass(frozen=True)
class DyPRAGConfig(AdapterConfig):
    """Settings of DyPRAG, beside those of all :class:`AdapterConfig`.

    The paper's code has a learning rate of 1e-5, one epoch over 4,800 passages, batch 1, ``init_std`` 1e-7, and what is
    called ``published`` below.

    Args:
        train_passages: Passages that are trained on, the first of the corpus, at least 1; None all. The others are
            unseen: they are embedded and no more.
        teacher_learning_rate: Of the PRAG adapters that the hypernetwork learns from, above 0.
        teacher_epochs: Of them, at least 1.
        teacher_per_step: Sequences of one passage in a step of them, at least 1.
        width: p, hidden units for A and for B of every target, at least 1.
        init_std: Standard deviation of all weights at the start, above 0. With 1e-7 generated updates and their
            gradients begin at about nothing, and training takes long to start.
        kl_weight: Of the teacher's distributions in the loss, at least 0.
        mse_weight: Of the teacher's A and B in the loss, at least 0.
        sequences: Trained on: ``all`` sequences of a passage, as PRAG; or, as ``published``, only its first question,
            after the passage, which puts little pressure on the weights: the answer can be copied from the prompt.
        scaling: Of a generated update: ``repaired``, ``alpha / r`` as its target's; or, as ``published``, 1, so that a
            network which meets its targets exactly injects ``r / alpha`` of their update.
    """

    section = "DyPRAG settings"
    at_least = dict.fromkeys(("width", "train_passages", "teacher_epochs", "teacher_per_step"), 1)
    at_least |= {"kl_weight": 0, "mse_weight": 0}
    above = {"init_std": 0, "teacher_learning_rate": 0}

    train_passages: int | None = None
    teacher_learning_rate: float = 1e-3
    teacher_epochs: int = 10
    teacher_per_step: int = 1
    width: int = 32
    init_std: float = 1e-3
    kl_weight: float = 0.01
    mse_weight: float = 100.0
    sequences: Literal["all", "published"] = "all"
    scaling: Literal["repaired", "published"] = "repaired"

    @property
    def scale(self) -> float:
        """Of a generated update."""
        return 1.0 if self.scaling == "published" else super().scale

    @property
    def teacher(self) -> PRAGConfig:
        """Of the adapters that it learns from."""
        shared = ("rank", "alpha", "targets", "form", "loss", "full_answers", "stored", "skip_unusable")
        return PRAGConfig(**{name: getattr(self, name) for name in shared}, per_step=self.teacher_per_step)


class DyPRAG(PassageAdapters):
    r"""A hypernetwork that writes a passage's adapter from the passage's embedding, for unseen passages too.

    It learns from PRAG adapters, which are trained first. For a passage with embedding e, target adapter ``(A*, B*)``
    and sequence x::

        L = NLL(x | W + s B(e) A(e)) + a sum_t KL(p_t(. | W + s* B* A*) || p_t(. | W + s B(e) A(e)))
            + b sum over targets of (mean (A(e) - A*)^2 + mean (B(e) - B*)^2)

    with ``s* = alpha / r``, a = ``kl_weight`` and b = ``mse_weight``. Every row of a batch has the update of its own
    passage. The embedding is the frozen model's last hidden state at the passage's last token.

    Paper: Tan et al. 2025, arXiv 2503.23895. Deviates: NLL and KL count the tokens that ``loss`` says, while the
    paper's code has the whole prompt in NLL and all 3,000 positions, pads included, in KL; see :class:`DyPRAGConfig`
    for the rest.

    Cost:
        :class:`Hypernetwork`'s parameters, and ``d_model`` for each passage; PRAG's while it is trained. The teacher's
        hidden states before the counted tokens are computed once and kept.

    Example:
        >>> DyPRAG(width=16)
        DyPRAG(width=16)
    """

    name: ClassVar[str] = "dyprag"
    paper: ClassVar[str] = "arXiv 2503.23895"
    config_class = DyPRAGConfig
    config: DyPRAGConfig
    learning_rate: ClassVar[float] = 5e-4
    training_defaults: ClassVar[Mapping[str, Any]] = {**PassageAdapters.training_defaults, "epochs": 15}
    search_space: ClassVar[SearchSpace] = {
        **PassageAdapters.search_space,
        "training.learning_rate": Floats(1e-4, 2e-3),
        "training.epochs": Choices((8, 15, 30)),
        "teacher_epochs": Choices((6, 10)),
    }

    network: Hypernetwork
    teacher: PRAG

    def build(self, context: MethodContext) -> None:
        """The layout, and the teacher."""
        super().build(context)
        shares = [torch.full((size,), 1 / size) for size in self.layout.pieces]
        self.shares = torch.cat(shares).to(context.lm.device)  # squares add up to the sum of the factors' means
        # Not a submodule: its adapters are not ours to save.
        object.__setattr__(self, "teacher", PRAG(self.config.teacher).setup(context))

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """PRAG's groups of passages, then the hypernetwork."""
        settings = {"epochs": self.config.teacher_epochs, "learning_rate": self.config.teacher_learning_rate}
        passages = self._embeddable(data)
        first = {passage.id for passage in passages_of(data)[: self.config.train_passages]}
        teacher_data = dataclasses.replace(
            data,
            task=dataclasses.replace(data.task, store=tuple(passage for passage in passages if passage.id in first)),
            workspace=None if data.workspace is None else data.workspace / TEACHER,
            settings={**data.settings, **settings},
        )
        lessons = self.lessons(teacher_data)  # before the teacher trains: unusable passages are told before the work
        passages = [passage for passage in passages if passage.id not in self.left_out]
        for problem in self.teacher.problems(dataclasses.replace(teacher_data, quiet=True)):
            yield dataclasses.replace(problem, settings=settings)
        self._vectors = passage_embeddings(self.ready.lm, passages)
        rows = {passage.id: row for row, passage in enumerate(passages)}
        self._learned = [passage.id for passage, _, _ in lessons]
        self._inputs = self._vectors[[rows[id] for id in self._learned]].to(self.ready.lm.device)
        self.network = Hypernetwork(
            self.layout, self.ready.lm.d_model, self.config.width, self.config.init_std, data.seed
        ).to(self.ready.lm.device)
        items = Pairs.of(lessons)
        self._teacher_states = self._teach(items.items) if self.config.kl_weight else []
        numbered = [(number, *item) for number, item in enumerate(items.items)]
        yield Problem(self, dataclasses.replace(items, items=numbered), name=self.name)
        folder = self.scratch_folder()
        bank_files.write_hypernetwork(folder, self.network, self.stored_dtype)
        bank_files.write_embeddings(folder, [passage.id for passage in passages], self._vectors)
        del self.network, self._teacher_states, self._inputs, self._vectors
        self.bank = GeneratedAdapters(folder / HYPERNETWORK, folder / EMBEDDINGS, self.layout, self.config.scale)

    def growth(self, data: TrainingData) -> Iterator[Problem]:
        """Embeddings of the new passages: nothing is trained."""
        before = self.adapters
        assert isinstance(before, GeneratedAdapters)  # trained or loaded by this class
        passages = self._embeddable(data)
        vectors = torch.cat((before.embeddings(before.ids), passage_embeddings(self.ready.lm, passages)))
        ids = [*before.ids, *(passage.id for passage in passages)]
        embeddings = bank_files.write_embeddings(self.scratch_folder(), ids, vectors)
        self.bank = GeneratedAdapters(before.files[HYPERNETWORK], embeddings, self.layout, self.config.scale)
        yield from ()

    def load(self, artifact: Artifact) -> None:
        """Open what was stored."""
        network, embeddings = artifact / HYPERNETWORK, artifact / EMBEDDINGS
        self.bank = GeneratedAdapters(network, embeddings, self.layout, self.config.scale)

    def sequences_of(self, passage: Passage, questions: Sequence[Example]) -> list[TokenSequence]:
        """What the hypernetwork is trained on for a passage."""
        if self.config.sequences == "all":
            return super().sequences_of(passage, questions)
        published = PassageSequences(self.ready.schema, "published", self.config.loss, self.config.full_answers)
        return published.of(self.ready.lm, passage, questions)[:1]

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """The loss of each pair, ``[n]``."""
        nll, kl, mse = self.losses_of(lm, batch)
        return nll + self.config.kl_weight * kl + self.config.mse_weight * mse

    def losses_of(self, lm: FrozenLM, batch: Sequence[tuple[int, int, TokenSequence]]) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of the loss of some pairs, each ``[n]``, before they are weighted."""
        unique, place = torch.tensor([row for _, row, _ in batch], device=lm.device).unique(return_inverse=True)
        generated = self.network(self._inputs.index_select(0, unique))
        adapters = nn.functional.embedding(place, generated)  # on a GPU index_select's gradient adds up in any order
        conditioning = Conditioning(deltas=self.layout.deltas(self.layout.factors(adapters), self.config.scale))
        sequences = [sequence for _, _, sequence in batch]
        if self.config.kl_weight:
            states = torch.cat([self._teacher_states[number] for number, _, _ in batch]).to(lm.device)
            nll, kl = nll_and_kl(lm, sequences, conditioning, states)
        else:
            nll = mean_nll(lm, sequences, conditioning)
            kl = torch.zeros_like(nll)
        if self.config.mse_weight:
            distances = (generated - self._targets(unique)) ** 2 @ self.shares
            mse = nn.functional.embedding(place, distances[:, None]).squeeze(1)
        else:
            mse = torch.zeros_like(nll)
        return nll, kl, mse

    @torch.no_grad()
    def _teach(self, pairs: Sequence[tuple[int, TokenSequence]], batch_size: int = 32) -> list[Tensor]:
        """The teacher's states before the counted tokens of every pair."""
        states: dict[int, Tensor] = {}
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), i))
        scale, lm = self.config.teacher.scale, self.ready.lm
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            rows = torch.tensor([pairs[i][0] for i in places], device=lm.device)
            deltas = self.layout.deltas(self.layout.factors(self._targets(rows)), scale)
            hidden, _, per_row = counted_states(lm, [pairs[i][1] for i in places], Conditioning(deltas=deltas))
            states |= zip(places, (piece.cpu() for piece in hidden.split(per_row.tolist())), strict=True)
        return [states[i] for i in range(len(pairs))]

    def _targets(self, rows: Tensor) -> Tensor:
        """The teacher's adapters of some passages, by their rows."""
        return self.teacher.adapters.adapters([self._learned[row] for row in rows.tolist()]).to(self.ready.lm.device)

    def _embeddable(self, data: TrainingData) -> list[Passage]:
        """The passages that fit into the model's context."""

        def fits(passage: Passage) -> Passage:
            embedding_ids(self.ready.lm, passage)
            return passage

        return self.usable(data, passages_of(data), fits)


def embedding_ids(lm: FrozenLM, passage: Passage) -> tuple[int, ...]:
    """The tokens that a passage is embedded from, title and text; an error if they exceed the model's context."""
    ids = lm.bos + lm.tokenize(passage.text)
    if len(ids) > lm.max_positions:
        raise DataError(
            f"{where(passage)} is longer than the model's context",
            got=f"{len(ids)} tokens",
            expected=f"at most {lm.max_positions}",
            fix="Cut it into shorter passages, or skip such passages with --on-error skip.",
        )
    return ids


@torch.no_grad()
def passage_embeddings(lm: FrozenLM, passages: Sequence[Passage]) -> Tensor:
    """The frozen model's last hidden state at the last token of each passage, float32 ``[passages, d_model]``."""
    tokens = [embedding_ids(lm, passage) for passage in passages]
    vectors = torch.zeros(len(tokens), lm.d_model)
    batch: list[int] = []
    for i in sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i)):
        if batch and (len(batch) + 1) * len(tokens[i]) > lm.batch_tokens:
            vectors[batch] = _last_states(lm, [tokens[j] for j in batch])
            batch = []
        batch.append(i)
    if batch:
        vectors[batch] = _last_states(lm, [tokens[j] for j in batch])
    return vectors


def _last_states(lm: FrozenLM, tokens: Sequence[tuple[int, ...]]) -> Tensor:
    lengths = torch.tensor([len(ids) for ids in tokens], device=lm.device)
    longest = int(lengths.max())
    ids = torch.tensor([row + (0,) * (longest - len(row)) for row in tokens], device=lm.device)
    mask = (torch.arange(longest, device=lm.device) < lengths[:, None]).long()
    hidden = lm.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last: Tensor = hidden[torch.arange(len(tokens), device=lm.device), lengths - 1]
    return last.float().cpu()
