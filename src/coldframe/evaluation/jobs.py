"""What a comparison runs: methods with their seeds, their ablations, and the points of sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coldframe.errors import ConfigError
from coldframe.evaluation.report_data import Role
from coldframe.methods.base import Method
from coldframe.methods.registry import all_methods, create
from coldframe.pipeline.calibration import Calibration, calibration
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.task import Passage, Task

#: What is changed once a method is trained; nothing is trained again.
QUERY_ABLATIONS: Mapping[str, Callable[[Pipeline], Pipeline]] = {
    "swapped-store": lambda pipeline: dataclasses.replace(
        pipeline, retrieval=pipeline.retrieval.replace(strategy="swapped")
    ),
    "uniform-routing": lambda pipeline: pipeline.replace(routing="uniform"),
    "random-routing": lambda pipeline: pipeline.replace(routing="random"),
}
#: What is changed before a method is trained.
TRAINING_ABLATIONS = ("shuffled-labels", "random-exemplars")
#: What is set beside a method's own settings: how it is fitted.
OF_FIT = ("training", "calibrate")
#: The row of the control without a language model that is trained like MHA-ESP.
LINEAR_HEAD = "encoder + linear head"
#: Neighbours that vote, beside the nearest alone.
VOTERS = 5


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        title: The row of the table.
        role: What the row stands for; None for a point of a sweep, which is no row.
        method: The method's name.
        settings: Its settings; ``training`` in it holds changes to the training settings, ``calibrate`` how the labels'
            scores are corrected.
        seed: Training seed.
        change: What is changed: one of ``TRAINING_ABLATIONS`` or ``QUERY_ABLATIONS``, or ``"constant-input"`` for the
            same query and exemplars every time.
        keep: Write the artifact.
        of: The row whose settings it has, if it is a control or a point of a sweep.
    """

    title: str
    role: Role | None
    method: str
    settings: Mapping[str, Any]
    seed: int
    change: str | None = None
    keep: bool = False
    of: str = ""

    @property
    def calibrate(self) -> Calibration:
        """How the labels' scores are corrected."""
        return calibration(self.settings.get("calibrate", "none"))

    def changed(self, ablation: str) -> Job:
        """The control with something changed."""
        title = f"{self.title}, {ablation.replace('-', ' ')}"
        return dataclasses.replace(self, title=title, role="control", change=ablation, keep=False, of=self.title)

    def build(self) -> Method:
        """The method, not yet set up."""
        return create(self.method, own_settings(self.settings))


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method without those of how it is fitted."""
    return {key: value for key, value in settings.items() if key not in OF_FIT}


def rows_of(methods: Sequence[str]) -> dict[str, str]:
    """The method of each row: a name alone, or ``ROW=METHOD`` for a row with settings of its own.

    >>> rows_of(["mha-esp", "averaging=mha-esp"])
    {'mha-esp': 'mha-esp', 'averaging': 'mha-esp'}

    Raises:
        ConfigError: Two rows have one name, or a row has the name of a method that it is not.
    """
    rows: dict[str, str] = {}
    for name in methods:
        row, sign, method = name.partition("=")
        row, method = row.strip(), method.strip() if sign else row
        if row in rows:
            raise ConfigError(f"Two rows are called {row!r}", fix="Name them apart, as in plain=mha-esp.")
        if not row or "." in row or (row != method and row in all_methods()):
            raise ConfigError("A row needs a name that no method has", got=repr(name), expected="such as plain=mha-esp")
        rows[row] = method
    return rows


def planned(
    task: Task,
    methods: Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    main: str,
    ablations: Sequence[str],
    sweeps: Mapping[str, Sequence[int]],
) -> list[Job]:
    """The runs of methods, ablations and sweeps in a comparison, those of a seed together.

    Args:
        task: What they are compared on.
        methods: By row, see :func:`rows_of`.
        settings: By row.
        seeds: Training seeds; methods that train and draw nothing have the first alone.
        main: The row that ablations and sweeps are of.
        ablations: Names.
        sweeps: Values by setting.
    """
    drafts = {row: create(method, own_settings(settings.get(row, {}))) for row, method in methods.items()}
    jobs: list[Job] = []
    for seed in seeds:
        for row, method in methods.items():
            if seed == seeds[0] or drafts[row].depends_on_seed(task, seed, seeds[0]):
                keep = row == main and seed == seeds[0]
                role: Role = "method" if drafts[row].reads_model else "no-lm"
                job = Job(row, role, method, settings.get(row, {}), seed, keep=keep)
                jobs.append(job)
                for ablation in QUERY_ABLATIONS:
                    if ablation in ablations and ablation in drafts[row].ablations:
                        jobs.append(job.changed(ablation))
        own = Job(main, "method", methods[main], settings.get(main, {}), seed)
        for ablation in TRAINING_ABLATIONS:
            if ablation in ablations and ablation in drafts[main].ablations:
                jobs.append(own.changed(ablation))
        for setting, values in sweeps.items():
            for value in values:
                changed = {**settings.get(main, {}), setting: value}
                jobs.append(Job(f"{main}, {setting} = {value}", None, methods[main], changed, seed, of=main))
    return jobs


def controls_of(
    task: Task,
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    methods: Sequence[str] = (),
    tuned: bool = False,
) -> list[Job]:
    """The controls without a language model: methods that anyone can run alone; none where answers are written.

    They have MHA-ESP's encoder, and their own settings where some are given.

    Args:
        task: Its store says how many can vote; passages have no labels to vote with.
        settings: By method.
        seeds: Training seeds; what no seed changes runs with the first alone.
        methods: Those that are compared anyway, and need no second row.
        tuned: Their settings will be searched: then there is one row of votes, whose voters and weights are found.
    """
    if task.schema.kind != "classification":
        return []
    esp = settings.get("mha-esp", {})
    encoder = {"encoder": esp.get("encoder", "auto")}
    # Title, method, settings that the method's own come before, settings that make the row what its title says.
    rows: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("logistic regression", "logistic-regression", {**encoder, "features": "vectors"}, {}),
        ("random forest", "random-forest", encoder, {}),
        (LINEAR_HEAD, "mha-esp-head", esp, {}),
    ]
    rows = [row for row in rows if row[1] not in methods]
    if task.schema.domain == "text":
        rows.append(("logistic regression, TF-IDF", "logistic-regression", {}, {"features": "tfidf"}))
    if not any(isinstance(entry, Passage) for entry in task.exemplars):
        k = min(VOTERS, len(task.exemplars))
        votes: list[tuple[str, dict[str, Any]]] = [("1-NN vote", {"k": 1})]
        if k > 1:
            votes += [(f"{k}-NN vote", {"k": k}), (f"{k}-NN vote (weighted)", {"k": k, "weights": "similarity"})]
        if tuned:
            votes = [] if "knn" in methods else [("k-NN vote", {})]
        rows += [(title, "knn", {}, fixed) for title, fixed in votes]
    jobs = []
    for title, name, usual, fixed in rows:
        first = Job(title, "no-lm", name, {**usual, **settings.get(name, {}), **fixed}, seeds[0])
        draft = first.build()
        jobs.append(first)
        further = [seed for seed in seeds[1:] if draft.depends_on_seed(task, seed, seeds[0])]
        jobs += [dataclasses.replace(first, seed=seed) for seed in further]
    return jobs
