"""Every method, seed and control on a frozen model and a task, in one report."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group

from coldframe import __version__
from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.evaluation.calibration import reliability
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.jobs import (
    QUERY_ABLATIONS,
    TRAINING_ABLATIONS,
    Job,
    controls_of,
    own_settings,
    planned,
    rows_of,
)
from coldframe.evaluation.report import render_markdown, render_table, write_report
from coldframe.evaluation.report_data import (
    MethodRow,
    Published,
    Reliability,
    ReportData,
    Sweep,
    SweepPoint,
    TrainingCurve,
)
from coldframe.evaluation.runs import Outcome, Runner
from coldframe.evaluation.summary import label_prior_rows, method_row, metric_infos, samples
from coldframe.evaluation.trials import TrialSetup
from coldframe.evaluation.tune import Search, Tuner, tuned
from coldframe.evaluation.verdict import verdict
from coldframe.frozen.model import FrozenLM
from coldframe.inference.intervals import score_interval
from coldframe.inference.predictions import Predictions
from coldframe.methods.registry import create
from coldframe.pipeline.setup import readable_task
from coldframe.progress import Bar, say
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.storage.files import write_json, write_text
from coldframe.storage.folders import claims_out
from coldframe.tasks.task import Passage, Task
from coldframe.training.config import TrainingConfig

METHODS = ("zero-shot", "icl-fixed", "icl", "prompt-tuning", "idpg", "u-esp", "p-esp", "mha-esp")
ON_PASSAGES = ("zero-shot", "icl", "prag", "poly-prag", "dyprag", "mha-esp", "pear", "lora")
ABLATIONS = (*TRAINING_ABLATIONS, *QUERY_ABLATIONS)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`: all that the report shows, predictions by row and seed, time, trials by row.

    ``seconds`` are those of this call, ``seconds_by_row`` what fitting and scoring each row took with all its seeds,
    whenever that was.
    """

    data: ReportData
    runs: Mapping[str, Sequence[Predictions]]
    seconds: float
    searches: Mapping[str, Search] = dataclasses.field(default_factory=dict)
    seconds_by_row: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def table(self) -> Group:
        """Verdict and table, to be printed by ``rich``."""
        return render_table(self.data)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON: verdict, and each row's metrics with intervals, difference and cost."""
        rows = []
        for row in self.data.ranked():
            values = row.to_dict()
            metrics = {score["metric"]: score["interval"] for score in values.pop("scores")}
            took = {"seconds": round(seconds, 1)} if (seconds := self.seconds_by_row.get(row.name)) is not None else {}
            rows.append({"name": values.pop("name"), "metrics": metrics, **values, **took})
        result = verdict(self.data)
        return {
            "task": self.data.task,
            "model": self.data.model,
            "main": self.data.main,
            "metric": self.data.metric,
            "verdict": {name: getattr(result, name) for name in ("outcome", "headline", "too_few", "few_seeds")},
            "rows": rows,
            "tuning": self.data.tuning,
            "notes": list(self.data.notes),
            "seconds": round(self.seconds, 1),
        }

    def save(self, out: str | Path) -> None:
        """Write ``report.html``, ``report.json`` (what it is made of), ``results.json``, ``results.md`` (numbers).

        Where settings were tuned, ``tuning.json`` has every trial.
        """
        if self.searches:
            write_json(Path(out) / "tuning.json", [dataclasses.asdict(s) for s in self.searches.values()], indent=2)
        write_report(self.data, Path(out) / "report.html")
        write_text(Path(out) / "results.md", render_markdown(self.data))
        write_json(Path(out) / "results.json", self.to_dict(), indent=2)


