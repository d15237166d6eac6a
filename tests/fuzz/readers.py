"""All readers of what other people write, each as a function of bytes that may only fail in our own errors."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import threading
import urllib.error
from collections.abc import Callable
from email.message import Message
from unittest import mock

from tests.fuzz.folders import HOME, book, fitted, mapping, model, place, seal, sealed_files, tensors

import coldframe as cf
from coldframe.cli.compare import Compare, method_settings_of, sweeps_of
from coldframe.cli.fit import Fit
from coldframe.cli.parsing import from_recipe, settings_of
from coldframe.config import read_mapping
from coldframe.diagnosis.endpoint import Endpoint
from coldframe.diagnosis.memory import Memory
from coldframe.diagnosis.queries import Case
from coldframe.errors import ColdframeError
from coldframe.escape import csv_cell, visible
from coldframe.frozen.model_folder import check_claims, provenance_of
from coldframe.inference.client import Client
from coldframe.inference.predictions import Predictions
from coldframe.methods.head_gains.fold import unfold
from coldframe.methods.head_gains.gains_file import FOLDER, read_gains
from coldframe.methods.registry import create
from coldframe.methods.weight_deltas.bank_files import read_index, shard_places, written_shards
from coldframe.retrieval.store import Store
from coldframe.storage.artifact import MANIFEST, read_artifact
from coldframe.storage.tensors import read_tensors
from coldframe.tasks import load_task
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.question_writer import read_questions_in
from coldframe.tasks.rag_log import read_log
from coldframe.tasks.task import Schema
from coldframe.training.checkpoint import CHECKPOINT
from coldframe.training.config import TrainingConfig

SECTIONS = ("base_model", "schema", "method_config", "retrieval", "training", "store", "task")

ours = contextlib.suppress(ColdframeError)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def artifact(data: bytes) -> None:
    """A manifest, as it is and with a right checksum."""
    folder = place(f"artifact/{MANIFEST}", data).parent
    with ours:
        read_artifact(folder)
    if (manifest := mapping(data)) is not None:
        read_artifact(seal("artifact", manifest))


def lora(data: bytes) -> None:
    """A folder that ``coldframe fit`` wrote, with other values in its manifest, or in the place of one of its files."""
    manifest, files = fitted()
    changes, turn = mapping(data), sum(data)  # one place of many, since reading an artifact takes long
    if changes is None:
        name = sorted(files)[turn % len(files)]
        files = {**files, name: data}
        checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        manifest = {**manifest, "files": checksums}
    elif turn % 2:
        manifest = {**manifest, **changes}
    else:
        section = SECTIONS[turn // 2 % len(SECTIONS)]
        manifest = {**manifest, section: {**manifest[section], **changes}}
    cf.load(sealed_files("lora", files, manifest), model())


def gains(data: bytes) -> None:
    """What ``coldframe reweight`` wrote: the manifest of the gains, and the gains."""
    home = f"gains/{FOLDER}"
    place("gains/config.json", b"{}")
    place("gains/model.safetensors", tensors())
    base = {"base_model": {"name": "tiny", "weight_hash": "0" * 64}, "config": {}, "tensors": []}
    if (changes := mapping(data)) is not None:
        folder = sealed_files(home, {"gains.safetensors": tensors()}, {**base, **changes}).parent
    else:
        folder = sealed_files(home, {"gains.safetensors": data}, base).parent
    with ours:
        read_gains(folder)
    with ours:
        unfold(folder, HOME / "unfolded")
    shutil.rmtree(HOME / "unfolded", ignore_errors=True)


def adapters(data: bytes) -> None:
    """Shards of passages' adapters, and which of them are in force."""
    shard = place("bank/adapters/0123456789abcdef.safetensors", data)
    with ours:
        written_shards(HOME / "bank")
    with ours:
        shard_places([shard])
    read_index(place("bank/index.json", data))


def settings(data: bytes) -> None:
    """Settings of methods, tasks and training, and a schema, in JSON and YAML."""
    for name in ("settings.json", "settings.yaml"):
        with ours:
            values = read_mapping(place(name, data))
            for build in (TrainingConfig.from_dict, TaskConfig.from_dict, Schema.from_dict):
                with ours:
                    build(values)
            for method in ("mha-esp", "lora", "pear", "prag"):
                with ours:
                    create(method, values)


def recipe(data: bytes) -> None:
    """A recipe of ``compare`` and of ``fit``."""
    path = str(place("recipe.yaml", data))
    with ours:
        options = from_recipe(Compare, path)
        method_settings_of(options)
        sweeps_of(options)
    from_recipe(Fit, path)


def flags(data: bytes) -> None:
    """``--set`` words."""
    settings_of(_text(data).split("\n"))


def checkpoint(data: bytes) -> None:
    """A file of tensors."""
    read_tensors(place(CHECKPOINT, data))


def checkpoint_folder(data: bytes) -> None:
    """The config and the provenance of a model's folder."""
    place("model/model.safetensors", tensors())
    with ours:
        check_claims(place("model/config.json", data).parent)
    provenance_of(place("model/coldframe_provenance.json", data).parent)


