"""Small made-up data in the published forms, and a tiny model with room for prompts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tests.tiny import tiny

TOWNS = ("Arden", "Bell", "Corr", "Dale", "Esk", "Ford", "Glen", "Holt")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    return path


def context(answer: str) -> list[Any]:
    return [["Town", ["It is a town. ", f"Its mayor is {answer}."]], ["Hill", [" It is high."]]]


def write_data(folder: Path) -> Path:
    """NQ with a pool, 2Wiki, HotpotQA, PopQA and MMLU-Pro, a few rows each, where the readers look for them."""
    oracle = [
        {
            "question": f"who rules {town}",
            "answers": [f"King {town}son", f"{town}son"],
            "ctxs": [{"title": town, "text": f"{town} is ruled by {town}son.", "isgold": True, "hasanswer": True}],
        }
        for town in TOWNS
    ]
    pool = [{"title": f"About {town}", "text": f"{town} lies by a river {i}."} for town in TOWNS for i in range(2)]
    pool += [{"title": f"More of {town}", "text": f"Who rules {town}? {town}son rules it."} for town in TOWNS]
    write_lines(folder / "nq-open" / "oracle_2655.jsonl.gz", oracle)
    write_lines(folder / "nq-open" / "passage_pool.jsonl.gz", pool)
    asked = [{"_id": f"q{i}", "question": f"who is mayor {i}", "answer": f"Ann {i}"} for i in range(5)]
    for name, other in (("2wikimultihopqa", "train_500.json.gz"), ("hotpotqa", "")):
        rows = [{**row, "context": context(row["answer"]) if i else []} for i, row in enumerate(asked)]
        write_lines(folder / name / "dev_200.jsonl.gz", rows)
        if other:
            write_list(folder / name / other, [{**asked[0], "_id": "t0", "context": context("Ann 0")}])
    joined = [
        {"id": i, "question": f"who is mayor {i}", "answers": [f"Ann {i}"], "document": "Town. Ann 9.\n\nHill. High."}
        for i in (4, 7)
    ]
    write_list(folder / "hotpotqa" / "distractor_300.json.gz", joined)
    people = [
        {"id": i, "question": f"What is P{i}'s occupation?", "possible_answers": json.dumps(["politician", "pol"])}
        for i in range(4)
    ]
    found = [
        {**row, "docs": ["Other - Part\n nothing here", "P\nP is a politician." if row["id"] else "P\nP sings."]}
        for row in people
    ]
    write_list(folder / "popqa-1000" / "popqa.json.gz", people)
    write_lines(folder / "popqa-1000" / "retrieved.jsonl.gz", found)
    choices = [
        {
            "question_id": i,
            "question": f"What is {i}?",
            "options": ["one", "two", "three"][: 2 + i % 2],
            "answer": "B",
            "answer_index": 1,
        }
        for i in range(6)
    ]
    choices.append({**choices[0], "question_id": 99, "answer_index": 0})
    write_lines(folder / "mmlu-pro" / "test.jsonl.gz", choices)
    return folder


def tiny_folder(folder: Path, positions: int = 1024) -> str:
    model, tokenizer = tiny("llama")
    model.config.max_position_embeddings = positions
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
