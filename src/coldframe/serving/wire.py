"""What goes over the wire: a prompt as a server reads it, and vectors as bytes."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from coldframe.errors import ConfigError, NotFiniteError
from coldframe.frozen.ports import Conditioning, broadcast_rows
from coldframe.frozen.states import Row

Embed = Callable[[Sequence[int]], Tensor]

_EXPORT = "Export what was learned (Pipeline.export), and let the server load it: docs/how-to/serve.md."


@dataclasses.dataclass(frozen=True)
class Span:
    """A prompt, or a prompt with the beginning of its answer: token ids, and soft tokens somewhere between them.

    Shapes:
        soft: ``[m, d_model]``, or None where there are none; then ``after`` follows ``before``.
    """

    before: tuple[int, ...]
    soft: Tensor | None = None
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after) + (0 if self.soft is None else len(self.soft))

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids without what stands between them."""
        return self.before + self.after

    def then(self, ids: Sequence[int]) -> Span:
        """The span with tokens that follow it."""
        return dataclasses.replace(self, after=(*self.after, *ids))

    def vectors(self, embed: Embed) -> Tensor:
        """All positions as vectors, ``[positions, d_model]``, float32: soft tokens between embeddings."""
        parts = [embed(ids).float() for ids in (self.before,) if ids]
        parts += [] if self.soft is None else [self.soft.float()]
        parts += [embed(ids).float() for ids in (self.after,) if ids]
        return torch.cat(parts)


def spans(rows: Sequence[Row], bos: int, conditioning: Conditioning) -> list[Span]:
    """Prompts as token ids with a conditioning's soft tokens at their place.

    Args:
        rows: The prompts, text contexts included.
        bos: How many tokens the model puts before every prompt.
        conditioning: Of the same prompts.

    Raises:
        ConfigError: It fills a port that no request can.
    """
    check_ports(conditioning)
    ids = [row.shared + row.own for row in rows]
    if conditioning.soft_tokens is None:
        return [Span(row) for row in ids]
    soft = broadcast_rows(conditioning.soft_tokens.detach(), len(rows)).cpu()
    if conditioning.placement == "suffix":
        return [Span(row, vectors) for row, vectors in zip(ids, soft, strict=True)]
    return [Span(row[:bos], vectors, row[bos:]) for row, vectors in zip(ids, soft, strict=True)]


def check_ports(conditioning: Conditioning) -> None:
    """Raise for a port that a server fills for all its users or not at all."""
    ports = {
        "head gains": (conditioning.head_gains is not None, _EXPORT),
        "weight deltas": (bool(conditioning.deltas), _EXPORT),
        "positions": (conditioning.positions is not None, "Run the model here: coldframe.load_lm."),
    }
    for port, (filled, fix) in ports.items():
        if filled:
            raise ConfigError(f"A request to a server cannot carry {port}", expected="text or soft tokens", fix=fix)


def check_sendable(vectors: Tensor, dtype: torch.dtype, span: Span, query: int) -> None:
    """Raise unless every number is one in the server's dtype too.

    A single NaN or infinity poisons a server's memory for the requests of others, so none may leave this machine.

    Shapes:
        vectors: ``[positions, d_model]``, those of the span.
    """
    bad = (~torch.isfinite(vectors.to(dtype)).all(-1)).nonzero().flatten().tolist()
    if not bad:
        return
    first, soft = bad[0], bad[0] - len(span.before)
    of_soft = span.soft is not None and 0 <= soft < len(span.soft)
    place = f"soft token {soft + 1} of {len(span.soft)}" if of_soft and span.soft is not None else f"row {first + 1}"
    raise NotFiniteError(
        f"The {place} of query {query + 1} is not finite in {str(dtype).removeprefix('torch.')}",
        got=f"{len(bad)} such rows of {len(vectors)}",
        fix="Nothing was sent. The artifact's weights are damaged or too large for the server's dtype: fit again, or "
        "serve in bfloat16 or float32 (and say dtype=...).",
    )


def packed(vectors: Tensor, dtype: torch.dtype) -> str:
    """Vectors as vLLM takes them: ``torch.save`` in base64.

    >>> read = torch.load(io.BytesIO(base64.b64decode(packed(torch.ones(2, 3), torch.float16))), weights_only=True)
    >>> read.shape, read.dtype
    (torch.Size([2, 3]), torch.float16)
    """
    file = io.BytesIO()
    torch.save(vectors.to(dtype).clone(), file)  # of a view, torch saves all that it is a view of
    return base64.b64encode(file.getbuffer()).decode("ascii")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about a span: the log-probabilities of some tokens at its end, or what follows it.

    Attributes:
        span: The prompt.
        query: Its place in the batch, for errors.
        scored: Token ids whose log-probabilities at the next position are asked for.
        max_tokens: How many tokens are written.
        settings: How: ``temperature``, ``top_p``, ``seed``, ``stop`` (texts), ``ends`` (token ids).
    """

    span: Span
    query: int = 0
    scored: tuple[int, ...] = ()
    max_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server said: the tokens that it wrote, and log-probabilities over the vocabulary at the first of them."""

    tokens: tuple[int, ...]
    scores: Mapping[int, float] = dataclasses.field(default_factory=dict)
