"""The model card of an artifact: what it is, what it was made from, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.reports.markdown import code, escape
from coldframe.storage.files import write_text

_PRIVACY = {
    True: ["- The exemplars are part of this folder (`exemplars.jsonl`): whoever gets it gets them."],
    False: ["- No training rows are in this folder, only hashes of them (`trained_keys.json`)."],
}
_FIRST = '---\nlibrary_name: "coldframe"\n'


def write_card(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the card as ``README.md``, unless somebody else's is there."""
    path = folder / "README.md"
    if not path.is_file() or path.read_bytes().startswith(_FIRST.encode()):
        write_text(path, model_card(config))


def model_card(config: Mapping[str, Any]) -> str:
    """Markdown with the metadata block that hubs read.

    Example:
        >>> schema = {"name": "mood", "kind": "classification", "domain": "text", "labels": ["bad", "good"],
        ...           "metric": "accuracy", "template": {"body": "Text: {text}", "instruction": ""}}
        >>> card = model_card({"coldframe_version": "0.1.0", "method": "icl", "method_config": {"k": 5},
        ...     "schema": schema, "task": {}, "base_model": {"name": "tiny", "weight_hash": "ab", "dtype": "x"},
        ...     "encoder": None, "store": {"size": 9, "hash": "cd"}, "history": [], "training": {}, "retrieval": {}})
        >>> card.splitlines()[0], "# icl on mood" in card
        ('---', True)
    """
    schema, base, store, encoder = config["schema"], config["base_model"], config["store"], config["encoder"]
    alone = base.get("source") == "none"  # no language model is part of it
    head = {"library_name": "coldframe", "tags": ["coldframe", config["method"], schema["domain"]]}
    # The hub knows its own names only: of a folder on some machine it can make nothing.
    if base_model := base["name"] if base.get("source") == "hub" else base.get("upstream"):
        head["base_model"] = base_model
    # JSON is YAML, and escapes whatever a name may hold.
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    what = f"{len(schema['labels'])} labels" if schema["labels"] else "written answers"
    lines += [
        f"# {escape(config['method'])} on {escape(schema['name'])}",
        "",
        f"{_made(config['method'], base, alone)} by coldframe {config['coldframe_version']}: {what}, {store['size']:,} "
        "exemplars." + ("" if alone else " The language model's weights are not in this folder and were not changed."),
        "",
        "```python",
        "import coldframe as cf",
        "",
        'cf.load("PATH").predict(["..."])',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(
            []
            if alone
            else [
                _row("base model", f"{base['name']}, revision {base.get('revision') or 'unknown'}, {base['dtype']}"),
                _row("weights, SHA-256", base["weight_hash"]),
            ]
        ),
        _row("encoder", f"{encoder['spec']} ({encoder['hash']})" if encoder else "none"),
        _row("exemplar store", f"{store['size']:,} rows, content hash {store['hash']}"),
        _row("labels", ", ".join(schema["labels"]) or "none"),
        _row("template", schema["template"]["instruction"] + " / " + schema["template"]["body"]),
    ]
    lines += [_row(name, value) for name, value in config["task"].get("source", {}).items()]
    lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
    for section in ("method_config", "retrieval", "training"):
        lines += [_row(key, value) for key, value in config[section].items()]
    if config["history"]:
        lines += ["", "## Training", "", *_history(config["history"], schema["metric"])]
    lines += [
        "",
        "## Before you rely on it",
        "",
        "- Validation scores chose the epoch, so they flatter. `coldframe evaluate PATH` scores the test rows, with",
        "  intervals; `coldframe compare` says whether the language model added anything.",
        *_PRIVACY[bool(store["size"])],
        "- Model and data keep the licences of their authors.",
        "",
    ]
    return "\n".join(lines)


def _made(method: str, base: Mapping[str, Any], alone: bool) -> str:
    if alone:
        return f"{escape(method)}, fitted without a language model"
    return f"A frozen {code(base['name'])} adapted with {escape(method)}"


def _history(history: Sequence[Mapping[str, float]], metric: str) -> list[str]:
    titles = {"train_loss": "training loss", "validation_loss": "validation loss", "validation_metric": metric}
    columns = [name for name in titles if name in history[0]]
    lines = [
        "| epoch | " + " | ".join(escape(titles[name]) for name in columns) + " | |",
        "|---" * (len(columns) + 2) + "|",
    ]
    best = max((record["epoch"] for record in history if record.get("best")), default=None)
    for record in history:
        numbers = " | ".join(f"{record[name]:.3f}" for name in columns)
        lines.append(f"| {record['epoch']:.0f} | {numbers} | {'kept' if record['epoch'] == best else ''} |")
    return lines


def _row(name: str, value: object) -> str:
    return f"| {escape(name)} | {escape(str(value))} |"
