"""A log of a pipeline, over a real server with a real model: `transformers serve` gives no log-probabilities."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldframe.frozen.model_sources import resolve

pytest.importorskip("fastapi", reason="transformers serve needs transformers[serving]")
pytest.importorskip("uvicorn", reason="transformers serve needs transformers[serving]")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOWNS = ["Rome", "Oslo", "Lima", "Cairo", "Bern", "Quito"]
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ivo", "June"]


@contextlib.contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """The address of a server over the model of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def test_the_second_command_of_the_readme(tmp_path: Path) -> None:
    people = [f"{name} {last}" for name in NAMES for last in ("Moss", "Reed", "Hill")]
    facts = [f"{person} lives in {TOWNS[i * 7 % 6]}." for i, person in enumerate(people)]
    rows = [
        {
            "user_input": f"In which town does {fact.split(' lives')[0]} live?",
            "retrieved_contexts": [fact],
            "reference": fact.split()[-1].strip("."),
            "response": "I do not know.",
        }
        for fact in facts
    ]
    log = tmp_path / "rag.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = resolve("smollm2")
    with serving(folder, tmp_path / "server.log") as url:
        command = ["diagnose", str(log), "--endpoint", url, "--model", str(folder), "--max-tokens", "6"]
        result = subprocess.run(
            [sys.executable, "-m", "coldframe", *command, "--resamples", "2000"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=3000,
        )
    assert result.returncode == 0, result.stderr + (tmp_path / "server.log").read_text()[-2000:]
    values = json.loads((tmp_path / "rag-diagnosis" / "diagnosis.json").read_text())
    # No log-probabilities there, so answers are written; the model reads them off the passages.
    assert values["probability"] == [] and "No log-probabilities" in " ".join(values["notes"])
    own, none, others = (rate["value"]["value"] for rate in values["right"])
    assert own > 0.6 and own > none + 0.3 and own > others + 0.3
    assert values["headline"].startswith("Retrieval does the work")
    assert (tmp_path / "rag-diagnosis" / "diagnosis.html").is_file()
