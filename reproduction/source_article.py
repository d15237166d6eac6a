"""Which cause makes a retriever a prompt-tuner: each one that the source article names, switched off.

    python -m reproduction.small_gpt2 runs/small-gpt2
    python -m reproduction.source_article --model runs/small-gpt2 --out runs/source-article

"Your retriever is just doing prompt tuning" says of its pipeline (ours: ``latent-memory``) that it learned a static
prompt, and names three causes. On ``dense-answers`` the store answers every question, so that an ideal reader would
gain all there is, and each cause can be taken away alone and together with the others:

- *dense*: entries are alike (cosine 0.89). Off: the mean of all vectors is taken from each, which leaves 0.0.
- *easy*: a fixed prompt is found sooner than a way to read. Off: the prompt learns at a hundred-thousandth of its rate.
- *diffuse*: nothing tells the attention which entry counts, so that gradients spread over all. Off: what the retriever
  says of their similarity is added to the scores (``slope``).

For each of the eight and every seed: the gain over the model alone in nats on test rows, the share of it that is lost
with another query's entries, and the attention's entropy. Beside them Prompt Tuning with as many tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import coldframe as cf
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.shares import Shares
from coldframe.methods.base import Method
from coldframe.progress import say
from coldframe.retrieval.encoders import load_encoder
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.storage.files import to_json, write_json
from coldframe.tasks.task import Task, content_hash

CAUSES = ("dense", "easy", "diffuse")
TOKENS, K = 4, 5


class Centred:
    """An encoder without what all texts of a corpus have in common: the mean vector is taken away.

    Args:
        texts: The corpus.
    """

    takes_label_text = True

    def __init__(self, texts: Sequence[str]) -> None:
        self._encoder = load_encoder("minilm")
        self._mean = self._encoder.encode(texts).mean(axis=0)
        # All members of an encoder of ours: a plain object would be asked for one text at a time.
        self.dim, self.hash = self._encoder.dim, content_hash(self._encoder.hash, "centred", *texts)
        self.spec = f"object:{self.hash}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1."""
        vectors = self._encoder.encode(texts) - self._mean
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def method_with(causes: Sequence[str], centred: Centred) -> Method:
    """The pipeline with these causes at work."""
    return cf.LatentMemory(
        tokens=TOKENS,
        k=K,
        encoder="minilm" if "dense" in causes else centred,
        slope=0.0 if "diffuse" in causes else 20.0,
        static_learning_rate=3e-2 if "easy" in causes else 3e-7,
        label_place="vector",
    )


def losses_of(method: Method, lm: cf.FrozenLM, task: Task, seed: int, epochs: int) -> dict[str, Any]:
    """Losses ``[n]`` of the test rows under each condition, and what the training says of the attention."""
    started = time.perf_counter()
    pipeline = cf.fit(
        method, lm, task, seed=seed, epochs=epochs, select="loss", patience=0, retrieval=RetrievalConfig(), quiet=True
    )
    subject = PipelineSubject(pipeline, task.test)
    losses = {name: subject.losses(name).tolist() for name in ("full", "empty", "swapped")}
    entropy = pipeline.history[-1].get("attention_entropy")
    return {**losses, "entropy": entropy, "seconds": round(time.perf_counter() - started, 1)}


def run(lm: cf.FrozenLM, seeds: Sequence[int], epochs: int, folder: Path, rows: int | None = None) -> dict[str, Any]:
    """All cells with all seeds; what is stored in ``folder`` is not run again."""
    task = cf.load_task("dense-answers", max_train=rows)
    centred = Centred([entry.text for entry in task.store or ()])
    cells: dict[str, Method] = {
        "+".join(causes) or "none": method_with(causes, centred)
        for size in range(len(CAUSES), -1, -1)
        for causes in itertools.combinations(CAUSES, size)
    }
    cells["prompt-tuning"] = cf.PromptTuning(tokens=TOKENS)
    table: dict[str, Any] = {}
    for name, method in cells.items():
        records = []
        for seed in seeds:
            key = content_hash(name, str(method.config), f"{seed} {epochs} {rows}", lm.weight_hash)
            path = folder / f"{key}.json"
            if not path.exists():
                fresh = type(method)(method.config)
                write_json(path, losses_of(fresh, lm, task, seed, epochs))
            records.append(json.loads(path.read_text(encoding="utf-8")))
        table[name] = _row(records)
        say(f"{name}: {table[name]}")
    sizes = {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}
    return {"task": task.schema.name, "rows": sizes, "seeds": list(seeds), "cells": table}


def _row(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with intervals over seeds and rows."""
    full, empty, swapped = (np.array([record[name] for record in records]) for name in ("full", "empty", "swapped"))
    shares = Shares(full, empty)
    estimates = {"gain": shares.gain, "lost with another query's entries": shares.of(swapped).share}
    entropies = [record["entropy"] for record in records if record["entropy"] is not None]
    return {
        "loss": round(float(full.mean()), 3),
        **{name: [round(value, 3) for value in (at.value, at.low, at.high)] for name, at in estimates.items()},
        "entropy": round(float(np.mean(entropies)), 3) if entropies else None,
        "seconds": round(sum(record["seconds"] for record in records), 1),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="folder of the model, or its name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=None, help="training rows, those for validation included")
    parser.add_argument("--out", type=Path, default=Path("runs/source-article"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    result = run(cf.load_lm(options.model), options.seeds, options.epochs, options.out, options.rows)
    result["commands"] = f"python -m reproduction.source_article --model {options.model} --epochs {options.epochs}"
    write_json(options.out / "result.json", result)
    print(to_json(result, indent=1))


if __name__ == "__main__":
    main()
