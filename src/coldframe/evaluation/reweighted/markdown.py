"""The tables of a reweighted model as Markdown, for a page of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coldframe.evaluation.answers.evaluate import Cell
from coldframe.evaluation.reweighted.data import SHOWN, Reweighted
from coldframe.evaluation.reweighted.verdict import judge


def render_markdown(data: Reweighted) -> str:
    """Headline, reasons, tables, notes and the command that makes them again."""
    said = judge(data)
    lines = [f"**{said.headline}**", "", *(f"- {reason}" for reason in said.reasons), ""]
    for one in data.sets:
        places = f", the gold document at {', '.join(str(p + 1) for p in one.places)}" if one.places else ""
        lines += [
            f"### {one.name}",
            "",
            f"{one.questions} questions ({one.rows} prompts{places}), {one.documents:.1f} documents and "
            f"{one.tokens:.0f} tokens in the mean; {one.cut} prompts had passages cut.",
            "",
            *_table([cell for cell in data.cells if cell.set == one.name and cell.place is None]),
            "",
        ]
        if one.places:
            lines += [*_places(data, one.name, one.places), ""]
    if data.retained:
        lines += ["### What it must keep", "", *_table(data.retained, named=True), ""]
    if data.curves:
        curves = {name: [sum(v) / len(v) for v in zip(*seeds, strict=True)] for name, seeds in data.curves.items()}
        some = [place for place in (0, 4, 9, 19, 29, 48) if place < min(map(len, curves.values()))]
        lines += ["### Loss of a copy, by place", "", _row(["system", *(str(place + 2) for place in some)])]
        lines.append(_row(["---", *["---:"] * len(some)]))
        lines += [_row([name, *(f"{curve[place]:.3f}" for place in some)]) for name, curve in curves.items()]
        lines.append("")
    lines += [f"- {note}" for note in data.notes]
    if data.command:
        lines += ["", "```bash", data.command, "```"]
    return "\n".join(lines) + "\n"


def _table(cells: Sequence[Cell], named: bool = False) -> list[str]:
    head = [*(["set"] if named else []), "system", "metric", "score [95%]", "minus base [95%]", "n", "seeds"]
    head.append("n for 2 points")
    lines = [_row(head), _row(["---"] * (len(head) - 5) + ["---:"] * 5)]
    for cell in cells:
        info = SHOWN[cell.metric]
        lines.append(
            _row(
                [
                    *([cell.set] if named else []),
                    cell.system,
                    info.words,
                    info.span(cell.level),
                    info.span(cell.gap.interval, sign=True) if cell.gap else "–",
                    str(cell.level.n),
                    str(cell.level.seeds),
                    f"{cell.gap.needed:,}" if cell.gap and cell.gap.needed else "–",
                ]
            )
        )
    return lines


def _places(data: Reweighted, name: str, places: Sequence[int]) -> list[str]:
    info = SHOWN[data.primary]
    lines = [_row([f"{info.words} by place", *(str(place + 1) for place in places)])]
    lines.append(_row(["---", *["---:"] * len(places)]))
    for system in data.systems:
        found = [data.cell(name, system, data.primary, place) for place in places]
        if all(found):
            lines.append(_row([system, *(info.span(cell.level) for cell in found if cell)]))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
