from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tests.evaluation.support import make_predictions, noisy_run

from coldframe.errors import DataError
from coldframe.inference.predictions import Predictions


def same(a: Predictions, b: Predictions) -> bool:
    for name in a.__dataclass_fields__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            if x is None or y is None or x.dtype.kind != y.dtype.kind or not np.array_equal(x, y):
                return False
        elif x != y:
            return False
    return True


@pytest.mark.parametrize(("k", "m"), [(0, 0), (3, 0), (3, 4), (0, 2)])
def test_records_round_trip(tmp_path, k, m):
    run = noisy_run(np.random.default_rng(0), n=6, k=k, m=m, texts=['a "b"\n', "<c>", "é", "", "\u2028", "CCO"])
    run.save(tmp_path / "runs" / "p.jsonl")
    assert len((tmp_path / "runs" / "p.jsonl").read_bytes().split(b"\n")) == 7
    assert same(Predictions.load(tmp_path / "runs" / "p.jsonl"), run)
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["p.jsonl"]


def test_generation_round_trip(tmp_path):
    run = Predictions(
        method="icl",
        seed=2,
        task="captions",
        ids=("a", "b"),
        texts=("x", "y"),
        labels=(),
        targets=np.full(2, -1, np.int64),
        probabilities=np.empty((2, 0)),
        neighbours=np.array([["e1"], [""]]),
        similarities=np.array([[0.5], [0.0]], np.float32),
        references=(("one", "uno"), ("two",)),
        generated=("one", ""),
    )
    run.save(tmp_path / "p.jsonl")
    assert same(Predictions.load(tmp_path / "p.jsonl"), run)


def test_some_of_the_rows_are_whole(tmp_path):
    run = noisy_run(np.random.default_rng(0), n=6, k=3, m=4)
    part = run.at([4, 1])
    assert part.records() == [run.records()[4], run.records()[1]] and same(run.at(np.arange(6)), run)
    written = dict(labels=(), targets=np.full(6, -1), probabilities=np.empty((6, 0)))
    texts = {"references": tuple((str(i),) for i in range(6)), "generated": tuple("abcdef")}
    answers = dataclasses.replace(run, **written, **texts, losses=np.arange(6.0)).at([5, 0])
    assert (answers.generated, answers.references, answers.losses.tolist()) == (("f", "a"), (("5",), ("0",)), [5, 0])


def test_a_record_says_all(tmp_path):
    run = make_predictions([1, 0], [[0.25, 0.75], [0.1, 0.9]], k=2, m=3, labels=["No", "Yes"])
    first, second = run.records()
    assert first["target"] == first["predicted"] == "Yes" and first["probabilities"] == {"No": 0.25, "Yes": 0.75}
    assert second["target"] == "No" and second["predicted"] == "Yes"
    assert [neighbour["id"] for neighbour in first["neighbours"]] == list(run.neighbours[0])
    assert first["neighbours"][1]["attention"] == run.attention[0, :, 1].tolist()
    json.dumps(first, allow_nan=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (None, "belongs to another run"),
        ("{", "line 3: not a record"),
        ('{"a": 1}', "line 3: not a record"),
        ("[1]", "line 3: not a record"),
        ('{"task": "made-up", "method": "method", "seed": 0}', "records of one kind"),
    ],
)
def test_damaged_files_are_told(tmp_path, line, message):
    run = noisy_run(np.random.default_rng(0), n=2)
    path = tmp_path / "p.jsonl"
    run.save(path)
    if line is None:
        line = json.dumps({**run.records()[0], "seed": 9})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        Predictions.load(path)


def test_missing_and_empty_files_are_told(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        Predictions.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no record"):
        Predictions.load(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("targets", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5], [0.5, 0.6]], r"row 2 \(id 'q1'\)"),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], "row 2"),
        ([0, 1], [[float("nan"), 0.5], [0.5, 0.5]], "row 1"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "no label position"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "wrong shape"),
    ],
)
def test_nonsense_is_refused(targets, probabilities, message):
    with pytest.raises(DataError, match=message):
        make_predictions(targets, probabilities, texts=["a"] * len(targets), labels=["x", "y"])


@pytest.mark.parametrize("line", ["[" * 100_000, "5", "1" * 5000, '{"task": "t", "method": "m", "seed": 0}', "[[]]"])
def test_a_record_of_any_kind_is_told(line, tmp_path):
    (tmp_path / "run.jsonl").write_text(line)
    with pytest.raises(DataError):
        Predictions.load(tmp_path / "run.jsonl")
