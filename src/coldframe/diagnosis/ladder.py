"""Diagnostic 3, the prompt-tuning ladder: how far does a static prompt get, and one from the query alone?"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config, check
from coldframe.diagnosis.evidence import Control, Ladder, Rung
from coldframe.diagnosis.ladder_plan import RUNGS, Step, control_settings, count_tokens, plan
from coldframe.diagnosis.outcomes import ladder_outcome
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.queries import groups_of
from coldframe.diagnosis.shares import Measured, Shares
from coldframe.errors import ConfigError, TrainingError
from coldframe.evaluation.jobs import Job, controls_of
from coldframe.evaluation.runs import Runner
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method
from coldframe.pipeline.pipeline import Pipeline
from coldframe.progress import duration, say
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.storage.folders import claims_out
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig


@claims_out
def ladder(
    full: Pipeline | Method,
    lm: FrozenLM,
    task: Task,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    learning_rates: Mapping[str, Sequence[float]] | None = None,
    training: TrainingConfig | None = None,
    retrieval: RetrievalConfig | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Ladder:
    """Train five methods that see more and more; tell what share of the full method's gain each of them reaches.

    Same rows, steps, batches, seeds and number of soft tokens m for all::

        1 prompt-tuning     m free tokens
        2 reparameterised   m tokens out of a network, the same for all queries
        3 constant          the full method and its parameters; query and exemplars are those of one row for all
        4 query-only        m tokens from the query alone (IDPG, with the full method's encoder and its settings)
        5 full

        G_k = mean(l_0 - l_k),   R_k = G_k / G_5,   gap = G_5 - max(G_1..G_4),   retrieval = (G_5 - G_4) / G_5

    ``l_k`` are losses of the test rows as :class:`coldframe.diagnosis.pipeline_subject.PipelineSubject` defines
    them, ``l_0`` those of the model alone. Each rung has a learning-rate sweep of its own: one run per rate with
    the first seed, the rate with the least validation loss, then all seeds at that rate. The validation loss is the
    one that training reports, with its class weights. Intervals are over seeds and rows (see
    :class:`coldframe.diagnosis.shares.Shares`). Below the ladder stand the controls without a language model, on
    the same rows; the one that is trained like a method has its natural rate.

    It is for trained methods that put soft tokens into the model. For in-context learning compare ``icl-fixed``, which
    has the same exemplars for every query.

    All rungs share the model and its cached text states. With ``out`` every run is stored there when it is done, under
    the hash of all it depends on: an interrupted ladder goes on where it stopped.

    Args:
        full: A method, or a fitted pipeline whose settings it shares. Either way it is trained again, like the others.
        lm: The frozen model; the pipeline's own if a pipeline is given.
        task: Rows and schema. Rates are chosen on the validation rows, losses are those of the test rows.
        seeds: Training seeds, all different; the definition asks for five.
        learning_rates: Rates by rung; by default 1/3, 1 and 3 times the natural rate of its method.
        training: Of every rung, except learning rate and seed; by default the pipeline's.
        retrieval: How exemplars are found; by default as in the pipeline.
        out: Folder for the runs.
        quiet: No progress.

    Returns:
        What the rungs reach. A control's loss is NaN where it gave the right answer of a row the probability 0.

    Raises:
        ColdframeError: ``out`` holds files that coldframe did not write, or another process writes to it.
        ConfigError: The method has no soft tokens, a rung does not exist, or there is nothing to choose a rate by.
        TrainingError: A rung cannot be trained at any rate, or at the best one with every seed.

    Cost:
        ``5 (rates + seeds - 1)`` runs, 35 by default; those of rungs 1 to 4 are cheaper than the full method's.
        Their number and time are printed before the first one.
    """
    pipeline = full if isinstance(full, Pipeline) else None
    method = full.method if isinstance(full, Pipeline) else full
    training = training or (pipeline.training if pipeline else TrainingConfig())
    retrieval = retrieval or (pipeline.retrieval if pipeline else RetrievalConfig())
    check(len(seeds) == len(set(seeds)) >= 1, "Seeds must differ", got=list(seeds))
    if pipeline is not None:
        check(pipeline.schema == task.schema, "The pipeline was fitted to another task", got=pipeline.schema.name)
    tokens = count_tokens(method, lm, task.schema)
    steps = plan(method, tokens, training, learning_rates or {})
    if not task.validation and any(len(step.rates) > 1 for step in steps):
        raise ConfigError(
            "There are no validation rows to choose learning rates by",
            fix="Pass a task with validation rows, or one rate for every rung.",
        )
    runner = Runner(lm, task, training, retrieval, None if out is None else Path(out), 0, None, quiet)
    runs = RungRuns(runner, pipeline.seconds if pipeline else 0.0)
    sweeps = [[step.job(rate, seeds[0]) for rate in step.rates] for step in steps]
    different = {runner.key(jobs[0]) for jobs in sweeps}
    runs.announce([job for jobs in sweeps for job in jobs], len(different) * (len(seeds) - 1))
    controls = _controls(method, tokens, runner, seeds)
    alone = runs.of(Job("the model alone", None, "zero-shot", {}, seeds[0]))
    reached = {step.name: climb(step, runs, seeds, quiet) for step in steps}

    shares = Shares(reached["full"].losses, alone.losses, groups_of(task.test))
    measured = {}
    for place, name in enumerate(RUNGS, start=1):
        # A rung that is the full method is the same training, seed by seed.
        same = reached[name].runs == reached["full"].runs
        measured[name] = shares.of(reached[name].losses, training=0 if same else place)
    rungs = tuple(reached[name].rung(measured[name]) for name in RUNGS)
    best = max(RUNGS[:-1], key=lambda name: measured[name].gain.value)
    retrieved = measured["query-only"].share
    outcome, reason = ladder_outcome(rungs, retrieved)
    return Ladder(rungs, measured[best].rise, retrieved, controls, len(seeds), outcome, reason)


@dataclasses.dataclass(frozen=True)
class Reached:
    """A rung that was trained: the runs of its sweep, the learning rate chosen, and the runs at it, one per seed."""

    step: Step
    rate: float
    tried: tuple[RungRun, ...]
    runs: tuple[RungRun, ...]

    @property
    def losses(self) -> NDArray[np.float64]:
        """Of the test rows, ``[seeds, n]``."""
        return np.array([run.losses for run in self.runs])

    def rung(self, measured: Measured) -> Rung:
        """What the report shows of it."""
        losses = [math.nan if run.validation_loss is None else run.validation_loss for run in self.tried]
        return Rung(
            name=self.step.name,
            what=self.step.what,
            parameters=self.runs[0].parameters,
            learning_rate=self.rate,
            sweep=tuple(zip(self.step.rates, losses, strict=True)),
            loss=measured.loss,
            gain=measured.gain,
            share=measured.explained,
        )


def climb(step: Step, runs: RungRuns, seeds: Sequence[int], quiet: bool = True) -> Reached:
    """Train a rung: its sweep with the first seed, then every seed at the best rate."""
    tried = tuple(runs.of(step.job(rate, seeds[0])) for rate in step.rates)
    rate = choose(step, tried)
    if not quiet and len(tried) > 1 and rate in (min(step.rates), max(step.rates)):
        say(f"{step.name}: {rate:g} is the end of its sweep; a rate beyond may do better")
    chosen = tuple(runs.of(step.job(rate, seed)) for seed in seeds)
    for seed, run in zip(seeds, chosen, strict=True):
        if run.failure:
            raise TrainingError(
                f"The rung {step.name!r} cannot be trained at the rate {rate:g} with the seed {seed}",
                got=run.failure,
                fix="Pass lower rates for it in learning_rates; all other runs are stored.",
            )
    return Reached(step, rate, tried, chosen)


def choose(step: Step, tried: Sequence[RungRun]) -> float:
    """The rate with the least validation loss."""
    if all(run.failure for run in tried):
        raise TrainingError(
            f"The rung {step.name!r} cannot be trained",
            got=tried[0].failure,
            fix=f"Pass other rates than {list(step.rates)} for it in learning_rates.",
        )
    losses = [math.inf if run.validation_loss is None else run.validation_loss for run in tried]
    return step.rates[int(np.argmin(losses))]


def _controls(method: Method, tokens: int, runner: Runner, seeds: Sequence[int]) -> tuple[Control, ...]:
    """What there is without a language model; nothing for a generation task."""
    jobs = controls_of(runner.task, control_settings(method, tokens), seeds)
    controls = []
    for name, outcomes in runner.run(jobs).items():
        runs = [outcome.predictions for outcome in outcomes]
        right = np.stack([run.probabilities[np.arange(len(run)), run.targets] for run in runs])
        loss = float(-np.log(right).mean()) if right.all() else math.nan
        controls.append(Control(name, loss, float(np.mean([run.predicted == run.targets for run in runs]))))
    return tuple(controls)


@dataclasses.dataclass(frozen=True)
class RungRun(Config):
    """What is stored of a run: losses of the test rows, validation loss of the best epoch, why it failed if it did."""

    section = "run of a ladder"

    losses: tuple[float, ...]
    validation_loss: float | None
    parameters: int
    seconds: float
    failure: str = ""


class RungRuns:
    """Makes the runs of a ladder, or reads those that are stored; rungs that are the same share theirs.

    ``seconds`` is what a run takes, until the first one has been timed; 0 if it is not known.
    """

    def __init__(self, runner: Runner, seconds: float = 0.0) -> None:
        self.runner, self._expected = runner, seconds
        self._known: dict[str, RungRun] = {}
        self._left = 0

    def announce(self, now: Sequence[Job], later: int) -> None:
        """Print how many runs will be trained, at most, and their time: jobs that come first, and ``later`` ones."""
        self._left = len({self.runner.key(job) for job in now if not self._is_stored(job)}) + later
        if self.runner.quiet:
            return
        time_left = f"about {duration(self._left * self._expected)} if all take as long as the pipeline took"
        say(f"ladder: up to {self._left} runs to train, {time_left if self._expected else 'the first tells how long'}")

    def of(self, job: Job) -> RungRun:
        """The run of a job."""
        key = self.runner.key(job)
        if key not in self._known:
            stored = self._is_stored(job)
            self._known[key] = self.runner.stored(self._name(job), RungRun, lambda: self._train(job))
            self._tell(job, self._known[key], stored)
        return self._known[key]

    def _train(self, job: Job) -> RungRun:
        started = time.perf_counter()
        try:
            pipeline = self.runner.fit(job)
        except TrainingError as error:  # too high a rate, or too low a one: the sweep goes on
            return RungRun((), None, 0, time.perf_counter() - started, str(error))
        best = [record for record in pipeline.history if record["best"]]
        return RungRun(
            losses=tuple(PipelineSubject(pipeline, self.runner.task.test).losses("full").tolist()),
            validation_loss=best[-1].get("validation_loss") if best else None,
            parameters=pipeline.method.trained_parameters,
            seconds=time.perf_counter() - started,
        )

    def _tell(self, job: Job, run: RungRun, stored: bool) -> None:
        self._left -= not stored and bool(run.parameters or run.failure)
        if self.runner.quiet:
            return
        result = run.failure or ("" if run.validation_loss is None else f"validation loss {run.validation_loss:.3f}, ")
        timed = [known.seconds for known in self._known.values() if known.parameters]
        left = f"; about {duration(self._left * sum(timed) / len(timed))} left" if self._left > 0 and timed else ""
        say(f"{job.title}, seed {job.seed}: {result}{'stored before' if stored else duration(run.seconds)}{left}")

    def _is_stored(self, job: Job) -> bool:
        path = self.runner.path(f"{self._name(job)}.json")
        return path is not None and path.is_file()

    def _name(self, job: Job) -> str:
        return f"ladder-{job.method}-seed{job.seed}-{self.runner.key(job)}"
