"""Which method to take for a task: a few are tried on the validation rows, and the simplest that does as well is it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from coldframe.config import check
from coldframe.errors import ColdframeError, ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.inference.intervals import Interval, bootstrap, ends, score_interval, statistic
from coldframe.inference.predictions import Predictions
from coldframe.methods.base import Method
from coldframe.methods.registry import create
from coldframe.pipeline.fit import fit
from coldframe.progress import duration, say
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.splits import stratified_split
from coldframe.tasks.task import Passage, Task
from coldframe.training.config import TrainingConfig

#: Share of the training rows by which a candidate chooses its own epoch and settings.
_INNER_SHARE = 0.15
_MINUTES = 10.0


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A method with settings, to be tried."""

    method: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> Method:
        """The method, not yet set up."""
        return create(self.method, self.settings)

    def __str__(self) -> str:
        words = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.settings.items())
        return f"{self.method} ({words})" if words else self.method


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a candidate reached on the validation rows; why it was not tried, where it was not.

    Attributes:
        candidate: Which.
        score: The task's metric with its 95% interval; None where it was not tried.
        seconds: What fitting and answering took.
        reason: Why it was not tried.
    """

    candidate: Candidate
    score: Interval | None = None
    seconds: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        score = None if self.score is None else self.score.to_dict()
        settings = dict(self.candidate.settings)
        return {"method": self.candidate.method, "settings": settings, "score": score, "reason": self.reason}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The candidate that was picked.

    Attributes:
        picked: It.
        best: The one with the best score, which may be less simple.
        ahead: How much better the best is, paired, with its 95% interval; 0 where it is the one picked.
        trials: Of all candidates, simplest first.
        metric: What was compared.
    """

    picked: Trial
    best: Trial
    ahead: Interval
    trials: tuple[Trial, ...]
    metric: str

    def lines(self) -> list[str]:
        """What was picked, why, and what all reached, for people."""
        score = self.picked.score
        assert score is not None  # only what was tried is picked
        lines = [f"picked {self.picked.candidate}: {self.metric} {shown(score)} on {score.n} validation rows"]
        if self.picked is self.best:
            lines.append("why: nothing that was tried is better, and what is as good is not simpler")
        else:
            lines.append(
                f"why: it is the simplest that does as well; {self.best.candidate} is {shown(self.ahead)} ahead, "
                "which these rows cannot tell from nothing"
            )
        for trial in self.trials:
            result = trial.reason if trial.score is None else f"{shown(trial.score)}, {duration(trial.seconds)}"
            lines.append(f"  {trial.candidate}: {result}")
        return lines


def shown(score: Interval) -> str:
    """A score with its interval, for people."""
    return f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"


def candidates_for(task: Task) -> list[Candidate]:
    """What is tried on a task, the simplest first.

    >>> from coldframe.tasks.task import Schema
    >>> [str(candidate) for candidate in candidates_for(Task(Schema("t", "generation", metric="token_f1"), (), (), ()))]
    ['zero-shot', 'icl (k=2)', 'prompt-tuning', 'mha-esp']
    """
    passages = any(isinstance(entry, Passage) for entry in task.exemplars)
    if task.schema.kind == "generation":
        return [Candidate("zero-shot"), Candidate("icl", {"k": 2}), Candidate("prompt-tuning"), Candidate("mha-esp")]
    candidates = [] if passages else [Candidate("knn", {"weights": "similarity"})]
    candidates.append(Candidate("logistic-regression"))
    if task.schema.domain == "text":
        candidates.append(Candidate("logistic-regression", {"features": "tfidf"}))
        candidates.append(Candidate("encoder-head", {"encoder_rank": 16}))
    else:
        candidates.append(Candidate("random-forest"))
    return [*candidates, Candidate("prompt-tuning"), Candidate("mha-esp")]


