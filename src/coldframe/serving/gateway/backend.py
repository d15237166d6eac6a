"""A server that holds the model, in the place of a model in this process."""

from __future__ import annotations

from typing import Any

from coldframe.serving.gateway.adapters import LoadModel


def models_of(url: str, model: str | None = None) -> LoadModel:
    """Loads the base model that an artifact names as a client of a server.

    Args:
        url: Of the server, such as ``http://localhost:8000/v1``.
        model: Its name there; the artifact's own name of it, if None.
    """

    def load(base: dict[str, Any]) -> Any:
        from coldframe.serving.remote import RemoteLM  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return RemoteLM(url, model=model or base["name"], checkpoint=base["name"])

    return load
