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
from coldframe.methods.head_gains.gains_file import FOLDER, PAGE
from coldframe.storage.artifact import read_artifact

QUICK = ("--set", "heads=2", "--set", "k=3", "--set", "adapter=8", "--quiet")
PROXY = ("--repetitions", "12", "10", "8", "15", "--length", "8", "--batch-size", "6", "--evaluate-every", "2")
PROXY += ("--held-out", "8", "--dtype", "float32", "--quiet")
ROWS = 60


def prepare(home: Path) -> None:
    """What commands need: models, a table, a log, a model in wheels. Trains nothing."""
    from tests.frozen.test_model_sources import tiny_gguf
    from tests.methods.head_gains.planted import planted

    for name, (model, tokenizer) in {"lm": tiny("llama"), "planted": planted()}.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    rng = random.Random(0)
    colours = [rng.choice(sorted(COLOURS)) for _ in range(ROWS)]
    rows = [f"item {i} {rng.choice(COLOURS[colour].split())},{colour}" for i, colour in enumerate(colours)]
    (home / "things.csv").write_text("\n".join(["sentence,colour", *rows]) + "\n")
    names = sorted(COLOURS)
    log = [
        {
            "question": f"which colour is item {i}?",
            "contexts": [f"item {i} is {names[i % 3]}", f"item {i + 1} is {names[(i + 1) % 3]}"],
            "ground_truth": names[i % 3],
        }
        for i in range(12)
    ]
    (home / "rag.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
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


def prepare_artifact(home: Path) -> None:
    """An artifact to diagnose; to be called in a process of its own, because it trains."""
    where = ("--model", str(home / "lm"), "--out", str(home / "fitted"))
    call("fit", str(home / "things.csv"), *where, "--epochs", "1", *QUICK)


def fit(home: Path, out: Path, other: bool) -> None:
    """A method that trains and retrieves."""
    words = ("--epochs", "3" if other else "2", *QUICK)
    call("fit", str(home / "things.csv"), "--model", str(home / "lm"), "--out", str(out / "run"), *words)


def encode(home: Path, out: Path, other: bool) -> None:
    """Passages into adapters."""
    words = ("--set", "at_once=2", "--epochs", "2" if other else "1", "--quiet")
    call("encode", "fact-corpus:4", "--model", str(home / "lm"), "--out", str(out / "run"), *words)


def compare(home: Path, out: Path, other: bool) -> None:
    """Methods side by side; the other one has more of them, and another main method."""
    methods = ("zero-shot", "prompt-tuning", *(["idpg"] if other else []))
    words = ("--epochs", "1", "--text-rows", "9", "--shuffles", "0", "--seeds", "0", "1", "--no-controls", "--quiet")
    where = ("--model", str(home / "lm"), "--out", str(out / "run"))
    call("compare", str(home / "things.csv"), "--methods", *methods, *where, *words, "--json")


def reweight(home: Path, out: Path, other: bool) -> None:
    """Heads weighed anew; a checkpoint that is there is never made again."""
    if not (out / "run").exists():
        steps = ("--steps", "6" if other else "4")
        call("reweight", str(home / "planted"), "--out", str(out / "run"), "--json", *steps, *PROXY)


def diagnose(home: Path, out: Path, other: bool) -> None:
    """A diagnosis of an artifact, with the ladder, which trains."""
    words = ("--ladder", "--ladder-seeds", "0", "--resamples", "200" if other else "100", "--quiet", "--json")
    call("diagnose", str(home / "fitted"), "--out", str(out / "run"), *words)


def diagnose_log(home: Path, out: Path, other: bool) -> None:
    """A diagnosis of a log with a local model."""
    words = ("--max-tokens", "3" if other else "2", "--resamples", "100", "--quiet", "--json")
    call("diagnose", str(home / "rag.jsonl"), "--model", str(home / "lm"), "--out", str(out / "run"), *words)


def convert(home: Path, out: Path, other: bool) -> None:
    """A model out of packages."""
    resolve("tiny")


#: Each writes to a folder; the last argument chooses other settings.
COMMANDS: dict[str, Callable[[Path, Path, bool], None]] = {
    "fit": fit,
    "encode": encode,
    "compare": compare,
    "reweight": reweight,
    "diagnose": diagnose,
    "diagnose-log": diagnose_log,
    "convert": convert,
}

WITHOUT_SETTINGS = ("convert",)


def outcome(command: str, out: Path) -> Any:
    """What must be the same whether there were faults or not."""
    if command in ("fit", "encode"):
        return dict(read_artifact(out / "run").manifest["files"])
    if command in ("reweight", "convert"):
        assert command == "convert" or "</html>" in (out / "run" / FOLDER / PAGE).read_text(encoding="utf-8")
        folder = out / "run" if command == "reweight" else next((out / "cache" / "models").glob("tiny-*"))
        tensors = load_file(folder / "model.safetensors")
        return {name: hashlib.sha256(t.flatten().float().numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    if command == "diagnose-log":
        assert all((out / "run" / name).stat().st_size for name in ("diagnosis.html", "questions.csv", "passages.csv"))
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
