"""No input makes a reader raise anything but our own errors: kept inputs, and thousands of new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.readers import READERS, read

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
KEYS = ["format", "files", "places", "sha256", "heads", "k", "text", "label", "question", "answer", "num_hidden_layers"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner),
)
INPUTS = st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode)


@pytest.mark.parametrize("name", READERS)
def test_kept_inputs_are_read_or_told(name: str) -> None:
    assert len(CORPUS) >= 15
    for path in CORPUS:
        read(name, path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_input_is_read_or_told(name: str) -> None:
    @settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(INPUTS)
    def check(data: bytes) -> None:
        read(name, data)

    check()
