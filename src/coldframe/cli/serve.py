"""``coldframe serve``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated

import tyro

from coldframe.cli.backend import BackendFlags, client_settings, refuse_without_server
from coldframe.cli.parsing import parse
from coldframe.errors import ConfigError

Pairs = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=DIR")]


@dataclasses.dataclass(frozen=True)
class Serve(BackendFlags):
    """Answer plain text over HTTP with any number of adapters on one frozen model, and show them on a page.

    For example:
      coldframe serve --adapter bbb=runs/b3db
      coldframe serve --adapter bbb=runs/b3db --adapter intent=runs/intent --port 9000
      coldframe serve --adapter bbb=runs/b3db --backend http://localhost:8000/v1

    The page is at http://127.0.0.1:8080/. Programs send {"adapter": "bbb", "inputs": ["CCO"]} to /v1/predict, or use
    any client of OpenAI with the name of an adapter as the model. Keys are read from the variables COLDFRAME_API_KEY
    (for every adapter) and COLDFRAME_ADMIN_KEY (to change adapters), or from the file of --access.

    Args:
        adapter: Name and folder of an artifact; give it once for each.
        host: Address to listen at; one that can be reached from outside needs keys.
        port: Port to listen at; 0 takes a free one.
        access: YAML or JSON file with keys and limits of adapters.
        allow_unauthenticated: Let anybody who reaches the address use it.
        adapter_root: Folder below which adapters lie that may be added while it runs.
        batch: Inputs that are answered together, at most.
        wait: Milliseconds that a request waits for others to be answered with; 2, and 0 before a server.
        queue: Inputs that may wait; further requests are refused for the moment (503).
        deadline: Seconds after which a request without an answer is given up (504).
        max_body: Bytes that a request may have.
        workers: Batches under way at one time; 1 where the model runs here, 8 before a server.
    """

    section = "settings of serve"
    groups = {
        **BackendFlags.groups,
        "who may use it": ("access", "allow_unauthenticated", "adapter_root"),
        "load": ("batch", "wait", "queue", "deadline", "max_body", "workers"),
    }

    adapter: Pairs = ()
    host: str = "127.0.0.1"
    port: int = 8080
    access: str | None = None
    allow_unauthenticated: bool = False
    adapter_root: str | None = None
    batch: int = 64
    wait: float | None = None
    queue: int = 1024
    deadline: float = 60.0
    max_body: int = 1 << 20
    workers: int | None = None


def run(argv: Sequence[str]) -> None:
    """Load the adapters, then answer until told to stop."""
    options = parse(Serve, "serve", argv)
    artifacts = list(_artifacts(options.adapter))
    if not artifacts and options.adapter_root is None:
        raise ConfigError("There is nothing to serve", fix="Give --adapter NAME=DIR, or --adapter-root DIR.")
    from coldframe.serving.gateway.access import Access
    from coldframe.serving.gateway.backend import models_of
    from coldframe.serving.gateway.server import serve
    from coldframe.serving.gateway.settings import GatewaySettings

    settings = GatewaySettings(
        host=options.host,
        port=options.port,
        adapter_root=options.adapter_root,
        batch=options.batch,
        wait=options.wait if options.wait is not None else 2.0 if options.backend is None else 0.0,
        queue=options.queue,
        deadline=options.deadline,
        body=options.max_body,
        workers=options.workers or (1 if options.backend is None else 8),
        allow_unauthenticated=options.allow_unauthenticated,
    )
    if options.backend is None:
        refuse_without_server(options)
        load_model = None
    else:
        timeout = {"timeout": options.deadline}
        load_model = models_of(options.backend, options.backend_model, **timeout, **client_settings(options))
    serve(artifacts, settings, Access.with_environment(options.access), load_model)


def _artifacts(pairs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and folders."""
    names: set[str] = set()
    for pair in pairs:
        name, sign, folder = pair.partition("=")
        if not sign or not name or not folder:
            raise ConfigError("--adapter takes NAME=DIR", got=pair, expected="for example --adapter bbb=runs/b3db")
        if name in names:
            raise ConfigError(f"Two adapters have the name {name!r}", fix="Give each a name of its own.")
        names.add(name)
        yield name, folder
