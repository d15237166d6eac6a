"""Every published claim names what exists: methods, settings, rows, modules, flags, sources. And its scripts run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from reproduction.attention import Run, means
from reproduction.calibration import Calibration, Cell, rates
from reproduction.planted import Planted

from coldframe.claims.effort import TIMINGS, fits_of
from coldframe.claims.entry import Entry, read_entries
from coldframe.claims.reading import COSTS, OF_ROWS, SECONDS, number_at
from coldframe.cli.compare import Compare, method_settings_of
from coldframe.cli.parsing import from_recipe
from coldframe.config import local_path
from coldframe.evaluation.jobs import QUERY_ABLATIONS, own_settings, rows_of
from coldframe.evaluation.summary import LOSS
from coldframe.methods.registry import create
from coldframe.tasks import builtin_names
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.text_metrics import TEXT_METRICS
from reproduction import parameters, seed_calibration, small_gpt2, static_prompt

ROOT = Path(__file__).parents[2]
CLAIMS = read_entries(ROOT / "reproduction")
COMPARISONS = [name for name, entry in CLAIMS.items() if entry.run is not None]
SCRIPTS = [name for name, entry in CLAIMS.items() if entry.script is not None]
#: Modules that run alone and make no claim: they build, or draw what a claim measured.
WITHOUT_CLAIM = {"conformal", "multi_document_qa", "small_gpt2", "parametric_figures"}


def options_of(entry: Entry, tmp_path: Path) -> Compare:
    """The options of a comparison, read as the command reads them."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(entry.run))
    return from_recipe(Compare, str(recipe))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_names_what_exists(name: str, quick: bool, tmp_path: Path) -> None:
    entry = CLAIMS[name].sized(quick)
    options = options_of(entry, tmp_path)
    assert options.task.data.partition(":")[0] in {name.partition(":")[0] for name in builtin_names()}
    assert options.methods and (options.main is None or options.main in rows_of(options.methods))
    methods, settings = rows_of(options.methods), method_settings_of(options)
    assert {*settings} <= {*methods}, "settings of no row"
    drafts = {row: create(method, own_settings(settings.get(row, {}))) for row, method in methods.items()}
    titles = {*drafts}
    for ablation in options.ablations or ():
        titles |= {f"{row}, {ablation.replace('-', ' ')}" for row, draft in drafts.items() if _is_ablated(
            row, draft, ablation, options.main
        )}  # fmt: skip
    known = {*METRICS, *TEXT_METRICS, LOSS.name, *COSTS, *OF_ROWS, SECONDS, ""}
    for row in entry.rows:
        assert {*row.of} <= titles, row.claim
        assert row.metric in known, row.claim
        assert row.metric not in COSTS or options.costs, f"{row.claim}: nothing is counted"
        assert row.metric != "order_std" or options.shuffles, f"{row.claim}: nothing is shuffled"
    assert fits_of(entry.run or {}) >= 1


def _is_ablated(row: str, draft: Any, ablation: str, main: str | None) -> bool:
    return ablation in draft.ablations and (ablation in QUERY_ABLATIONS or row == (main or "mha-esp"))


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_claim_takes_five_seeds_where_seeds_matter_and_a_quick_run_one(name: str, tmp_path: Path) -> None:
    whole, quick = (options_of(CLAIMS[name].sized(size), tmp_path) for size in (False, True))
    counted = all(row.metric in (*COSTS, *OF_ROWS) for row in CLAIMS[name].rows)
    assert counted or len(whole.seeds) >= 5
    assert len(quick.seeds) == 1 and quick.tune == 0
    assert isinstance(quick.task.test_size, int) and quick.task.test_size >= 30, "fewer rows tell nothing"
    assert quick.text_rows is None or quick.text_rows >= 30


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_module_with_these_flags(name: str, quick: bool) -> None:
    script = CLAIMS[name].sized(quick).script
    assert script is not None
    path = ROOT / "reproduction" / f"{script.name}.py"
    source = path.read_text(encoding="utf-8")
    if "question_arguments()" in source:
        source += (ROOT / "reproduction" / "pear.py").read_text(encoding="utf-8")
    assert '__name__ == "__main__"' in source
    beside = (ROOT / "reproduction").glob(f"{script.name}*.py")  # what writes may be a module of its own
    assert any(f'"{script.result}"' in module.read_text(encoding="utf-8") for module in beside)
    for flag in (*script.flags, "out"):
        assert f'"--{flag}"' in source, flag


