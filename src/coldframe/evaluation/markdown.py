"""The report's table as Markdown, for a page of results."""

from __future__ import annotations

from coldframe.evaluation.figures import si
from coldframe.evaluation.report_data import ReportData
from coldframe.evaluation.verdict import verdict

_ROLES = {"method": "", "control": "control", "no-lm": "no LM"}


def render_markdown(data: ReportData) -> str:
    """Headline, table, published numbers, notes and the command that makes them again.

    Example:
        >>> from coldframe.evaluation.intervals import Interval
        >>> from coldframe.evaluation.report_data import MethodRow, MetricInfo, Score
        >>> row = MethodRow("IDPG", "method", (Score("accuracy", Interval(81.0, 78.0, 84.0, n=500)),))
        >>> data = ReportData("trec", "smollm2", "IDPG", "accuracy", (MetricInfo("accuracy", "Accuracy"),), (row,))
        >>> "| **IDPG** |  | 81.0 [78.0, 84.0] | – | 1 |" in render_markdown(data)
        True
    """
    found, main = verdict(data), data.main_row.score(data.metric)
    others = [info for info in data.metrics if info.name != data.metric]
    head = ["method", "", f"{data.primary.title} [95%]", f"{data.main} minus it [95%]", *(o.title for o in others)]
    head += ["seeds", "trained", "context tokens", "FLOPs a query", "order std"]
    lines = [f"**{found.headline}**", ""]
    if found.too_few:
        lines += [found.too_few, ""]
    lines += [f"{data.task}, {data.model}, n = {main.n if main else 0} test rows.", ""]
    lines += [_row(head), _row(["---"] * 2 + ["---:"] * (len(head) - 2))]
    for row in data.ranked():
        score, cost = row.score(data.metric), row.cost
        flops = (cost.prefill_flops or 0) + (cost.encoder_flops or 0) if cost else 0
        values = [row.score(info.name) for info in others]
        lines.append(
            _row(
                [
                    f"**{row.name}**" if row.name == data.main else row.name,
                    _ROLES[row.role],
                    data.primary.span(score) if score else "–",
                    data.primary.span(row.difference, sign=True) if row.difference else "–",
                    *(info.show(v.value) if v else "–" for info, v in zip(others, values, strict=True)),
                    str(score.seeds) if score else "–",
                    si(cost.trainable_parameters) if cost else "–",
                    f"{cost.context_tokens:.0f}" if cost else "–",
                    si(flops) if flops else "–",
                    "–" if row.order_std is None else f"{row.order_std:.2f}",
                ]
            )
        )
    remarks = [f"{row.name}: {row.note}" for row in data.rows if row.note] + list(data.notes)
    lines += ["", *(f"- {remark}" for remark in remarks)]
    if data.published:
        lines += ["", _row(["published", "model", "value", "setting"]), _row(["---", "---", "---:", "---"])]
        lines += [_row([p.method, p.model, data.primary.show(p.value), p.setting]) for p in data.published]
    if data.command:
        lines += ["", "```bash", data.command, "```"]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
