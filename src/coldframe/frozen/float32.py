"""Half-precision weights as float32 for a while: small differences of logits drown in bf16's eight bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Half-precision parameters as float32 while the block runs; afterwards the very tensors that were there.

    Packed (quantised) parameters stay as they are.

    Cost: 4 bytes for each parameter while the block runs.

    >>> layer = nn.Linear(2, 1).bfloat16()
    >>> with in_float32(layer.parameters()):
    ...     layer.weight.dtype
    torch.float32
    >>> layer.weight.dtype
    torch.bfloat16
    """
    originals: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for parameter in parameters:
            if parameter.dtype in _HALF:
                originals.append((parameter, parameter.data))
                parameter.data = parameter.data.float()
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data
