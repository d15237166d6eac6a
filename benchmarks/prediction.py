"""Answering new queries: MHA-ESP against in-context learning with as many retrieved exemplars.

    python -m benchmarks.prediction

From text to label probabilities: canonical form, retrieval, encoder and model, for queries never seen: every run
takes others, of like length. Ready is what a server has when it starts, for both: the index and vectors of the store,
the instruction's states. In batches and one at a time. Weights are untrained: they cost the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from benchmarks.common import TOKENS, K, Way, arguments, goal, interleaved, loaded, rates, say, tell
from coldframe.evaluation.measure import measure as cost_of
from coldframe.frozen.model import FrozenLM
from coldframe.methods.registry import method_class
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

RIVAL = f"icl, K = {K}"
BATCH = 32


class Server:
    """What answers queries: the pipeline that ``fit`` would return, untrained, and the queries still to come."""

    def __init__(self, lm: FrozenLM, task: Task, queries: Sequence[str], name: str, **settings: Any) -> None:
        self.lm, self.queries = lm, iter(queries)
        store = Store.of((*task.train, *task.validation))
        method = method_class(name)(k=K, **settings)
        method.setup(context_of(method, lm, task.schema)).eval()
        self.pipeline = Pipeline(method, lm, task.schema, store, RetrievalConfig(), TrainingConfig())
        # As a server does when it starts: index the store, and encode its rows.
        self.pipeline.retrieve(task.test[:1])
        if method.context is not None and method.context.encoder is not None:
            method.context.encoder.encode([example.text for example in store.examples])

    def asked(self, queries: int, at_a_time: int) -> Way:
        """Label probabilities of the next queries."""

        def prepare() -> list[str]:
            self.lm.states.clear()
            texts = list(islice(self.queries, queries + 1))
            self.pipeline.predict_proba(texts[:1])  # reads the instruction
            return texts[1:]

        def run(texts: list[str]) -> None:
            for start in range(0, len(texts), at_a_time):
                self.pipeline.predict_proba(texts[start : start + at_a_time])

        return Way(run, prepare)


def dealt(texts: Sequence[str], hands: int) -> list[list[str]]:
    """Queries dealt out so that hands are of like length, query by query: what one way has seen none other gets.

    What is computed from a molecule is remembered for the whole process.
    """
    rounds = len(texts) // hands
    by_length = sorted(texts, key=len)
    order = np.random.default_rng(0).permutation(rounds)
    return [[by_length[hands * i + hand] for i in order] for hand in range(hands)]


def measure(lm: FrozenLM, task: Task, many: int, single: int, rounds: int) -> dict[str, Any]:
    """Queries a second and operations a query."""
    hands = dealt([example.text for example in task.test], 3)
    servers = {
        RIVAL: Server(lm, task, hands[0], "icl"),
        "mha-esp, prefix": Server(lm, task, hands[1], "mha-esp", heads=TOKENS, placement="prefix"),
        "mha-esp, suffix": Server(lm, task, hands[2], "mha-esp", heads=TOKENS, placement="suffix"),
    }
    result: dict[str, Any] = {"queries": [many, single], "k": K, "rounds": rounds}
    goals = []
    for queries, at_a_time in ((many, BATCH), (single, 1)):
        kind = f"{at_a_time} at a time"
        say(kind)
        ways = {name: server.asked(queries, at_a_time) for name, server in servers.items()}
        lines = rates(interleaved(ways, rounds), queries, RIVAL)
        result[kind] = lines
        goals += [
            goal(f"queries/s against {RIVAL}, {kind}: {line['way']}", line["ratio"], 3.0)
            for line in lines
            if line["way"] != RIVAL
        ]
    costs = {}
    for name, server in servers.items():
        method, retrieve = server.pipeline.method, server.pipeline.retrieve
        costs[name] = cost_of(method, lm, task.schema, task.test, retrieve, repeats=2)
    result["cost"] = {
        name: {
            "context_tokens": cost.context_tokens,
            "prefill_gflop": (cost.prefill_flops or 0) / 1e9,
            "encoder_gflop": (cost.encoder_flops or 0) / 1e9,
        }
        for name, cost in costs.items()
    }
    rival = costs[RIVAL].prefill_flops
    for name, cost in costs.items():
        if name != RIVAL and rival and cost.prefill_flops:
            goals.append(goal(f"prefill operations, {RIVAL} against {name}", rival / cost.prefill_flops, 4.0))
    return {**result, "goals": goals}


def main() -> None:
    options = arguments(__doc__, queries=64, single=16, rounds=3)
    lm, task = loaded(options)
    tell(measure(lm, task, options.queries, options.single, options.rounds), lm)


if __name__ == "__main__":
    main()
