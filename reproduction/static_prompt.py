"""Your retriever is just doing prompt tuning: how much of a pipeline's gain a static prompt explains, and why.

    python -m reproduction.static_prompt --out runs/static-prompt

The article's pipeline (latent memory: learned slots that attend over retrieved vectors) is fitted on a frozen model of
GPT-2's architecture that is trained here, on two stores: in ``facts`` the answer is in the store and nowhere else, in
``dense-store`` the entries are alike and say nothing. Each is diagnosed with the ladder of prompts.

Model, pipelines, rungs and diagnoses are kept in OUT; the same command goes on where it was stopped. OUT/results.json
has by task the gain in nats, the share of it that each rung has, and the share that is lost with other entries.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.cli.parsing import writable
from coldframe.config import read_mapping
from coldframe.diagnosis.diagnose import diagnose
from coldframe.diagnosis.evidence import Estimate, Rung
from coldframe.diagnosis.report import write_report
from coldframe.frozen.model import load_lm
from coldframe.methods.registry import create
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import load
from coldframe.progress import say
from coldframe.storage.artifact import MANIFEST
from coldframe.storage.files import atomic_path, write_json
from coldframe.tasks.corpora import spread
from coldframe.tasks.load import load_task
from coldframe.tasks.task import content_hash
from reproduction import small_gpt2

TASKS = ("facts", "dense-store")
#: Rungs of the ladder.
FULL, PROMPT = "full", "prompt-tuning"


def estimate(value: Estimate, n: int, scale: float = 1.0) -> dict[str, Any]:
    """A number with its interval, for JSON."""
    return {"value": scale * value.value, "low": scale * value.low, "high": scale * value.high, "n": n}


def efficiency(rungs: Mapping[str, Rung]) -> float:
    """Gain a parameter of the static prompt, as a multiple of that of the full pipeline; NaN where nothing is gained.

    It says little: it always favours what is small.
    """
    full, prompt = rungs[FULL], rungs[PROMPT]
    if full.gain.value <= 0 or prompt.gain.value <= 0:
        return math.nan
    return (prompt.gain.value / prompt.parameters) / (full.gain.value / full.parameters)


def measured(name: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The diagnosis of a task, made or read; other settings have a folder of their own."""
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "tasks")}
    home = options.out / f"{name}-{content_hash(json.dumps(settings, sort_keys=True))}"
    if (home / "numbers.json").is_file():
        return read_mapping(home / "numbers.json")
    lm, task = load_lm(str(model)), load_task(name)
    if options.rows:
        task = dataclasses.replace(task, train=spread(task.train, options.rows))
    method = create("latent-memory", {"tokens": options.tokens, "k": options.k})
    training = {"epochs": options.epochs, "select": "loss", "seed": 0}
    if (home / "artifact" / MANIFEST).is_file():
        pipeline = load(home / "artifact", lm)
    else:
        say(f"{name}: fitting latent memory")
        pipeline = fit(method, lm, task, training=training)
        pipeline.save_pretrained(home / "artifact")
    queries = spread(task.test, options.queries)
    diagnosis = diagnose(
        pipeline, queries, task=task, ladder=True, ladder_seeds=options.seeds, out=home / "ladder",
        resamples=options.resamples,
    )  # fmt: skip
    write_report(diagnosis, home / "diagnosis.html")
    ladder, ablation, n = diagnosis.ladder, diagnosis.store_ablation, diagnosis.n
    assert ladder is not None  # it was asked for
    rungs = {rung.name: rung for rung in ladder.rungs}
    numbers = {
        "n": n,
        "verdict": diagnosis.verdict.outcome,
        "gain": estimate(ablation.gain, n),
        "gains": {rung: estimate(of.gain, n) for rung, of in rungs.items()},
        "shares": {rung: estimate(of.share, n, 100) for rung, of in rungs.items()},
        "parameters": {rung: of.parameters for rung, of in rungs.items()},
        "lost": {a.condition: estimate(a.share, n, 100) for a in ablation.ablations if not a.retrained},
        "efficiency": efficiency(rungs),
    }
    write_json(home / "numbers.json", numbers, indent=2)
    return numbers


def main(argv: Sequence[str] | None = None) -> None:
    """Train the model, fit, diagnose, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--steps", type=int, default=small_gpt2.STEPS, help="of training the model")
    parser.add_argument("--rows", type=int, help="training rows, evenly over all; all if not given")
    parser.add_argument("--queries", type=int, default=400, help="test rows at most")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4, help="soft tokens m; the article has 16")
    parser.add_argument("--k", type=int, default=5, help="entries that are retrieved")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of each rung")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    with writable(options.out) as out:
        model = out / f"small-gpt2-{options.steps}"
        if not model.is_dir():
            with atomic_path(model) as folder:
                trained, tokenizer = small_gpt2.train(options.steps, 0)
                trained.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        results: dict[str, Any] = {}
        for name in options.tasks:
            results[name] = measured(name, model, options)
            write_json(out / "results.json", results, indent=2)
    print((options.out / "results.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
