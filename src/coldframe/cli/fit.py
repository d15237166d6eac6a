"""``coldframe fit``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.flags import Grouped
from coldframe.cli.options import Flat, ModelFlags, RetrievalFlags, Settings, TaskFlags, TrainingFlags, load
from coldframe.cli.output import print_json, tell
from coldframe.cli.parsing import parse, settings_of, writable
from coldframe.config import check
from coldframe.escape import visible
from coldframe.pipeline.calibration import Calibration
from coldframe.progress import several_processes

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.methods.base import Method
    from coldframe.pipeline.auto import Choice
    from coldframe.pipeline.pipeline import Pipeline
    from coldframe.pipeline.simpler import Simpler
    from coldframe.tasks.task import Task

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Fit(Grouped):
    """Adapt a frozen model to a task and write the artifact.

    The task is a table of labelled rows, or a corpus of passages with questions. What you leave out is inferred, and
    said. Interrupted, the same command goes on where it stopped.

    For example:
      coldframe fit b3db --out runs/b3db
      coldframe fit mood.csv --text sentence --label mood --method mha-esp --set heads=4 --set k=8
      coldframe fit assay.csv --text smiles --label active --positive Yes --split scaffold
      coldframe fit corpus.jsonl --questions qa.jsonl --method prag --out runs/mine
      coldframe fit fact-corpus:40 --method icl+prag --set icl.k=3
      coldframe fit mood.csv --method auto --minutes 5
      coldframe fit --recipe recipes/mha-esp-paper.yaml --epochs 4

    Args:
        method: See `coldframe methods`; several joined by + are composed. auto tries a few on the validation rows,
            plain classifiers among them, and takes the simplest that does as well as the best.
        minutes: When they are over, --method auto tries no further method.
        set: A setting of the method, KEY=VALUE (see `coldframe methods`), or PART.KEY=VALUE of a part of a composition;
            may be given several times.
        out: Folder of the artifact; runs/TASK-METHOD if you name none.
        augment: Who writes questions about passages: given (the field qa of the corpus), self (the model that is
            adapted), another model, or the address of a server that speaks OpenAI's protocol.
        augment_model: The model as that server names it.
        augment_key_env: Environment variable with the server's key.
        ask_again: Also about passages that no questions could be had for before.
        calibrate: Correct the scores of the labels once the method is fitted: by inputs that say nothing (contextual),
            by validation rows without their labels (batch), by how frequent the labels are (prior), or by labelled
            validation rows (validation, if you name no way).
        controls: Do not look whether a simple classifier, which needs no language model, does as well on the validation
            rows.
        shard: Spread the model's layers over the processes that torchrun started, where it does not fit on one device.
        add: Add what is new in the data to the artifact in --out; what was trained stays as it is, with its method
            and settings.
        recipe: YAML file with the keys task, method, method_settings, model, retrieval, training; flags override it.
        json: Print the result as JSON.
        quiet: No progress.
    """

    section = "recipe"
    alone = {"calibrate": "validation"}
    groups = {
        "augmentation": ("augment", "augment_model", "augment_key_env", "ask_again"),
        "choice": ("minutes",),
        "processes": ("shard",),
    }

    task: Annotated[TaskFlags, Flat] = dataclasses.field(default_factory=TaskFlags)
    method: str = "mha-esp"
    minutes: float = 10.0
    set: Settings = ()
    method_settings: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    out: str | None = None
    model: Annotated[ModelFlags, Flat] = dataclasses.field(default_factory=ModelFlags)
    retrieval: Annotated[RetrievalFlags, Flat] = dataclasses.field(default_factory=RetrievalFlags)
    training: Annotated[TrainingFlags, Flat] = dataclasses.field(default_factory=TrainingFlags)  # type: ignore[valid-type]
    augment: str = "given"
    augment_model: str | None = None
    augment_key_env: str | None = None
    ask_again: bool = False
    calibrate: Calibration = "none"
    controls: bool = True
    shard: bool = False
    add: bool = False
    recipe: str | None = None
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str], name: str = "fit", default: Fit | None = None) -> None:
    """Fit, write, say what came of it."""
    options = parse(Fit, name, argv, default)
    from coldframe.methods.registry import create

    settings = {**options.method_settings, **settings_of(options.set)}
    check(options.method != AUTO or not settings, "--method auto chooses the settings too", got=" ".join(settings))
    method = None if options.method == AUTO else create(options.method, settings)
    alone = options.method == AUTO or options.add or options.augment != "given"
    check(not (alone and several_processes()), "--method auto, --add and --augment are for one process")
    if options.shard:
        _check_shard(options, method)
    task = load(options.task)
    tell(task.notes, options.quiet)
    with writable(Path(options.out or f"runs/{task.schema.name}-{options.method}")) as out:
        if options.add:
            _add(options, task, out)
        else:
            _fit(options, task, method, out)


def _fit(options: Fit, task: Task, method: Method | None, out: Path) -> None:
    """Fit a method to a task, or the one that does best on the validation rows, and print what came of it."""
    from coldframe.methods.soft_tokens.set_attention import attends
    from coldframe.pipeline.fit import fit

    load_model = cache(partial((_whole(options.model) if options.shard else options.model).load, options.quiet))
    choice = None
    if method is None:
        choice = _chosen(options, task, load_model)
        method = choice.picked.candidate.build()
    lm = load_model() if method.needs_model else None
    if options.shard and lm is not None:
        _spread(lm)
    task = _augmented(options, task, method, lm, out)
    training = options.training.changes()  # type: ignore[attr-defined]
    pipeline = fit(
        method,
        lm,
        task,
        retrieval=options.retrieval,
        training=training,
        out=out,
        calibrate=options.calibrate,
        quiet=options.quiet,
    )
    parameters, entry_bytes = method.trained_parameters, method.entry_bytes
    simpler = _simpler(options, task, pipeline) if choice is None else None
    if options.json:
        print_json(
            {
                "artifact": str(out),
                "task": task.schema.name,
                "method": method.name,
                "chosen_among": None if choice is None else [trial.to_dict() for trial in choice.trials],
                "method_settings": method.config.to_dict(),
                "trainable_parameters": parameters,
                "entries": len(pipeline.store),
                "bytes_per_entry": entry_bytes,
                "simpler": None if simpler is None else simpler.to_dict(),
                "left_out": dict(method.left_out),
                "history": pipeline.history,
                "label_priors": dict(pipeline.priors),
                "label_bias": list(method.label_bias),
                "notes": list(task.notes),
                "seconds": round(pipeline.seconds, 2),
                "peak_memory_mb": round(pipeline.peak_memory_mb),
            }
        )
        return
    if simpler is not None and simpler.does_as_well:
        print(simpler.line())
    took = f"{pipeline.seconds:.0f} s, {pipeline.peak_memory_mb:,.0f} MB at most"
    print(f"{method.name} on {visible(task.schema.name)}: {parameters:,} parameters, {took}")
    if entry_bytes is not None:
        print(f"{len(pipeline.store):,} passages, {entry_bytes:,.0f} bytes for each")
    best = [record for record in pipeline.history if record.get("best")]
    if best and "validation_metric" in best[-1]:
        score = best[-1]["validation_metric"]
        print(
            f"validation {task.schema.metric} {score:.1f} (chosen by, so it flatters); test: coldframe evaluate {out}"
        )
    if simpler is not None and not simpler.does_as_well:
        print(simpler.line())
    if best and "attention_entropy" in best[-1]:
        record = best[-1]
        words, gradient = attends(record["attention_entropy"]), record["attention_gradient"]
        print(f"attention {words}; gradient norm of queries and keys {gradient:.1e}")
    print(f"wrote {out}")


def _check_shard(options: Fit, method: Method | None) -> None:
    """Refuse --shard where it would do nothing, before anything is loaded."""
    check(
        several_processes(),
        "--shard spreads a model over several processes, and there is only one",
        expected="torchrun --nproc_per_node 2 -m coldframe fit ... --shard",
    )
    check(method is None or method.needs_model, "--shard spreads a model, and this method needs none")
    check(options.model.device == "auto", "--shard chooses the device of each process", got=options.model.device)


def _whole(model: ModelFlags) -> ModelFlags:
    """The flags of a model that is loaded whole into the processor's memory, in the dtype of where it will compute."""
    from coldframe.frozen.devices import device_of, dtype_of

    dtype = str(dtype_of(model.dtype, device_of("auto"))).removeprefix("torch.")
    return dataclasses.replace(model, device="cpu", dtype=dtype)


