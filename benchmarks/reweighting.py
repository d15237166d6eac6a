"""PEAR: finding heads in the cheap form against the naive loop; a folded checkpoint, and rivals, against the base.

    python -m benchmarks.reweighting
    python -m benchmarks.reweighting --shape llama-2-7b --sequences 4 --length 10   # time and memory of that shape

The naive loop runs the whole model once for every head, with queries, keys and values of all heads held. It is timed on
``--heads`` heads and scaled by its number of runs, which the result says; effects are compared on the same heads.

With ``--shape`` a model of that shape with random weights in bf16 is searched, and nothing else is measured.
"""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.common import Time, Way, arguments, goal, interleaved, rates, say, tell
from benchmarks.shapes import SHAPES, of_shape
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import EMPTY, Prompt
from coldframe.methods.config import MethodContext
from coldframe.methods.head_gains.ablation import one_by_one
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.fold import save_reweighted
from coldframe.methods.head_gains.path_patching import path_patching
from coldframe.methods.head_gains.proxy import ProxyTask, centred_logit
from coldframe.methods.registry import create
from coldframe.pipeline.reweight import COPYING, reweight
from coldframe.retrieval.store import Retrieved, Store

CHEAP, NAIVE, BASE, FOLDED = "cheap form", "naive loop", "base", "folded"


