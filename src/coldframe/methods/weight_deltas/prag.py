"""PRAG: one low-rank adapter for every passage, many of them trained in one pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from coldframe.config import check
from coldframe.errors import TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.adapters import Layout

_TOKENS, _PASSAGES = 4096, 64  # on a processor: some gigabytes at most, and more at once is no faster


@dataclasses.dataclass(frozen=True)
class PRAGConfig(AdapterConfig):
    """Settings of PRAG, beside those of all :class:`AdapterConfig`.

    The paper has a learning rate of 3e-4 and one or two epochs, over longer sequences than ours.

    Args:
        per_step: Sequences of one passage in an optimiser step, at least 1 (the paper's); their mean loss counts.
        at_once: Passages trained together, at least 1. It changes time and memory, and nothing else. None: 64 on a
            processor, and on a GPU as many as fit.
    """

    section = "PRAG settings"

    per_step: int = 1
    at_once: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_step", "at_once"):
            value = getattr(self, name)
            if name == "per_step" or value is not None:
                check(value >= 1, f"{name} must be positive", got=value, expected="at least 1")


def train_adapters(
    lm: FrozenLM,
    layout: Layout,
    config: PRAGConfig,
    passages: Sequence[Sequence[TokenSequence]],
    names: Sequence[str] = (),
    report: Callable[[int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""An adapter for each of some passages, trained side by side.

    ``y = W x + (alpha / r) B_p A_p x``, with ``A_p`` in ``R^{r x in}`` and ``B_p`` in ``R^{out x r}`` for passage p;
    in a batch every row has the pair of its own passage, so that one pass through the frozen model serves all::

        L = sum_p mean over p's sequences of this step of their loss

    The passages' gradients and steps of AdamW do not touch each other, so the result is that of training them one
    after the other, to rounding. All start from the same A, and B = 0.

    Paper: Su et al. 2025, arXiv 2501.15915. Its code: batch 1, float32, no shuffling, AdamW with weight decay 0.01.

    Args:
        lm: The model.
        layout: Of the adapters.
        config: How.
        passages: The sequences of each passage, as many for one as for the next: see :func:`batches`.
        names: Of the passages, for errors.
        report: Told after each step: how many there are now, and the mean loss.

    Returns:
        Adapters, float32 ``[passages, N]``, and losses of the last epoch, ``[passages]``.

    Raises:
        TrainingError: A loss is not finite; names the passage.
    """
    count = len(passages[0])
    check(all(len(one) == count for one in passages), "Passages that are trained together need as many sequences each")
    flat = layout.start(config.seed).to(lm.device).repeat(len(passages), 1).requires_grad_()
    # Fused: one pass over memory instead of a dozen.
    optimizer = torch.optim.AdamW([flat], lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    last = torch.zeros(len(passages), device=lm.device)
    steps = math.ceil(count / config.per_step)
    for epoch in range(config.epochs):
        for step in range(steps):
            chosen = [one[step * config.per_step : (step + 1) * config.per_step] for one in passages]
            each = len(chosen[0])
            optimizer.zero_grad()
            rows = flat if each == 1 else flat.repeat_interleave(each, 0)
            deltas = layout.deltas(layout.factors(rows), config.scale)
            sequences = [sequence for some in chosen for sequence in some]
            losses = mean_nll(lm, sequences, Conditioning(deltas=deltas)).view(len(passages), each).mean(1)
            if not bool(losses.isfinite().all()):
                wrong = int((~losses.isfinite()).nonzero()[0])
                raise TrainingError(
                    f"The loss of passage {names[wrong] if names else wrong} is not finite",
                    fix="Lower the learning rate, or look at the passage. What was finished before is kept.",
                )
            losses.sum().backward()
            optimizer.step()
            if epoch == config.epochs - 1:
                last += losses.detach() * each / count
            if report is not None:
                report(epoch * steps + step + 1, float(losses.detach().mean()))
    return flat.detach().cpu(), last.cpu()


def training_tokens(lm: FrozenLM) -> int:
    """Tokens, pads included, that go through the model together with gradient.

    On a GPU as many as fill a quarter of its memory with what the backward pass needs: about twice what goes into and
    out of every linear. The rest is for the model, the adapters and their optimiser.
    """
    if not lm.on_gpu:
        return _TOKENS
    one = 2 * sum(linear.d_in + linear.d_out for linear in lm.anatomy.linears()) * lm.dtype.itemsize
    total: int = torch.cuda.get_device_properties(lm.device).total_memory
    return max(_TOKENS, total // 4 // one)


def batches(lm: FrozenLM, passages: Sequence[Sequence[TokenSequence]], config: PRAGConfig) -> Iterator[list[int]]:
    """Positions of passages that can be trained together: as many sequences each, of like length."""

    def longest(i: int) -> int:
        return max(map(len, passages[i]))

    most = config.at_once or (len(passages) if lm.on_gpu else _PASSAGES)
    tokens, batch = training_tokens(lm), list[int]()
    for i in sorted(range(len(passages)), key=lambda i: (len(passages[i]), longest(i), i)):
        each = min(config.per_step, len(passages[i]))
        full = len(batch) == most or (len(batch) + 1) * each * longest(i) > tokens
        if batch and (full or len(passages[i]) != len(passages[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
