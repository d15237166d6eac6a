"""Effects of heads the slow way, one run for each; and their estimate from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coldframe.frozen.float32 import in_float32
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.path_patching import MeanOver
from coldframe.methods.head_gains.proxy import centred_logit


@torch.no_grad()
def one_by_one(
    lm: FrozenLM,
    ids: Tensor,
    mean_over: MeanOver = "batch",
    frozen: bool = False,
    heads: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Final hidden states at the last position: of the clean run, and of a run with each head at its mean there.

    Args:
        lm: The model, run in float32.
        ids: Token ids.
        mean_over: As for :func:`~coldframe.methods.head_gains.path_patching.path_patching`.
        frozen: Whether ``q``, ``k`` and ``v`` of every head are held at their clean values: path patching as it is
            written down, what the fast form is tested against. Otherwise all that comes after the head
            follows: plain ablation.
        heads: Which ``(layer, head)``; all of them if None.

    Shapes:
        ids: ``[N, tokens]``. Returns ``[N, d]`` and ``[len(heads), N, d]``.

    Cost: ``len(heads) + 1`` runs of the whole model, and all its weights in float32.
    """
    anatomy = lm.anatomy
    if heads is None:
        heads = [(layer, head) for layer in range(anatomy.n_layers) for head in range(anatomy.n_heads)]
    qkv = [at for at in anatomy.linears("attention") if not at.name.endswith(anatomy.anatomy.o_proj)]
    z: dict[int, Tensor] = {}
    projected: dict[str, Tensor] = {}

    def last_hidden() -> Tensor:
        states: Tensor = lm.body(inputs_embeds=lm.embed(ids), use_cache=False).last_hidden_state
        return states[:, -1]

    hidden = []
    with in_float32(lm.model.parameters()):
        with ExitStack() as hooks:
            for layer in range(anatomy.n_layers):
                _on_input(hooks, anatomy.o_proj(layer), partial(z.__setitem__, layer))
            for at in qkv:
                _on_output(hooks, at.module, partial(projected.__setitem__, at.name))
            clean = last_hidden()
        for layer, head in heads:
            part = slice(head * anatomy.head_dim, (head + 1) * anatomy.head_dim)
            replaced = z[layer].clone()
            replaced[:, -1, part] = mean_of_heads(z[layer], mean_over)[:, part]
            with ExitStack() as hooks:
                _on_input(hooks, anatomy.o_proj(layer), _always(replaced))
                for at in qkv if frozen else ():
                    _on_output(hooks, at.module, _always(projected[at.name]))
                hidden.append(last_hidden())
    return clean, torch.stack(hidden)


def attribution(lm: FrozenLM, ids: Tensor, targets: Tensor, mean_over: MeanOver = "batch") -> tuple[Tensor, Tensor]:
    """First-order estimate of plain ablation for every head, from one backward pass.

        pi~(l, h) - pi  is about  (mean(z_{l,h}) - z_{l,h}) . d pi / d z_{l,h}

    Paper: Syed et al. 2023, arXiv 2310.10348 (attribution patching, after Nanda).

    Shapes:
        ids: ``[N, tokens]``; targets, whose centred logit is ``pi``: ``[N]``. Returns ``pi``, ``[N]``, and the
        estimates of ``pi~``, ``[layers, heads, N]``.

    Cost: a forward and a backward pass, the activations of one run, and all weights in float32.
    """
    anatomy, z = lm.anatomy, list[Tensor]()
    with in_float32(lm.model.parameters()), torch.enable_grad(), ExitStack() as hooks:
        for layer in range(anatomy.n_layers):
            _on_input(hooks, anatomy.o_proj(layer), z.append)
        embeds = lm.embed(ids).detach().requires_grad_()
        pi = centred_logit(lm, lm.body(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1], targets)
        slopes = torch.autograd.grad(pi.sum(), z)
    pi = pi.detach()
    estimates = []
    for heads, slope in zip(z, slopes, strict=True):
        change = (mean_of_heads(heads.detach(), mean_over) - heads.detach()[:, -1]) * slope[:, -1]
        estimates.append(pi + change.view(len(ids), anatomy.n_heads, anatomy.head_dim).sum(-1).T)
    return pi, torch.stack(estimates)


def mean_of_heads(z: Tensor, mean_over: MeanOver) -> Tensor:
    """What takes a head's place at the last position.

    Shapes:
        z: ``[N, tokens, heads * head_dim]`` -> ``[1 or N, heads * head_dim]``.
    """
    return z[:, -1].mean(0, keepdim=True) if mean_over == "batch" else z.mean(1)


def _always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value


def _on_input(hooks: ExitStack, module: nn.Module, act: Callable[[Tensor], Any]) -> None:
    """Call ``act`` with a module's input until the stack closes; its result, unless None, replaces the input."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replacement = act(args[0])
        return None if replacement is None else (replacement, *args[1:])

    hooks.callback(module.register_forward_pre_hook(hook).remove)


def _on_output(hooks: ExitStack, module: nn.Module, act: Callable[[Tensor], Any]) -> None:
    """The same with a module's output."""
    hooks.callback(module.register_forward_hook(lambda _, __, output: act(output)).remove)