def choose(
    task: Task,
    load_model: Callable[[], FrozenLM],
    *,
    candidates: Sequence[Candidate] | None = None,
    retrieval: RetrievalConfig | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    minutes: float = _MINUTES,
    quiet: bool = False,
) -> Choice:
    """Try methods and controls, and pick the simplest that does as well as the best on the validation rows.

    Every candidate is fitted to 85% of the training rows and chooses epoch and settings by the other 15%, so that the
    validation rows judge all alike: none was chosen by them before. The first candidate (they stand simplest first) is
    picked that the best one is not clearly ahead of: the 95% interval of their paired difference, over resampled
    validation rows, does not exclude zero. Test rows are not looked at.

    Args:
        task: With validation rows.
        load_model: Called once a candidate needs the language model.
        candidates: What to try, simplest first; :func:`candidates_for` the task if None.
        retrieval: How entries are found.
        training: Of all candidates, over their own defaults.
        minutes: No candidate is begun once that many are over, nor one that is likely to go beyond: which takes as
            long as the longest before it. The first is always tried.
        quiet: No progress.

    Raises:
        ConfigError: There are no validation rows.
        ColdframeError: No candidate could be fitted; what the first one said.

    Cost:
        One fit and one pass over the validation rows for each candidate.
    """
    check(minutes > 0, "The time to choose in must be positive", got=minutes)
    if not task.validation:
        raise ConfigError("There are no validation rows to choose a method by", fix="Pass --validation-size 0.15.")
    started, inner = time.perf_counter(), _inner(task)
    trials: list[Trial] = []
    runs: dict[int, Predictions] = {}
    errors: list[ColdframeError] = []
    for candidate in candidates_for(task) if candidates is None else candidates:
        begun = time.perf_counter()
        needed = max((trial.seconds for trial in trials), default=0.0)
        if trials and begun - started + needed > 60 * minutes:
            trials.append(Trial(candidate, reason=f"not tried: the {minutes:g} minutes are over"))
            continue
        if not quiet:
            say(f"trying {candidate}")
        method = candidate.build()
        try:
            lm = load_model() if method.needs_model else None
            pipeline = fit(method, lm, inner, retrieval=retrieval, training=training, quiet=quiet)
            run = pipeline.predictions(task.validation)
        except ColdframeError as error:
            errors.append(error)
            trials.append(Trial(candidate, reason=f"cannot be fitted: {error.problem}"))
            continue
        score = score_interval([run], task.schema.metric, task.schema.positive_index)
        runs[len(trials)] = run
        trials.append(Trial(candidate, score, time.perf_counter() - begun))
    if not runs:
        raise errors[0]
    return _picked(task, trials, runs)


def _inner(task: Task) -> Task:
    """The task without its validation and test rows; some of its training rows take the place of the former."""
    rows = task.train
    if len(rows) < 2:
        return dataclasses.replace(task, validation=(), test=())
    labels = [row.target if task.schema.kind == "classification" else "" for row in rows]
    held = stratified_split([row.key for row in rows], labels, _INNER_SHARE)
    train = tuple(row for row, out in zip(rows, held, strict=True) if not out)
    validation = tuple(row for row, out in zip(rows, held, strict=True) if out)
    return dataclasses.replace(task, train=train, validation=validation, test=())


def _picked(task: Task, trials: Sequence[Trial], runs: Mapping[int, Predictions]) -> Choice:
    """The first trial that is no more than a standard error behind the best."""
    metric, positive = task.schema.metric, task.schema.positive_index
    sign = METRICS[metric].sign if metric in METRICS else 1
    scores = {place: statistic([run], metric, positive) for place, run in runs.items()}
    rows = np.ones((1, len(task.validation)))
    values = {place: sign * float(score(rows)[0]) for place, score in scores.items()}
    defined = {place: value for place, value in values.items() if np.isfinite(value)} or dict.fromkeys(values, 0.0)
    best = max(defined, key=lambda place: defined[place])  # of equals the first, which is the simplest
    n = len(task.validation)
    draws = bootstrap([scores[best]], n)
    for place in sorted(defined):
        ahead = defined[best] - defined[place]
        low, high = ends(ahead, sign * (draws - bootstrap([scores[place]], n)))
        if place == best or not low > 0:
            return Choice(trials[place], trials[best], Interval(ahead, low, high, n, 1), tuple(trials), metric)
    raise AssertionError("the best is no worse than itself")
