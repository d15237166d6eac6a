"""States of frozen text: computed once without gradient, kept, and put back together in batches.

With suffix placement the keys and values of a query's text depend on the model and the text alone, so one
cache serves every epoch, seed, soft-token method, ablation, and the zero-shot control.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from coldframe.config import check
from coldframe.frozen.memory import usable_memory


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt as token ids: ``shared`` stands first and is the same for many rows."""

    shared: tuple[int, ...]
    own: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.shared) + len(self.own)


@dataclasses.dataclass(frozen=True)
class TextState:
    """Frozen states of a run of tokens.

    Shapes:
        kv: ``[layers, 2, kv_heads, tokens, head_dim]``, keys and values.
        last: ``[d_model]``, the final hidden state of the last token.
    """

    kv: Tensor
    last: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.kv.nbytes + self.last.nbytes


_SHARING: weakref.WeakSet[StateCache] = weakref.WeakSet()
_GUARD = threading.Lock()  # of what is shared: each model has a lock of its own


class StateCache:
    """Keeps states within a byte budget.

    Once a state does not fit, the cache takes no more and keeps what it has. Training reads its rows in cycles, where
    evicting the oldest entry would evict every entry just before it is needed; and what the cache holds then depends
    only on what was read first.

    Args:
        budget: Bytes it may hold. None: 40 % of what the process may use of the device's memory (limits of a container
            count), together with all other such caches of the process.
        device: Where the states lie.
    """

    def __init__(self, budget: int | None = None, device: torch.device | None = None) -> None:
        check(budget is None or budget >= 0, "A cache budget cannot be negative", got=budget)
        self.budget = int(0.4 * usable_memory(device)) if budget is None else budget
        self.used, self.full = 0, False
        self._device = str(device or "cpu")
        with _GUARD:
            if budget is None:
                _SHARING.add(self)
        self._states: dict[tuple[tuple[int, ...], tuple[int, ...]], TextState] = {}

    def get(self, shared: tuple[int, ...], own: tuple[int, ...]) -> TextState | None:
        """The state of ``own`` after ``shared``, if held."""
        return self._states.get((shared, own))

    def put(self, shared: tuple[int, ...], own: tuple[int, ...], state: TextState) -> None:
        """Keep a state, unless one before it did not fit."""
        if (shared, own) in self._states:
            return
        with _GUARD:
            self.full = self.full or self._held() + state.nbytes > self.budget
            if not self.full:
                self._states[shared, own] = state
                self.used += state.nbytes

    def _held(self) -> int:
        """Bytes in this cache, and in those that share its budget."""
        if self not in _SHARING:
            return self.used
        return sum(cache.used for cache in _SHARING if cache._device == self._device)

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self.used, self.full = 0, False

    def __len__(self) -> int:
        return len(self._states)


@dataclasses.dataclass
class Prefilled:
    """A batch of prompts a model has read, right-aligned: every row's last token is in the last column.

    Shapes:
        last: ``[batch, d_model]``, final hidden state that predicts the next token.
        mask: ``[batch, columns]``, 1 where a column is real.
        lengths: ``[batch]``, real tokens of each row (soft tokens count), the next position id.
    """

    last: Tensor
    cache: DynamicCache | None
    mask: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def repeat(self, times: int) -> Prefilled:
        """Every row ``times`` times, neighbours together; what follows these does not follow the first ones."""

        def repeated(tensor: Tensor) -> Tensor:
            return tensor if times == 1 else tensor.repeat_interleave(times, 0)

        cache = None
        if self.cache is not None:
            cache = DynamicCache([(repeated(keys), repeated(values)) for keys, values, _ in self.cache])
        return Prefilled(repeated(self.last), cache, repeated(self.mask), repeated(self.lengths))


def assemble(shared: TextState | None, states: Sequence[TextState]) -> Prefilled:
    """Put rows' states side by side, right-aligned: ``[pads][shared][own]``.

    Pads come first and nowhere else: a sliding attention window counts columns, so a pad inside a row would
    push its beginning out of the window.
    """
    head = 0 if shared is None else shared.kv.shape[3]
    lengths = [head + state.kv.shape[3] for state in states]
    longest = max(lengths)
    layers, _, heads, _, dim = states[0].kv.shape
    device = states[0].kv.device
    kv = states[0].kv.new_zeros(layers, 2, len(states), heads, longest, dim)
    mask = torch.zeros(len(states), longest, dtype=torch.long, device=device)
    for b, (state, length) in enumerate(zip(states, lengths, strict=True)):
        start = longest - length
        if shared is not None:
            kv[:, :, b, :, start : start + head] = shared.kv
        kv[:, :, b, :, start + head :] = state.kv
        mask[b, start:] = 1
    return Prefilled(
        last=torch.stack([state.last for state in states]),
        cache=DynamicCache([(layer[0], layer[1]) for layer in kv]),
        mask=mask,
        lengths=torch.tensor(lengths, device=device),
    )


def split(cache: DynamicCache, start: int, lengths: Sequence[int], hidden: Tensor) -> list[TextState]:
    """The states of each row of a batch ``[shared][own][pads]``, without pads and without what was shared.

    Shapes:
        start: tokens that were shared; lengths: of the rows' own; hidden: ``[batch, longest own, d_model]``.
    """
    kv = torch.stack([torch.stack((k, v)) for k, v, _ in cache])
    return [
        TextState(kv[:, :, b, :, start : start + length].clone(), hidden[b, length - 1].clone())
        for b, length in enumerate(lengths)
    ]
