"""``coldframe diagnose`` end to end on a tiny random model: verdict, report, exit status, bad input."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import COLOURS, Ran

from coldframe.diagnosis.report import read_diagnosis

Run = Callable[..., Ran]
QUICK = ("--resamples", 400, "--quiet")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Two hundred rows, of which a fifth is for testing: enough for a verdict."""
    rng = random.Random(1)
    rows = []
    for i in range(200):
        colour = rng.choice(sorted(COLOURS))
        rows.append(f"item {i} {rng.choice(COLOURS[colour].split())},{colour}")
    path = tmp_path / "many.csv"
    path.write_text("\n".join(["sentence,colour", *rows]) + "\n")
    return path


@pytest.fixture
def prompt(run: Run, many: Path, lm: str, tmp_path: Path) -> Path:
    """A static prompt, trained far enough to gain something."""
    out = tmp_path / "prompt"
    words = ("--method", "prompt-tuning", "--set", "tokens=2", "--epochs", 2, "--learning-rate", 0.05, "--quiet")
    found = run("fit", many, "--model", lm, "--out", out, *words)
    assert found.status == 0, found.err
    return out


@pytest.mark.slow
def test_a_static_prompt_is_found_out_and_may_fail_a_pipeline(run: Run, prompt: Path, tmp_path: Path) -> None:
    out = tmp_path / "diagnosis"
    found = run("diagnose", prompt, "--out", out, "--json", "--fail-on", "prompt-tuning-like,mixed", *QUICK)
    assert found.status == 3, found.err
    assert found.json["verdict"]["outcome"] == "prompt-tuning-like"
    assert found.json["n"] == 40 and found.json["subject"] == "prompt-tuning" and found.json["unit"] == "nats"
    # The tokens never change, so nothing is lost; what is not measured is null, never a bare NaN.
    shares = {one["condition"]: one["share"]["value"] for one in found.json["store_ablation"]["ablations"]}
    assert shares["swapped"] == shares["swapped-conditioning"] == 0
    assert found.json["token_variance"]["probe"] is None and "NaN" not in found.out
    assert found.json["ladder"] is None and found.json["store_health"] is None

    assert sorted(path.name for path in out.glob("[!.]*")) == ["diagnosis.html", "diagnosis.json"]
    assert read_diagnosis(out / "diagnosis.json").verdict.outcome == "prompt-tuning-like"
    assert f"coldframe diagnose {prompt}" in (out / "diagnosis.html").read_text()
    # The same verdict, wanted or at least not refused: done.
    assert run("diagnose", prompt, "--out", out, "--fail-on", "mixed", *QUICK).status == 0


@pytest.mark.slow
def test_the_table_has_the_verdict_first(run: Run, prompt: Path) -> None:
    found = run("diagnose", prompt, *QUICK)
    assert found.status == 0, found.err
    assert found.out.index("prompt-tuning-like") < found.out.index("swapped") < found.out.index("wrote")
    assert f"wrote {prompt}-diagnosis/diagnosis.html" in found.out


@pytest.mark.slow
def test_few_queries_get_no_verdict(run: Run, fitted: Path, tmp_path: Path) -> None:
    found = run("diagnose", fitted, "--out", tmp_path / "few", "--json", "--fail-on", "cannot-tell", *QUICK)
    assert found.status == 3, found.err
    assert found.json["verdict"]["outcome"] == "cannot-tell" and found.json["verdict"]["queries_needed"] == 30
    assert found.json["n"] == 18
    conditions = {one["condition"] for one in found.json["store_ablation"]["ablations"]}
    assert {"swapped", "random", "fixed", "shuffled", "gaussian", "mean", "oracle"} <= conditions
    assert found.json["store_health"]["entries"] == 72 and found.json["store_health"]["leaks"] == 0


