"""The frozen model: the one place where a ``Conditioning`` meets a language model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from coldframe.config import check
from coldframe.errors import ConfigError, DataError
from coldframe.frozen import attention
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.hooks import backbone_ports
from coldframe.frozen.model_sources import load_checkpoint, weight_hash
from coldframe.frozen.ports import EMPTY, Conditioning, Prompt, broadcast_rows
from coldframe.frozen.states import Prefilled, Row, StateCache, TextState, assemble, split

# Tokens (pads included) per gradient-free forward pass of a processor: full matmul speed, little memory. And how many
# times as many a GPU reads at once.
_STATE_BATCH_TOKENS, _ON_GPU = 4096, 8
# Tokens from which a processor reads rows one by one: without pads and their mask attention takes half the time.
_ALONE = 640


class FrozenLM:
    """A causal language model whose weights never change, conditioned through four ports.

    Args:
        model: Any transformers causal LM of a known architecture (see ``coldframe.frozen.anatomy``).
        tokenizer: Its tokenizer.
        provenance: Which bytes these are; kept in artifacts.
        state_budget: Bytes for cached text states; None takes 40 % of its device's memory.

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
    ) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.provenance = provenance or {"name": type(model).__name__, "source": "memory", "revision": None}
        self.anatomy = anatomy_of(model)
        # Falcon chooses its attention when it is built, and keeps it.
        if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
            model.set_attn_implementation(attention.register())
        self.body: nn.Module = self.anatomy.body
        self.states = StateCache(state_budget, model.device)
        self.dropped_contexts = 0
        self._takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters
        self._hash: str | None = None
        self._stamp = ""
        empty = tokenizer("").input_ids
        self.bos: tuple[int, ...] = tuple(empty[:1]) if empty and empty[0] == tokenizer.bos_token_id else ()

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def d_model(self) -> int:
        """Width of a token embedding."""
        return self.anatomy.d_model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        where: torch.device = self.model.device
        return where

    @property
    def on_gpu(self) -> bool:
        """Whether the weights are on a GPU."""
        return self.device.type == "cuda"

    @property
    def batch_tokens(self) -> int:
        """Tokens, pads included, that are read together where no gradient is wanted."""
        return _STATE_BATCH_TOKENS * (_ON_GPU if self.on_gpu else 1)

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's number format; what is trained is float32 whatever this is."""
        number: torch.dtype = self.model.dtype
        return number

    @property
    def weight_hash(self) -> str:
        """SHA-256 of the weights, computed once: they are frozen."""
        if self._hash is None:
            self._hash = self.hash_now()
        return self._hash

    def hash_now(self) -> str:
        """:attr:`weight_hash`, from the weights as they are at this moment."""
        found = weight_hash(self.model)
        return hashlib.sha256(f"{found} {self._stamp}".encode()).hexdigest() if self._stamp else found

    def stamp(self, change: str) -> None:
        """Say that the model was changed for good by other means than its weights: its hash becomes another one."""
        self._stamp += change
        self._hash = None

    def embedding_norm(self) -> float:
        """Median norm of a token embedding: the scale a soft token should have."""
        embedded = self.embed(torch.arange(0, self.anatomy.vocab_size, 7, device=self.device))
        return float(embedded.float().norm(dim=-1).median())

    # ---- text to tokens ---------------------------------------------------------------------------------

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids) if text else ()

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings as the model itself would make them of these ids."""
        embedded: Tensor = self.anatomy.embeddings(ids)
        return embedded

    def rows(self, prompts: Sequence[Prompt], conditioning: Conditioning = EMPTY, reserve: int = 0) -> list[Row]:
        """Prompts (with their text contexts) as token ids.

        Args:
            prompts: The queries.
            conditioning: Its ``contexts`` stand between header and query; the farthest are dropped when the
                model's context is too short, and counted in ``dropped_contexts``.
            reserve: Further positions to keep free (the answer).

        Raises:
            DataError: If a query alone is longer than the model's context, or there is no text at all.
        """
        contexts = conditioning.contexts
        if contexts is not None and len(contexts) != len(prompts):
            raise ConfigError("Every prompt needs its contexts", got=len(contexts), expected=len(prompts))
        soft = 0 if conditioning.soft_tokens is None else conditioning.soft_tokens.shape[-2]
        limit = self.anatomy.max_positions - soft - reserve
        shared_contexts = _same_for_all(contexts)
        rows = []
        for i, prompt in enumerate(prompts):
            header, query = self.bos + self.tokenize(prompt.header), self.tokenize(prompt.query)
            if len(header) + len(query) > limit:
                raise DataError(
                    "A row is longer than the model's context",
                    got=f"{len(header) + len(query) + soft + reserve} tokens in {prompt.query[:60]!r}",
                    expected=f"at most {self.anatomy.max_positions}",
                    fix="Shorten it, or skip such rows with --on-error skip.",
                )
            blocks = [self.tokenize(block) for block in contexts[i]] if contexts is not None else []
            while blocks and len(header) + sum(map(len, blocks)) + len(query) > limit:
                blocks.pop(0)
                self.dropped_contexts += 1
            context = tuple(token for block in blocks for token in block)
            shared, own = (header + context, query) if shared_contexts else (header, context + query)
            rows.append(Row(shared, own) if own else Row((), shared))  # the last token read is always a row's own
            if not rows[-1]:
                raise DataError("A prompt has no tokens", got=repr(prompt))
        return rows

    # ---- reading text -----------------------------------------------------------------------------------

    def text_states(self, rows: Sequence[Row], remember: bool = True) -> list[TextState]:
        """States of each row's own tokens, from the cache or computed in batches of like length."""
        found = [self.states.get(row.shared, row.own) for row in rows]
        wanted = sorted((i for i, state in enumerate(found) if state is None), key=lambda i: len(rows[i]))
        batch: list[int] = []
        for position, i in enumerate(wanted):
            batch.append(i)
            following = rows[wanted[position + 1]] if position + 1 < len(wanted) else None
            full = following is None or (len(batch) + 1) * len(following.own) > self.batch_tokens
            if full or (following is not None and following.shared != rows[i].shared):
                for j, state in zip(batch, self._read([rows[j] for j in batch]), strict=True):
                    found[j] = state
                    if remember:
                        self.states.put(rows[j].shared, rows[j].own, state)
                batch = []
        return [state for state in found if state is not None]

    def _shared_state(self, shared: tuple[int, ...]) -> TextState | None:
        """State of text that many rows begin with, computed once."""
        if not shared:
            return None
        state = self.states.get((), shared)
        if state is None:
            state = self._read([Row((), shared)])[0]
            self.states.put((), shared, state)
        return state

    @torch.no_grad()
    def _read(self, rows: Sequence[Row]) -> list[TextState]:
        """Run rows with one common ``shared`` part and return the states of their own tokens."""
        shared = self._shared_state(rows[0].shared)
        start = 0 if shared is None else shared.kv.shape[3]
        lengths = [len(row.own) for row in rows]
        longest = max(lengths)
        # Pads at the end, so that own text follows the shared text at once, as a sliding window wants it.
        ids = torch.tensor([row.own + (0,) * (longest - len(row.own)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * (start + n) + [0] * (longest - n) for n in lengths], device=self.device)
        past = DynamicCache()
        if shared is not None:
            past = DynamicCache([(k.expand(len(rows), *k.shape), v.expand(len(rows), *v.shape)) for k, v in shared.kv])
        hidden, cache = self._forward(self.embed(ids), mask, past)
        return split(cache, start, lengths, hidden)

    def _forward(self, embeds: Tensor, mask: Tensor, past: DynamicCache | None) -> tuple[Tensor, DynamicCache]:
        """Final hidden states of ``embeds``, whose columns are the last ones of ``mask``."""
        inputs: dict[str, Any] = {"inputs_embeds": embeds.to(self.dtype), "attention_mask": mask}
        if self._takes_positions:
            # Pads get position 0; they are masked, so any value does.
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        output = self.body(**inputs, past_key_values=past, use_cache=past is not None)
        return output.last_hidden_state, output.past_key_values

    def ports(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Head gains and weight deltas of a conditioning, in force while the block runs."""
        if not conditioning.changes_backbone:
            return nullcontext()
        return backbone_ports(self.model, self.anatomy, conditioning)

    def prefill(self, rows: Sequence[Row], conditioning: Conditioning = EMPTY, keep: bool = True) -> Prefilled:
        """Read the prompts up to where their answers begin; to be called within :meth:`ports`.

        Args:
            rows: From :meth:`rows`.
            conditioning: What goes into the four ports (its contexts are in ``rows`` already).
            keep: Whether keys and values are kept, so that an answer can follow.
        """
        soft = conditioning.soft_tokens
        if soft is not None:
            soft = broadcast_rows(soft, len(rows))
            if soft.shape[0] != len(rows) or soft.shape[2] != self.d_model:
                raise ConfigError(
                    "Soft tokens do not fit the batch",
                    got=tuple(soft.shape),
                    expected=f"({len(rows)}, m, {self.d_model})",
                )
        # Exemplars in the prompt and nothing trained: read once, so several times a query's states for nothing.
        only_text = conditioning.contexts is not None and soft is None
        before_text = soft is not None and conditioning.placement == "prefix"
        if conditioning.changes_backbone or before_text or (only_text and not _same_for_all(conditioning.contexts)):
            return self._prefill_whole(rows, soft, conditioning, keep)
        if soft is not None and len(rows) == 1 and not torch.is_grad_enabled():
            if self.states.get(rows[0].shared, rows[0].own) is None:
                return self._prefill_alone(rows[0], soft)
        shared = {row.shared for row in rows}
        if len(shared) > 1:  # different headers in one batch: nothing is shared
            rows = [Row((), row.shared + row.own) for row in rows]
        ready = assemble(self._shared_state(rows[0].shared), self.text_states(rows, not only_text))
        return ready if soft is None else self._extend(ready, soft)

    def _prefill_whole(
        self, rows: Sequence[Row], soft: Tensor | None, conditioning: Conditioning, keep: bool
    ) -> Prefilled:
        """One pass over text and soft tokens together, for when the text's states are not the base model's."""
        ids = [row.shared + row.own for row in rows]
        if soft is None:
            embeds, lengths = self.embed(_left_pad(ids, self.device)), [len(row) for row in ids]
        else:
            first = len(self.bos) if conditioning.placement == "prefix" else None
            pieces = []
            for row, vectors in zip(ids, soft, strict=True):
                at = len(row) if first is None else first
                text = self.embed(torch.tensor(row, device=self.device))
                pieces.append(torch.cat((text[:at], vectors.to(text.dtype), text[at:])))
            lengths = [len(piece) for piece in pieces]
            longest = max(lengths)
            embeds = torch.stack([nn.functional.pad(piece, (0, 0, longest - len(piece), 0)) for piece in pieces])
        mask = torch.tensor([[0] * (embeds.shape[1] - n) + [1] * n for n in lengths], device=self.device)
        alone = not self.on_gpu and len(rows) > 1 and min(lengths) >= _ALONE
        if keep and alone and not (torch.is_grad_enabled() or conditioning.deltas):
            states = []
            for i, n in enumerate(lengths):
                hidden, kept = self._forward(embeds[i : i + 1, -n:], mask[i : i + 1, -n:], DynamicCache())
                states += split(kept, 0, [n], hidden)
            return assemble(None, states)
        if keep or torch.is_grad_enabled() or conditioning.deltas:
            hidden, cache = self._forward(embeds, mask, DynamicCache() if keep else None)
            last = hidden[:, -1]
        else:  # long rows in small batches: what passes from layer to layer stays in the processor's cache
            size, cache = max(1, self.batch_tokens // embeds.shape[1]), None
            parts = [
                self._forward(e, m, None)[0][:, -1] for e, m in zip(embeds.split(size), mask.split(size), strict=True)
            ]
            last = torch.cat(parts)
        return Prefilled(last, cache, mask, torch.tensor(lengths, device=self.device))

    def _prefill_alone(self, row: Row, soft: Tensor) -> Prefilled:
        """A lone new query and the soft tokens after it in one pass: two passes would read the weights twice."""
        shared = self._shared_state(row.shared)
        past = None if shared is None else [(k.unsqueeze(0), v.unsqueeze(0)) for k, v in shared.kv]
        text = self.embed(torch.tensor([row.own], device=self.device))
        mask = torch.ones(1, len(row) + soft.shape[1], dtype=torch.long, device=self.device)
        hidden, cache = self._forward(torch.cat((text, soft.to(text.dtype)), dim=1), mask, DynamicCache(past))
        return Prefilled(hidden[:, -1], cache, mask, mask.sum(-1))

    def _extend(self, ready: Prefilled, embeds: Tensor, mask: Tensor | None = None) -> Prefilled:
        """Read further columns after a prefilled batch."""
        hidden, longer = self.follow(ready, embeds, mask)
        return Prefilled(hidden[:, -1], longer.cache, longer.mask, longer.lengths)

    def follow(self, ready: Prefilled, embeds: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Prefilled]:
        """Hidden states of columns that follow a prefilled batch, and the batch with them.

        Shapes:
            embeds: ``[batch, n, d_model]``; mask: ``[batch, n]``, 1 where real (all, if None).
        """
        added = torch.ones(embeds.shape[:2], dtype=torch.long, device=self.device) if mask is None else mask
        whole = torch.cat((ready.mask, added), dim=1)
        hidden, cache = self._forward(embeds, whole, ready.cache)
        return hidden, Prefilled(hidden[:, -1], cache, whole, ready.lengths + added.sum(-1))

    # ---- hidden states to scores ------------------------------------------------------------------------

    def head(self, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Logits in float32, for the whole vocabulary or for some tokens only."""
        head = self.anatomy.lm_head
        if token_ids is None:
            # Rows in one piece: of a slice, torch would make a copy of the whole matrix for every sequence.
            logits = head(hidden.reshape(-1, hidden.shape[-1])).unflatten(0, hidden.shape[:-1])
        else:
            # Few rows, so float32 costs nothing, and bf16 would round scores to steps of 0.06.
            bias = None if head.bias is None else head.bias[token_ids].float()
            logits = nn.functional.linear(hidden.float(), head.weight[token_ids].float(), bias)
        cap = self.anatomy.logit_softcap
        logits = logits.float()
        return cap * torch.tanh(logits / cap) if cap else logits

    def logits(self, ids: Tensor, mask: Tensor | None = None, conditioning: Conditioning = EMPTY) -> Tensor:
        """All logits of plain token ids, ``[batch, tokens, vocab]``: the base model's own when nothing is put in."""
        with self.ports(conditioning):
            output: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return output

    def loss(self, prompts: Sequence[Prompt], answers: Sequence[str], conditioning: Conditioning = EMPTY) -> Tensor:
        """Negative log-likelihood of each answer's tokens, summed: ``-sum_t log p(a_t | a_<t, prompt)``.

        Shapes:
            Returns ``[batch]``, float32, differentiable in the conditioning.
        """
        return self.losses(prompts, [[answer] for answer in answers], conditioning).squeeze(1)

    def losses(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], conditioning: Conditioning = EMPTY
    ) -> Tensor:
        """As :meth:`loss`, of several answers to each prompt, which is read once for all of them.

        Args:
            prompts: The queries.
            answers: One or more for each, as many for one as for the next.
            conditioning: What goes into the ports.

        Shapes:
            Returns ``[batch, answers]``, float32, differentiable in the conditioning.
        """
        return self._answers(prompts, answers, conditioning)[0]

    def _answers(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], conditioning: Conditioning, reserve: int = 0
    ) -> tuple[Tensor, Prefilled]:
        """Losses of the answers, and the prompts as they were read."""
        each = {len(some) for some in answers}
        check(len(each) == 1 and 0 not in each, "Every prompt needs as many answers as the next", got=sorted(each))
        tokens = [self.answer_tokens(answer) for some in answers for answer in some]
        longest = max(map(len, tokens))
        rows = self.rows(prompts, conditioning, reserve=max(reserve, longest))
        with self.ports(conditioning):
            ready = self.prefill(rows, conditioning, keep=max(reserve, longest) > 1)
            # Answers are added to the keys and values in place: on a copy, unless nothing is to follow the prompts.
            copy = ready.repeat(*each) if reserve or each != {1} else ready
            return -self._answer_log_probability(copy, tokens).view(len(rows), -1), ready

    def label_scores(
        self, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning = EMPTY
    ) -> Tensor:
        """Log-scores of the answer words; softmax over them gives label probabilities.

        Words of one token each are scored by their logits, which is all of the output layer that is
        computed; longer ones by their full log-probability ``sum_t log p(w_t | w_<t, prompt)``.

        Shapes:
            Returns ``[batch, len(words)]``, float32, differentiable in the conditioning.
        """
        tokens = [self.answer_tokens(word) for word in words]
        if len(set(tokens)) < len(tokens):
            raise ConfigError("Two labels have the same tokens", got=list(words), fix="Choose different words.")
        longest = max(map(len, tokens))
        rows = self.rows(prompts, conditioning, reserve=longest)
        with self.ports(conditioning):
            ready = self.prefill(rows, conditioning, keep=longest > 1)
            if longest == 1:
                return self.head(ready.last, torch.tensor([ids[0] for ids in tokens], device=self.device))
            repeated = ready.repeat(len(words))
            return self._answer_log_probability(repeated, tokens * len(rows)).view(len(rows), len(words))

    def answer_tokens(self, answer: str, end: str = "") -> tuple[int, ...]:
        """Token ids of an answer, as its loss counts them: a blank stands before its first word.

        Raises:
            DataError: If there are none.
        """
        tokens = self.tokenize(answer if answer[:1].isspace() else " " + answer)
        if not tokens or not answer.strip():
            raise DataError("An answer has no tokens", got=repr(answer))
        return tokens

    def _answer_log_probability(self, ready: Prefilled, answers: Sequence[tuple[int, ...]]) -> Tensor:
        """Summed log-probability of each row's answer tokens, ``[batch]``."""
        longest = max(map(len, answers))
        padded = torch.tensor([ids + (0,) * (longest - len(ids)) for ids in answers], device=self.device)
        real = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in answers], device=self.device)
        hidden = ready.last.unsqueeze(1)
        if longest > 1:
            rest, _ = self.follow(ready, self.embed(padded[:, :-1]), real[:, 1:])
            hidden = torch.cat((hidden, rest), dim=1)
        log_probabilities = self.head(hidden).log_softmax(-1).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
        return (log_probabilities * real).sum(-1)

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
        """Continue prompts, with a cache.

        Args:
            prompts: The queries.
            conditioning: What goes into the ports.
            max_new_tokens: At most this many tokens, at least 1.
            temperature: 0 is greedy; otherwise the softmax temperature of sampling.
            top_p: Sample from the smallest set of tokens that holds this much probability, in (0, 1].
            stop: Texts that end an answer; they are cut off. Where there are any, blanks before the answer's first word
                are none of it: a line break there ends nothing, and the text comes without them.
            seed: Of the sampling.
        """
        if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise ConfigError(
                "Generation settings are out of range",
                got=f"max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}",
                expected="max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1",
            )
        generator = torch.Generator(self.device).manual_seed(seed)
        rows = self.rows(prompts, conditioning, reserve=max_new_tokens)
        with self.ports(conditioning):
            ready = self.prefill(rows, conditioning)
            trim = str.lstrip if stop else str
            return self.write(ready, max_new_tokens, lambda x: _choose(x, temperature, top_p, generator), stop, trim)

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
            stop: Texts that end an answer; they are cut off. Blanks before its first word are none of it, so that a
                line break there ends nothing.

        Shapes:
            Returns ``[batch, answers]``, float32, and one text per prompt, without blanks before it.
        """
        check(max_new_tokens >= 0, "max_new_tokens cannot be negative", got=max_new_tokens)
        losses, ready = self._answers(prompts, answers, conditioning, max_new_tokens)
        if not max_new_tokens:
            return losses, [""] * len(prompts)
        with self.ports(conditioning):
            return losses, self.write(ready, max_new_tokens, lambda x: x.argmax(-1), stop, str.lstrip)

    def write(
        self,
        ready: Prefilled,
        max_new_tokens: int,
        choose: Callable[[Tensor], Tensor],
        stop: Sequence[str] = (),
        trim: Callable[[str], str] = str,
    ) -> list[str]:
        """Continue prompts that were read, token by token, until each has ended; to be called within :meth:`ports`.

        Args:
            ready: From :meth:`prefill`, with what it kept.
            max_new_tokens: At most this many tokens.
            choose: From logits ``[batch, vocab]`` to the next tokens, ``[batch]``.
            stop: Texts that end an answer; they are cut off.
            trim: Done to a text before it is searched for ``stop``, and to what is returned.
        """
        ends = self.end_tokens()
        written: list[list[int]] = [[] for _ in ready.lengths]
        open_rows = set(range(len(written)))
        for step in range(max_new_tokens):
            chosen = choose(self.head(ready.last))
            tokens = chosen.tolist()  # of a GPU at once: each number taken alone would wait for it anew
            for i in sorted(open_rows):
                token = tokens[i]
                if token in ends:
                    open_rows.discard(i)
                    continue
                written[i].append(token)
                if stop and any(mark in trim(self.decode(written[i])) for mark in stop):
                    open_rows.discard(i)
            if not open_rows or step + 1 == max_new_tokens:
                break
            ready = self._extend(ready, self.embed(chosen.unsqueeze(1)))
        return [_cut(trim(self.decode(row)), stop) for row in written]

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids, without special tokens."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def end_tokens(self) -> set[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id if self.model.generation_config else None
        listed = ends if isinstance(ends, list) else [ends]
        return {int(e) for e in [*listed, self.tokenizer.eos_token_id] if e is not None}


def load_lm(
    name: str = "smollm2",
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    state_budget: int | None = None,
) -> FrozenLM:
    """Load a model, frozen.

    Args:
        name: A model that travels in a PyPI package (``"smollm2"``, ``"gemma3-270m"``,
            ``"qwen2.5-coder-1.5b"``), a local folder, or a hub id.
        dtype: ``"auto"`` takes bfloat16 where the processor has it and float32 elsewhere; or name one.
        device: ``"auto"`` takes a GPU if there is one.
        revision: A hub revision.
        state_budget: Bytes for cached text states; None takes 40 % of its device's memory.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if _has_bfloat16(device) else "float32"
    number = getattr(torch, dtype, None)
    if not isinstance(number, torch.dtype) or not number.is_floating_point:
        raise ConfigError("Unknown dtype", got=dtype, expected="auto, bfloat16, float16 or float32")
    model, tokenizer, provenance = load_checkpoint(name, number, revision=revision)
    return FrozenLM(model.to(device), tokenizer, provenance, state_budget)


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _same_for_all(contexts: tuple[tuple[str, ...], ...] | None) -> bool:
    """Whether several queries have the very same exemplars, so that these are shared text."""
    return contexts is not None and len(contexts) > 1 and len(set(contexts)) == 1


def _left_pad(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)


_LIKELY = 256
"""Tokens among which it is looked first for those that hold ``top_p``."""


def _choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """The next token of each row."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    for count in (_LIKELY, probabilities.shape[-1]):  # sorting them all takes longer than a pass of a small model
        some, order = probabilities.topk(min(count, probabilities.shape[-1]))
        if bool((some.sum(-1) >= top_p).all()):
            break
    kept = some * (some.cumsum(-1) - some < top_p)
    return order.gather(-1, torch.multinomial(kept, 1, generator=generator)).squeeze(-1)


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [text.find(mark) for mark in stop if mark in text]
    return text[: min(places)] if places else text
