"""``coldframe compare``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.flags import Grouped
from coldframe.cli.options import Flat, ModelFlags, RetrievalFlags, Settings, TaskFlags, TrainingFlags, load
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse, settings_of, writable
from coldframe.config import check
from coldframe.errors import ConfigError

if TYPE_CHECKING:
    from coldframe.evaluation.comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Compare(Grouped):
    """Methods, seeds and controls side by side on one frozen model, with intervals, cost and a report.

    For example:
      coldframe compare b3db --out runs/b3db
      coldframe compare mood.csv --methods zero-shot prompt-tuning mha-esp --seeds 0 1 --set mha-esp.k=10
      coldframe compare fact-corpus:200 --methods zero-shot icl prag poly-prag dyprag mha-esp pear lora
      coldframe compare mood.csv --methods icl mha-esp lora --tune 12 --seeds 0 1 2 3 4
      coldframe compare --recipe recipes/results-b3db.yaml

    Finished runs are kept in --out: interrupted, the same command goes on where it stopped.

    Args:
        methods: Which; see `coldframe methods`. Several joined by + are composed; ROW=METHOD is a further row of a
            method with settings of its own (--set ROW.KEY=VALUE). Those of all ports where the store holds passages,
            else those of text and soft tokens, if you name none.
        seeds: Training seeds; methods that train and draw nothing run once.
        set: A setting of one method, METHOD.KEY=VALUE; may be given several times.
        main: The method that the report is about.
        controls: Leave out the controls without a language model.
        ablations: Of the main method, retrained: shuffled-labels, random-exemplars. Of every method that retrieves, as
            trained: swapped-store (what was retrieved for another query); of poly-prag uniform-routing, random-routing.
        shuffles: Permutations of the exemplars to measure the order's effect by; 0 measures nothing.
        text_rows: Test rows for methods with exemplars in the prompt (a random sample); all if you name none.
        costs: Do not measure operations, latency and memory.
        tune: Trials for every method, by which its settings are chosen on validation rows before it is fitted with all
            seeds; 0 takes the settings as they are. What you set yourself is not searched.
        tune_rows: Training rows of a trial (a random sample); all if you name none.
        out: Folder of report.html, results.json, the main method's artifact and all runs; runs/compare-TASK if you
            name none.
        recipe: YAML file with these settings under their names (task, model, retrieval and training as mappings,
            method_settings by method, sweeps, published); flags override it.
        json: Print the results as JSON.
        quiet: No progress.
    """

    section = "recipe"
    groups = {"tuning": ("tune", "tune_rows"), "controls": ("controls", "ablations", "shuffles", "text_rows", "costs")}

    task: Annotated[TaskFlags, Flat] = dataclasses.field(default_factory=TaskFlags)
    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    set: Settings = ()
    method_settings: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    main: str | None = None
    controls: bool = True
    ablations: tuple[str, ...] | None = None
    sweeps: tyro.conf.Suppress[dict[str, Any]] = dataclasses.field(default_factory=dict)
    published: tyro.conf.Suppress[tuple[dict[str, Any], ...]] = ()
    shuffles: int = 0
    text_rows: int | None = None
    costs: bool = True
    tune: int = 0
    tune_rows: int | None = None
    out: str | None = None
    model: Annotated[ModelFlags, Flat] = dataclasses.field(default_factory=ModelFlags)
    retrieval: Annotated[RetrievalFlags, Flat] = dataclasses.field(default_factory=RetrievalFlags)
    training: Annotated[TrainingFlags, Flat] = dataclasses.field(default_factory=TrainingFlags)  # type: ignore[valid-type]
    recipe: str | None = None
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Compare, write the report, print the table."""
    options = parse(Compare, "compare", argv)
    comparison, out = run_comparison(options, shlex.join(["coldframe", "compare", *argv]))
    if options.json:
        print_json(comparison.to_dict())
        return
    show(comparison.table())
    print(f"wrote {out / 'report.html'} and {out / 'results.json'}")


def run_comparison(options: Compare, command: str) -> tuple[Comparison, Path]:
    """The comparison that some options ask for, and where it was written."""
    from coldframe.evaluation.comparison import compare
    from coldframe.evaluation.report_data import Published

    task = load(options.task)
    tell(task.notes, options.quiet)
    settings, sweeps = method_settings_of(options), sweeps_of(options)
    with writable(Path(options.out or f"runs/compare-{task.schema.name}")) as out:
        comparison = compare(
            options.model.load(options.quiet),
            task,
            options.methods,
            options.seeds,
            training=options.training.changes(),  # type: ignore[attr-defined]
            retrieval=options.retrieval,
            method_settings=settings,
            main=options.main,
            controls=options.controls,
            ablations=options.ablations,
            sweeps=sweeps,
            shuffles=options.shuffles,
            text_rows=options.text_rows,
            costs=options.costs,
            tune=options.tune,
            tune_rows=options.tune_rows,
            published=[Published.from_dict(values) for values in options.published],
            out=out,
            command=command,
            quiet=options.quiet,
        )
        return comparison, out


def method_settings_of(options: Compare) -> dict[str, dict[str, Any]]:
    """Settings by method: those of a recipe, and over them those of ``--set``."""
    settings: dict[str, dict[str, Any]] = {}
    for name, values in options.method_settings.items():
        check(isinstance(values, dict), f"method_settings.{name} must be a mapping", got=repr(values)[:80])
        settings[name] = dict(values)
    for name, changes in settings_of(options.set).items():
        if not isinstance(changes, dict):
            raise ConfigError(f"--set {name} names no method", expected="METHOD.KEY=VALUE, as --set mha-esp.heads=8")
        settings[name] = settings.get(name, {}) | changes
    return settings


def sweeps_of(options: Compare) -> dict[str, tuple[Any, ...]]:
    """The values of each setting that a recipe varies."""
    for name, values in options.sweeps.items():
        check(isinstance(values, list | tuple), f"sweeps.{name} must be a list", got=repr(values)[:80])
    return {name: tuple(values) for name, values in options.sweeps.items()}
