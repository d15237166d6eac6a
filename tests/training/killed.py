"""A run that is killed at some moment and started again, beside one that is not.

Usage: python -m tests.training.killed FOLDER. Every run is a process of its own, forked after the imports
(which take most of the time); a killed one gets SIGKILL from itself, so nothing can be tidied up. Prints one
JSON object: for every method and moment a hash of the final weights and of all losses; "whole" is the run
that is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.contract.cases import METHODS, TWO, lm_of, task

import coldframe.pipeline.setup
import coldframe.retrieval.retriever
import coldframe.storage.tensors
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import weight_hash
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import content_hash
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

CONFIG = TrainingConfig(epochs=3, batch_size=4, checkpoint_every=1, seed=2)  # 3 steps an epoch
CASES = ("mha-esp", "mha-esp/text", "lora")


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner: Any, name: str, count: int, instead: Callable[..., Any] = die) -> None:
    """Do ``instead`` the ``count``-th time (from 1) that a function is called."""
    original, calls = getattr(owner, name), iter(range(1, 1000))
    setattr(owner, name, lambda *a, **k: instead(*a, **k) if next(calls) == count else original(*a, **k))


def half(tensors: dict[str, torch.Tensor], path: Path, **_: Any) -> None:
    """A checkpoint that is cut off in the middle of writing."""
    Path(path).write_bytes(b"\x10" * 500)
    die()


MOMENTS: dict[str, Callable[[], None]] = {
    "before the second step": lambda: at(Trainer, "_step", 2),
    "in the middle of the second epoch": lambda: at(Trainer, "_step", 6),
    "before the first validation": lambda: at(Trainer, "_validate", 1),
    "in the second validation": lambda: at(Trainer, "_validate", 2),
    "while the first checkpoint is written": lambda: at(coldframe.storage.tensors, "save_file", 1, half),
    "while a later checkpoint is written": lambda: at(coldframe.storage.tensors, "save_file", 7, half),
    "before a checkpoint takes its name": lambda: at(os, "replace", 5),
    "after the last step": lambda: at(FrozenLM, "hash_now", 2),  # the first is of before the training
}


def run(case_id: str, folder: Path, moment: Callable[[], None] | None = None) -> str | None:
    """A hash of the final weights and all losses, or None if the run was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if moment is not None:
                moment()
            case = next(case for case in METHODS if case.id == case_id)
            pipeline = fit(
                case.method(),
                lm_of("llama"),
                task(TWO),
                retrieval=RetrievalConfig(encoder="tiny"),
                training=CONFIG,
                out=folder,
                quiet=True,
            )
            # The best epoch need not be the last, so every epoch's losses count too.
            losses = [{k: v for k, v in record.items() if k != "seconds"} for record in pipeline.history]
            os.write(writing, content_hash(weight_hash(pipeline.method), repr(losses)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if moment is not None and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise SystemExit(f"{case_id}: the run was not killed (status {status}, {told!r})")
    if moment is None and status != 0:
        raise SystemExit(f"{case_id}: the run failed, status {status}")
    return told or None


def main(folder: Path) -> None:
    from tests.contract.cases import TinyEncoder

    coldframe.pipeline.setup.load_encoder = coldframe.retrieval.retriever.load_encoder = TinyEncoder  # type: ignore[assignment]
    torch.set_num_threads(1)
    found: dict[str, dict[str, str | None]] = {}
    for case in CASES:
        found[case] = {"whole": run(case, folder / case / "whole")}
        for name, moment in MOMENTS.items():
            place = folder / case / name
            run(case, place, moment)
            found[case][name] = run(case, place)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
