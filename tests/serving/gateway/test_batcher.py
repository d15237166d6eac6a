"""The queue of the gateway: bounded, in batches, and what it accepted is answered."""

from __future__ import annotations

import threading

import pytest

from coldframe.serving.gateway.batcher import Batcher, Job
from coldframe.serving.gateway.problems import HttpProblem


def test_a_full_queue_is_refused_and_close_answers_what_was_accepted() -> None:
    go, started, answered = threading.Event(), threading.Event(), []

    def slowly(jobs: list[Job]) -> None:
        started.set()
        go.wait(10)
        for job in jobs:
            answered.append(job.size)
            job.future.set_result(None)

    batcher = Batcher(slowly, batch=2, wait=0, waiting=3)
    first = Job(1, float("inf"))
    batcher.submit(first)
    started.wait(10)
    waiting = [Job(1, float("inf")) for _ in range(3)]
    for job in waiting:
        batcher.submit(job)
    with pytest.raises(HttpProblem, match="waiting") as refused:
        batcher.submit(Job(1, float("inf")))
    assert refused.value.status == 503 and refused.value.retry_after
    closing = threading.Thread(target=batcher.close)
    closing.start()
    go.set()
    closing.join(10)
    assert all(job.future.done() for job in [first, *waiting]) and answered == [1, 1, 1, 1]
    with pytest.raises(HttpProblem, match="stopped"):
        batcher.submit(Job(1, float("inf")))


def test_a_job_that_waited_too_long_is_not_answered_any_more() -> None:
    batcher = Batcher(lambda jobs: [job.future.set_result(1) for job in jobs] and None, wait=0)
    late, after = Job(1, float("-inf")), Job(1, float("inf"))
    batcher.submit(late)
    assert batcher.submit(after).result(10) == 1 and not late.future.done()
    batcher.close()


def test_an_answer_that_is_forgotten_is_an_error() -> None:
    batcher = Batcher(lambda jobs: None, wait=0)
    assert isinstance(batcher.submit(Job(1, float("inf"))).exception(10), RuntimeError)
    batcher.close()