@pytest.mark.slow
def test_rows_of_a_file_and_a_sample_of_them(run: Run, fitted: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("sentence,colour\n" + "".join(f"new {i} rose,red\nnew {i} leaf,green\n" for i in range(8)))
    found = run("diagnose", fitted, new, "--out", tmp_path / "new", "--rows", 12, "--json", *QUICK)
    assert found.status == 0, found.err
    assert found.json["n"] == 12 and "Asked were 12 of 16 rows, drawn at random." in found.json["notes"]


@pytest.mark.slow
def test_training_again_says_what_it_costs_before_it_starts(run: Run, fitted: Path, tmp_path: Path) -> None:
    words = ("--retrain", "random", "--resamples", 200, "--json")
    found = run("diagnose", fitted, "--out", tmp_path / "again", *words)
    assert found.status == 0, found.err
    lines = [line for line in found.err.splitlines() if "to train" in line or "training" in line]
    assert "1 runs to train (1 trained again): about" in lines[0]
    again = [one for one in found.json["store_ablation"]["ablations"] if one["retrained"]]
    assert [one["condition"] for one in again] == ["random"] and again[0]["loss"]["value"] > 0


@pytest.mark.slow
def test_artifacts_of_other_seeds_are_diagnosed_together(
    run: Run, table: Path, lm: str, fitted: Path, prompt: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    settings = ("--epochs", 1, "--set", "heads=2", "--set", "k=3", "--set", "adapter=8", "--seed", 1, "--quiet")
    assert run("fit", table, "--model", lm, "--out", other, *settings).status == 0
    found = run("diagnose", fitted, "--seed-artifacts", other, "--out", tmp_path / "two", "--json", *QUICK)
    assert found.status == 0, found.err
    assert found.json["seeds"] == 2
    twice = run("diagnose", fitted, "--seed-artifacts", fitted, "--out", tmp_path / "two", *QUICK)
    assert twice.status == 2 and "different seeds" in twice.err
    mixed = run("diagnose", fitted, "--seed-artifacts", prompt, "--out", tmp_path / "two", *QUICK)
    assert mixed.status == 2 and "the same method, settings, task and model" in mixed.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--fail-on", "prompt-tuning"), ("--fail-on takes verdicts", "Did you mean 'prompt-tuning-like'?")),
        (("--retrain", "randm"), ("condition 'randm'", "Did you mean 'random'?")),
        (("--rows", 1), ("--rows is too small", "at least 2")),
        (("--resamples", 5), ("Too few resamples", "at least 100")),
    ],
)
def test_what_cannot_be_asked_is_told(
    run: Run, fitted: Path, tmp_path: Path, words: tuple[object, ...], parts: tuple[str, ...]
) -> None:
    found = run("diagnose", fitted, "--out", tmp_path / "out", *words, "--quiet")
    assert found.status == 2 and found.out == ""
    line = found.err.splitlines()[-1]
    for part in parts:
        assert part in line, line


@pytest.mark.slow
def test_a_damaged_artifact_is_refused(run: Run, fitted: Path, tmp_path: Path) -> None:
    weights = fitted / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = run("diagnose", fitted, "--out", tmp_path / "out", *QUICK)
    assert found.status == 2 and "model.safetensors" in found.err and "Traceback" not in found.err
    config = fitted / "coldframe_config.json"
    config.write_text(json.dumps({"format": 99}))
    assert run("diagnose", fitted, "--out", tmp_path / "out", *QUICK).status == 2
    assert run("diagnose", tmp_path / "nothing", *QUICK).status == 2
    assert not (tmp_path / "nothing-diagnosis").exists()


@pytest.mark.slow
def test_a_ladder_needs_soft_tokens_and_says_so_at_once(run: Run, many: Path, lm: str, tmp_path: Path) -> None:
    out = tmp_path / "icl"
    assert run("fit", many, "--model", lm, "--method", "icl", "--set", "k=1", "--out", out, "--quiet").status == 0
    found = run("diagnose", out, "--ladder", "--out", tmp_path / "out", *QUICK)
    assert found.status == 2 and "no soft tokens" in found.err


def test_what_the_report_needs_is_missed_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    found = run("diagnose", tmp_path / "not looked at", *QUICK)
    assert found.status == 2 and "coldframe[report]" in found.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("icl", "--set", "k=1"),
        ("prag", "--set", "rank=1"),
        ("icl+prag", "--set", "icl.k=1", "--set", "prag.rank=1"),
        ("mha-esp", "--set", "heads=2", "--set", "k=2", "--set", "adapter=8"),
        ("lora", "--set", "rank=1"),
    ],
    ids=lambda words: words[0],
)
def test_any_method_on_a_corpus_is_diagnosed_as_it_is(
    run: Run, lm: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    out = tmp_path / "artifact"
    epochs = () if words[0] == "icl" else ("--epochs", 1)
    fitted = run("fit", "fact-corpus:6", "--model", lm, "--method", *words, "--out", out, *epochs, "--quiet")
    assert fitted.status == 0, fitted.err
    found = run("diagnose", out, "--rows", 12, "--out", tmp_path / "diagnosis", "--json", "--resamples", 100, "--quiet")
    assert found.status == 0, found.err
    assert found.json["subject"] == words[0] and found.json["task"].startswith("fact-corpus")
    conditions = {row["condition"] for row in found.json["store_ablation"]["ablations"]}
    assert {"swapped", "random", "fixed", "oracle"} <= conditions
    reasons = dict(found.json["store_ablation"]["missing"])
    assert ("shuffled" in reasons) == ("prag" in words[0])
    assert (tmp_path / "diagnosis" / "diagnosis.html").is_file()
