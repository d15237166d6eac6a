"""Commands that write files, on a tiny model: how each is run, and what of its results must not depend on faults."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tests.cli.conftest import COLOURS, Words
from tests.tiny import tiny

from coldframe.cli import main
from coldframe.frozen.model_source_table import MODEL_SOURCES, ModelSource, Part
from coldframe.frozen.model_sources import resolve
from coldframe.storage.artifact import read_artifact

QUICK = ("--epochs", "2", "--set", "heads=2", "--set", "k=3", "--set", "adapter=8", "--quiet")
PROXY = ("--repetitions", "12", "10", "8", "15", "--length", "8", "--batch-size", "6", "--steps", "4")
PROXY += ("--evaluate-every", "2", "--held-out", "8", "--dtype", "float32", "--quiet")


def prepare(home: Path) -> None:
    """What commands need: a model, a table, an artifact's task, a model in wheels. Trains nothing."""
    from tests.frozen.test_model_sources import tiny_gguf
    from tests.methods.head_gains.planted import planted

    for name, (model, tokenizer) in {"lm": tiny("llama"), "planted": planted()}.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    rng = random.Random(0)
    colours = [rng.choice(sorted(COLOURS)) for _ in range(90)]
    rows = [f"item {i} {rng.choice(COLOURS[colour].split())},{colour}" for i, colour in enumerate(colours)]
    (home / "things.csv").write_text("\n".join(["sentence,colour", *rows]) + "\n")
    tiny_gguf(home / "tiny.gguf")
    whole = (home / "tiny.gguf").read_bytes()
    (home / "wheels").mkdir()
    with zipfile.ZipFile(home / "wheels" / "cf_tiny_part1-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("cf_tiny/1.bin", whole)
    checksum = hashlib.sha256(whole).hexdigest()
    part = Part("cf-tiny-part1", "cf_tiny/1.bin", checksum, len(whole))
    MODEL_SOURCES["tiny"] = ModelSource("1.0", checksum, (part,), "llama", "none")
    use_words()


def use_words() -> None:
    """The sentence encoder, which has to be fetched, is hashed words."""
    import coldframe.pipeline.setup
    import coldframe.retrieval.retriever

    for module in (coldframe.pipeline.setup, coldframe.retrieval.retriever):
        module.load_encoder = Words  # type: ignore[attr-defined]


def call(*words: str) -> None:
    """A command of the command line; ends the process with its status where it is not 0."""
    if status := main(list(words)):
        raise SystemExit(status)


def fit(home: Path, out: Path) -> None:
    """A method that trains and retrieves."""
    call("fit", str(home / "things.csv"), "--model", str(home / "lm"), "--out", str(out / "run"), *QUICK)


def encode(home: Path, out: Path) -> None:
    """Passages into adapters."""
    words = ("--set", "at_once=2", "--epochs", "1", "--quiet")
    call("encode", "fact-corpus:4", "--model", str(home / "lm"), "--out", str(out / "run"), *words)


def compare(home: Path, out: Path) -> None:
    """Methods side by side."""
    words = ("--methods", "zero-shot", "prompt-tuning", "--epochs", "1", "--text-rows", "9", "--shuffles", "0")
    words += ("--set", "random-forest.trees=5", "--set", "random-forest.leaf=1")
    call("compare", str(home / "things.csv"), "--model", str(home / "lm"), "--out", str(out / "run"), *words, "--json")


def reweight(home: Path, out: Path) -> None:
    """Heads weighed anew."""
    if not (out / "run").exists():
        call("reweight", str(home / "planted"), "--out", str(out / "run"), "--json", *PROXY)


def diagnose(home: Path, out: Path) -> None:
    """A fitted artifact and its diagnosis."""
    if not (out / "fitted" / "coldframe_config.json").exists():
        call("fit", str(home / "things.csv"), "--model", str(home / "lm"), "--out", str(out / "fitted"), *QUICK)
    call("diagnose", str(out / "fitted"), "--out", str(out / "run"), "--resamples", "100", "--quiet", "--json")


def convert(home: Path, out: Path) -> None:
    """A model out of packages."""
    resolve("tiny")


COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "fit": fit,
    "encode": encode,
    "compare": compare,
    "reweight": reweight,
    "diagnose": diagnose,
    "convert": convert,
}


def outcome(command: str, out: Path) -> Any:
    """What must be the same whether there were faults or not."""
    if command in ("fit", "encode"):
        return dict(read_artifact(out / "run").manifest["files"])
    if command in ("reweight", "convert"):
        folder = out / "run" if command == "reweight" else next((out / "cache" / "models").glob("tiny-*"))
        tensors = load_file(folder / "model.safetensors")
        return {name: hashlib.sha256(t.flatten().float().numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    name = "results.json" if command == "compare" else "diagnosis.json"
    return _timeless(json.loads((out / "run" / name).read_text(encoding="utf-8")))


def _timeless(value: Any) -> Any:
    """Results without what a clock or a path says."""
    if isinstance(value, dict):
        volatile = ("second", "time", "latency", "_ms", "path", "command", "artifact", "out", "memory", "date")
        return {k: _timeless(v) for k, v in value.items() if not any(word in k for word in volatile)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def in_place(out: Path) -> None:
    """Use a cache in the folder that faults happen in, with the wheels of :func:`prepare`."""
    os.environ["COLDFRAME_CACHE"] = str(out / "cache")
    (out / "cache").mkdir(parents=True, exist_ok=True)
    wheels = out / "cache" / "wheels"
    if not wheels.exists():
        wheels.symlink_to(out.parent / "wheels")
