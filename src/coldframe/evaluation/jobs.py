"""What a comparison runs: methods with their seeds, their ablations, and the points of sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coldframe.evaluation.report_data import Role
from coldframe.evaluation.trained_controls import HeadedMHAESP
from coldframe.methods.base import Method
from coldframe.methods.registry import create
from coldframe.pipeline.calibration import Calibration, calibration
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.task import Task

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
        change: What is changed: one of ``TRAINING_ABLATIONS`` or ``QUERY_ABLATIONS``, ``"linear-head"`` for MHA-ESP
            without the language model, or ``"constant-input"`` for the same query and exemplars every time.
        keep: Write the artifact.
    """

    title: str
    role: Role | None
    method: str
    settings: Mapping[str, Any]
    seed: int
    change: str | None = None
    keep: bool = False

    @property
    def calibrate(self) -> Calibration:
        """How the labels' scores are corrected."""
        return calibration(self.settings.get("calibrate", "none"))

    def changed(self, ablation: str) -> Job:
        """The control with something changed."""
        title = f"{self.title}, {ablation.replace('-', ' ')}"
        return dataclasses.replace(self, title=title, role="control", change=ablation, keep=False)

    def build(self) -> Method:
        """The method, not yet set up."""
        settings = own_settings(self.settings)
        return HeadedMHAESP(**settings) if self.change == "linear-head" else create(self.method, settings)


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method without those of how it is fitted."""
    return {key: value for key, value in settings.items() if key not in OF_FIT}


def planned(
    task: Task,
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    main: str,
    ablations: Sequence[str],
    sweeps: Mapping[str, Sequence[int]],
    head: Mapping[str, Any] | None,
) -> list[Job]:
    """All runs of a comparison, those of a seed together.

    Args:
        task: What they are compared on.
        methods: Names.
        settings: By method.
        seeds: Training seeds; methods that train and draw nothing have the first alone.
        main: The method that ablations and sweeps are of.
        ablations: Names.
        sweeps: Values by setting.
        head: Settings of MHA-ESP with a linear head in the model's place; None for no such row.
    """
    drafts = {name: Job(name, "method", name, settings.get(name, {}), seeds[0]).build() for name in methods}
    jobs: list[Job] = []
    for seed in seeds:
        for name in methods:
            if seed == seeds[0] or drafts[name].depends_on_seed(task, seed, seeds[0]):
                keep = name == main and seed == seeds[0]
                job = Job(name, "method", name, settings.get(name, {}), seed, keep=keep)
                jobs.append(job)
                for ablation in QUERY_ABLATIONS:
                    if ablation in ablations and ablation in drafts[name].ablations:
                        jobs.append(job.changed(ablation))
        if head is not None:
            jobs.append(Job(LINEAR_HEAD, "no-lm", "mha-esp", head, seed, "linear-head"))
        own = Job(main, "method", main, settings.get(main, {}), seed)
        for ablation in TRAINING_ABLATIONS:
            if ablation in ablations and ablation in drafts[main].ablations:
                jobs.append(own.changed(ablation))
        for setting, values in sweeps.items():
            for value in values:
                changed = {**settings.get(main, {}), setting: value}
                jobs.append(Job(f"{main}, {setting} = {value}", None, main, changed, seed))
    return jobs
