"""An artifact in front of a server that runs its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coldframe.errors import ConfigError
from coldframe.frozen.no_model import SOURCE
from coldframe.pipeline import saved
from coldframe.serving.remote import RemoteLM
from coldframe.storage.artifact import read_artifact


def remote_for(artifact: str | Path, url: str, model: str | None = None, **settings: Any) -> RemoteLM | None:
    """The client of a server for an artifact; None for an artifact that needs no model.

    Args:
        artifact: A local folder or a hub repository.
        url: Of the server.
        model: As the server names it; may be left out where it serves a single one.
        **settings: As for :class:`RemoteLM`. Without a checkpoint, it is the one that the artifact names.

    Raises:
        ConfigError: The artifact was fitted to a model without a name, and no checkpoint is given.
        ArtifactError: It is damaged or foreign.
    """
    base = read_artifact(saved.folder_of(artifact), saved.NEEDS).manifest["base_model"]
    return None if base.get("source") == SOURCE else remote_of(base, url, model, **settings)


def remote_of(base: Mapping[str, Any], url: str, model: str | None = None, **settings: Any) -> RemoteLM:
    """The client of a server for the base model that a manifest names, see :func:`remote_for`."""
    if settings.get("checkpoint") is None:
        if base.get("source") == "memory":
            raise ConfigError(
                "The artifact was fitted to a model that was made in memory, so nothing names its checkpoint",
                fix="Say which folder has its files: checkpoint=... (--backend-checkpoint).",
            )
        settings |= {"checkpoint": base["name"], "revision": base.get("revision") if base["source"] == "hub" else None}
    return RemoteLM(url, model, **settings)
