"""Equal tuning budgets: every method of a comparison gets the same number of trials, by the same rule.

Sampler and pruner are Optuna's: the tree-structured Parzen estimator (Bergstra et al. 2011) and the median rule over
the validation records of the epochs. The first trial is always the settings as they are. What the others try depends on
the trials before them and on their number alone, and only finished trials are stored, so that a search that was killed
goes on as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe import __version__
from coldframe.config import check
from coldframe.errors import ColdframeError, MissingExtraError
from coldframe.evaluation.jobs import Job
from coldframe.evaluation.report_data import Tuning
from coldframe.evaluation.studies import distribution, is_in, journal, suggested
from coldframe.evaluation.trials import ENOUGH, TrialSetup, fit_and_score
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.setup import training_settings
from coldframe.progress import Bar, duration, say, working
from coldframe.reports.numbers import plural
from coldframe.tasks.task import content_hash

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

#: Steps from here on are whole splits.
AFTER_EPOCHS = 10_000


class _Pruned(Exception):
    """Ends a fit whose validation records are worse than the median of the trials before."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What tuning a method found.

    Attributes:
        title: The row of the table.
        settings: The method's settings, those that were chosen among them.
        tuning: For the row of the table.
        trials: One record for each, ready for JSON: number, settings, score, seconds, state.
    """

    title: str
    settings: Mapping[str, Any]
    tuning: Tuning
    trials: tuple[Mapping[str, Any], ...]


@dataclasses.dataclass
class Tuner:
    """Searches the settings of methods, one after another.

    Attributes:
        setup: What all trials share.
        trials: Of each method, at least 1; the first is the settings as they are.
        out: Folder of the journal, ``tuning.jsonl``; None stores nothing.
        quiet: No progress.

    Raises:
        MissingExtraError: Optuna is not installed.
    """

    setup: TrialSetup
    trials: int
    out: Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check(self.trials >= 1, "A method is tuned by one trial at least", got=self.trials)
        try:
            import optuna
        except ImportError as error:
            raise MissingExtraError("optuna", "tune", "Tuning (--tune)") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = None if self.out is None else journal(self.out / "tuning.jsonl")

    def search(self, jobs: Sequence[Job]) -> dict[str, Search]:
        """The best settings of each job, by title.

        Args:
            jobs: Those of one seed. Ablations and points of sweeps are left out: they have their method's settings.
                What a job sets is left as it is.
        """
        jobs = [job for job in jobs if job.role in ("method", "no-lm")]
        if not self.quiet:
            say(self.plan(jobs))
        searches = {}
        with Bar(self.trials * len(jobs), "tune", self.quiet) as bar:
            for job in jobs:
                searches[job.title] = search = self._search(job, bar)
                bar.skip(self.trials - search.tuning.trials)
        return searches

    def plan(self, jobs: Sequence[Job]) -> str:
        """What will be done, in a sentence."""
        counts = [self._most(job) for job in jobs]
        fits = sum(counts) * len(self.setup.splits)
        return (
            f"tuning {len(jobs)} rows of the table: {sum(counts)} trials at most, {plural(fits, 'fit')}, on "
            f"{self._rows}; the first trial of each tells how long they take"
        )

    @property
    def rule(self) -> str:
        """How settings are chosen, for a report."""
        return (
            f"Settings were chosen by at most {plural(self.trials, 'trial')} for each row (Optuna: TPE, median rule), "
            f"the first with the settings as they were, by the score on {self._rows}. Test rows were not read."
        )

    @property
    def _rows(self) -> str:
        splits = self.setup.splits
        held_out, train = len(splits[0].validation), len(splits[0].train)
        times = f" in each of {len(splits)} splits (fewer than {ENOUGH} rows are few)" if len(splits) > 1 else ""
        return f"{held_out:,} validation rows{times}, fitted on {train:,} training rows"

    def _most(self, job: Job) -> int:
        """Trials of a row at most: one tells whether to correct the labels' scores."""
        if self._distributions(job):
            return self.trials
        return int(self.setup.can_calibrate and "calibrate" not in job.settings)

    def _search(self, job: Job, bar: Bar) -> Search:
        distributions = self._distributions(job)
        most = self._most(job)
        study = self._study(job)
        history = list(study.get_trials(deepcopy=False))
        bar.skip(min(len(history), most))
        for number in range(len(history), most):
            trial = self._try(job, distributions, history, number)
            if trial is None:  # there is nothing that was not tried
                break
            study.add_trial(trial)
            history.append(trial)
            bar.advance(1)
            if not self.quiet:
                say(f"{job.title}, {_line(history, most)}")
        return self._result(job, [_record(trial) for trial in history[:most]])

    def _result(self, job: Job, records: Sequence[Mapping[str, Any]]) -> Search:
        complete = [record for record in records if record["state"] == "complete"]
        best = max(complete, key=lambda record: self.setup.sign * record["score"], default=None)
        chosen = {} if best is None else best["settings"]
        tuning = Tuning(
            trials=len(records),
            settings=chosen,
            score=None if best is None else best["score"],
            first_score=next(iter(records[0]["by_calibration"].values())) if records else None,
            pruned=sum(record["state"] == "pruned" for record in records),
            failed=sum(record["state"] == "failed" for record in records),
        )
        return Search(job.title, with_settings(job.settings, chosen), tuning, tuple(records))

    def _try(
        self, job: Job, distributions: Mapping[str, BaseDistribution], history: Sequence[FrozenTrial], number: int
    ) -> FrozenTrial | None:
        """One trial, finished; None if all settings were tried."""
        from optuna.trial import TrialState, create_trial

        study = trial = None
        params = self._defaults(job, distributions)
        if number:
            study, trial = suggested(history, distributions, number)
            if trial is None:
                return None
            params = trial.params
        values = {name: json.loads(value) if isinstance(value, str) else value for name, value in params.items()}
        started = time.perf_counter()
        record: dict[str, Any] = {"number": number, "settings": values, "state": "complete", "score": None}
        reports: dict[int, float] = {}
        changed = dataclasses.replace(job, settings=with_settings(job.settings, values))
        with working(f"{job.title}, trial {number + 1}", self.quiet):
            try:
                ways = self._scores(changed, reports, trial)
            except _Pruned:
                record["state"] = "pruned"
            except ColdframeError as error:
                if not number:
                    raise
                record |= {"state": "failed", "problem": str(error)}
            else:
                best = max(ways, key=lambda way: sum(ways[way]))  # the first of equals: none
                record["scores"] = [self.setup.sign * score for score in ways[best]]
                record["score"] = _mean(record["scores"])
                record["by_calibration"] = {way: self.setup.sign * _mean(scores) for way, scores in ways.items()}
                if len(ways) > 1:
                    record["settings"] = {**values, "calibrate": best}
        record["seconds"] = round(time.perf_counter() - started, 3)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        return create_trial(
            state=states[record["state"]],
            value=self.setup.sign * record["score"] if record["state"] == "complete" else None,
            params=params,
            distributions={name: distributions[name] for name in params},
            intermediate_values=reports,
            user_attrs={"record": json.dumps(record)},
        )

    def _scores(self, job: Job, reports: dict[int, float], trial: Trial | None) -> dict[Calibration, list[float]]:
        """The scores of all splits by the way that label scores are corrected; what is known so far may end it."""

        def report(step: int, value: float) -> None:
            reports[step] = value
            if trial is not None:
                trial.report(value, step)
                if trial.should_prune():
                    raise _Pruned

        def on_record(record: Mapping[str, float]) -> None:
            if (value := self.setup.value_of(record)) is not None:
                report(int(record["epoch"]), value)

        ways: dict[Calibration, list[float]] = {}
        for number in range(len(self.setup.splits)):
            for way, score in fit_and_score(self.setup, job, number, on_record if number == 0 else None).items():
                ways.setdefault(way, []).append(score)
            if number + 1 < len(self.setup.splits):
                report(AFTER_EPOCHS + number, max(map(_mean, ways.values())))
        return ways

    def _distributions(self, job: Job) -> dict[str, BaseDistribution]:
        """What is searched, for Optuna: all of the method's search space that the job does not set."""
        training = self.setup.training
        fixed = {f"training.{name}" for name in (training if isinstance(training, Mapping) else training.to_dict())}
        own = {name for name, _ in _flat(job.settings)}
        space = job.build().searched(self.setup.splits[0].schema)
        return {name: distribution(values) for name, values in space.items() if name not in fixed | own}

    def _defaults(self, job: Job, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """The settings as they are, as far as they lie in what is searched."""
        method = job.build()
        training = training_settings(method, self.setup.training, job.settings.get("training", {})).to_dict()
        if training["learning_rate"] is None:
            training["learning_rate"] = method.learning_rate
        values = dict(_flat({**method.config.to_dict(), "training": training}))
        defaults = {}
        for name, known in distributions.items():
            value = json.dumps(values.get(name)) if hasattr(known, "choices") else values.get(name)
            if is_in(known, value):
                defaults[name] = value
        return defaults

    def _study(self, job: Job) -> Study:
        """Finished trials of this job on these rows, those of an earlier run among them."""
        import optuna

        space = {name: str(values) for name, values in self._distributions(job).items()}
        settings = [job.method, job.change, job.build().config.to_dict(), job.settings, space]
        name = content_hash(__version__, self.setup.fingerprint, json.dumps(settings, sort_keys=True, default=str))
        return optuna.create_study(
            storage=self._storage, study_name=f"{job.title} {name}", direction="maximize", load_if_exists=True
        )


def tuned(jobs: Sequence[Job], searches: Mapping[str, Search]) -> list[Job]:
    """The jobs with chosen settings, where they set nothing themselves; ablations and sweeps with their method's."""
    changed = []
    for job in jobs:
        search = searches.get(job.of or job.title)
        own = {name for name, _ in _flat(job.settings)}
        chosen = {} if search is None else {n: v for n, v in search.tuning.settings.items() if n not in own}
        changed.append(dataclasses.replace(job, settings=with_settings(job.settings, chosen)))
    return changed


def with_settings(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others over them, whose names have dots where one stands in another.

    >>> with_settings({"k": 3, "training": {"epochs": 2}}, {"training.learning_rate": 0.1, "heads": 4})
    {'k': 3, 'training': {'epochs': 2, 'learning_rate': 0.1}, 'heads': 4}
    """
    changed = dict(settings)
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        changed[head] = with_settings(changed.get(head, {}), {rest: value}) if dot else value
    return changed


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Names with dots, and values."""
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        pairs += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, value)]
    return pairs


def _record(trial: FrozenTrial) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(trial.user_attrs["record"])
    return record


def _line(history: Sequence[FrozenTrial], most: int) -> str:
    records = [_record(trial) for trial in history]
    last, left = records[-1], most - len(records)
    outcome = last["state"] if last["score"] is None else f"{last['score']:.2f}"
    mean = _mean([record["seconds"] for record in records])
    more = f"; about {duration(left * mean)} for up to {left} more" if left else ""
    return f"trial {len(records)}: {outcome}, {last['seconds']:.0f} s{more}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