def _spread(lm: FrozenLM) -> None:
    """Spread the model over the processes that were started together."""
    import torch

    from coldframe.frozen.sharding import shard
    from coldframe.training.processes import Processes

    Processes.join(cpu=not torch.cuda.is_available())
    shard(lm)


def _simpler(options: Fit, task: Task, pipeline: Pipeline) -> Simpler | None:
    """The best simple classifier beside what was fitted; None where there is nothing to compare."""
    from coldframe.pipeline.simpler import simpler_than

    best = [record for record in pipeline.history if record.get("best")]
    scores = [record["validation_metric"] for record in best if "validation_metric" in record]
    if not options.controls or not scores or not pipeline.method.reads_model:
        return None
    return simpler_than(task, scores[-1], retrieval=options.retrieval)


def _chosen(options: Fit, task: Task, load_model: Callable[[], FrozenLM]) -> Choice:
    """What --method auto picks; said before the method is fitted to all rows."""
    from coldframe.pipeline.auto import choose

    training = options.training.changes()  # type: ignore[attr-defined]
    more = {"retrieval": options.retrieval, "training": training, "minutes": options.minutes, "quiet": options.quiet}
    choice = choose(task, load_model, **more)
    if not options.json:
        print("\n".join(choice.lines()), flush=True)
    return choice


