"""A tiny frozen model in a folder, a user's table, and the command line called in this process."""

from __future__ import annotations

import dataclasses
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.tiny import tiny

from coldframe.cli import main
from coldframe.retrieval.encoders import load_encoder

COLOURS = {"red": "rose blood fire ruby", "green": "grass leaf frog lime", "blue": "sky sea whale jeans"}
MOLECULES = "CCO CCN CCC c1ccccc1 CC(=O)O CCOC CCCl c1ccncc1 CC#N CCS OCCO NCCN c1ccccc1O CC(C)C C1CCCCC1 CCCCO".split()


class Words:
    """Stands for the sentence encoder, which has to be fetched: hashed words."""

    dim, takes_label_text = 16, True

    def __init__(self, spec: str) -> None:
        self.spec, self.hash = spec, f"hash of {spec}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                out[row, zlib.crc32(word.encode()) % self.dim] += 1
        return out


@pytest.fixture(autouse=True)
def encoders(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: str) -> Any:
        return Words(spec) if spec == "minilm" else load_encoder(spec)

    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", load)


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, tokenizer = tiny("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of another kind: sentences, three classes, columns with names of its own."""
    rng = random.Random(0)
    rows = []
    for i in range(90):
        colour = rng.choice(sorted(COLOURS))
        rows.append(f"item {i} {rng.choice(COLOURS[colour].split())},{colour}")
    path = tmp_path / "things.csv"
    path.write_text("\n".join(["sentence,colour", *rows]) + "\n")
    return path


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    path = tmp_path / "assay.csv"
    rows = [f"{smiles},{'active' if 'O' in smiles else 'inactive'}" for smiles in MOLECULES]
    path.write_text("\n".join(["smiles,activity", *rows]) + "\n")
    return path


@dataclasses.dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*words: object) -> Ran:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # how the parser ends
            status = int(end.code or 0)
        return Ran(status, *capsys.readouterr())

    return call


QUICK = ("--epochs", 1, "--set", "heads=2", "--set", "k=3", "--set", "adapter=8", "--quiet")


@pytest.fixture
def fitted(run: Callable[..., Ran], table: Path, lm: str, tmp_path: Path) -> Path:
    out = tmp_path / "artifact"
    found = run("fit", table, "--model", lm, "--out", out, *QUICK)
    assert found.status == 0, found.err
    return out
