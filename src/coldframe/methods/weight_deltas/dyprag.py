"""DyPRAG: a network that writes the adapter of a passage from the passage's embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, counted_states, mean_nll, nll_and_kl
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.pair_trainer import PairTrainer, optimizer_state, restore_optimizer
from coldframe.methods.weight_deltas.prag import PRAGConfig
from coldframe.storage.checkpoints import CheckpointStore
from coldframe.tasks.corpus import Augmentation, Passage


@dataclasses.dataclass(frozen=True)
class DyPRAGConfig(AdapterConfig):
    """Settings of DyPRAG, beside those of all :class:`AdapterConfig`; learning rate and epochs are the hypernetwork's.

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
        batch_size: Sequences in a step, at least 1.
    """

    section = "DyPRAG settings"

    learning_rate: float = 5e-4
    epochs: int = 15
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
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "batch_size", "train_passages", "teacher_epochs", "teacher_per_step"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name} must be positive", got=value, expected="at least 1")
        for name in ("init_std", "teacher_learning_rate"):
            check(getattr(self, name) > 0, f"{name} must be positive", got=getattr(self, name))
        for name in ("kl_weight", "mse_weight"):
            check(getattr(self, name) >= 0, f"{name} cannot be negative", got=getattr(self, name))

    @property
    def scale(self) -> float:
        """Of a generated update."""
        return 1.0 if self.scaling == "published" else super().scale

    @property
    def teacher(self) -> PRAGConfig:
        """Of the adapters that it learns from."""
        shared = ("rank", "alpha", "targets", "weight_decay", "form", "loss", "full_answers", "seed")
        return PRAGConfig(
            **{name: getattr(self, name) for name in shared},
            learning_rate=self.teacher_learning_rate,
            epochs=self.teacher_epochs,
            per_step=self.teacher_per_step,
        )

    def sequences_of(self, lm: FrozenLM, passage: Passage, augmentation: Augmentation) -> list[TokenSequence]:
        """What the hypernetwork is trained on for a passage."""
        if self.sequences == "all":
            return super().sequences_of(lm, passage, augmentation)
        return dataclasses.replace(self.prompts, form="published").of(lm, passage, augmentation)[:1]


class Hypernetwork(nn.Module):
    r"""Adapters from embeddings: two small networks for every target, one for A and one for B.

    For target m of layer l, with ``e`` the embedding of a passage and u = ``concat(e, l)`` in ``R^{d+1}``::

        A_m(e) = reshape(W_2 relu(W_1 u)),  W_1 in R^{p x (d+1)},  W_2 in R^{r in_m x p}
        B_m(e) = reshape(V_2 relu(V_1 u)),  V_1 in R^{p x (d+1)},  V_2 in R^{r out_m x p}

    No biases; nothing is shared between targets, or between A and B. All weights start normal, with ``init_std``.

    Paper: Tan et al. 2025, arXiv 2503.23895.

    Args:
        layout: Of the adapters.
        d_model: d, width of an embedding.
        width: p.
        init_std: See above.
        seed: Of the start.

    Shapes:
        ``[n, d]`` -> ``[n, N]``, adapters as the layout has them.

    Example:
        >>> layout = Layout(("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"), ((4, 6), (6, 4)), rank=2)
        >>> Hypernetwork(layout, d_model=4)(torch.zeros(3, 4)).shape
        torch.Size([3, 40])
    """

    def __init__(self, layout: Layout, d_model: int, width: int = 32, init_std: float = 1e-3, seed: int = 0) -> None:
        super().__init__()
        self.layout, self.d_model, self.width = layout, d_model, width
        # W_1 and V_1 of the first target, then of the next; the rows of W_2 and V_2 lie as the numbers they make.
        self.first = nn.Parameter(torch.empty(len(layout.pieces), width, d_model + 1))
        self.second = nn.Parameter(torch.empty(layout.numbers, width))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for weight in self.parameters():
                nn.init.normal_(weight, std=init_std)

    @classmethod
    def from_state(cls, layout: Layout, state: Mapping[str, Tensor]) -> Self:
        """From its weights by name, ``first`` and ``second``; kept in float32.

        Raises:
            ConfigError: They do not fit the layout.
        """
        first, second = state["first"], state["second"]
        fits = first.dim() == 3 and len(first) == len(layout.pieces)
        fits = fits and tuple(second.shape) == (layout.numbers, first.shape[1])
        got = f"{tuple(first.shape)} and {tuple(second.shape)}"
        check(fits, "The hypernetwork's weights do not fit the layout", got=got)
        network = cls(layout, first.shape[2] - 1, first.shape[1])
        network.load_state_dict({"first": first.float(), "second": second.float()})
        return network.requires_grad_(False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Adapters of some passages."""
        into, of_layer = self.first[..., :-1].flatten(0, 1), self.first[..., -1]
        layers = of_layer.new_tensor([layer for layer in self.layout.layers for _ in "AB"])
        before = (embeddings @ into.T).view(-1, *of_layer.shape) + layers[:, None] * of_layer
        hidden = before.relu().unbind(1)
        pieces = self.second.split(self.layout.pieces)
        return torch.cat([h @ rows.T for h, rows in zip(hidden, pieces, strict=True)], dim=-1)


