"""The results of ``reproduction.parametric`` as files: all numbers as JSON, tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coldframe.evaluation.variants import METRICS
from coldframe.inference.intervals import Interval
from coldframe.reports import markdown
from coldframe.reports.blocks import Block, Code, Column, Heading, Table, Text
from coldframe.reports.numbers import fixed, p_value, percent, span
from coldframe.storage.files import write_json, write_text


def write(results: Mapping[str, Any], out: Path) -> None:
    """Both files, whole or not at all."""
    write_json(out / "results.json", results, indent=2)
    write_text(out / "results.md", markdown.render(_blocks(results)))


def _blocks(results: Mapping[str, Any]) -> Iterator[Block]:
    about, seconds = results["about"], results["seconds_per_question"]
    yield Heading(f"{about['corpus']}, {about['model']} ({about['dtype'].removeprefix('torch.')})", 1)
    yield Text(f"{about['passages']} passages, {about['questions']} questions. {' '.join(about['notes'])}")
    for k, shares in results["retrieval"].items():
        told = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
        yield Text(f"Retrieved with k = {k}: {told}.")
    for group, n in results["groups"].items():
        lines = [line for line in results["scores"] if line["group"] == group]
        gaps = [line for line in results["differences"] if line["group"] == group and line["metric"] == "token_f1"]
        yield Heading(f"{group}, n = {n}", 2)
        yield Table.plain(
            ["answered by", "F1 [95%]", "exact [95%]", "contained [95%]", "s a question"],
            [
                [line["system"], *(_span(line[metric]) for metric in METRICS), fixed(seconds[line["system"]], 3)]
                for line in lines
            ],
        )
        yield Table.plain(
            ["paired difference of F1", "minus", "[95%]", "p"],
            [[gap["system"], gap["minus"], _span(gap, sign=True), p_value(gap["p_value"])] for gap in gaps],
            words=(0, 1),
        )
    yield Heading("Adapters of other passages", 2)
    yield Table.plain(
        ["", "seed", "% of right answers that become wrong [95%]"],
        [
            [line["system"], str(line["seed"]), _span(line["share"]) if line["share"] else "none was right"]
            for line in results["broken"]
        ],
    )
    yield Heading("Cost", 2)
    first = results["costs"][0]["bytes"] if results["costs"] else 1
    columns: list[Column[Mapping[str, Any]]] = [
        Column("", lambda line: str(line["method"])),
        Column("seed", lambda line: str(line["seed"])),
        Column("bytes", lambda line: f"{line['bytes']:,}"),
        Column("a passage", lambda line: f"{line['bytes'] / line['passages']:,.0f}"),
        Column("of the first", lambda line: fixed(line["bytes"] / first, 3)),
        Column("encoding, s", lambda line: fixed(line["encode_seconds"], 0)),
        Column(
            "a passage", lambda line: fixed(line["encode_seconds"] / line["trained"], 2) if line["trained"] else None
        ),
        Column("left out", lambda line: str(len(line["left_out"]))),
    ]
    yield Table.of(columns, results["costs"])
    yield Code(about["command"])


def _span(values: Mapping[str, Any], *, sign: bool = False) -> str:
    return span(Interval(values["value"], values["low"], values["high"], values["n"]), sign=sign)


def _seconds(line: Mapping[str, Any]) -> str | None:
    # After an interruption fewer passages were trained in this time.
    return fixed(line["encode_seconds"] / line["trained"], 2) if line["trained"] else None
