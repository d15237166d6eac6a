"""A bounded queue of requests, answered in batches of those that arrive together."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from coldframe.serving.gateway.problems import HttpProblem


@dataclasses.dataclass
class Job:
    """A request that waits for its answer.

    Attributes:
        size: Inputs that it has, at least 1.
        deadline: Of ``time.monotonic``: nobody waits for its answer any more.
        future: Gets the answer, or the error.
    """

    size: int
    deadline: float
    future: Future[Any] = dataclasses.field(default_factory=Future)


class Batcher:
    """Takes jobs out of the queue, as many as arrive within a few milliseconds and fit into a batch.

    Args:
        answer: Answers jobs: sets the result or the error of every future. What it raises is the error of those that
            have neither.
        batch: Inputs in one call, at most; a single job may have more.
        wait: Seconds that a batch waits for further jobs.
        waiting: Inputs in the queue, at most.
        workers: Threads that call ``answer``.
        watch: Called with the inputs of every batch.
    """

    def __init__(
        self,
        answer: Callable[[list[Job]], None],
        *,
        batch: int = 64,
        wait: float = 0.002,
        waiting: int = 1024,
        workers: int = 1,
        watch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._answer, self._batch, self._wait, self._most, self._watch = answer, batch, wait, waiting, watch
        self._jobs: deque[Job] = deque()
        self._inputs = 0
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._work, name=f"gateway-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Inputs in the queue."""
        return self._inputs

    def submit(self, job: Job) -> Future[Any]:
        """Put a job into the queue.

        Raises:
            HttpProblem: 503: the queue is full, or the gateway is being stopped.
        """
        with self._changed:
            if self._closing:
                raise HttpProblem(503, "The gateway is being stopped", retry_after=5)
            if self._jobs and self._inputs + job.size > self._most:
                raise HttpProblem(503, "More requests are waiting than can be answered soon", retry_after=1)
            self._jobs.append(job)
            self._inputs += job.size
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Answer what is in the queue, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[Job] | None:
        """The next jobs; None when it is over."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            until = time.monotonic() + self._wait
            while self._inputs < self._batch and not self._closing:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            jobs: list[Job] = []
            size = 0
            while self._jobs and (not jobs or size + self._jobs[0].size <= self._batch):
                jobs.append(self._jobs.popleft())
                size += jobs[-1].size
            self._inputs -= size
            return jobs

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            now = time.monotonic()
            # One whose client has gone, or has waited too long, is not answered any more.
            jobs = [job for job in jobs if job.deadline > now and job.future.set_running_or_notify_cancel()]
            if not jobs:
                continue
            self._watch(sum(job.size for job in jobs))
            problem: Exception = RuntimeError("a job was left without an answer")
            try:
                self._answer(jobs)
            except Exception as error:
                problem = error
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(problem)
