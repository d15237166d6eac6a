"""``coldframe fit``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from coldframe.cli.options import Flat, ModelFlags, RetrievalFlags, TaskFlags, load, parse, settings_of, writable
from coldframe.cli.output import print_json, tell
from coldframe.config import Config
from coldframe.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Fit(Config):
    """Adapt a frozen model to a task and write the artifact.

    For example:
      coldframe fit b3db --out runs/b3db
      coldframe fit mood.csv --text sentence --label mood --method mha-esp --set heads=4 --set k=8
      coldframe fit assay.csv --text smiles --label active --positive Yes --split scaffold
      coldframe fit --recipe recipes/mha-esp-paper.yaml --epochs 4

    What you leave out is inferred, and said. Interrupted, the same command goes on where it stopped.

    Args:
        method: See `coldframe methods`.
        set: A setting of the method, KEY=VALUE (see `coldframe methods`); may be given several times.
        out: Folder of the artifact; runs/TASK-METHOD if you name none.
        recipe: YAML file with the keys task, method, method_settings, model, retrieval, training; flags override it.
        json: Print the result as JSON.
        quiet: No progress.
    """

    section = "recipe"

    task: Annotated[TaskFlags, Flat] = dataclasses.field(default_factory=TaskFlags)
    method: str = "mha-esp"
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    method_settings: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    out: str | None = None
    model: Annotated[ModelFlags, Flat] = dataclasses.field(default_factory=ModelFlags)
    retrieval: Annotated[RetrievalFlags, Flat] = dataclasses.field(default_factory=RetrievalFlags)
    training: Annotated[TrainingConfig, Flat] = dataclasses.field(default_factory=TrainingConfig)
    recipe: str | None = None
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Fit, write, say what came of it."""
    asked = parse(Fit, "fit", argv)
    from coldframe.methods.registry import method_class
    from coldframe.pipeline.fit import fit

    cls = method_class(asked.method)
    method = cls(cls.config_class.from_dict({**asked.method_settings, **settings_of(asked.set)}))
    task = load(asked.task)
    tell(task.notes, asked.quiet)
    out = writable(Path(asked.out or f"runs/{task.schema.name}-{asked.method}"))
    lm = asked.model.load()
    pipeline = fit(method, lm, task, retrieval=asked.retrieval, training=asked.training, out=out, quiet=asked.quiet)
    parameters = sum(p.numel() for p in method.parameters())
    if asked.json:
        print_json(
            {
                "artifact": str(out),
                "task": task.schema.name,
                "method": asked.method,
                "method_settings": method.config.to_dict(),
                "trainable_parameters": parameters,
                "history": pipeline.history,
                "notes": list(task.notes),
                "seconds": round(pipeline.seconds, 2),
            }
        )
        return
    print(f"{asked.method} on {task.schema.name}: {parameters:,} parameters, {pipeline.seconds:.0f} s")
    best = [record for record in pipeline.history if record.get("best")]
    if best and "validation_metric" in best[-1]:
        score = best[-1]["validation_metric"]
        print(
            f"validation {task.schema.metric} {score:.1f} (chosen by, so it flatters); test: coldframe evaluate {out}"
        )
    print(f"wrote {out}")