@claims_out
def compare(
    lm: FrozenLM,
    task: Task,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    retrieval: RetrievalConfig | None = None,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    main: str | None = None,
    controls: bool = True,
    ablations: Sequence[str] | None = None,
    sweeps: Mapping[str, Sequence[int]] | None = None,
    shuffles: int = 0,
    text_rows: int | None = None,
    costs: bool = True,
    tune: int = 0,
    tune_rows: int | None = None,
    published: Sequence[Published] = (),
    out: str | Path | None = None,
    command: str = "",
    quiet: bool = False,
) -> Comparison:
    """Fit methods and controls with several seeds, score them on the test rows, and compare them.

    All methods share the model and its cached text states. Methods that train and draw nothing run once. With ``out``
    every run is stored there when it is done, under the hash of all it depends on: an interrupted comparison goes on
    where it stopped, a wider one reuses what is there.

    Args:
        lm: The frozen model.
        task: Rows and schema.
        methods: Names, see ``coldframe methods``; joined by ``+`` they are composed. ``ROW=METHOD`` gives a method a
            further row, with ``method_settings`` of its own under that name. ``METHODS`` if None, or
            ``ON_PASSAGES`` where the store holds passages.
        seeds: Training seeds.
        training: For every method, a whole config or changes to each method's own settings; the seed is of ``seeds``.
        retrieval: How exemplars are found.
        method_settings: Settings by method (or row) name. A key ``training`` holds changes to ``training`` for this
            method alone (its learning rate, its epochs), ``calibrate`` says how the scores of its labels are corrected
            (as in :func:`coldframe.fit`).
        main: The method that the report is about; default: MHA-ESP, or the last of ``methods``.
        controls: Run the controls without a language model.
        ablations: Of the main method, retrained: ``"shuffled-labels"`` permutes the exemplars' labels,
            ``"random-exemplars"`` retrieves at random. Of every method that retrieves, as trained: ``"swapped-store"``
            gives each query what was retrieved for another; of Poly-PRAG ``"uniform-routing"`` and
            ``"random-routing"``. None takes the first two, or ``"swapped-store"`` where the store holds passages.
        sweeps: Settings of the main method to vary, with their values: ``{"k": (1, 5, 10)}``.
        shuffles: Permutations of the exemplars that the order's effect is measured by; 0 measures nothing.
        text_rows: Test rows for methods that put exemplars into the prompt, which read several times more
            text: a seeded sample, which the table mentions; None takes all.
        costs: Measure operations, latency and memory.
        tune: Trials by which the settings of every method are chosen on validation rows, the first with its settings as
            they are; then the best are fitted with every seed. What ``training`` and ``method_settings`` set is not
            searched. 0 tunes nothing. Needs the extra ``tune``.
        tune_rows: Training rows of a trial, a seeded sample; None takes all.
        published: Numbers from papers, to stand beside ours.
        out: Folder for the report, the main method's artifact (first seed) and all runs: a new or empty one, or one
            that coldframe wrote. None writes nothing.
        command: What makes this again, for the report.
        quiet: No progress.

    Raises:
        ConfigError: An unknown method, ablation or setting.
        ColdframeError: ``out`` holds files that coldframe did not write, or another process writes to it.
    """
    started = time.perf_counter()
    training, retrieval = training or {}, retrieval or RetrievalConfig()
    settings = {name: dict(values) for name, values in (method_settings or {}).items()}
    passages = any(isinstance(entry, Passage) for entry in task.store or ())
    by_row = rows_of(methods or (ON_PASSAGES if passages else METHODS))
    ablations = (("swapped-store",) if passages else TRAINING_ABLATIONS) if ablations is None else ablations
    main = main or ("mha-esp" if "mha-esp" in by_row and not passages else [*by_row][-1])
    check(len(seeds) == len(set(seeds)) >= 1, "Seeds must differ", got=list(seeds))
    if main not in by_row:
        raise ConfigError(f"{main!r} is not among the methods to compare", fix=nearest(main, by_row))
    for name in settings:  # also of methods that are left out this time: a recipe is narrowed by its methods alone
        create(by_row.get(name, name))
    for name in ablations:
        if name not in ABLATIONS:
            raise ConfigError(f"There is no ablation {name!r}", fix=nearest(name, ABLATIONS))
    drafts = [create(method, own_settings(settings.get(row, {}))) for row, method in by_row.items()]
    task = readable_task(lm, task, max(draft.soft_token_count for draft in drafts))
    classify = task.schema.kind == "classification"
    without = controls_of(task, settings, seeds, [*by_row.values()], tuned=tune > 0) if controls else []
    jobs = [*planned(task, by_row, settings, seeds, main, ablations, sweeps or {}), *without]
    tuner = None
    searches: dict[str, Search] = {}
    if tune:
        setup = TrialSetup.of(lm, task, training, retrieval, text_rows, tune_rows)
        tuner = Tuner(setup, tune, None if out is None else Path(out) / "runs", quiet)
        searches = tuner.search([job for job in jobs if job.seed == seeds[0]])
        settings |= {name: dict(searches[name].settings) for name in by_row}
        plan = planned(task, by_row, settings, seeds, main, ablations, sweeps or {})
        jobs = tuned([*plan, *without], searches)
        # One set of test rows for all methods: those that all of them can read.
        task = readable_task(lm, task, max(job.build().soft_token_count for job in jobs))
    runner = Runner(lm, task, training, retrieval, None if out is None else Path(out), shuffles, text_rows, quiet)
    outcomes = runner.run(jobs)
    measured: dict[str, Cost] = {}
    if costs:
        counted = [job for job in jobs if job.seed == seeds[0] and job.title in by_row]
        if not quiet:
            say("measuring costs")
        with Bar(len(counted), "measuring costs", quiet) as bar:
            for job in counted:
                measured[job.title] = runner.cost(job)
                bar.advance(1)
    rows = [
        _row(job, outcomes[job.title], outcomes[main], task, measured.get(job.title), searches)
        for job in jobs
        if job.seed == seeds[0] and job.role is not None
    ]
    main_runs = [outcome.predictions for outcome in outcomes[main]]
    runs = {title: [run.predictions for run in seeds_of] for title, seeds_of in outcomes.items()}
    data = ReportData(
        task=task.schema.name,
        model=str(lm.provenance.get("name", "model")),
        main=main,
        metric=task.schema.metric,
        metrics=metric_infos([score.metric for row in rows for score in row.scores]),
        rows=tuple(rows),
        domain=task.schema.domain,
        kind=task.schema.kind,
        positive=task.schema.positive,
        notes=task.notes,
        curves=tuple(_curve(outcome, main) for outcome in outcomes[main] if outcome.history),
        sweeps=tuple(_sweep(main, setting, values, runs, task) for setting, values in (sweeps or {}).items()),
        reliability=(Reliability(main, reliability(main_runs)),) if classify else (),
        label_priors=label_prior_rows({row.name: runs[row.name] for row in rows if row.role == "method"})
        if classify
        else (),
        samples=samples(main_runs[0], Store.of(task.exemplars), task.schema),
        published=tuple(published),
        settings={
            "task": dict(task.options),
            "training": training.to_dict() if isinstance(training, TrainingConfig) else dict(training),
            "retrieval": retrieval.to_dict(),
            "methods": {job.title: job.build().config.to_dict() for job in jobs if job.seed == seeds[0]},
            "changes": settings,
            "seeds": list(seeds),
        },
        provenance={
            "coldframe": __version__,
            "model": {**lm.provenance, "weight_hash": lm.weight_hash, "dtype": str(lm.dtype)},
            "data": dict(task.source),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        },
        command=command,
        tuning="" if tuner is None else tuner.rule,
    )
    seconds_by_row = {title: sum(run.seconds for run in seeds_of) for title, seeds_of in outcomes.items()}
    comparison = Comparison(data, runs, time.perf_counter() - started, searches, seconds_by_row)
    if out is not None:
        comparison.save(out)
    return comparison


