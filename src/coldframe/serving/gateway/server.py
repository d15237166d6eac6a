"""The web server of a gateway: patient with models, not with clients; it finishes what it has accepted."""

from __future__ import annotations

import asyncio
import importlib
import signal
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from coldframe.errors import ConfigError, MissingExtraError
from coldframe.frozen.threads import set_threads
from coldframe.progress import say
from coldframe.serving.gateway.access import Access, Gate, check_address, is_local
from coldframe.serving.gateway.adapters import Adapters, LoadModel
from coldframe.serving.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from coldframe.serving.gateway.guard import Guard


def check_extra() -> None:
    """Raise unless the packages of the extra ``serve`` are there."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(package.replace("_", "-"), "serve", "A gateway") from error


def gateway_app(adapters: Adapters, access: Access, settings: GatewaySettings) -> Guard:
    """The ASGI application of a gateway, for any ASGI server.

    Args:
        adapters: What it serves.
        access: Keys and limits.
        settings: How it runs.

    Raises:
        ConfigError: The address can be reached from outside, and there are no keys.
    """
    check_extra()
    from coldframe.serving.gateway.app import application
    from coldframe.serving.gateway.state import Gateway

    every_client = check_address(settings.host, access, settings.allow_unauthenticated)
    hosts = None
    if is_local(settings.host) and not access.has_keys and not settings.allow_unauthenticated:
        hosts = {"localhost", "127.0.0.1", "[::1]", settings.host}
    return application(Gateway(adapters, Gate(access, every_client), settings), hosts)


def serve(
    artifacts: Iterable[tuple[str, str]],
    settings: GatewaySettings,
    access: Access | None = None,
    load_model: LoadModel | None = None,
) -> None:
    """Load adapters and answer until the process is told to stop.

    Args:
        artifacts: Names and folders of adapters.
        settings: How it runs.
        access: Keys and limits; those of the environment, if None.
        load_model: Loads a base model; by its name, if None.

    Raises:
        MissingExtraError: The extra ``serve`` is not installed.
        ConfigError: The address cannot be used, or may not be without keys.
        ColdframeError: An adapter cannot be loaded.
    """
    check_extra()
    from coldframe.serving.gateway import logs

    access = Access.with_environment() if access is None else access
    check_address(settings.host, access, settings.allow_unauthenticated)
    listener = _listener(settings)  # before the models, which take long
    threads = set_threads()
    adapters = Adapters(load_model or _local(settings), root=settings.adapter_root)
    for name, path in artifacts:
        adapters.load(name, path)
    say(threads)  # not above the line of what is wrong
    logs.configure()
    host, port = listener.getsockname()[:2]
    logs.event("listening", address=f"http://{host}:{port}", adapters=len(adapters))
    _run(gateway_app(adapters, access, settings), settings, listener)


def _listener(settings: GatewaySettings) -> socket.socket:
    """A socket at the address."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen at {settings.host}:{settings.port}: {error}", fix="Choose another --port or --host."
        ) from error
    return listener


def _local(settings: GatewaySettings) -> LoadModel:
    """Loads base models into this process."""

    def load(base: dict[str, Any]) -> Any:
        from coldframe.pipeline.saved import load_base

        return load_base(base, state_budget=settings.state_bytes)

    return load


def _run(app: Guard, settings: GatewaySettings, listener: socket.socket) -> None:
    import uvicorn

    from coldframe.serving.gateway.patience import PatientProtocol

    PatientProtocol.patience = settings.body_seconds
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=round(settings.deadline) + 5,
    )
    # The server handles both signals, and sends them once more when all is answered: that is no error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
