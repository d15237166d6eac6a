"""AdamW that moves only the rows of a table that a step used, each with its own moments and step count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RowAdamW(torch.optim.AdamW):
    """AdamW; groups with ``rows=True`` hold tables with sparse gradients, of which a step uses a few rows.

    Every row has its own moments and step count, and no weight decay. An ordinary AdamW keeps moving the rows that a
    step did not use, by their old moments; one that counts steps for all rows together makes the first steps of late
    rows too long.

    Args:
        groups: Optimiser groups, with ``rows=True`` in those of tables.
        lr: Rate of groups that have none.
        weight_decay: Of the other groups.

    Example:
        >>> table = torch.nn.Parameter(torch.zeros(3, 1))
        >>> adam = RowAdamW([{"params": [table], "rows": True, "lr": 0.1}], lr=0.1)
        >>> (5 * torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True)).sum().backward()
        >>> _ = adam.step()
        >>> table.data.flatten().round(decimals=3)
        tensor([ 0.0000, -0.1000,  0.0000])
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=not any(g.get("rows") for g in groups))
        for group in self.param_groups:
            group.setdefault("rows", False)
            group["fused"] = not group["rows"]  # one pass over memory instead of a dozen

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step: whole parameters as AdamW moves them, tables by the rows that have a gradient."""
        tables = [table for group in self.param_groups if group["rows"] for table in group["params"]]
        gradients = [table.grad for table in tables]
        for table in tables:
            table.grad = None
        loss = super().step(closure)
        groups = [group for group in self.param_groups if group["rows"] for _ in group["params"]]
        for table, gradient, group in zip(tables, gradients, groups, strict=True):
            if gradient is not None:
                self._move_rows(table, gradient.coalesce() if gradient.is_sparse else gradient.to_sparse(1), group)
            table.grad = gradient
        return loss

    def _move_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rows, values, state = gradient.indices()[0], gradient.values(), self.state[table]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            state["step"] = torch.zeros(len(table), 1)
        steps = state["step"] = state["step"].to(table.device)  # AdamW restores it to the CPU
        first_decay, second_decay = group["betas"]
        steps[rows] += 1
        state["exp_avg"][rows] = first_decay * state["exp_avg"][rows] + (1 - first_decay) * values
        state["exp_avg_sq"][rows] = second_decay * state["exp_avg_sq"][rows] + (1 - second_decay) * values**2
        count = steps[rows]
        mean = state["exp_avg"][rows] / (1 - first_decay**count)
        spread = state["exp_avg_sq"][rows] / (1 - second_decay**count)
        table[rows] -= group["lr"] * mean / (spread.sqrt() + group["eps"])
