"""A server that holds the model, in the place of a model in this process."""

from __future__ import annotations

from typing import Any

from coldframe.serving.artifacts import remote_of
from coldframe.serving.gateway.adapters import LoadModel

_RETRIES, _WAIT = 2, 0.5  # whoever asks the gateway waits meanwhile, and may ask again


def models_of(url: str, model: str | None = None, **settings: Any) -> LoadModel:
    """Loads the base model that an artifact names as a client of a server.

    Args:
        url: Of the server, such as ``http://localhost:8000/v1``.
        model: Its name there; the only one that it serves, if None.
        **settings: As for :class:`coldframe.serving.remote.RemoteLM`.
    """
    return lambda base: remote_of(base, url, model, retries=_RETRIES, wait=_WAIT, **settings)
