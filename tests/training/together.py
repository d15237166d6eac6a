"""One of several processes that fit a method together; started by test_processes.py with the variables of torchrun.

Usage: python -m tests.training.together CASE FOLDER ACCUMULATION OUT. What came of it goes to FOLDER/RANK.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.contract.cases import METHODS, TWO, corpus, lm_of, task, tiny_encoder

import coldframe.pipeline.setup
import coldframe.retrieval.retriever
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.training import trainer


def main(name: str, folder: str, accumulation: str, out: str) -> None:
    for module in (coldframe.pipeline.setup, coldframe.retrieval.retriever):
        module.load_encoder = tiny_encoder  # type: ignore[attr-defined]
    rows = list[int]()
    backward = trainer.Trainer._backward

    def counting(self: Any, part: Any, total: float) -> list[float]:
        rows.extend(part)
        return backward(self, part, total)

    trainer.Trainer._backward = counting  # type: ignore[method-assign]
    case = next(case for case in METHODS if case.id == name)
    still = {"dropout": 0.0} if "dropout" in case.method().config.to_dict() else {}
    method = dataclasses.replace(case, settings=case.settings | still).method()
    on = corpus() if method.needs_passages else task(TWO, rows=26)
    pipeline = fit(
        method,
        lm_of("llama"),
        on,
        retrieval=RetrievalConfig(encoder="tiny", similarity="auto" if method.needs_passages else "cosine"),
        training={"epochs": 3, "batch_size": 4, "accumulation": int(accumulation), "select": "last", "seed": 2},
        out=out or None,
    )
    weights = {key: value.tolist() for key, value in pipeline.method.state_dict().items()}
    if isinstance(pipeline.method, PassageAdapters):
        bank = pipeline.method.adapters
        weights = {"adapters": bank.adapters(bank.ids).tolist()}
    result = {"weights": weights, "rows": rows, "history": pipeline.history}
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
