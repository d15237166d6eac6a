"""``coldframe encode`` and ``coldframe ask``, end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s")
QUICK = ("--dtype", "float32", "--quiet", "--set", "epochs=2")


@pytest.fixture(params=["prag", "poly-prag", "dyprag"])
def encoded(request: pytest.FixtureRequest, run: Callable[..., Any], folder: str, tmp_path: Path) -> Path:
    out = tmp_path / "encoded"
    found = run("encode", "fact-corpus:6", "--model", folder, "--method", request.param, "--out", out, *QUICK)
    assert found.status == 0, found.err
    assert "6 passages, 6 of them trained now" in found.out and f"coldframe ask {out}" in found.out
    return out


@pytest.mark.slow
def test_encode_ask_evaluate_export(encoded: Path, run: Callable[..., Any], folder: str, tmp_path: Path) -> None:
    method = json.loads((encoded / "encoded.json").read_text())["method"]
    again = run("encode", "fact-corpus:6", "--model", folder, "--method", method, "--out", encoded, "--json", *QUICK)
    assert again.json["trained"] == 0 and again.json["passages"] == 6

    question = "Who is the mayor of Lovokor?"
    found = run("ask", encoded, question, "--max-new-tokens", 4, "--k", 3, "--export", tmp_path / "lora", "--json")
    assert found.status == 0, found.err
    assert found.json["question"] == question and found.json["way"] == method and len(found.json["passages"]) == 3
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    plain = run("ask", encoded, question, "--max-new-tokens", 4)
    assert plain.status == 0 and "Lovokor: The mayor" in plain.err

    found = run("ask", encoded, "--evaluate", "--rows", 6, "--max-new-tokens", 3, "--json", "--quiet")
    assert found.status == 0, found.err
    names = [way["name"] for way in found.json["ways"]]
    adapted = [method, f"{method}+text", f"{method} (swapped)", f"{method}+text (swapped)"]
    assert names[:6] == ["closed-book", "text-rag", *adapted]
    assert len(names) == (8 if method == "poly-prag" else 6) and found.json["n"] == 6
    table = run(
        "ask", encoded, "--evaluate", "--rows", 4, "--max-new-tokens", 2, "--quiet", "--predictions", tmp_path / "all"
    )
    assert table.status == 0 and "contained [95%]" in table.out and "for each passage" in table.out
    assert "mean cosine between the adapters" in table.out
    assert "swapping_breaks" in found.json
    assert len(list((tmp_path / "all").glob("*.jsonl"))) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "setting"), [("poly-prag", "adapters=2"), ("dyprag", "width=4")])
def test_a_file_of_passages_and_new_ones(
    method: str, setting: str, run: Callable[..., Any], folder: str, tmp_path: Path
) -> None:
    qa = [{"question": f"Who is {i}?", "answer": f"number {i}"} for i in range(3)]
    rows = [{"text": f"This is passage {i}.", "rewrite": f"Passage {i} is this.", "qa": qa} for i in range(4)]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    common = ("--model", folder, "--method", method, "--out", tmp_path / "out", "--set", setting, *QUICK)
    assert run("encode", path, *common).status == 0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = run("encode", path, *common)
    assert refused.status == 2 and "other passages" in refused.err
    added = run("encode", path, "--add", "--json", *common)
    assert added.status == 0 and added.json["added"] == 1
    # The first command once more finds all its passages there, and leaves the added one alone.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    again = run("encode", path, "--json", *common)
    assert again.status == 0 and again.json["trained"] == 0 and again.json["passages"] == 4
    other = run("encode", path, "--add", *common, "--set", "epochs=3")
    assert other.status == 2 and "keeps the settings" in other.err
    none = run("ask", tmp_path / "out", "--evaluate")
    assert none.status == 2 and "came without questions" in none.err


def test_bad_input_is_told(run: Callable[..., Any], folder: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("text\nred\n")
    for words, said in (
        (("encode", tmp_path / "none.jsonl", *QUICK), "Cannot read"),
        (("encode", bare, "--model", folder, "--out", tmp_path / "a", *QUICK), "row 2 has no augmentation"),
        (("encode", "fact-corpus:2", "--model", folder, *QUICK), "entity of each kind"),
        (("encode", bare, "--set", "ranks=2"), "Did you mean 'rank'"),
        (
            ("encode", bare, "--model", folder, "--out", tmp_path / "b", "--augment", "http://localhost:1/v1"),
            "--augment-model",
        ),
        (("ask", tmp_path, "Who?"), "holds no encoded corpus"),
        (("ask", tmp_path), "neither"),
        (("ask", tmp_path, "Who?", "--evaluate"), "both"),
    ):
        found = run(*words)
        assert found.status == 2 and said in found.err, (words, found.err)
