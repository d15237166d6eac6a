"""How head gains and weight deltas reach an unmodified model: hooks, installed for one forward pass.

A hook holds for every thread that runs the model, so each of these blocks holds the model's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from coldframe.errors import ConfigError
from coldframe.frozen.anatomy import BoundAnatomy
from coldframe.frozen.locks import lock_of
from coldframe.frozen.ports import Conditioning, LowRank


@contextmanager
def backbone_ports(model: nn.Module, anatomy: BoundAnatomy, conditioning: Conditioning) -> Iterator[None]:
    """Apply the head-gain and weight-delta ports while the block runs; nothing is left behind.

    Other threads wait until it has ended.
    """
    gains, layers = conditioning.head_gains, None
    if gains is not None and not gains.requires_grad:
        layers = (gains != 1).any(1).nonzero().flatten().tolist()  # a layer whose gains are all 1 is left alone
    positions = conditioning.positions
    with (
        weight_deltas(model, conditioning.deltas),
        nullcontext() if gains is None else head_gains(anatomy, gains, layers),
        nullcontext() if positions is None else positions.reading(anatomy),
    ):
        yield


@contextmanager
def head_gains(anatomy: BoundAnatomy, gains: Tensor, layers: Iterable[int] | None = None) -> Iterator[None]:
    """Multiply every query head's output by its gain while the block runs.

    Args:
        anatomy: Of the model.
        gains: One for each head, as they are throughout.
        layers: Where they are put in; everywhere, if None. A gradient goes no further down than the lowest of these.

    Shapes:
        gains: ``[layers, query_heads]``.
    """
    with lock_of(anatomy.model):
        handles = attach_head_gains(anatomy, gains, layers)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def attach_head_gains(
    anatomy: BoundAnatomy, gains: Tensor, layers: Iterable[int] | None = None
) -> list[torch.utils.hooks.RemovableHandle]:
    """As :func:`head_gains`, from now on, until the handles are removed."""
    expected = (anatomy.n_layers, anatomy.n_heads)
    if tuple(gains.shape) != expected:
        raise ConfigError("Head gains have the wrong shape", got=tuple(gains.shape), expected=expected)
    return [
        anatomy.o_proj(layer).register_forward_pre_hook(_gain_hook(gains[layer], anatomy.head_dim))
        for layer in (range(anatomy.n_layers) if layers is None else sorted(set(layers)))
    ]


@contextmanager
def weight_deltas(model: nn.Module, deltas: Mapping[str, LowRank]) -> Iterator[None]:
    """Add low-rank updates to linears of any model, by name, while the block runs."""
    handles: list[torch.utils.hooks.RemovableHandle] = []
    with lock_of(model):
        try:
            for name, delta in deltas.items():
                handles.append(_submodule(model, name).register_forward_hook(_delta_hook(delta)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ConfigError(
            f"A weight delta names {name!r}, which this model does not have",
            fix="Use the names of FrozenLM.anatomy.linears().",
        ) from None


def _gain_hook(gains: Tensor, head_dim: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        # In float32: near 1 a bf16 gain moves in steps of 0.004 to 0.008.
        scaled = (x.float() * gains.float().repeat_interleave(head_dim)).to(x.dtype)
        return (scaled, *args[1:])

    return hook


def _delta_hook(delta: LowRank) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    # A written answer comes by here once for every token, so what is made of the factors is kept.
    thin: tuple[Tensor, Tensor] | None = None
    cast: LowRank | None = None

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        nonlocal thin, cast
        x = args[0]
        if torch.is_grad_enabled():
            return add_low_rank(output, x, delta)
        if x.device.type != "cpu" or x.numel() // x.shape[-1] > FEW:
            if cast is None or cast.a.dtype != x.dtype:
                cast = LowRank(delta.a.to(x.dtype), delta.b.to(x.dtype), delta.scale)
            return add_low_rank(output, x, cast)
        if thin is None:
            thin = (delta.a.float().mT.contiguous(), (delta.b.float() * delta.scale).mT.contiguous())
        return _add_thin(output, x, *thin)

    return hook


FEW = 128
"""Tokens of a batch up to which products this thin are faster in float32 on a CPU: threefold, for one of each row."""


def _add_thin(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``y + (x down) up`` written into ``y``, which a linear has just made; the sum is rounded once.

    Shapes:
        y: ``[batch, tokens, out]``; x: ``[batch, tokens, in]`` (both may be ``[batch * tokens, ..]``);
        down: ``[in, r]`` or ``[batch, in, r]``; up: ``[r, out]`` or ``[batch, r, out]``; float32. Returns y.
    """
    d_in, d_out = x.shape[-1], y.shape[-1]
    if down.dim() == 3 and len(down) > 1:
        rows = len(down)
        update = torch.bmm(torch.bmm(x.reshape(rows, -1, d_in).float(), down), up)
    else:
        down, up = down.view(d_in, -1), up.view(-1, d_out)
        update = torch.mm(torch.mm(x.reshape(-1, d_in).float(), down), up)
    return y.add_(update.view_as(y))


def add_low_rank(y: Tensor, x: Tensor, delta: LowRank) -> Tensor:
    """``y + scale * (x A^T) B^T``, with one A and B for all rows or a different pair for every row.

    The sum and the scale are part of the second product: on their own each would read and write all of ``y`` again,
    which takes longer than the product.

    Shapes:
        y: ``[batch, tokens, out]``; x: ``[batch, tokens, in]`` (both may be ``[batch * tokens, ..]``). Returns as y.
    """
    d_in = x.shape[-1]
    a, b = delta.a.to(x.dtype), delta.b.to(x.dtype)
    if delta.a.dim() == 3:
        inner = torch.bmm(x.reshape(len(a), -1, d_in), a.mT)
        total = torch.baddbmm(y.reshape(len(a), -1, y.shape[-1]), inner, b.mT, alpha=delta.scale)
    else:
        total = torch.addmm(y.flatten(0, -2), x.flatten(0, -2) @ a.T, b.T, alpha=delta.scale)
    return total.view_as(y)
