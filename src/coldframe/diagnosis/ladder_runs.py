"""The runs of a ladder: trained, or found where an earlier ladder left them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from coldframe.config import Config
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.errors import ConfigError, DataError, TrainingError
from coldframe.evaluation.runs import Job, Runner, duration
from coldframe.pipeline.pipeline import Pipeline
from coldframe.progress import say
from coldframe.storage.files import write_text


@dataclasses.dataclass(frozen=True)
class RungRun(Config):
    """What a ladder keeps of one run.

    Args:
        losses: Of the test rows, as :class:`PipelineSubject` defines them; none if training failed.
        validation_loss: Of the epoch that was kept; None if training failed or nothing was trained.
        parameters: Trained parameters.
        seconds: What training and the losses took.
        failure: Why training failed; empty if it did not.
    """

    section = "run of a ladder"

    losses: tuple[float, ...]
    validation_loss: float | None
    parameters: int
    seconds: float
    failure: str = ""


class RungRuns:
    """Makes the runs of a ladder, or finds them by all that they depend on; rungs that are the same share theirs.

    Args:
        runner: Trains; runs are kept in its folder, if it has one.
        seconds: What one run takes, until the first one has been timed; 0 if nobody knows.
    """

    def __init__(self, runner: Runner, seconds: float = 0.0) -> None:
        self.runner, self._expected = runner, seconds
        self._known: dict[str, RungRun] = {}
        self._left = 0

    def announce(self, now: Sequence[Job], later: int) -> None:
        """Say what is to be trained and about how long it will take, before any of it.

        Args:
            now: The first jobs.
            later: How many more will follow, at most.
        """
        self._left = len({self.runner.key(job) for job in now if not self._is_stored(job)}) + later
        if self.runner.quiet:
            return
        known = f"about {duration(self._left * self._expected)} if all take as long as the pipeline took"
        say(f"ladder: up to {self._left} runs to train, {known if self._expected else 'the first tells how long'}")

    def of(self, job: Job) -> RungRun:
        """The run of a job."""
        key = self.runner.key(job)
        if key not in self._known:
            path = self._path(job)
            stored = path is not None and path.is_file()
            self._known[key] = _read(path) if path is not None and stored else self._train(job, path)
            self._tell(job, self._known[key], stored)
        return self._known[key]

    def _train(self, job: Job, path: Path | None) -> RungRun:
        started = time.perf_counter()
        try:
            run = self._measured(self.runner.fit(job))
        except TrainingError as error:  # too high a rate, or too low a one: the sweep goes on
            run = RungRun((), None, 0, 0.0, str(error))
        run = run.replace(seconds=time.perf_counter() - started)
        if path is not None:
            write_text(path, json.dumps(run.to_dict()))
        return run

    def _measured(self, pipeline: Pipeline) -> RungRun:
        best = [record for record in pipeline.history if record["best"]]
        return RungRun(
            losses=tuple(PipelineSubject(pipeline, self.runner.task.test).losses("full").tolist()),
            validation_loss=best[-1].get("validation_loss") if best else None,
            parameters=pipeline.method.trained_parameters,
            seconds=0.0,
        )

    def _tell(self, job: Job, run: RungRun, stored: bool) -> None:
        self._left -= not stored and bool(run.parameters or run.failure)
        if self.runner.quiet:
            return
        result = run.failure or ("" if run.validation_loss is None else f"validation loss {run.validation_loss:.3f}, ")
        timed = [known.seconds for known in self._known.values() if known.parameters]
        left = f"; about {duration(self._left * sum(timed) / len(timed))} left" if self._left > 0 and timed else ""
        say(f"{job.title}, seed {job.seed}: {result}{'kept from before' if stored else duration(run.seconds)}{left}")

    def _is_stored(self, job: Job) -> bool:
        path = self._path(job)
        return path is not None and path.is_file()

    def _path(self, job: Job) -> Path | None:
        out = self.runner.out
        return None if out is None else out / "runs" / f"ladder-{job.method}-seed{job.seed}-{self.runner.key(job)}.json"


def _read(path: Path) -> RungRun:
    try:
        return RungRun.from_file(path)
    except (ConfigError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", fix="Delete it to make this run again.") from error
