"""Neighbour lists are kept, found again, and never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coldframe.retrieval import neighbours
from coldframe.retrieval.index import Indices, Scores
from coldframe.retrieval.retriever import CACHED_FROM, RetrievalConfig, Retriever
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example


class Counting:
    """An encoder that counts what it is asked for."""

    spec, dim, takes_label_text = "counting", 4, True

    def __init__(self, hash: str = "1") -> None:
        self.hash, self.calls = hash, 0

    def encode(self, texts: Any) -> Any:
        self.calls += 1
        return np.array([np.random.default_rng(list(text.encode())).normal(size=4) for text in texts], np.float32)


ROWS = [Example(f"text {i}", "A", id=f"{i:03}", key=str(i)) for i in range(CACHED_FROM + 6)]


def lists(encoder: Counting, rows: list[Example] = ROWS, k: int = 3, exclude: bool = True, **settings: Any) -> Any:
    tool = Retriever(Store.of(rows), "text", k, RetrievalConfig(**settings), encoder=encoder)
    retrieved = tool.retrieve(rows, exclude_same_key=exclude)
    return retrieved.indices.tolist(), retrieved.scores.tolist()


def files(cache: Path) -> list[Path]:
    return sorted((cache / "neighbours").glob("*"))


def test_the_second_time_nothing_is_encoded(cache: Path) -> None:
    first = lists(Counting())
    again = Counting()
    assert lists(again) == first
    assert again.calls == 0
    assert len(files(cache)) == 1


def test_whatever_changes_the_lists_changes_the_name(cache: Path) -> None:
    lists(Counting())
    lists(Counting("2"))
    lists(Counting(), k=2)
    lists(Counting(), exclude=False)
    lists(Counting(), ROWS[:-1])
    lists(Counting(), [*ROWS[:-1], Example("other", "A", id=ROWS[-1].id, key=ROWS[-1].key)])
    lists(Counting(), [*ROWS[:-1], Example(ROWS[-1].text, "A", id=ROWS[-1].id, key=ROWS[0].key)])
    lists(Counting(), [*ROWS[:-1], Example(ROWS[-1].text, "B", id=ROWS[-1].id, key=ROWS[-1].key)])
    lists(Counting(), strategy="random")
    lists(Counting(), strategy="random", seed=1)
    assert len(files(cache)) == 10


def test_few_queries_are_not_kept(cache: Path) -> None:
    lists(Counting(), ROWS[: CACHED_FROM - 1])
    assert files(cache) == []


def corrupt_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def corrupt_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def corrupt_everything(path: Path) -> None:
    path.write_bytes(b"not safetensors")


def corrupt_shape(path: Path) -> None:
    tensors = {name: value[:-1] for name, value in load_file(path).items()}
    digest = neighbours._digest(tensors["indices"], tensors["scores"])
    save_file(tensors, path, {"key": path.stem, "sha256": digest})


def corrupt_positions(path: Path) -> None:
    tensors = load_file(path)
    tensors["indices"][0, 0] = 10**6
    digest = neighbours._digest(tensors["indices"], tensors["scores"])
    save_file(tensors, path, {"key": path.stem, "sha256": digest})


def corrupt_name(path: Path) -> None:
    tensors = load_file(path)
    save_file(tensors, path, {"key": "another", "sha256": neighbours._digest(tensors["indices"], tensors["scores"])})


@pytest.mark.parametrize(
    "corrupt",
    [corrupt_bytes, corrupt_length, corrupt_everything, corrupt_shape, corrupt_positions, corrupt_name],
)
def test_a_damaged_file_is_computed_anew_and_mended(cache: Path, corrupt: Any, caplog: Any) -> None:
    first = lists(Counting())
    (path,) = files(cache)
    corrupt(path)
    encoder = Counting()
    assert lists(encoder) == first
    assert encoder.calls > 0
    assert "computed anew" in caplog.text
    mended = Counting()
    assert lists(mended) == first
    assert mended.calls == 0


def test_a_cache_that_cannot_be_written_is_only_slower(cache: Path, caplog: Any) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert len(lists(Counting())[0]) == len(ROWS)
    assert "not cached" in caplog.text


def test_lists_that_were_not_used_lately_are_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lists() -> tuple[Indices, Scores]:
        return np.zeros((100, 2), np.int64), np.zeros((100, 2), np.float32)

    folder = cache / "neighbours"
    for age, key in enumerate(["b", "a"]):
        neighbours.remember(key, (100, 2, 5), lists)
        os.utime(folder / f"{key}.safetensors", (1000 - age, 1000 - age))
    neighbours.remember("a", (100, 2, 5), lambda: pytest.fail("computed again"))  # the oldest, and used again
    size = (folder / "a.safetensors").stat().st_size
    monkeypatch.setattr(neighbours, "MOST", 2 * size)
    neighbours.remember("c", (100, 2, 5), lists)
    assert {path.stem for path in folder.iterdir()} == {"a", "c"}
