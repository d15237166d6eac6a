"""All readers of what other people write, each as a function of bytes that may only fail in our own errors."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from coldframe.cli.parsing import settings_of
from coldframe.config import read_mapping
from coldframe.errors import ColdframeError
from coldframe.escape import csv_cell, visible
from coldframe.frozen.model_folder import check_claims, provenance_of
from coldframe.methods.registry import create
from coldframe.retrieval.store import Store
from coldframe.storage import artifact as manifests
from coldframe.storage.artifact import MANIFEST, read_artifact
from coldframe.storage.tensors import read_tensors
from coldframe.tasks import load_task
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.question_writer import read_questions_in
from coldframe.tasks.task import Schema
from coldframe.training.checkpoint import CHECKPOINT
from coldframe.training.config import TrainingConfig

_HOME = Path(tempfile.mkdtemp(prefix="coldframe-fuzz-"))


def _file(name: str, data: bytes) -> Path:
    path = _HOME / name
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def artifact(data: bytes) -> None:
    """A manifest, as it is and resealed."""
    _file(MANIFEST, data)
    with contextlib.suppress(ColdframeError):
        read_artifact(_HOME)
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(manifest := json.loads(data), dict):
            manifest.pop("sha256", None)
            manifest["sha256"] = manifests._digest(manifest)
            _file(MANIFEST, json.dumps(manifest).encode())
            read_artifact(_HOME)


def settings(data: bytes) -> None:
    """Settings of methods, tasks and training, and a schema, in JSON and YAML."""
    for name in ("settings.json", "settings.yaml"):
        with contextlib.suppress(ColdframeError):
            values = read_mapping(_file(name, data))
            for build in (TrainingConfig.from_dict, TaskConfig.from_dict, Schema.from_dict):
                with contextlib.suppress(ColdframeError):
                    build(values)
            for method in ("mha-esp", "lora", "pear", "prag"):
                with contextlib.suppress(ColdframeError):
                    create(method, values)


def flags(data: bytes) -> None:
    """``--set`` words."""
    settings_of(_text(data).split("\n"))


def tensors(data: bytes) -> None:
    """A checkpoint, an adapter, gains."""
    read_tensors(_file(CHECKPOINT, data))


def model(data: bytes) -> None:
    """The config and the provenance of a model's folder."""
    _file("config.json", data)
    with contextlib.suppress(ColdframeError):
        check_claims(_HOME)
    _file("coldframe_provenance.json", data)
    provenance_of(_HOME)


def store(data: bytes) -> None:
    """Exemplars of an artifact."""
    Store.load(_file("store.jsonl", data))


def answers(data: bytes) -> None:
    """What a model wrote when it was asked for questions."""
    read_questions_in(_text(data))


def table(data: bytes) -> None:
    """A user's table, separated and in lines of JSON."""
    for name in ("rows.csv", "rows.tsv", "rows.jsonl"):
        with contextlib.suppress(ColdframeError):
            load_task(str(_file(name, data)))


def words(data: bytes) -> None:
    """Names in terminals and spreadsheets."""
    assert "\x1b" not in visible(_text(data))
    csv_cell(_text(data))


READERS: dict[str, Callable[[bytes], None]] = {
    "artifact": artifact,
    "settings": settings,
    "flags": flags,
    "tensors": tensors,
    "model": model,
    "store": store,
    "answers": answers,
    "table": table,
    "words": words,
}


def read(name: str, data: bytes) -> None:
    """Give data to a reader; whatever it raises but our own errors is a fault."""
    with contextlib.suppress(ColdframeError):
        READERS[name](data)
