"""Figures of parametric retrieval: F1 against storage, F1 against the size of the corpus, and where rows route.

python -m reproduction.parametric_figures storage runs/facts/results.json --out docs/results/images/storage.svg
python -m reproduction.parametric_figures size runs/*/results.json --out docs/results/images/size.svg
python -m reproduction.parametric_figures routing runs/facts/encoded/poly-prag-0 --out docs/results/images/routing.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from coldframe.parametric.banks import RoutedBank
from coldframe.parametric.folder import read_folder

from coldframe.errors import ColdframeError, DataError
from coldframe.methods.weight_deltas.poly_prag import routing_weights
from coldframe.storage.files import atomic_path

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

pyplot.rcParams.update({"svg.hashsalt": "coldframe", "font.size": 9, "axes.spines.top": False})


def storage(paths: Sequence[Path], group: str) -> Any:
    """F1 of a method's parameters alone against its bytes, as shares of the first method's."""
    done = json.loads(paths[0].read_text(encoding="utf-8"))
    lines = [line for line in done["scores"] if line["group"] == group]
    costs = {line["method"]: line["bytes"] for line in done["costs"]}
    first = next(iter(costs.values()))
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (method, size), marker in zip(costs.items(), "osD^vP*X<>" * 3, strict=False):
        for line in _of(lines, method, ""):
            low, value, high = _span(line)
            axes.errorbar(size / first, value, [[value - low], [high - value]], fmt=marker, label=method, capsize=2)
    for line in lines:
        if line["method"] == "" and line["k"] == 1:
            axes.axhline(line["token_f1"]["value"], ls="--", lw=0.8, color="0.5")
            axes.annotate(line["system"], (1, line["token_f1"]["value"]), ha="right", va="bottom", color="0.4")
    return _finished(figure, axes, "bytes, as a share of PRAG's", group)


def size(paths: Sequence[Path], group: str) -> Any:
    """F1 of every way to answer against the number of passages; what was measured at one size alone is left out."""
    points: dict[str, dict[int, tuple[float, float, float]]] = {}
    for path in paths:
        done = json.loads(path.read_text(encoding="utf-8"))
        for line in done["scores"]:
            if line["group"] == group:
                points.setdefault(line["system"], {})[done["about"]["passages"]] = _span(line)
    least = min(2, max(map(len, points.values()), default=0))
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
    for name, spans in points.items():
        if len(spans) >= least:
            x = sorted(spans)
            low, value, high = np.array([spans[passages] for passages in x]).T
            style = "--" if "(" in name else "-"  # a control
            axes.errorbar(x, value, [value - low, high - value], ls=style, marker="o", ms=3, capsize=2, label=name)
    _finished(figure, axes, "passages", group)
    sizes = sorted({passages for spans in points.values() for passages in spans})
    axes.set_xticks(sizes, [f"{passages:,}" for passages in sizes])
    axes.minorticks_off()
    return figure


def _finished(figure: Any, axes: Any, across: str, group: str) -> Any:
    """F1 over something on a logarithmic scale."""
    axes.set(xscale="log", xlabel=across, ylabel=f"F1, {group}", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)  # below the axes: beside a point it hides intervals
    return figure


def routing(paths: Sequence[Path], group: str) -> Any:
    """Weights of passages over adapters (of one target, and averaged), and how even they are, target by target."""
    described, _, bank = read_folder(paths[0])
    if not isinstance(bank, RoutedBank):
        raise DataError("Only Poly-PRAG has a routing table", got=str(paths[0]))
    weights = routing_weights(bank.trained.table).numpy()  # [passages, targets, S]
    config = described.config
    start = 2 * torch.rand(bank.trained.table.shape, generator=torch.Generator().manual_seed(config.seed)) - 1
    entropy, untrained = _entropy(weights), _entropy(routing_weights(start * config.router_start).numpy())
    middle = len(bank.layout.names) // 2
    figure, (one, mean, even) = pyplot.subplots(1, 3, figsize=(9, 3.6), width_ratios=(2, 2, 3), layout="constrained")
    panels = (
        (one, weights[:, middle], bank.layout.names[middle].partition("layers.")[2]),
        (mean, weights.mean(1), "mean"),
    )
    for axes, shown, title in panels:
        picture = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=0, vmax=float(weights[:, middle].max()))
        axes.set(xlabel="adapter", title=title)
    one.set_ylabel("passage")
    figure.colorbar(picture, ax=[one, mean], label="weight")
    low, mid, high = np.quantile(entropy, (0.05, 0.5, 0.95), axis=0)
    even.fill_between(range(len(mid)), low, high, alpha=0.3, label="5% to 95% of passages")
    even.plot(mid, label="median")
    even.plot(np.median(untrained, axis=0), ls=":", color="0.3", label="median before training")
    even.axhline(1, ls="--", lw=0.8, color="0.5")
    even.set(xlabel="target", ylabel="entropy, share of the greatest", ylim=(0, 1.05))
    even.legend(fontsize=7)
    return figure


def _entropy(weights: Any) -> Any:
    """Of each passage and target, as a share of that of equal weights."""
    return -(weights * np.log(weights + 1e-12)).sum(-1) / np.log(weights.shape[-1])


def _of(lines: Sequence[dict[str, Any]], method: str, control: str) -> list[dict[str, Any]]:
    return [one for one in lines if one["method"] == method and one["system"] == f"{method}{control}, k = 1"]


def _span(line: dict[str, Any]) -> tuple[float, float, float]:
    return line["token_f1"]["low"], line["token_f1"]["value"], line["token_f1"]["high"]


def run(argv: Sequence[str] | None = None) -> Path:
    """Draw, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("figure", choices=["storage", "size", "routing"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--group", default="one fact", help="of the questions: all, one fact, two facts")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(argv)
    drawn = {"storage": storage, "size": size, "routing": routing}[asked.figure](asked.paths, asked.group)
    with atomic_path(asked.out) as path:
        drawn.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(drawn)
    return Path(asked.out)


def main() -> None:
    """Draw, or say what is wrong."""
    try:
        print(f"wrote {run()}")
    except ColdframeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