@pytest.mark.parametrize("name", CLAIMS)
def test_a_published_number_has_its_source(name: str) -> None:
    entry = CLAIMS[name]
    assert "arXiv" in entry.paper or entry.paper in (
        "Your retriever is just doing prompt tuning",
        "coldframe's own claims",
    )
    for row in entry.rows:
        assert len(row.source) >= 8 and row.model
        if len(row.of) == 2 and row.published and row.compare in ("more", "less"):
            # A difference is that of the two numbers that the source names, with the sign that is compared.
            assert (row.published > 0) == (row.compare == "more"), row.claim
            pair = re.search(r"(\d+(?:\.\d+)?) and (\d+(?:\.\d+)?)", row.source)
            assert pair is None or float(pair[1]) - float(pair[2]) == pytest.approx(row.published, abs=0.011), row.claim


def test_every_script_belongs_to_a_claim() -> None:
    modules = {
        path.stem
        for path in (ROOT / "reproduction").glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    used = {entry.script.name for entry in CLAIMS.values() if entry.script is not None}
    assert modules - used == WITHOUT_CLAIM and used <= modules


def test_kept_timings_are_of_claims() -> None:
    path = local_path(ROOT / "reproduction" / "claims" / TIMINGS)
    timings: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for of_size in timings.values():
        assert {*of_size} <= {*CLAIMS} and all(timed["seconds"] > 0 for timed in of_size.values())


# ---- what the scripts write -------------------------------------------------------------------------------


@pytest.mark.slow
def test_parameters_agree_with_the_papers_to_the_last_digit(tmp_path: Path) -> None:
    parameters.main(["--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    for row in CLAIMS["mha-esp-parameters"].rows:
        assert number_at(results, row.path).value == pytest.approx(row.published, abs=row.tolerance), row.claim


@pytest.mark.slow
def test_the_static_prompt_of_the_article(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WIDTH": 32, "LAYERS": 1, "BATCH": 4, "SAMPLE": 300}.items():
        monkeypatch.setattr(small_gpt2, name, value)
    words = ["--tasks", "dense-store", "--steps", 20, "--rows", 40, "--queries", 40, "--epochs", 1, "--tokens", 2]
    words += ["--k", 2, "--seeds", 0, "--resamples", 200, "--out", tmp_path / "out"]
    static_prompt.main([str(word) for word in words])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for row in CLAIMS["static-prompt"].rows:
        if row.path.startswith("dense-store"):
            first, *rest = row.path.split("/")
            assert _leads_somewhere(results[first], rest), row.path
    monkeypatch.setattr(static_prompt, "fit", None)  # a second time nothing is fitted
    static_prompt.main([str(word) for word in words])


def _leads_somewhere(values: Any, path: list[str]) -> bool:
    """Whether a place is there; its number may be undefined, as a share of a gain that is none."""
    for part in path:
        if part not in values:
            return False
        values = values[part]
    return True


def test_rates_of_the_calibrations_are_where_the_claims_read_them() -> None:
    cells = tuple(Cell(Planted(share=share, n=300), (5, 0, 0, 0, 15), (1, 0, 0, 0, 19)) for share in (0.0, 0.1, 0.5))
    results = rates(Calibration(cells, 300, 0))
    for row in CLAIMS["diagnosis-calibration"].rows:
        ours = number_at(results, row.path)
        assert ours.n == 20 and ours.low <= ours.value <= ours.high
    assert number_at(results, "retrieval-driven at a share of 0.00/300").value == 5.0
    equal = seed_calibration.Equal(seeds=5)
    few, many = (seed_calibration.Rate(equal, 100, count, 1.0, 9, 1.0) for count in (3, 6))
    worst = seed_calibration.worst([few, many, dataclasses.replace(few, equal=seed_calibration.Equal(seeds=3))])
    for row in CLAIMS["seed-calibration"].rows:
        assert number_at(worst, row.path).n == 100
    assert number_at(worst, "used/5").value == 6.0


def test_means_of_the_attention_are_where_the_claim_reads_them() -> None:
    runs = [Run(version, seed, 0.5, 80.0, 0.9 + seed / 10, 0.0) for version in ("averaging", "ours") for seed in (0, 1)]
    results = {"versions": means(runs)}
    for row in CLAIMS["mha-esp-attention"].rows:
        assert number_at(results, row.path).value == pytest.approx(0.95)