def embedding_ids(lm: FrozenLM, passage: Passage) -> tuple[int, ...]:
    """The tokens that a passage is embedded from: title and text, without an instruction.

    Raises:
        DataError: They are more than the model's context.
    """
    ids = lm.bos + lm.tokenize(passage.shown)
    if len(ids) > lm.anatomy.max_positions:
        where = f"row {passage.row}, " if passage.row else ""
        raise DataError(
            f"A passage is longer than the model's context ({where}{passage.shown[:60]!r})",
            got=f"{len(ids)} tokens",
            expected=f"at most {lm.anatomy.max_positions}",
            fix="Cut it into shorter passages, or skip such passages with --on-error skip.",
        )
    return ids


@torch.no_grad()
def passage_embeddings(lm: FrozenLM, passages: Sequence[Passage]) -> Tensor:
    """The frozen model's last hidden state at the last token of each passage.

    Shapes:
        Returns ``[passages, d_model]``, float32.

    Raises:
        DataError: A passage is longer than the model's context.
    """
    tokens = [embedding_ids(lm, passage) for passage in passages]
    found = torch.zeros(len(tokens), lm.d_model)
    batch: list[int] = []
    for i in sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i)):
        if batch and (len(batch) + 1) * len(tokens[i]) > lm.batch_tokens:
            found[batch] = _last_states(lm, [tokens[j] for j in batch])
            batch = []
        batch.append(i)
    if batch:
        found[batch] = _last_states(lm, [tokens[j] for j in batch])
    return found


def _last_states(lm: FrozenLM, tokens: Sequence[tuple[int, ...]]) -> Tensor:
    lengths = torch.tensor([len(ids) for ids in tokens], device=lm.device)
    longest = int(lengths.max())
    ids = torch.tensor([one + (0,) * (longest - len(one)) for one in tokens], device=lm.device)
    mask = (torch.arange(longest, device=lm.device) < lengths[:, None]).long()
    hidden = lm.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last: Tensor = hidden[torch.arange(len(tokens), device=lm.device), lengths - 1]
    return last.float().cpu()


@dataclasses.dataclass(frozen=True)
class DyTrained:
    """What DyPRAG trains, and the mean loss of every epoch."""

    network: Hypernetwork
    losses: tuple[float, ...]


