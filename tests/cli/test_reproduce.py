"""``coldframe reproduce`` from a folder of claims to pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.claims.support import ROW, scripted, write_claims
from tests.cli.conftest import Ran

Run = Callable[..., Ran]


def compared(table: Path) -> dict[str, object]:
    """A comparison of two sizes of MHA-ESP on a few rows."""
    small = {"heads": 1, "k": 2, "adapter": 4}
    run = {
        "task": {"data": str(table)},
        "methods": ["zero-shot", "one=mha-esp", "two=mha-esp"],
        "main": "two",
        "seeds": [0],
        "method_settings": {"one": small, "two": {**small, "heads": 2}},
        "training": {"epochs": 2},
        "ablations": [],
        "controls": False,
    }
    base = {key: value for key, value in ROW.items() if key != "path"}
    rows = [
        {**base, "of": ["two", "one"]},
        {**base, "of": ["two", "one"], "metric": "context_tokens", "compare": "value", "published": 1},
    ]
    claim = {key: value for key, value in scripted(rows=rows).items() if key != "script"}
    return {**claim, "run": run, "quick": {"training": {"epochs": 1}}}


def test_a_comparison_and_a_script_become_pages(run: Run, tmp_path: Path, table: Path, lm: str) -> None:
    home = write_claims(tmp_path, {"heads": compared(table), "gap": scripted(paper="Another paper")})
    words = ("reproduce", "--quick", "--folder", home, "--model", lm, "--out", tmp_path / "out")
    listed = run(*words, "--list")
    assert listed.status == 0 and "2 fits" in listed.out and "a script" in listed.out
    first = run(*words, "--all", "--json")
    assert first.status == 0, first.err
    assert "all together: 2 fits, time unknown" in first.err and "[2/2] heads: done" in first.err
    by_name = {claim["name"]: claim for claim in first.json}
    sign, tokens = by_name["heads"]["rows"]
    assert sign["ours"]["n"] > 0 and sign["seconds"] > 0 and sign["trials"] == 0
    assert (tokens["ours"]["value"], tokens["verdict"]) == (1.0, "OK"), "one head more is one token more"
    assert by_name["heads"]["scaled_down"] and not by_name["gap"]["scaled_down"]
    (folder,) = (tmp_path / "out").glob("*-quick")
    recipe = (folder / "heads.yaml").read_text()
    assert "epochs: 1" in recipe and (folder / "heads" / "report.html").is_file()
    page = (folder / "a-paper-arxiv-0000-00000.html").read_text()
    assert "coldframe compare --recipe" in page and "Scaled down" in page
    assert "coldframe compare --recipe" in (folder / "reproduction.md").read_text()
    assert json.loads((folder / "results.json").read_text()) == first.json
    again = run(*words, "heads", "--quiet")
    assert again.status == 0 and "A table" in again.out
    assert (folder / "another-paper.html").is_file(), "pages of other claims stay"
    assert "done before" in run(*words, "--list").out


def test_a_claim_that_fails_is_told_by_the_status(run: Run, tmp_path: Path) -> None:
    bad = scripted(script={"name": "gap", "flags": {"gap": -1}})
    home = write_claims(tmp_path, {"bad": bad, "good": scripted()})
    ended = run("reproduce", "--all", "--folder", home, "--out", tmp_path / "out")
    assert ended.status == 1 and "bad: failed" in ended.err and "good: done" in ended.err
    assert "the gap is negative" in ended.out


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    home = write_claims(tmp_path, {"sets": scripted(script={"name": "gap", "words": ["{data}"]})})
    for words, said in (
        (("--folder", tmp_path / "elsewhere", "--list"), "Run it from a checkout"),
        (("--folder", home), "No claim is named"),
        (("--folder", home, "set"), "Did you mean 'sets'?"),
        (("--folder", home, "sets"), "Name their folder with --data"),
        (("--folder", home, "sets", "--data", tmp_path / "absent"), "no such folder"),
    ):
        ended = run("reproduce", *words, "--out", tmp_path / "out")
        assert ended.status == 2 and said in ended.err and len(ended.err.splitlines()) == 1, words
    left_out = run("reproduce", "--folder", home, "--all", "--out", tmp_path / "out", "--quiet")
    assert left_out.status == 0 and "left out" in left_out.out
