"""Rotary positions taken over from outside: the model's own modules run, no modeling code is copied.

A rotary model turns pairs of features of its queries and keys by angles that grow with the position, and only then
looks for its attention function. So two hooks are enough. The module that makes cosines and sines returns those of
angle 0: queries, keys and the keys in the cache stay unturned. The attention function that takes over turns them by
its own angles.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from coldframe.errors import ModelError
from coldframe.frozen.anatomy import BoundAnatomy

NAME = "coldframe-positions"
_MOVING = ("dynamic", "longrope")  # kinds whose angles depend on how long the text is


@dataclasses.dataclass(frozen=True)
class Heads:
    """What the attention of one layer is given, not turned yet.

    Shapes:
        q: ``[batch, heads, Q, d]``, the columns read now; k, v: ``[batch, kv_heads, T, d]``, all columns so far.
        q_at: ``[batch, 1, Q, 1]`` and k_at: ``[batch, 1, T, 1]``, their positions; times frequencies: angles.
        mask: ``[batch, 1, Q, T]``, true where a query may look; None is causal.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    q_at: Tensor
    k_at: Tensor
    mask: Tensor | None
    scale: float

    @property
    def begins(self) -> bool:
        """Whether nothing was read before: the first pass over a prompt."""
        return self.q.shape[2] == self.k.shape[2]

    def mixed(self, q: Tensor, k: Tensor) -> Tensor:
        """The values, mixed by the softmax of turned queries and keys.

        Shapes:
            q: ``[batch, heads, Q, d]``; k: one for each query head, or for each key-value head. Returns as q.
        """
        k, v = for_each_query_head(k, q), for_each_query_head(self.v, q)
        causal = self.mask is None and q.shape[2] > 1
        return nn.functional.scaled_dot_product_attention(q, k, v, self.mask, is_causal=causal, scale=self.scale)


Attend = Callable[[Heads], Tensor]


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs ``(x_i, x_{i+n})`` by ``angles_i``; features after the first ``2 n`` stay (partial rotary).

    Shapes:
        x: ``[batch, heads, T, d]``; angles: ``[batch, 1 or heads, T, n]``, float32. Returns as x.

    >>> x = torch.tensor([[[[1.0, 0.0, 7.0]]]])
    >>> rotate(x, torch.full((1, 1, 1, 1), torch.pi / 2)).round().tolist()
    [[[[-0.0, 1.0, 7.0]]]]
    """
    n = angles.shape[-1]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def for_each_query_head(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values, each as often as there are query heads in its group: ``[batch, heads, T, d]``."""
    times = q.shape[1] // x.shape[1]
    return x if times == 1 else x.repeat_interleave(times, dim=1)


