"""Claims run one after another: kept, resumed, and not stopped by one that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.claims.support import ROW, scripted, write_claims

from coldframe.claims.effort import announced, fits_of
from coldframe.claims.entry import read_entries
from coldframe.claims.runner import Reproduction
from coldframe.errors import DataError


def never(recipe: Path, out: Path, command: str) -> Any:
    raise AssertionError("no claim here is a comparison")


def reproduction(tmp_path: Path, claims: dict[str, dict[str, Any]], **settings: Any) -> Reproduction:
    home = write_claims(tmp_path, claims)
    return Reproduction(home, tmp_path / "out", **{"compare": never, "quiet": True, **settings})


def ran(run: Reproduction) -> int:
    """How often the script ran."""
    path = run.home / "ran.txt"
    return len(path.read_text().split()) if path.is_file() else 0


def test_what_is_done_is_read_and_not_run_again(tmp_path: Path) -> None:
    run = reproduction(tmp_path, {"one": scripted()})
    entries = read_entries(run.folder)
    assert run.effort(entries["one"]).time == "time unknown"
    (first,) = run.run(entries)
    assert first.state == "done" and first.finished is not None and ran(run) == 1
    assert first.finished.rows[0].ours is not None and first.finished.rows[0].ours.low == 2.0
    assert first.judged[0][2] == "OK" and first.finished.command.startswith("python -m reproduction.gap --out")
    (again,) = run.run(entries)
    assert again == first and ran(run) == 1
    assert run.effort(entries["one"]).time == "about 0 s (done before)"


def test_other_settings_run_again_and_another_published_number_does_not(tmp_path: Path) -> None:
    run = reproduction(tmp_path, {"one": scripted()})
    run.run(read_entries(run.folder))
    write_claims(tmp_path, {"one": scripted(rows=[{**ROW, "compare": "value", "tolerance": 0.5}])})
    (judged,) = run.run(read_entries(run.folder))
    assert ran(run) == 1 and judged.judged[0][2] == "cannot tell here"
    write_claims(tmp_path, {"one": scripted(script={"name": "gap", "flags": {"gap": 2}})})
    run.run(read_entries(run.folder))
    assert ran(run) == 2


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = scripted(script={"name": "gap", "flags": {"gap": -1}})
    run = reproduction(tmp_path, {"a": bad, "b": scripted(), "c": scripted(script={"name": "absent"})})
    results = {result.entry.name: result for result in run.run(read_entries(run.folder))}
    assert [result.state for result in results.values()] == ["failed", "done", "failed"]
    assert "the gap is negative" in results["a"].problem and "No module named" in results["c"].problem
    assert results["a"].judged[0][2] == "cannot tell here"
    assert "Traceback" in (run.home / "a.error.txt").read_text()
    # Mended, it runs; the time that it took in vain counts.
    write_claims(tmp_path, {"a": scripted()})
    spent = json.loads((run.home / "a.spent.json").read_text())
    assert [*spent.values()][0] > 0
    run.run(read_entries(run.folder))
    assert not (run.home / "a.error.txt").exists() and run.finished(read_entries(run.folder)["a"]) is not None


def test_what_was_interrupted_goes_on_and_its_time_is_the_whole(tmp_path: Path) -> None:
    methods = {"run": {"methods": ["zero-shot"]}, "rows": [{**ROW, "path": "", "of": ["zero-shot"]}]}
    claim = {**{key: value for key, value in scripted().items() if key != "script"}, **methods}
    calls: list[str] = []

    def stopped(recipe: Path, out: Path, command: str) -> Any:
        calls.append(recipe.read_text())
        raise KeyboardInterrupt

    run = reproduction(tmp_path, {"one": claim}, compare=stopped, model="tiny")
    entries = read_entries(run.folder)
    with pytest.raises(KeyboardInterrupt):
        run.run(entries)
    assert "model: tiny" in calls[0] and run.home.name == "tiny"
    spent = json.loads((run.home / "one.spent.json").read_text())
    (run.home / "one.spent.json").write_text(json.dumps({key: 100.0 for key in spent}))

    def failing(recipe: Path, out: Path, command: str) -> Any:
        raise DataError("not this time")

    (failed,) = Reproduction(run.folder, run.out, failing, "tiny", quiet=True).run(entries)
    assert failed.problem == "not this time."
    assert [*json.loads((run.home / "one.spent.json").read_text()).values()][0] >= 100.0


def test_quick_runs_stand_beside_whole_ones(tmp_path: Path) -> None:
    claims = {"one": scripted(quick={"flags": {"gap": 9}}), "two": scripted()}
    whole, quick = (reproduction(tmp_path, claims, quick=size) for size in (False, True))
    first, second = quick.run(read_entries(quick.folder))
    assert first.entry.scaled_down and not second.entry.scaled_down
    assert quick.home.name == "smollm2-quick" and whole.finished(read_entries(whole.folder)["one"]) is None


def test_question_sets_that_were_not_named_are_left_out(tmp_path: Path) -> None:
    claim = scripted(script={"name": "gap", "words": ["{data}"]})
    run = reproduction(tmp_path, {"one": claim})
    (result,) = run.run(read_entries(run.folder))
    assert result.state == "left out" and "--data" in result.problem and ran(run) == 0


def test_cost_is_said_before(tmp_path: Path) -> None:
    run = {"methods": ["zero-shot", "a=mha-esp", "b=mha-esp"], "seeds": [0, 1], "ablations": [], "tune": 3}
    assert fits_of(run) == 2 * 2 + 3 * 2
    assert fits_of({"methods": ["mha-esp"], "ablations": ["random-exemplars", "swapped-store"]}) == 6
    assert fits_of({"methods": ["mha-esp"], "ablations": [], "seeds": [0], "sweeps": {"k": [1, 2]}}) == 3
    compared = {"run": run, "rows": [{**ROW, "path": "", "of": ["a", "b"]}]}
    claim = {**{key: value for key, value in scripted().items() if key != "script"}, **compared}
    here = reproduction(tmp_path, {"one": claim, "two": claim, "script": scripted()})
    entries = read_entries(here.folder)
    shipped = {"smollm2": {"one": {"seconds": 500.0, "fits": 10}}}
    (here.folder / "claims" / "timings.json").write_text(json.dumps(shipped))
    efforts = {name: here.effort(entry) for name, entry in entries.items()}
    assert efforts["one"].time == "about 8 min (timed on another machine)"
    assert efforts["two"].time == "about 8 min (by the seconds a fit of other claims)"
    assert efforts["script"].seconds is None and efforts["script"].work == "a script"
    assert announced(efforts)[-1] == "all together: 20 fits, about 17 min, without 1 that were never timed"
    here.run({"script": entries["script"]})
    timed = json.loads((here.out / "timings.json").read_text())
    assert timed["smollm2"]["script"]["seconds"] > 0 and timed["smollm2"]["script"]["fits"] is None