def discovery(lm: FrozenLM, sequences: int, length: int, heads: int, rounds: int) -> dict[str, Any]:
    """Seconds of both forms, and how far their effects are apart."""
    ids = ProxyTask(lm).sequences(sequences, length)
    texts, targets = ids[:, :-1], ids[:, -1]
    n_layers, n_heads = lm.anatomy.n_layers, lm.anatomy.n_heads
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    timed = places[:: max(1, len(places) // heads)][:heads]
    effects: dict[str, Tensor] = {}

    def cheap(_: Any) -> None:
        clean, patched = path_patching(lm, texts)
        pi = centred_logit(lm, patched, targets) - centred_logit(lm, clean, targets)
        effects[CHEAP] = torch.stack([pi[layer, head].mean() for layer, head in timed])

    def naive(_: Any) -> None:
        clean, patched = one_by_one(lm, texts, frozen=True, heads=timed)
        pi = centred_logit(lm, patched, targets) - centred_logit(lm, clean, targets)
        effects[NAIVE] = pi.mean(-1)

    times = interleaved({NAIVE: Way(naive), CHEAP: Way(cheap)}, rounds)
    scale = (len(places) + 1) / (len(timed) + 1)  # one run for each head, and the clean one
    scaled = {NAIVE: [Time(t.wall * scale, t.cpu * scale) for t in times[NAIVE]], CHEAP: times[CHEAP]}
    apart = float((effects[CHEAP] - effects[NAIVE]).abs().max())
    lines = rates(scaled, len(places), NAIVE)
    return {
        "sequences": sequences,
        "length": length,
        "heads": len(places),
        "heads_timed_naively": len(timed),
        "ways": lines,
        "largest_difference_of_an_effect": apart,
        "goals": [
            goal(f"finding heads, all {len(places)} against the naive loop", lines[1]["ratio"], 50.0),
            goal("largest difference of an effect from the naive loop's", apart, 1e-4, unit="", least=False),
        ],
    }


def folding(lm: FrozenLM, prompt: int, written: int, rounds: int) -> dict[str, Any]:
    """Seconds of base and folded checkpoint in plain transformers, and the numbers they hold."""
    config = ReweightConfig(heads=5, fixed=0.7, repetitions=((4, 8),))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded"
        save_reweighted(lm, config, reweight(lm, config), out)
        folded = AutoModelForCausalLM.from_pretrained(out, dtype=lm.dtype).eval().to(lm.device)
    models = {BASE: lm.model, FOLDED: folded}
    ids = ProxyTask(lm).sequences(1, prompt // 2)

    def reading(name: str) -> Callable[[Any], object]:
        options = {"max_new_tokens": written, "min_new_tokens": written, "do_sample": False, "pad_token_id": 0}
        return lambda _: models[name].generate(ids, attention_mask=torch.ones_like(ids), **options)

    lines = rates(interleaved({name: Way(reading(name)) for name in models}, rounds), 1, BASE)
    sizes = {name: sum(p.numel() * p.element_size() for p in model.parameters()) for name, model in models.items()}
    return {
        "prompt": prompt,
        "written": written,
        "ways": lines,
        "bytes_of_weights": sizes,
        "goals": [
            goal("latency of the folded checkpoint, of its base's", 1 / lines[1]["ratio"], 1.05, least=False),
            goal("weights of the folded checkpoint, of its base's", sizes[FOLDED] / sizes[BASE], 1.0, least=False),
        ],
    }


def rivals(lm: FrozenLM, prompt: int, written: int, rounds: int) -> dict[str, Any]:
    """Seconds and memory of the rivals, which change how positions are handled, beside the model as it is."""
    text = "The quick brown fox jumps over the lazy dog. " * (prompt // 10)  # ten tokens, and no reason to stop
    context, nothing = MethodContext(lm, COPYING.schema), Retrieved.nothing(Store.of([]), 1)
    methods = {name: create(name).setup(context) for name in ("ms-poe", "moice", "attention-buckets")}

    def writing(name: str) -> Callable[[Any], object]:
        def write(_: Any) -> object:
            put = methods[name].condition([text], nothing) if name in methods else EMPTY
            return lm.generate([Prompt(text)], put, max_new_tokens=written)

        return write

    lines = rates(interleaved({name: Way(writing(name)) for name in (BASE, *methods)}, rounds), 1, BASE)
    for line in lines:
        gc.collect()
        reset_peak_memory()
        writing(line["way"])(None)
        line["memory_mb"] = peak_memory_mb(str(lm.device))  # weights included; on a processor of the whole process
        line |= {"time_of_base": 1 / line["ratio"], "memory_of_base": line["memory_mb"] / lines[0]["memory_mb"]}
    return {
        "prompt": len(lm.tokenizer(text)["input_ids"]),
        "written": written,
        "ways": lines,
        "goals": [],
    }


def streamed(lm: FrozenLM, sequences: int, length: int) -> dict[str, Any]:
    """Seconds and the process's highest memory while all heads are searched."""
    ids = ProxyTask(lm).sequences(sequences, length)
    taken = Time.of(Way(lambda _: path_patching(lm, ids[:, :-1])))
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    return {
        "sequences": sequences,
        "length": length,
        "heads": lm.anatomy.n_layers * lm.anatomy.n_heads,
        "seconds": taken.wall,
        "seconds_processor": taken.cpu,
        "weights_gb": weights / 1e9,
        "highest_memory_gb": highest / 1e9,
        "goals": [goal("highest memory, weights included", highest / 1e9, 24.0, unit="GB", least=False)],
    }


def measure(
    lm: FrozenLM, *, sequences: int, length: int, heads: int, rounds: int, prompt: int, written: int
) -> dict[str, Any]:
    """Discovery, folding and rivals."""
    parts = {
        "discovery": discovery(lm, sequences, length, heads, 1),
        "folding": folding(lm, prompt, written, rounds),
        "rivals": rivals(lm, prompt, written, rounds),
    }
    return {**parts, "goals": [line for part in parts.values() for line in part.pop("goals")]}


def main() -> None:
    if "--shape" in sys.argv:
        at = sys.argv.index("--shape")
        name = sys.argv[at + 1]
        del sys.argv[at : at + 2]
        options = arguments(__doc__, sequences=4, length=10)
        say(f"making {name} with random weights")
        lm = of_shape(SHAPES[name])
        tell(streamed(lm, options.sequences, options.length), lm)
        return
    options = arguments(__doc__, sequences=20, length=50, heads=6, rounds=9, prompt=512, written=16)
    say(f"loading {options.model}")
    numbers = ("sequences", "length", "heads", "rounds", "prompt", "written")
    lm = load_lm(options.model, dtype="float32")
    tell(measure(lm, **{name: getattr(options, name) for name in numbers}), lm)


if __name__ == "__main__":
    main()
