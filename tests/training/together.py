"""Fits by one process and by two, side by side: python -m tests.training.together FOLDER.

Every process is forked after the imports, which take most of the time, with the variables that torchrun sets. What came
of it goes to FOLDER/CASE/RUN/RANK.json, and what it said to RANK.err beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.contract.cases import METHODS, TWO, corpus, task, tiny_encoder
from tests.tiny import tiny
from torch.distributed.tensor import DTensor

import coldframe.pipeline.setup
import coldframe.retrieval.retriever
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.sharding import shard
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.training.processes import Processes
from coldframe.training.trainer import Trainer

CASES = ("lora", "mha-esp", "poly-prag", "prag")
RUNS = {"alone": (1, 2), "two": (2, 1), "single": (1, 1), "sharded": (2, 1)}  # processes, accumulation


def fit_one(name: str, folder: Path, accumulation: int, sharded: bool) -> None:
    rows = list[int]()
    backward = Trainer._backward

    def counting(self: Any, part: Any, total: float) -> list[float]:
        rows.extend(part)
        return backward(self, part, total)

    Trainer._backward = counting  # type: ignore[method-assign]
    case = next(case for case in METHODS if case.id == name)
    still = {"dropout": 0.0} if "dropout" in case.method().config.to_dict() else {}
    method = dataclasses.replace(case, settings=case.settings | still).method()
    lm = FrozenLM(*tiny("llama"))
    if sharded:
        Processes.join(cpu=True)
        shard(lm)
    pipeline = fit(
        method,
        lm,
        corpus() if method.needs_passages else task(TWO, rows=26),
        retrieval=RetrievalConfig(encoder="tiny", similarity="auto" if method.needs_passages else "cosine"),
        training={"epochs": 3, "batch_size": 4, "accumulation": accumulation, "select": "last", "seed": 2},
        out=folder / "artifact",
    )
    weights = {key: value.tolist() for key, value in pipeline.method.state_dict().items()}
    if isinstance(pipeline.method, PassageAdapters):
        bank = pipeline.method.adapters
        weights = {"adapters": bank.adapters(bank.ids).tolist()}
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in lm.anatomy.layers.parameters())
    result = {"weights": weights, "rows": rows, "history": pipeline.history, "held": held}
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(result), encoding="utf-8")


def break_one(folder: Path) -> None:
    """One process meets an error while the other one waits for it."""
    processes = Processes.join(cpu=True)

    def work() -> list[int]:
        if processes.rank == 1:
            raise ValueError("row 7 is broken")
        return [processes.rank]

    assert processes.together(lambda: [processes.rank]) == [0, 1]
    processes.together(work)


def together(count: int, folder: Path, work: Callable[[], None]) -> list[int]:
    """The exit statuses of ``count`` processes that do the same thing."""
    folder.mkdir(parents=True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        with open(folder / f"{rank}.err", "w", encoding="utf-8") as errors:
            os.dup2(errors.fileno(), 2)
        if count > 1:
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ.update({name: str(value) for name, value in (place | ranks).items()})
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(home: Path) -> None:
    for module in (coldframe.pipeline.setup, coldframe.retrieval.retriever):
        module.load_encoder = tiny_encoder  # type: ignore[attr-defined]
    statuses = {"broken": together(2, home / "broken", lambda: break_one(home))}
    for case in CASES:
        for run, (count, accumulation) in RUNS.items():
            folder = home / case / run
            work = functools.partial(fit_one, case, folder, accumulation, run == "sharded")
            fits = together(count, folder, work)
            statuses[f"{case}/{run}"] = fits
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
