"""Adam for the rows of a table of which every step sees a few."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class RowAdam:
    """Adam without weight decay, by row: every row has moments and a count of steps of its own.

    An ordinary Adam goes on moving rows that a step did not see, by their old moments; and a lazy one that counts
    steps for all rows together makes the first steps of late rows too long.

    Args:
        values: ``[rows, numbers]``, float32; changed in place.
        learning_rate: At least 0.

    Example:
        >>> rows = RowAdam(torch.zeros(3, 1), 0.1)
        >>> rows.step(torch.tensor([1]), torch.tensor([[5.0]]))
        >>> rows.values.flatten().round(decimals=3)
        tensor([ 0.0000, -0.1000,  0.0000])
    """

    def __init__(
        self, values: Tensor, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.values, self.learning_rate, self.betas, self.eps = values, learning_rate, betas, eps
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)
        self.count = torch.zeros(len(values), 1, device=values.device)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move some rows; each stands in ``rows`` once."""
        one, two = self.betas
        self.count[rows] += 1
        self.first[rows] = one * self.first[rows] + (1 - one) * gradient
        self.second[rows] = two * self.second[rows] + (1 - two) * gradient**2
        count = self.count[rows]
        mean, spread = self.first[rows] / (1 - one**count), self.second[rows] / (1 - two**count)
        self.values[rows] -= self.learning_rate * mean / (spread.sqrt() + self.eps)

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {"rows": self.values, "rows/first": self.first, "rows/second": self.second, "rows/count": self.count}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`."""
        for name, held in self.state().items():
            held.copy_(state[name])
