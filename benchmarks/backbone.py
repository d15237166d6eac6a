"""How near the frozen backbone comes to the rate of its own matrix products, and where the rest goes.

    python -m benchmarks.backbone

A forward and backward pass (gradients to the inputs only: the weights are frozen) against nothing but the matrix
products of all its linears, forward and backward, on the same weights, with the same shapes, in the same process.
The rate is the ratio of the two times, as both do the same products. Three shapes of work: `prefix` (texts with soft
tokens before them, in batches), `suffix` (soft tokens after texts whose states are kept) and `reading` (texts
without gradient, as when states are computed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import TOKENS, Way, arguments, goal, interleaved, loaded, rates, say, tell
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.states import Prefilled, TextState, assemble

# Where an operator's own time is booked, by its name in the profile; the first that fits counts.
PLACES = {
    "matrix products of the linears": ("aten::mm", "aten::addmm"),
    "attention": ("attention", "aten::bmm", "aten::baddbmm", "softmax", "masked_fill", "aten::where"),
    "copies": ("copy", "aten::cat", "clone", "fill_", "zero", "contiguous"),
    "norms, rotations, activations, sums": (
        "mul", "add", "silu", "gelu", "tanh", "pow", "mean", "aten::sum", "sqrt", "div", "neg", "sub", "norm",
    ),
}  # fmt: skip
REST = "the rest: dispatch, autograd, Python"


def body(lm: FrozenLM, embeds: Tensor, ready: Callable[[], Prefilled] | None) -> Tensor:
    """Final hidden states of a batch of embeddings, after kept text if there is any."""
    if ready is None:
        hidden: Tensor = lm.body(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]).long())[0]
        return hidden
    return lm.follow(ready(), embeds)[0]


def products(lm: FrozenLM, rows: int, backward: bool) -> Way:
    """All the linears' products on random numbers; nothing else."""
    linears = lm.anatomy.linears()
    weights = [at.module.weight if isinstance(at.module, nn.Linear) else at.module.weight.T for at in linears]
    inputs = {n: torch.randn(rows, n, dtype=lm.dtype, device=lm.device) for at in linears for n in (at.d_in, at.d_out)}

    @torch.no_grad()
    def run(_: None) -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)
        for weight in reversed(weights if backward else []):
            inputs[weight.shape[0]] @ weight

    return Way(run)


def kept(lm: FrozenLM, batch: int, columns: int) -> Callable[[], Prefilled]:
    """A batch of states of as many text tokens, put together anew at each call as in training."""
    anatomy, config = lm.anatomy, lm.anatomy.config
    heads = getattr(config, "num_key_value_heads", None) or anatomy.n_heads
    shape = (anatomy.n_layers, 2, heads, columns, anatomy.head_dim)
    states = [
        TextState(torch.randn(shape, dtype=lm.dtype), torch.randn(lm.d_model, dtype=lm.dtype)) for _ in range(batch)
    ]
    return lambda: assemble(None, states)


def work(lm: FrozenLM, batch: int, tokens: int, backward: bool, columns: int = 0) -> Way:
    """The backbone over a batch of embeddings."""
    # The scale of real embeddings: far smaller numbers would reach denormals in the backward pass.
    embeds = lm.embed(torch.randint(lm.anatomy.vocab_size, (batch, tokens))).clone().requires_grad_(backward)
    ready = kept(lm, batch, columns) if columns else None

    def run(_: None) -> None:
        with torch.set_grad_enabled(backward):
            hidden = body(lm, embeds, ready)
            if backward:
                hidden[:, -1].float().square().mean().backward()

    return Way(run)


def where(way: Way) -> dict[str, float]:
    """Shares of one run's time."""
    way.run(None)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        way.run(None)
    shares = dict.fromkeys((*PLACES, REST), 0.0)
    for event in profiled.key_averages():
        place = next(
            (p for p, names in PLACES.items() if event.key.startswith("aten::") and any(n in event.key for n in names)),
            REST,
        )
        shares[place] += event.self_cpu_time_total
    total = sum(shares.values())
    return {place: share / total for place, share in shares.items()}


def measure(lm: FrozenLM, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Rates and shares of the three shapes of work."""
    shapes = {
        "prefix": (batch, tokens + TOKENS, True, 0),
        "suffix": (batch, TOKENS, True, tokens),
        "reading": (batch, tokens, False, 0),
    }
    result: dict[str, Any] = {"batch": batch, "text_tokens": tokens, "soft_tokens": TOKENS, "rounds": rounds}
    goals = []
    for name, (n, length, backward, columns) in shapes.items():
        ways = {"backbone": work(lm, n, length, backward, columns), "products": products(lm, n * length, backward)}
        interleaved(ways, 1)  # warm up
        line = rates(interleaved(ways, rounds), n, "products")[0]
        weights = sum(at.d_in * at.d_out for at in lm.anatomy.linears())
        gflops = line["rows_per_s"] * length * weights * (4 if backward else 2) / 1e9
        shares = where(ways["backbone"])
        result[name] = {**line, "gflop_per_s": gflops, "shares": shares}
        for place, share in shares.items():
            say(f"    {share:6.1%}  {place}")
        goals.append(goal(f"backbone's rate, of its matrix products' alone: {name}", line["ratio"], 0.7))
    return {**result, "goals": goals}


def main() -> None:
    options = arguments(__doc__, batch=32, tokens=52, rounds=9)
    lm, _ = loaded(options)
    tell(measure(lm, options.batch, options.tokens, options.rounds), lm)


if __name__ == "__main__":
    main()
