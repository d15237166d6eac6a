"""What comparing all soft-token methods costs, against training one of them the papers' way.

    python -m benchmarks.compare

Five methods x three seeds with suffix placement, all on the one cache of text states, against MHA-ESP x one seed with
prefix placement. Both from nothing, through ``coldframe.compare``: neighbours, encoding, training for two epochs with
a pass over the validation rows after each, predictions of the test rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.common import Way, arguments, first, goal, interleaved, loaded, rates, tell
from coldframe.evaluation.comparison import compare
from coldframe.frozen.model import FrozenLM
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

METHODS = ("prompt-tuning", "idpg", "u-esp", "p-esp", "mha-esp")
SEEDS = (0, 1, 2)
EPOCHS = 2
ONE = "mha-esp x 1 seed, prefix"
ALL = f"{len(METHODS)} methods x {len(SEEDS)} seeds, suffix, states shared"


def comparison(lm: FrozenLM, task: Task, methods: Sequence[str], seeds: Sequence[int], placement: str) -> Way:
    """Runs alone: no controls, ablations or costs, which both would have in common."""

    def run(_: None) -> None:
        compare(
            lm,
            task,
            methods,
            seeds,
            training=TrainingConfig(epochs=EPOCHS, patience=0),
            method_settings={name: {"placement": placement} for name in methods},
            controls=False,
            ablations=(),
            costs=False,
            quiet=True,
        )

    return Way(run, lm.states.clear)


def measure(lm: FrozenLM, task: Task, rounds: int) -> dict[str, Any]:
    """Both ways in turn, and how often the one fits into the other."""
    ways = {
        ONE: comparison(lm, task, ["mha-esp"], [0], "prefix"),
        ALL: comparison(lm, task, METHODS, SEEDS, "suffix"),
    }
    lines = rates(interleaved(ways, rounds), len(task.train), ONE)
    value = 1 / lines[1]["ratio"]
    return {
        "rows": [len(task.train), len(task.validation), len(task.test)],
        "epochs": EPOCHS,
        "rounds": rounds,
        "ways": lines,
        "goals": [goal(f"{ALL}, as a multiple of {ONE}", value, 2.5, least=False)],
    }


def main() -> None:
    options = arguments(__doc__, rows=320, rounds=1)
    lm, task = loaded(options)
    validation = task.validation[: options.rows // 6]
    smaller = dataclasses.replace(first(task, options.rows, options.rows // 4), validation=validation)
    tell(measure(lm, smaller, options.rounds), lm)


if __name__ == "__main__":
    main()
