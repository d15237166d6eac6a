"""What a GPU does: models of the papers' shapes with random weights, beside peft and plain transformers.

    python -m benchmarks.gpu                                   # some minutes on one GPU
    python -m benchmarks.gpu --parts encoding query --rounds 1

Weights are random: they cost what trained ones cost. The tokenizer is SmolLM2's, whose vocabulary is the smallest.

- ``training``: MHA-ESP and Prompt Tuning beside peft in the transformers Trainer, Llama-3.2-3B's shape, b3db.
- ``encoding`` and ``query``: PRAG and Poly-PRAG beside the published loop and closed book, Llama-3.2-1B's shape.
- ``discovery``: PEAR's search of heads beside the naive loop, Llama-2-7B's shape, 20 sequences of twice 50 tokens.
- ``folding`` and ``rivals``: what a folded checkpoint and PEAR's rivals take of the base model's, Llama-3.2-1B's shape.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks import parametric, reweighting, training
from benchmarks.common import first, say
from benchmarks.shapes import SHAPES, of_shape
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.model_sources import locate
from coldframe.tasks import load_task

PASSAGES, ROWS, PROMPT = 256, 160, 512


def _training(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    return training.measure(lm, first(load_task("b3db"), ROWS, ROWS // 2), [16, 32], rounds)


def _encoding(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    return parametric.encoding(lm, PASSAGES, 4, rounds)


def _query(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return parametric.answering(lm, 64, 16, rounds, Path(folder))


def _discovery(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    return reweighting.discovery(lm, 20, 50, 6, rounds)


def _folding(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:  # a folded checkpoint is made of one on the disk
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        stored = load_lm(folder, dtype="bfloat16", device=str(lm.device))
        return reweighting.folding(stored, PROMPT, 16, 3 * rounds)


def _rivals(lm: FrozenLM, rounds: int) -> dict[str, Any]:
    return reweighting.rivals(lm, PROMPT, 16, 3 * rounds)


PARTS: dict[str, tuple[str, Callable[[FrozenLM, int], dict[str, Any]]]] = {
    "encoding": ("llama-3.2-1b", _encoding),
    "query": ("llama-3.2-1b", _query),
    "folding": ("llama-3.2-1b", _folding),
    "rivals": ("llama-3.2-1b", _rivals),
    "training": ("llama-3.2-3b", _training),
    "discovery": ("llama-2-7b", _discovery),
}


def measure(parts: list[str], rounds: int, device: str, tokenizer: Any) -> dict[str, Any]:
    """Every part on a fresh model of its shape."""
    results: dict[str, Any] = {}
    for name in parts:
        shape, part = PARTS[name]
        started = time.perf_counter()
        gc.collect()
        torch.cuda.empty_cache()
        fits = len(tokenizer) <= SHAPES[shape]["vocab_size"]
        lm = of_shape(SHAPES[shape], device, tokenizer if fits else None)
        weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
        reset_peak_memory()
        say(f"== {name}, {shape}")
        results[name] = part(lm, rounds) | {
            "shape": shape,
            "seconds": time.perf_counter() - started,
            "weights_gb": weights / 1e9,
            "highest_memory_gb": peak_memory_mb(device) / 1e3,
        }
        del lm
        say(json.dumps({name: results[name]}))  # what is measured is not lost if a later part fails
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokenizer", help="a folder; SmolLM2's if left out")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or locate("smollm2")[0])
    results = measure(options.parts, options.rounds, options.device, tokenizer)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    machine = {"device": name, "torch": torch.__version__, "dtype": "bfloat16"}
    sys.stdout.write(json.dumps({"machine": machine, "rounds": options.rounds, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
