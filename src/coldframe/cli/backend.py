"""Flags of the commands that can leave the model on a server."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal

from coldframe.cli.flags import Grouped
from coldframe.cli.threads import start_threads
from coldframe.config import check

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendFlags(Grouped):
    """Where the model runs.

    Args:
        backend: Address of a vLLM or SGLang server that runs the model, such as http://localhost:8000/v1; without it
            the model is loaded here.
        backend_model: Its name on the server, where that serves several.
        backend_form: How to ask the server; auto goes by what it says it is.
        backend_dtype: The server's; auto sends vectors in float32, which is right for all and twice as large.
        backend_checkpoint: Folder, name or hub id of the model's files, if not what the artifact names.
        backend_ca: File (PEM) of the authorities to trust over https.
        backend_key_variable: Environment variable with the server's key.
    """

    groups = {
        "server": (
            *("backend", "backend_model", "backend_form", "backend_dtype", "backend_checkpoint", "backend_ca"),
            "backend_key_variable",
        )
    }

    backend: str | None = None
    backend_model: str | None = None
    backend_form: Literal["auto", "completions", "chat", "sglang"] = "auto"
    backend_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    backend_checkpoint: str | None = None
    backend_ca: str | None = None
    backend_key_variable: str = "COLDFRAME_BACKEND_KEY"


def load(artifact: str, options: BackendFlags, exact: bool, quiet: bool) -> Pipeline:
    """An artifact with its model: here, or on a server."""
    start_threads(quiet)
    from coldframe.pipeline.pipeline import load

    if options.backend is None:
        refuse_without_server(options)
        pipeline = load(artifact)
        pipeline.lm.exact = exact
        return pipeline
    check(not exact, "A server reads queries together: none is exact", got="--exact", expected="no --backend")
    from coldframe.serving.artifacts import remote_for

    return load(artifact, lm=remote_for(artifact, options.backend, options.backend_model, **client_settings(options)))


def refuse_without_server(options: BackendFlags) -> None:
    """Refuse what says how to ask a server, where none is named."""
    names = [field.name for field in dataclasses.fields(BackendFlags)]
    changed = [name for name in names if getattr(options, name) != getattr(BackendFlags(), name)]
    check(not changed, "There is no server to ask", got=", ".join(changed), expected="--backend URL beside it")


def client_settings(options: BackendFlags) -> dict[str, Any]:
    """What :class:`coldframe.serving.remote.RemoteLM` is told beside its address and its model."""
    return {
        "api_key": os.environ.get(options.backend_key_variable),
        "form": options.backend_form,
        "dtype": options.backend_dtype,
        "checkpoint": options.backend_checkpoint,
        "verify": options.backend_ca or True,
    }