class Rotary:
    """The rotary positions of one model: the angles it uses, and a way to use others.

    Args:
        anatomy: Of the model.

    Raises:
        ModelError: If it has no rotary positions, or they cannot be taken over.
    """

    def __init__(self, anatomy: BoundAnatomy) -> None:
        self.anatomy, kind = anatomy, anatomy.config.model_type
        if anatomy.position != "rope":
            raise ModelError(
                "Only rotary positions (RoPE) can be scaled or given another base",
                got=f"a {kind} model, whose positions are {anatomy.position}",
                fix="Take a llama, mistral, qwen2, qwen3 or gemma3 model; PEAR works with any positions.",
            )
        module = getattr(anatomy.body, "rotary_emb", None)
        if module is None or not anatomy.model._can_set_attn_implementation():
            raise ModelError(f"The attention of a {kind} model cannot be replaced from outside")
        if getattr(anatomy.config, "attn_logit_softcapping", None) is not None:
            raise ModelError("Soft-capped attention scores are not supported here", got=f"a {kind} model that has them")
        kinds = module.rope_type.values() if isinstance(module.rope_type, dict) else [module.rope_type]
        if moving := [kind for kind in kinds if kind in _MOVING]:
            raise ModelError(
                "The angles of this model depend on the length of the text",
                got=f"rope_type {moving[0]!r}",
                expected="default, linear, llama3 or yarn",
            )
        self.module: nn.Module = module

    def frequencies(self, times: Sequence[float] = (1.0,)) -> list[Tensor]:
        """Angle per position of every pair, if the model's RoPE base were ``times`` as large; layer by layer.

            theta_i = (times base)^(-2 i / d)     and then whatever the model's kind of scaling does to it

        The model's own module is built anew from a changed config, so this is what the same checkpoint would do
        with another ``rope_theta``. Layers with different bases (Gemma 3) are changed by the same factor.

        Shapes:
            Returns for each layer ``[len(times), n]``, float32, on the model's device.
        """
        modules = []
        for factor in times:
            config = copy.deepcopy(self.anatomy.config)
            by_kind_of_layer = [values for values in config.rope_parameters.values() if isinstance(values, dict)]
            for parameters in by_kind_of_layer or [config.rope_parameters]:
                parameters["rope_theta"] *= factor
            modules.append(type(self.module)(config))
        names = [f"{self._prefix(layer)}inv_freq" for layer in range(self.anatomy.n_layers)]
        angles = [torch.stack([getattr(module, name).float() for module in modules]) for name in names]
        return [of_layer.to(self.anatomy.model.device) for of_layer in angles]

    @contextmanager
    def taken_over(self, attend: Attend) -> Iterator[None]:
        """Let ``attend`` be the attention of every layer while the block runs; nothing is left behind.

        Keys that are cached inside are not turned, so a cache from outside is of no use here, nor the other way.
        Rows may be padded on the left; a row's real columns follow each other without a gap.

        Args:
            attend: Given the unturned :class:`Heads` of a layer, returns its output, ``[batch, heads, Q, d]``.
        """
        model, before = self.anatomy.model, self.anatomy.config._attn_implementation
        takeover = _Takeover(self.module, attend)
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        token = _ACTIVE.set(takeover)
        handle = self.module.register_forward_hook(takeover.stand_still, with_kwargs=True)
        try:
            model.set_attn_implementation(NAME)
            yield
        finally:
            model.set_attn_implementation(before)
            handle.remove()
            _ACTIVE.reset(token)

    def _prefix(self, layer: int) -> str:
        """What stands before ``inv_freq`` where kinds of layers have angles of their own."""
        kinds = getattr(self.anatomy.config, "layer_types", None)
        prefix = f"{kinds[layer]}_" if kinds else ""
        return prefix if hasattr(self.module, f"{prefix}inv_freq") else ""


class PositionScheme(ABC):
    """The attention of all layers under other positions, for one batch of queries: what a ``Conditioning`` holds.

    The model is changed only while it runs under :meth:`reading`: between calls it is the base model, to the bit.

    Attributes:
        copies: Rows that every prompt is read as, beside each other.
    """

    copies: int = 1

    @abstractmethod
    def attend(self, at: Heads) -> Tensor:
        """The output of a layer's heads, ``[batch * copies, heads, Q, d]``."""

    def mix(self, logits: Tensor) -> Tensor:
        """Logits of a prompt out of those of its copies: ``[batch * copies, ..., vocab] -> [batch, ..., vocab]``."""
        return logits

    def reading(self, anatomy: BoundAnatomy) -> AbstractContextManager[None]:
        """``attend`` in the place of a model's attention while the block runs."""
        return Rotary(anatomy).taken_over(self.attend)


class _Takeover:
    """One running takeover: the positions of the columns that are read now, and who attends."""

    positions: Tensor

    def __init__(self, module: nn.Module, attend: Attend) -> None:
        self.attend, self.signature = attend, inspect.signature(module.forward)

    def stand_still(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Note the positions; answer with angle 0 (and the model's own factor on cosines, where it has one)."""
        inputs = self.signature.bind(*args, **kwargs).arguments
        self.positions = inputs["position_ids"]
        prefix = f"{inputs['layer_type']}_" if "layer_type" in inputs else ""
        cos, sin = output
        return torch.full_like(cos, getattr(module, f"{prefix}attention_scaling")), torch.zeros_like(sin)

    def heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None) -> Heads:
        """What the layer is given, with the positions of all its keys."""
        q_at = self.positions.expand(q.shape[0], -1)
        cached = k.shape[2] - q.shape[2]
        # The columns before these, counted backwards; pads in front of a row come out negative, and are masked.
        steps = torch.arange(-cached, 0, device=q_at.device)
        k_at = torch.cat(((q_at[:, :1] + steps).clamp(min=0), q_at), dim=1)
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return Heads(layer, q, k, v, q_at[:, None, :, None], k_at[:, None, :, None], mask, scale)


_ACTIVE: ContextVar[_Takeover] = ContextVar("coldframe_positions")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers finds under ``NAME``; returns ``[batch, Q, heads, d]``."""
    takeover = _ACTIVE.get()
    heads = takeover.heads(module.layer_idx, query, key, value, attention_mask, scaling)
    return takeover.attend(heads).transpose(1, 2), None