def _add(options: Fit, task: Task, out: Path) -> None:
    """Add the new entries of a task to an artifact."""
    from coldframe.pipeline.fit import grow
    from coldframe.pipeline.pipeline import load as load_artifact

    check(not options.set, "--add keeps the settings of the artifact", got=" ".join(options.set))
    pipeline = load_artifact(out)
    task = _augmented(options, task, pipeline.method, pipeline.lm, out)
    added = grow(pipeline, task, out, options.quiet)
    if options.json:
        print_json({"artifact": str(out), "added": added})
    else:
        print(f"added {added} entries to {out}")


def _augmented(options: Fit, task: Task, method: Method, lm: FrozenLM | None, out: Path) -> Task:
    """The task with questions about its passages, if they are to be written."""
    if options.augment == "given":
        return task
    from coldframe.frozen.model import load_lm
    from coldframe.inference.augmenters import by_endpoint, by_model
    from coldframe.inference.client import Client
    from coldframe.tasks.augmentation import augment

    rewrites = getattr(method.config, "form", "") == "published"
    if options.augment.startswith(("http://", "https://")):
        check(options.augment_model is not None, "A server has several models", expected="--augment-model NAME")
        key = os.environ.get(options.augment_key_env) if options.augment_key_env else None
        writer = by_endpoint(Client(options.augment, str(options.augment_model), key), rewrites=rewrites)
    else:
        same = options.augment == "self"
        author = (
            lm or options.model.load(options.quiet) if same else load_lm(options.augment, dtype=options.model.dtype)
        )
        writer = by_model(author, rewrites=rewrites)
    return augment(task, writer, out / "augmentations.jsonl", ask_again=options.ask_again, quiet=options.quiet)
