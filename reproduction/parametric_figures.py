"""Figures of parametric retrieval: F1 against storage, F1 against the size of the corpus, and where rows route.

python -m reproduction.parametric_figures storage runs/facts/results.json --out docs/results/images/storage.svg
python -m reproduction.parametric_figures size runs/*/results.json --out docs/results/images/size.svg
python -m reproduction.parametric_figures routing runs/facts/encoded/poly-prag-0 --out docs/results/images/routing.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coldframe.errors import ColdframeError, DataError
from coldframe.methods.weight_deltas.banks import RoutedBank
from coldframe.methods.weight_deltas.poly_prag import PolyPRAG
from coldframe.methods.weight_deltas.routing import routing_weights
from coldframe.pipeline.pipeline import load
from reproduction.plots import drawing


def storage(figure: Any, paths: Sequence[Path], group: str) -> None:
    """F1 of a method's parameters alone against its bytes, as shares of the first method's."""
    results = _results(paths[0])
    lines = [line for line in results["scores"] if line["group"] == group]
    costs = {line["method"]: line["bytes"] for line in results["costs"]}
    first, axes = next(iter(costs.values())), figure.subplots()
    for (method, size), marker in zip(costs.items(), "osD^vP*X<>" * 3, strict=False):
        for line in (line for line in lines if line["system"] == f"{method}, k = 1"):
            low, value, high = _ends(line)
            axes.errorbar(size / first, value, [[value - low], [high - value]], fmt=marker, label=method, capsize=2)
    for line in lines:
        if line["method"] == "" and line["k"] == 1:
            _, value, _ = _ends(line)
            axes.axhline(value, ls="--", lw=0.8, color="0.5")
            axes.annotate(line["system"], (1, value), ha="right", va="bottom", color="0.4")
    _finish(figure, axes, "bytes, as a share of PRAG's", group)


def size(figure: Any, paths: Sequence[Path], group: str) -> None:
    """F1 of every way to answer against the number of passages; what was measured at one size alone is left out."""
    points: dict[str, dict[int, tuple[float, float, float]]] = {}
    for results in map(_results, paths):
        for line in results["scores"]:
            if line["group"] == group:
                points.setdefault(line["system"], {})[results["about"]["passages"]] = _ends(line)
    least, axes = min(2, max(map(len, points.values()), default=0)), figure.subplots()
    axes.set_prop_cycle(color=_twenty())
    for name, intervals in points.items():
        if len(intervals) >= least:
            x = sorted(intervals)
            low, value, high = np.array([intervals[passages] for passages in x]).T
            style = "--" if "(" in name else "-"  # a control
            axes.errorbar(x, value, [value - low, high - value], ls=style, marker="o", ms=3, capsize=2, label=name)
    _finish(figure, axes, "passages", group)
    sizes = sorted({passages for intervals in points.values() for passages in intervals})
    axes.set_xticks(sizes, [f"{passages:,}" for passages in sizes])
    axes.minorticks_off()


def routing(figure: Any, paths: Sequence[Path], group: str) -> None:
    """Weights of passages over adapters (of one target, and averaged), and how even they are, target by target."""
    pipeline = load(paths[0])
    method = pipeline.method
    if not isinstance(method, PolyPRAG) or not isinstance(method.adapters, RoutedBank):
        raise DataError("Only Poly-PRAG has a routing table", got=str(paths[0]))
    table, names = method.adapters.table, method.adapters.layout.names
    weights = routing_weights(table).numpy()  # [passages, targets, S]
    start = 2 * torch.rand(table.shape, generator=torch.Generator().manual_seed(pipeline.training.seed)) - 1
    entropy, untrained = _entropy(weights), _entropy(routing_weights(start * method.config.router_start).numpy())
    middle = len(names) // 2
    single, mean, even = figure.subplots(1, 3, width_ratios=(2, 2, 3))
    panels = ((single, weights[:, middle], names[middle].partition("layers.")[2]), (mean, weights.mean(1), "mean"))
    for axes, shown, title in panels:
        picture = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=0, vmax=float(weights[:, middle].max()))
        axes.set(xlabel="adapter", title=title)
    single.set_ylabel("passage")
    figure.colorbar(picture, ax=[single, mean], label="weight")
    low, mid, high = np.quantile(entropy, (0.05, 0.5, 0.95), axis=0)
    even.fill_between(range(len(mid)), low, high, alpha=0.3, label="5% to 95% of passages")
    even.plot(mid, label="median")
    even.plot(np.median(untrained, axis=0), ls=":", color="0.3", label="median before training")
    even.axhline(1, ls="--", lw=0.8, color="0.5")
    even.set(xlabel="target", ylabel="entropy, share of the greatest", ylim=(0, 1.05))
    even.legend(fontsize=7)


FIGURES = {"storage": (storage, 6, 4), "size": (size, 6, 4.5), "routing": (routing, 9, 3.6)}


def _results(path: Path) -> Mapping[str, Any]:
    results: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _ends(line: Mapping[str, Any]) -> tuple[float, float, float]:
    return line["token_f1"]["low"], line["token_f1"]["value"], line["token_f1"]["high"]


def _twenty() -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"].colors


def _finish(figure: Any, axes: Any, across: str, group: str) -> None:
    """F1 over something on a logarithmic scale."""
    axes.set(xscale="log", xlabel=across, ylabel=f"F1, {group}", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)  # below the axes: beside a point it hides intervals


def _entropy(weights: Any) -> Any:
    """Of each passage and target, as a share of that of equal weights."""
    return -(weights * np.log(weights + 1e-12)).sum(-1) / np.log(weights.shape[-1])


def run(argv: Sequence[str] | None = None) -> Path:
    """Draw, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("figure", choices=list(FIGURES))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--group", default="one fact", help="of the questions: all, one fact, two facts")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    draw, width, height = FIGURES[options.figure]
    with drawing(options.out, width, height) as figure:
        draw(figure, options.paths, options.group)
    return Path(options.out)


def main() -> None:
    """Draw, or say what is wrong."""
    try:
        print(f"wrote {run()}")
    except ColdframeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
