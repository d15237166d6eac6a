"""Checkpoints of a training run: tensors in safetensors, the rest in JSON, never half-written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.tensors import read_tensors, reading, write_tensors

CHECKPOINT = "checkpoint.safetensors"


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Epoch in progress, from 0.
        batch: Batches of it that are done.
        step: Optimiser steps done.
        best: Best validation score so far (larger is better), or None.
        best_epoch: The epoch that gave it, or -1.
        stale: Epochs since.
        running: Sum of the training losses of the epoch in progress, and their count.
        figures: Sum of each figure that the method's steps gave in that epoch, and their count.
        history: One record per finished epoch.
        finished: Whether the run is over.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = -1
    stale: int = 0
    running: tuple[float, int] = (0.0, 0)
    figures: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    finished: bool = False

    def count(self, figures: dict[str, float]) -> None:
        """Add the figures of a step."""
        for name, value in figures.items():
            total, steps = self.figures.get(name, (0.0, 0))
            self.figures[name] = total + value, steps + 1


def save(
    folder: Path,
    progress: Progress,
    fingerprint: str,
    weights: dict[str, Tensor],
    best_weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint that replaces the one before only when it is whole."""
    state = optimizer.state_dict()
    tensors = {f"weights/{k}": v for k, v in weights.items()}
    tensors |= {f"best/{k}": v for k, v in best_weights.items()}
    tensors |= {f"optimizer/{i}/{k}": v for i, slot in state["state"].items() for k, v in slot.items()}
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    values = {"fingerprint": fingerprint, "progress": dataclasses.asdict(progress)}
    write_tensors(folder / CHECKPOINT, tensors, run=values)


def load(
    folder: Path, fingerprint: str, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]] | None:
    """Read a checkpoint, restore optimiser and random states; None where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    fix = "Delete it to start again from the beginning."
    with reading(path, fix):
        tensors, values = read_tensors(path, fix)
        run = values["run"]
        progress = Progress(**run["progress"])
    if run["fingerprint"] != fingerprint:
        raise ArtifactError(
            f"The checkpoint {path} belongs to a run with other settings, data or model",
            fix="Pass another --out, or delete the checkpoint to start again.",
        )
    progress.running = (progress.running[0], progress.running[1])
    slots: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/", 2)
            slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    torch.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return progress, part("weights/"), part("best/")
