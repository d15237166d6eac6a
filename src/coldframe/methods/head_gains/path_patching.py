"""Path patching of every head at once: one clean pass, and behind it one position through the feed-forward blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coldframe.errors import ModelError
from coldframe.frozen.anatomy import BoundAnatomy
from coldframe.frozen.float32 import in_float32
from coldframe.frozen.model import FrozenLM

MeanOver = Literal["batch", "sequence"]
_CHUNK_TOKENS = 1024  # patched tokens in one call of a block: full matmul speed, within the processor's cache


@torch.no_grad()
def path_patching(lm: FrozenLM, ids: Tensor, mean_over: MeanOver = "batch") -> tuple[Tensor, Tensor]:
    """Final hidden states at the last position: of the clean run, and with each head in turn at its mean.

    With ``z`` the heads' outputs at that position in layer ``l``, and ``z'`` the same with head ``h`` at its mean:

        r_l     = block_l(clean input; O_l z')
        r_{k+1} = block_{k+1}(r_k; a_{k+1})        k = l .. L - 1

    where ``block_k(r; a)`` is the model's own block, its attention answering ``a``, and ``a_k`` is what it answered
    in the clean run. So ``q``, ``k``, ``v`` of every other head are at their clean values, the receiver is the last
    residual, and the effect goes through feed-forward blocks alone: path patching, exactly. Biases of the output
    projection, norms after the attention and blocks whose feed-forward runs beside it are the model's own.

    Paper: Tan et al. 2025 (PEAR), arXiv 2409.19745, after Wang et al. 2022, arXiv 2211.00593.

    Args:
        lm: The model. Its weights are the same tensors afterwards.
        ids: Token ids.
        mean_over: A head's mean over the sequences at the last position (``batch``), or over the positions of
            each sequence.

    Shapes:
        ids: ``[N, tokens]``. Returns ``[N, d]`` and ``[layers, heads, N, d]``, float32, ``d`` as ``lm_head``
        takes it.

    Raises:
        ModelError: If a layer gives values that are not finite.

    Cost:
        One pass over the sequences, and ``layers^2 heads N / 2`` tokens through a feed-forward block each (the
        naive loop: ``layers heads`` passes). Computed in float32 layer by layer, so beside the model's own weights
        it holds one block's in float32, ``4 layers heads N d_model`` bytes, and one layer's activations.
    """
    anatomy = lm.anatomy
    inside = {id(p) for module in (anatomy.layers, anatomy.embeddings) for p in module.parameters()}
    with in_float32(anatomy.embeddings.parameters()):
        embeds = lm.embed(ids).float()
    with ExitStack() as stack:
        stack.enter_context(in_float32(p for p in anatomy.body.parameters() if id(p) not in inside))
        sweep = _Sweep(anatomy, mean_over)
        for index in range(anatomy.n_layers):
            stack.enter_context(sweep.watched(index))
        clean = lm.body(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1]
        patched = anatomy.after_layers(sweep.residuals)
    return clean, patched.view(anatomy.n_layers, anatomy.n_heads, len(ids), -1)


class _Sweep:
    """The patched residuals, moved through a block as soon as the clean run has left it."""

    residuals: Tensor

    def __init__(self, anatomy: BoundAnatomy, mean_over: MeanOver) -> None:
        self.anatomy, self.mean_over = anatomy, mean_over

    @contextmanager
    def watched(self, index: int) -> Iterator[None]:
        """Hooks on one block: float32 while it runs, and the patched rows after the clean ones."""
        block, o_proj = self.anatomy.layer(index), self.anatomy.o_proj(index)
        float32 = ExitStack()
        clean: dict[str, Any] = {}

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            float32.enter_context(in_float32(block.parameters()))
            clean["call"] = args, kwargs

        def project(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            clean["heads"], clean["answer"] = args[0], output

        def leave(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            hidden = _first(output)
            if not bool(torch.isfinite(hidden).all()):
                raise ModelError(
                    f"Layer {index} of the model gives values that are not finite",
                    fix="Load the weights as bfloat16 or float32; if it stays so, the checkpoint is damaged.",
                )
            self._patch(index, clean["call"], clean["heads"], clean["answer"], hidden)
            clean.clear()
            float32.close()

        handles = [
            block.register_forward_pre_hook(enter, with_kwargs=True),
            o_proj.register_forward_hook(project),
            block.register_forward_hook(leave),
        ]
        try:
            yield
        finally:
            float32.close()
            for handle in handles:
                handle.remove()

    def _patch(self, index: int, call: Any, heads: Tensor, answer: Tensor, hidden: Tensor) -> None:
        """Rows of earlier layers go on with the clean answer; this layer's heads begin as new rows."""
        args, kwargs = call
        n, tokens = hidden.shape[:2]
        entering = (args[0] if args else kwargs["hidden_states"])[:, -1]
        n_heads, dim = self.anatomy.n_heads, self.anatomy.head_dim
        if index == 0:
            self.residuals = entering.new_empty(self.anatomy.n_layers * n_heads, n, entering.shape[-1])
        z = heads.reshape(n, tokens, n_heads, dim)
        mean = z[:, -1].mean(0, keepdim=True) if self.mean_over == "batch" else z.mean(1)
        replaced = z[:, -1].repeat(n_heads, 1, 1, 1)
        heads_in_turn = torch.arange(n_heads, device=z.device)
        replaced[heads_in_turn, :, heads_in_turn] = mean.expand(n, n_heads, dim).transpose(0, 1)
        # Not the module but its forward: hooks are for the clean run.
        patched = self.anatomy.o_proj(index).forward(replaced.reshape(n_heads, n, n_heads * dim))
        clean = answer.reshape(n, tokens, -1)[:, -1]
        before, after = index * n_heads, (index + 1) * n_heads
        old, new = self.residuals[:before], self.residuals[before:after]
        self._through(index, call, old, clean.expand_as(old), old)
        self._through(index, call, entering.expand_as(new), patched, new)

    def _through(self, index: int, call: Any, residuals: Tensor, answers: Tensor, out: Tensor) -> None:
        """Block ``index`` over rows ``[rows, N, d_model]``, its attention answering ``answers``."""
        args, kwargs = call
        block, attention = self.anatomy.layer(index), self.anatomy.attention(index)
        place = self.anatomy.anatomy.residual
        size = max(1, _CHUNK_TOKENS // residuals.shape[1])
        for start in range(0, len(residuals), size):
            part = slice(start, start + size)

            def answering(*inputs: Any, part: slice = part, **_: Any) -> tuple[Tensor, None]:
                return (answers[part] if place is None else answers[part] + inputs[place]), None

            with _replaced_forward(attention, answering):
                if args:
                    output = block.forward(residuals[part], *args[1:], **kwargs)
                else:
                    output = block.forward(**{**kwargs, "hidden_states": residuals[part]})
            out[part] = _first(output)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """``module`` answers with another function while the block runs."""
    original = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if original is None:
            del module.forward
        else:
            module.forward = original


def _first(output: Any) -> Tensor:
    """The hidden states among what a block returns."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
