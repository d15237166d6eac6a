"""A server that holds the model, in the place of a model in this process."""

from __future__ import annotations

import os
from typing import Any

from coldframe.serving.gateway.adapters import LoadModel

BACKEND_KEY = "COLDFRAME_BACKEND_KEY"
"""Variable of the environment that holds the server's key."""

_RETRIES, _WAIT = 2, 0.5  # whoever asks the gateway waits meanwhile, and may ask again


def models_of(url: str, model: str | None = None, timeout: float = 60.0) -> LoadModel:
    """Loads the base model that an artifact names as a client of a server.

    Args:
        url: Of the server, such as ``http://localhost:8000/v1``.
        model: Its name there; the only one that it serves, if None.
        timeout: Seconds for one of its answers.
    """

    def load(base: dict[str, Any]) -> Any:
        from coldframe.serving.remote import RemoteLM

        key = os.environ.get(BACKEND_KEY) or None
        return RemoteLM(
            url,
            model,
            checkpoint=base["name"],
            revision=base.get("revision"),
            api_key=key,
            timeout=timeout,
            retries=_RETRIES,
            wait=_WAIT,
        )

    return load
