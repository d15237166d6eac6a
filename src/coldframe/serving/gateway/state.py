"""What all routes of a gateway share: its adapters, who may use them, the queue, the figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from coldframe.serving.gateway.access import Gate, unknown_key
from coldframe.serving.gateway.adapters import Adapter, Adapters
from coldframe.serving.gateway.batcher import Batcher, Job
from coldframe.serving.gateway.guard import NOTE
from coldframe.serving.gateway.jobs import Answers, Query, Work
from coldframe.serving.gateway.metrics import Metrics
from coldframe.serving.gateway.problems import HttpProblem
from coldframe.serving.gateway.settings import GatewaySettings
from coldframe.serving.gateway.store_edits import Overrides
from coldframe.serving.gateway.together import answer

T = TypeVar("T")

_bearer = HTTPBearer(auto_error=False, description="A key of the adapter, of the gateway, or of its administrator.")


class Gateway:
    """A running gateway without its web server.

    Args:
        adapters: What it serves.
        gate: Who may use it.
        settings: How it runs.
    """

    def __init__(self, adapters: Adapters, gate: Gate, settings: GatewaySettings) -> None:
        self.adapters, self.gate, self.settings = adapters, gate, settings
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: len(adapters))
        self.batcher = Batcher(
            answer,
            batch=settings.batch,
            wait=settings.wait / 1000,
            waiting=settings.queue,
            workers=settings.workers,
            watch=self.metrics.batches.observe,
        )
        self.closing = False

    @property
    def ready(self) -> bool:
        """Whether it can answer."""
        return len(self.adapters) > 0 and not self.closing

    def close(self) -> None:
        """Answer what was accepted, and take nothing more."""
        self.closing = True
        self.batcher.close()

    def enter(self, request: Request, name: str, key: str | None, inputs: int) -> Adapter:
        """The adapter of a request that may use it.

        Raises:
            HttpProblem: It may not; or there is no such adapter, which only those learn that may use others.
        """
        if name not in self.adapters and not self.gate.allows(name, key):
            raise unknown_key(key)
        adapter = self.adapters.get(name)
        request.scope[NOTE] |= {"adapter": name}
        self.gate.enter(name, key, inputs)
        return adapter

    async def predict(
        self,
        request: Request,
        adapter: Adapter,
        texts: list[str],
        overrides: Overrides | None = None,
        max_new_tokens: int | None = None,
    ) -> Answers:
        """Answers to some inputs, from the queue."""
        deadline = time.monotonic() + self.settings.deadline
        if max_new_tokens is not None and max_new_tokens >= adapter.pipeline.schema.max_new_tokens:
            max_new_tokens = None
        answers: Answers = await self._ask(
            Query(
                size=len(texts),
                deadline=deadline,
                adapter=adapter,
                texts=texts,
                overrides=overrides or Overrides(),
                max_new_tokens=max_new_tokens if adapter.pipeline.schema.kind == "generation" else None,
            )
        )
        request.scope[NOTE] |= {"inputs": len(texts), "tokens": sum(answers.tokens)}
        return answers

    async def work(self, request: Request, call: Callable[[], T], size: int) -> T:
        """What a piece of work gives that needs the model."""
        result: T = await self._ask(Work(size=size, deadline=time.monotonic() + self.settings.deadline, call=call))
        request.scope[NOTE] |= {"inputs": size}
        return result

    async def _ask(self, job: Job) -> Any:
        future = self.batcher.submit(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.deadline)
        except TimeoutError:
            seconds = f"within {self.settings.deadline:g} seconds"
            raise HttpProblem(504, "No answer in time", expected=seconds, retry_after=1) from None


def gateway_of(request: Request) -> Gateway:
    """The gateway that a request came to."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def key_of(credentials: HTTPAuthorizationCredentials | None = Depends(_bearer)) -> str | None:  # noqa: B008
    """The key that came with a request."""
    return None if credentials is None else credentials.credentials


def administrator(request: Request, key: str | None = Depends(key_of)) -> None:
    """Let only the administrator through."""
    gateway_of(request).gate.admin(key)