def _row(
    job: Job,
    outcomes: Sequence[Outcome],
    main: Sequence[Outcome],
    task: Task,
    cost: Cost | None,
    searches: Mapping[str, Search],
) -> MethodRow:
    search = searches.get(job.of or job.title)
    tuning = None if search is None else search.tuning
    if tuning is not None and job.of:
        tuning = dataclasses.replace(tuning, shared=job.of)
    runs, note = [outcome.predictions for outcome in outcomes], []
    rivals = None if job.title == main[0].predictions.method else [outcome.on(runs[0].ids) for outcome in main]
    if len(runs[0]) < len(task.test):
        note.append(f"On a random sample of {len(runs[0])} of the {len(task.test)} test rows.")
    if dropped := max(outcome.dropped for outcome in outcomes):
        note.append(f"{dropped} exemplars were dropped because the model's context is too short.")
    spreads = [outcome.order_std for outcome in outcomes if outcome.order_std is not None]
    return method_row(
        runs,
        task.schema,
        role=job.role or "method",
        main=rivals,
        cost=cost,
        bytes_per_passage=outcomes[0].entry_bytes,
        fit_memory_mb=max((outcome.peak_memory_mb or 0 for outcome in outcomes), default=0) or None,
        order_std=float(np.mean(spreads)) if spreads else None,
        note=" ".join(note),
        tuning=tuning,
    )


def _curve(outcome: Outcome, method: str) -> TrainingCurve:
    points = {
        name: tuple((record["epoch"], record[name]) for record in outcome.history if name in record)
        for name in ("train_loss", "validation_metric")
    }
    chosen = [record["epoch"] for record in outcome.history if record.get("best")]
    return TrainingCurve(
        method,
        outcome.predictions.seed,
        points["train_loss"],
        points["validation_metric"],
        chosen[-1] if chosen else None,
    )


def _sweep(
    main: str, setting: str, values: Sequence[int], runs: Mapping[str, Sequence[Predictions]], task: Task
) -> Sweep:
    positive = task.schema.positive_index
    return Sweep(
        setting,
        main,
        tuple(
            SweepPoint(value, score_interval(runs[f"{main}, {setting} = {value}"], task.schema.metric, positive))
            for value in values
        ),
    )