def store(data: bytes) -> None:
    """Exemplars of an artifact."""
    Store.load(place("store.jsonl", data))


def results(data: bytes) -> None:
    """Predictions, and losses that a diagnosis measured."""
    with ours:
        Predictions.load(place("predictions.jsonl", data))
    Memory(place("losses.jsonl", data))


def answers(data: bytes) -> None:
    """What a model wrote when it was asked for questions."""
    read_questions_in(_text(data))


class _Server:
    """Answers whatever it is asked with the same bytes."""

    def __init__(self, data: bytes, status: int) -> None:
        self.data, self.status = data, status

    def open(self, request: object, timeout: float) -> io.BytesIO:
        if self.status == 200:
            return io.BytesIO(self.data)
        headers = Message()
        headers["Retry-After"] = _text(self.data)[:20].replace("\n", " ").replace("\r", " ")
        raise urllib.error.HTTPError("http://localhost/v1", self.status, "no", headers, io.BytesIO(self.data))


def endpoint(data: bytes) -> None:
    """Answers of a server, whole and as the parts of one that is as it should be."""
    bodies = [data]
    with contextlib.suppress(ValueError, RecursionError):
        part = json.loads(data)
        choice = {"text": part, "message": {"content": part}, "logprobs": {"tokens": part, "token_logprobs": part}}
        bodies.append(json.dumps({"choices": [choice]}).encode())
        listed = {"text": "Question: q\nAnswer: a", "logprobs": {"tokens": ["Question: q\nAnswer:", " a"]}}
        listed["logprobs"]["token_logprobs"] = [None, part]  # type: ignore[index]
        bodies.append(json.dumps({"choices": [listed]}).encode())
    for body in bodies:
        for status in (200, 404, 429):
            with mock.patch("urllib.request.build_opener", lambda *_, s=status, b=body: _Server(b, s)):
                with ours:
                    client = Client("http://localhost/v1", "m", "key-of-mine", retries=0, wait=0)
                    assert isinstance(client.chat("q", {"max_tokens": 1}), str)
                try:
                    queries = [("q", "a"), ("r", "b")]
                    server = Endpoint("http://localhost/v1", "m", [[], []], queries, retries=0, wait=0, quiet=True)
                    case = Case("q", (), "a")
                    assert isinstance(server._written(case, threading.Event()), str)
                except ColdframeError as error:
                    assert "key-of-mine" not in str(error)


def table(data: bytes) -> None:
    """A user's table, separated and in lines of JSON."""
    for name in ("rows.csv", "rows.tsv", "rows.jsonl"):
        with ours:
            load_task(str(place(name, data)))


def array(data: bytes) -> None:
    """A JSON array of rows."""
    load_task(str(place("rows.json", data)))


def packed(data: bytes) -> None:
    """A table that is packed with gzip: these bytes, and these bytes in a right file."""
    with ours:
        load_task(str(place("rows.csv.gz", data)))
    load_task(str(place("rows.jsonl.gz", gzip.compress(data, 1, mtime=0))))


def excel(data: bytes) -> None:
    """An Excel file: these bytes, and these bytes as the sheet of a right file."""
    with ours:
        load_task(str(place("rows.xlsx", data)))
    load_task(str(place("rows.xlsx", book(data))))


def parquet(data: bytes) -> None:
    """A Parquet file."""
    load_task(str(place("rows.parquet", data)))


def corpus(data: bytes) -> None:
    """Questions about passages, and the passages."""
    passages = str(place("passages.jsonl", b'{"id": "p1", "text": "Ada is in Rome."}\n'))
    with ours:
        load_task(str(place("questions.jsonl", data)), store=passages)
    questions = str(place("asked.jsonl", b'{"question": "Where is Ada?", "answer": "Rome"}\n' * 20))
    load_task(questions, store=str(place("texts.jsonl", data)))


def log(data: bytes) -> None:
    """A log of questions, passages and answers."""
    for name, on_error in (("log.jsonl", "raise"), ("log.json", "skip"), ("log.csv", "skip")):
        with ours:
            read_log(str(place(name, data)), on_error=on_error)  # type: ignore[arg-type]


def words(data: bytes) -> None:
    """Names in terminals and spreadsheets."""
    assert "\x1b" not in visible(_text(data))
    csv_cell(_text(data))


READERS: dict[str, Callable[[bytes], None]] = {
    "artifact": artifact,
    "lora": lora,
    "gains": gains,
    "adapters": adapters,
    "settings": settings,
    "recipe": recipe,
    "flags": flags,
    "checkpoint": checkpoint,
    "model": checkpoint_folder,
    "store": store,
    "results": results,
    "answers": answers,
    "endpoint": endpoint,
    "table": table,
    "array": array,
    "packed": packed,
    "excel": excel,
    "parquet": parquet,
    "corpus": corpus,
    "log": log,
    "words": words,
}


def read(name: str, data: bytes) -> None:
    """Give data to a reader; whatever it raises but our own errors is a fault."""
    with contextlib.suppress(ColdframeError):
        READERS[name](data)
