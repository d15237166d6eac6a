"""``coldframe encode`` and ``coldframe ask``, end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt

pytest.importorskip("bm25s")
Run = Callable[..., Ran]
QUICK = ("--dtype", "float32", "--quiet", "--epochs", 2)
OF = {"prag": (), "poly-prag": ("--set", "adapters=2"), "dyprag": ("--set", "width=4", "--set", "teacher_epochs=1")}


@pytest.mark.slow
@pytest.mark.parametrize("method", OF)
def test_encode_ask_evaluate_export(method: str, run: Run, lm: str, tmp_path: Path) -> None:
    out, name = tmp_path / "out", () if method == "prag" else ("--method", method)
    command = ("encode", "fact-corpus:6", "--model", lm, *name, *OF[method], "--out", out, *QUICK)
    ran = run(*command)
    assert ran.status == 0 and "6 passages, " in ran.out and "bytes for each" in ran.out, ran.err
    again = run(*command, "--json")
    assert again.json["entries"] == 6 and again.json["method"] == method and not again.json["left_out"]

    question = "Who is the mayor of Lovokor?"
    ran = run("ask", out, question, "--set", "k=3", "--export", tmp_path / "lora", "--json")
    assert ran.status == 0 and ran.json["question"] == question and ran.json["method"] == method, ran.err
    assert len(ran.json["passages"]) == 3 and (tmp_path / "lora" / "adapter_config.json").is_file()
    plain = run("ask", out, question)
    assert plain.status == 0 and "Lovokor: The mayor" in plain.err

    ran = run("ask", out, "--evaluate", "--rows", 6, "--json", "--quiet")
    assert ran.status == 0, ran.err
    names = [variant["name"] for variant in ran.json["variants"]]
    assert names[:5] == ["zero-shot", "icl", method, f"icl+{method}", f"{method}, swapped store"]
    assert len(names) == (8 if method == "poly-prag" else 6) and ran.json["n"] == 6 and "swapping_breaks" in ran.json
    table = run("ask", out, "--evaluate", "--rows", 4, "--quiet", "--predictions", tmp_path / "all")
    assert table.status == 0 and "contained [95%]" in table.out and "for each passage" in table.out
    assert "mean cosine between the adapters" in table.out
    assert len(list((tmp_path / "all").glob("*.jsonl"))) == len(names)


@pytest.mark.slow
def test_exact_asks_one_question_at_a_time(run: Run, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, batches = tmp_path / "out", set()
    assert run("encode", "fact-corpus:4", "--model", lm, "--out", out, *QUICK).status == 0
    answer = FrozenLM.answer

    def counted(self: FrozenLM, prompts: Sequence[Prompt], *rest: Any, **options: Any) -> Any:
        batches.add(len(prompts))
        return answer(self, prompts, *rest, **options)

    monkeypatch.setattr(FrozenLM, "answer", counted)
    assert run("ask", out, "--evaluate", "--rows", 4, "--quiet").status == 0
    assert max(batches) > 1
    batches.clear()
    assert run("ask", out, "--evaluate", "--rows", 4, "--quiet", "--exact").status == 0
    assert batches == {1}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prag", "poly-prag", "dyprag"])
def test_a_file_of_passages_and_new_ones(method: str, run: Run, lm: str, tmp_path: Path) -> None:
    qa = [{"question": f"Who is {i}?", "answer": f"number {i}"} for i in range(3)]
    rows = [{"text": f"This is passage {i}.", "rewrite": f"Passage {i} is this.", "qa": qa} for i in range(4)]
    path, out = tmp_path / "p.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    common = (path, "--model", lm, "--out", out, *QUICK)
    assert run("encode", *common, "--method", method, *OF[method]).status == 0
    none = run("ask", out, "--evaluate")
    assert none.status == 2 and "came without test questions" in none.err
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grown = run("encode", *common, "--method", method, *OF[method], "--json")
    if method == "prag":
        assert grown.status == 0 and grown.json["entries"] == 4
        return
    assert grown.status == 2 and "other settings, data or model" in grown.err
    added = run("encode", *common, "--add", "--json")
    assert added.status == 0 and added.json["added"] == 1, added.err
    assert run("encode", *common, "--add", "--json").json["added"] == 0
    other = run("encode", *common, "--add", "--set", "rank=3")
    assert other.status == 2 and "keeps the settings" in other.err
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question": "What is 2?", "answers": ["number 2", "two"]}) + "\n")
    ran = run("ask", out, "--evaluate", "--questions", questions, "--json", "--quiet")
    assert ran.status == 0 and ran.json["n"] == 1 and ran.json["entries"] == 4, ran.err


@pytest.mark.slow
def test_passages_that_cannot_be_used_are_left_out_and_listed(run: Run, lm: str, tmp_path: Path) -> None:
    qa = [{"question": "Who is it?", "answer": "nobody"}]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"text": "red", "qa": qa}, {"text": "blue"})))
    command = ("encode", path, "--model", lm, "--out", tmp_path / "out", *QUICK)
    refused = run(*command)
    assert refused.status == 2 and "row 2 has no questions" in refused.err and "--on-error skip" in refused.err
    ran = run(*command, "--on-error", "skip", "--json")
    assert ran.status == 0 and ran.json["entries"] == 1 and len(ran.json["left_out"]) == 1, ran.err


@pytest.mark.slow
def test_bad_input_is_told(run: Run, lm: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("text\nred\n")
    for words, message in (
        (("encode", tmp_path / "none.jsonl", *QUICK), "Cannot read"),
        (("encode", bare, "--model", lm, "--out", tmp_path / "a", *QUICK), "row 2 has no questions"),
        (("encode", "fact-corpus:2", "--model", lm, *QUICK), "entity of each kind"),
        (("encode", bare, "--set", "ranks=2"), "Did you mean 'rank'"),
        (
            ("encode", bare, "--model", lm, "--out", tmp_path / "b", "--augment", "http://localhost:1/v1"),
            "--augment-model",
        ),
        (("ask", tmp_path, "Who?"), "is not a coldframe artifact"),
        (("ask", tmp_path), "neither"),
        (("ask", tmp_path, "Who?", "--evaluate"), "both"),
    ):
        ran = run(*words)
        assert ran.status == 2 and message in ran.err, (words, ran.err)