class DyTrainer(PairTrainer):
    r"""Trains a hypernetwork on passages that have PRAG adapters.

    For a passage with embedding e, target adapter ``(A*, B*)`` and sequence x::

        L = NLL(x | W + s B(e) A(e)) + a sum_t KL(p_t(. | W + s* B* A*) || p_t(. | W + s B(e) A(e)))
            + b sum over targets of (mean (A(e) - A*)^2 + mean (B(e) - B*)^2)

    with ``s* = alpha / r``, a = ``kl_weight`` and b = ``mse_weight``; a step has the mean over its pairs. Every row of
    a batch has the update of its own passage.

    Paper: arXiv 2503.23895. Deviates: NLL and KL count the tokens that ``loss`` says, while the paper's code has the
    whole prompt in NLL and all 3,000 positions, pads included, in KL; see :class:`DyPRAGConfig` for the rest.

    The teacher's hidden states before the counted tokens are computed once and kept: ``d_model`` numbers of the model's
    number format for each.

    Args:
        lm: The model.
        layout: Of the adapters.
        config: How.
        passages: The sequences of every passage.
        embeddings: From :func:`passage_embeddings`.
        targets: The adapters of some passages by their positions, float32 ``[n, N]``; asked for a batch at a time.
        parts: Where an interrupted training goes on; its folder's name says what the training depends on.
        report: Told after each step: steps done, and the loss.

    Shapes:
        embeddings: ``[passages, d_model]``.
    """

    name = "DyPRAG"

    def __init__(
        self,
        lm: FrozenLM,
        layout: Layout,
        config: DyPRAGConfig,
        passages: Sequence[Sequence[TokenSequence]],
        embeddings: Tensor,
        targets: Callable[[Sequence[int]], Tensor],
        *,
        parts: CheckpointStore | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> None:
        order = {"seed": config.seed, "epochs": config.epochs, "batch_size": config.batch_size}
        super().__init__(lm, passages, **order, parts=parts, report=report)
        self.layout, self.config, self.targets = layout, config, targets
        self.embeddings = embeddings.to(lm.device)
        self.network = Hypernetwork(layout, lm.d_model, config.width, config.init_std, config.seed).to(lm.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        shares = [torch.full((size,), 1 / size) for size in layout.pieces]
        self.shares = torch.cat(shares).to(lm.device)  # so that squares add up to the sum of the factors' means
        self.taught: list[Tensor] = []

    def train(self) -> DyTrained:
        """Run to the end, or on to the end."""
        if self.config.kl_weight and not self.taught:
            self.taught = self._teach()
        losses = self.run()
        return DyTrained(self.network.cpu(), losses)

    @torch.no_grad()
    def _teach(self) -> list[Tensor]:
        """The teacher's states before the counted tokens of every pair."""
        found: dict[int, Tensor] = {}
        order = sorted(range(len(self.pairs)), key=lambda i: (len(self.pairs[i][1]), i))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            some = [self.pairs[i] for i in places]
            rows, which = self.rows_of(some)
            deltas = self.layout.deltas(self.layout.factors(self._targets(rows)[which]), self.config.teacher.scale)
            states, _, per_row = counted_states(self.lm, [one for _, one in some], Conditioning(deltas=deltas))
            found |= zip(places, (piece.cpu() for piece in states.split(per_row.tolist())), strict=True)
        return [found[i] for i in range(len(self.pairs))]

    def _targets(self, rows: Tensor) -> Tensor:
        return self.targets(rows.tolist()).to(self.lm.device)

    def losses_of(self, places: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of the loss of some pairs, each ``[n]``, before they are weighted."""
        some = [self.pairs[i] for i in places]
        rows, which = self.rows_of(some)
        generated = self.network(self.embeddings[rows])
        deltas = self.layout.deltas(self.layout.factors(generated[which]), self.config.scale)
        sequences, conditioning = [sequence for _, sequence in some], Conditioning(deltas=deltas)
        if self.config.kl_weight:
            taught = torch.cat([self.taught[i] for i in places]).to(self.lm.device)
            nll, kl = nll_and_kl(self.lm, sequences, conditioning, taught)
        else:
            nll = mean_nll(self.lm, sequences, conditioning)
            kl = torch.zeros_like(nll)
        if self.config.mse_weight:
            mse = ((generated - self._targets(rows)) ** 2 @ self.shares)[which]
        else:
            mse = torch.zeros_like(nll)
        return nll, kl, mse

    def _step(self, step: int) -> float:
        nll, kl, mse = self.losses_of(self.chosen(step))
        loss = (nll + self.config.kl_weight * kl + self.config.mse_weight * mse).mean()
        self.finite(loss, step)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Weights, and what the optimiser knows of them."""
        return {**self.network.state_dict(), **optimizer_state(self.optimizer)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`."""
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})
        restore_optimizer(self.optimizer, state)
