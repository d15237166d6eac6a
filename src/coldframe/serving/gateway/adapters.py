"""The adapters of a gateway, by name: loaded, replaced and taken away while it answers."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from coldframe.config import local_path
from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.no_model import SOURCE
from coldframe.pipeline import saved
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.serving.gateway.problems import HttpProblem
from coldframe.storage.artifact import read_manifest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What an adapter may be called."""

LoadModel = Callable[[dict[str, Any]], FrozenLM]
"""Loads the base model that a manifest names."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A pipeline under a name. It never changes: a change makes another one, and who answers keeps what it has.

    Attributes:
        name: As clients call it.
        pipeline: What answers.
        path: Its folder.
        version: Grows with every change.
    """

    name: str
    pipeline: Pipeline
    path: Path
    version: int = 1

    @cached_property
    def word_tokens(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of every label's word; none where there are no labels or no model."""
        pipeline = self.pipeline
        if pipeline.schema.kind != "classification" or not pipeline.method.reads_model:
            return ()
        return tuple(pipeline.lm.answer_tokens(word) for word in pipeline.schema.words)

    @cached_property
    def learns_entries(self) -> bool:
        """Whether something was learned for each entry of the store, so that no entry can be new without training."""
        return self.pipeline.method.entry_bytes is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What clients may know of it."""
        pipeline, method = self.pipeline, self.pipeline.method
        return {
            "name": self.name,
            "version": self.version,
            "method": method.name,
            "task": pipeline.schema.name,
            "kind": pipeline.schema.kind,
            "domain": pipeline.schema.domain,
            "labels": list(pipeline.schema.labels),
            "base_model": str(pipeline.lm.provenance.get("name", "")),
            "reads_model": method.reads_model,
            "retrieves": method.uses_retrieval,
            "k": int(getattr(method.config, "k", 0)) if method.uses_retrieval else 0,
            "exemplars": len(pipeline.store) if method.uses_retrieval else 0,
            "grows_without_training": method.uses_retrieval and not self.learns_entries,
        }


class Adapters:
    """Adapters by name, and the models below them: one for all adapters of the same weights.

    Threads may share it. Loading does not stop those that ask for an adapter.

    Args:
        load_model: Loads a base model; by its name, if None.
        models: Base models that are loaded already.
        root: Folder below which adapters must lie that are added while the gateway runs.
    """

    def __init__(
        self, load_model: LoadModel | None = None, models: Iterable[FrozenLM] = (), root: str | Path | None = None
    ) -> None:
        self._load_model = load_model or saved.load_base
        self.models = {lm.weight_hash: lm for lm in models}
        self._root = None if root is None else local_path(root).resolve()
        if self._root is not None and not self._root.is_dir():
            raise ConfigError("The folder of adapters is not there", got=self._root, expected="a folder")
        self._adapters: dict[str, Adapter] = {}
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def names(self) -> list[str]:
        """In order."""
        return sorted(self._adapters)

    def get(self, name: str) -> Adapter:
        """An adapter.

        Raises:
            HttpProblem: 404: there is none.
        """
        adapter = self._adapters.get(name)
        if adapter is None:
            raise HttpProblem(404, f"There is no adapter {name[:64]!r}", fix="GET /v1/models lists them.")
        return adapter

    def load(self, name: str, path: str | Path, *, while_running: bool = False) -> Adapter:
        """Load an artifact under a name; what has the name already is replaced once the new one is ready.

        Args:
            name: Letters, digits, dots, dashes and underscores, at most 64.
            path: A folder that ``fit`` wrote; below the root, if relative to it.
            while_running: Only from below the root, and only on a model that is loaded already.

        Raises:
            HttpProblem: 403: it is not below the root. 422: it has another base model.
            ColdframeError: The name cannot be used, or the artifact cannot be loaded.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                "The name of an adapter cannot be used", got=repr(name)[:80], expected="letters, digits, '.', '-', '_'"
            )
        folder = self._allowed(path) if while_running else local_path(path)
        with self._changing:
            base = read_manifest(folder, saved.NEEDS)["base_model"]
            known = base.get("source") == SOURCE or base["weight_hash"] in self.models
            if not known and while_running and self.models:
                raise HttpProblem(
                    422,
                    "The adapter has another base model than those that are loaded",
                    got=base["name"],
                    expected=", ".join(str(lm.provenance.get("name")) for lm in self.models.values()),
                    fix="Start a gateway for it.",
                )
            lm = None if base.get("source") == SOURCE else self.models.get(base["weight_hash"])
            if not known:
                lm = self._load_model(base)
            pipeline = load(folder, lm)
            if lm is not None:
                self.models.setdefault(base["weight_hash"], lm)
            return self._put(name, pipeline, folder)

    def change(self, name: str, change: Callable[[Adapter], Pipeline]) -> Adapter:
        """Replace the pipeline of an adapter by one that is made of it."""
        with self._changing:
            adapter = self.get(name)
            return self._put(name, change(adapter), adapter.path)

    def remove(self, name: str) -> None:
        """Take an adapter away; requests that are under way are answered."""
        with self._changing:
            self.get(name)
            del self._adapters[name]

    def _put(self, name: str, pipeline: Pipeline, path: Path) -> Adapter:
        if pipeline.retriever is not None and pipeline.retriever.k and len(pipeline.store):
            _ = pipeline.retriever.index  # encoded now, and not while the first client waits
        before = self._adapters.get(name)
        adapter = Adapter(name, pipeline, path, 1 if before is None else before.version + 1)
        self._adapters[name] = adapter
        return adapter

    def _allowed(self, path: str | Path) -> Path:
        """A folder below the root, wherever links lead."""
        if self._root is None:
            fix = "Start the gateway with --adapter-root FOLDER."
            raise HttpProblem(403, "No adapter can be added to this gateway while it runs", fix=fix)
        try:
            folder = (self._root / path).resolve()
            is_folder = folder.is_dir()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
            raise HttpProblem(422, "The path cannot be used", got=repr(str(path))[:200]) from error
        if not folder.is_relative_to(self._root):
            raise HttpProblem(403, "The folder does not lie below that of the adapters", got=repr(str(path))[:200])
        if not is_folder:
            raise HttpProblem(422, "There is no such folder below that of the adapters", got=repr(str(path))[:200])
        return folder
