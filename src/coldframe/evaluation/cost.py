"""The cost of a method: parameters, tokens, floating-point operations, time, memory."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from coldframe.config import Config, check
from coldframe.errors import ModelError, nearest

#: Model types whose feed-forward block is gated (three matrices: gate, up, down).
GATED = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"})
#: Model types with the plain one (two matrices).
PLAIN = frozenset({"bert", "bloom", "falcon", "gpt2", "gpt_neox", "mpnet", "opt", "phi", "roberta"})


#: Timed calls of what takes long.
FEW = 5


@dataclasses.dataclass(frozen=True)
class Cost(Config):
    """What one method costs on one task; None where it was not measured.

    Args:
        trainable_parameters: Parameters that training changes.
        context_tokens: Mean tokens per query that the model reads, soft tokens included.
        prefill_flops: Mean operations of the language model per query, from first token to answer scores.
        shared_flops: Operations spent once for all queries on the text they share (header), not in
            ``prefill_flops``.
        encoder_flops: Mean operations per query outside the language model (encoder, soft-token module).
        latency_ms: Median time per query, retrieval included.
        latency_p90_ms: The time that nine queries of ten stay under.
        peak_memory_mb: Largest memory of the process (or of the accelerator) while 8 queries are answered at once.
    """

    section = "cost"

    trainable_parameters: int = 0
    context_tokens: float | None = None
    prefill_flops: float | None = None
    shared_flops: float | None = None
    encoder_flops: float | None = None
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    peak_memory_mb: float | None = None

    @property
    def flops(self) -> float | None:
        """Operations per query, in the language model and outside it; None if neither was counted."""
        return (self.prefill_flops or 0) + (self.encoder_flops or 0) or None


def weights_of(config: Any) -> int:
    """Weights of the matrices that every token passes in a transformer, embeddings and output head left out.

    Raises:
        ModelError: It is not known whether the feed-forward block of this model type is gated.
    """
    text = config.get_text_config()
    kind = text.model_type
    if kind not in GATED | PLAIN:
        raise ModelError(
            f"No operation count for models of type {kind!r}",
            fix=f"{nearest(kind, GATED | PLAIN)} Add it to GATED or PLAIN in coldframe/evaluation/cost.py.",
        )
    width, heads = text.hidden_size, text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None) or heads
    if kind == "falcon" and not text.new_decoder_architecture:
        kv_heads = 1 if text.multi_query else heads
    sizes = (getattr(text, name, None) for name in ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"))
    inner = next((size for size in sizes if size), 4 * width)
    attention = width * _head_dim(text) * 2 * (heads + kv_heads)
    feed_forward = (3 if kind in GATED else 2) * width * inner
    projections = 2 * width * _embedding(text) if _embedding(text) != width else 0
    return int(text.num_hidden_layers * (attention + feed_forward) + projections)


def _head_dim(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _embedding(text: Any) -> int:
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def prefill_flops(config: Any, tokens: int, *, cached: int = 0, positions: int = 1) -> int:
    """Floating-point operations to read ``tokens`` tokens after ``cached`` ones.

    F = 2 P T + 4 L H d_h T (T_cached + T) + 2 d V n

    P are the weights of the attention and feed-forward matrices (grouped-query attention has smaller key and
    value matrices), n the positions whose output logits are read. A multiply and an add count as two.
    Attention counts in full: what a causal kernel skips is not subtracted, and sliding windows are ignored.
    Norms, activations and biases are left out (below 1%). Agrees with ``torch.utils.flop_counter``.

    Args:
        config: A transformers config; an encoder's too (then ``positions=0``).
        tokens: Tokens read now, soft tokens included: one costs what a text token costs.
        cached: Tokens before them whose keys and values are kept from earlier.
        positions: Positions that the output head is applied to.

    Example:
        >>> from transformers import Qwen3Config
        >>> config = Qwen3Config(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, head_dim=128,
        ...                      num_key_value_heads=8, intermediate_size=3072)
        >>> round(prefill_flops(config, 1, positions=0) / 1e9, 2)
        0.88
    """
    check(min(tokens, cached, positions) >= 0, "Token counts cannot be negative", got=(tokens, cached, positions))
    weights, text = weights_of(config), config.get_text_config()
    width = text.num_attention_heads * _head_dim(text)
    attention = 4 * text.num_hidden_layers * width * tokens * (cached + tokens)
    head = 2 * _embedding(text) * text.vocab_size * positions
    return int(2 * weights * tokens + attention + head)


def mean_prefill_flops(config: Any, lengths: Sequence[int], *, cached: int = 0, positions: int = 1) -> float:
    """``prefill_flops`` averaged over queries of different lengths (attention is not linear in them)."""
    check(len(lengths) > 0, "No lengths to average over")
    return sum(prefill_flops(config, n, cached=cached, positions=positions) for n in lengths) / len(lengths)


def counted_flops(run: Callable[[], object]) -> int:
    """Operations of anything built on torch (an encoder, a soft-token module), counted while it runs once."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not see into the fused attention kernels of the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def latency(
    run: Callable[[], object], *, repeats: int = 20, warm_up: int = 2, seconds: float = math.inf
) -> tuple[float, float]:
    """Median and 90th percentile of the time of one call, in milliseconds.

    Args:
        run: What to time; on an accelerator it must wait for its result.
        repeats: Timed calls, at least 2.
        warm_up: Calls before, not timed.
        seconds: After so many, ``FEW`` timed calls are enough.
    """
    check(repeats >= 2, "Too few repeats for a percentile", got=repeats, expected="at least 2")
    for _ in range(warm_up):
        run()
    times: list[float] = []
    while len(times) < repeats and (len(times) < FEW or sum(times) < 1000 * seconds):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), statistics.quantiles(times, n=10, method="inclusive")[8]
