"""How a gateway runs."""

from __future__ import annotations

import dataclasses

from coldframe.config import Config


@dataclasses.dataclass(frozen=True)
class GatewaySettings(Config):
    """Settings of a gateway.

    Args:
        host: The address that it listens at.
        port: The port, 0 to 65535; 0 takes a free one.
        adapter_root: Folder below which adapters that are added while it runs must lie; none can be added without.
        batch: Inputs that are answered together, at most.
        wait: Milliseconds that a request waits for others to be answered with; 0 takes those that are there.
        queue: Inputs that may wait; further requests get 503.
        deadline: Seconds after which a request that has no answer gets 504.
        body: Bytes that a request's body may have.
        body_seconds: Seconds in which a request must have arrived.
        connections: That are open at one time.
        workers: Batches that are under way at one time: 1 where the model runs here, several before a server.
        state_bytes: Bytes for what was read of texts, to answer the same text sooner.
        allow_unauthenticated: Anybody who reaches the address may use it.
    """

    section = "gateway settings"
    at_least = {"port": 0, "batch": 1, "wait": 0, "queue": 1, "body": 1024, "connections": 1, "workers": 1}
    above = {"deadline": 0, "body_seconds": 0}
    at_most = {"port": 65_535, "workers": 64}

    host: str = "127.0.0.1"
    port: int = 8080
    adapter_root: str | None = None
    batch: int = 64
    wait: float = 2.0
    queue: int = 1024
    deadline: float = 60.0
    body: int = 1 << 20
    body_seconds: float = 20.0
    connections: int = 1000
    workers: int = 1
    state_bytes: int = 256 << 20
    allow_unauthenticated: bool = False
