"""Claims as files: what they must say, and how they are scaled down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.claims.support import ROW, scripted, write_claims

from coldframe.claims.entry import Entry, Row, Script, chosen, read_entries
from coldframe.errors import ConfigError

RUN = {"task": {"data": "b3db"}, "methods": ["zero-shot", "mha-esp"], "seeds": [0, 1]}
COMPARED = {**{key: value for key, value in ROW.items() if key != "path"}, "of": ["mha-esp", "zero-shot"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": []}, "has no rows"),
        ({"script": None}, "has one of run"),
        ({"run": RUN}, "has one of run"),
        ({"rows": [{**ROW, "path": ""}]}, "names a path"),
        ({"rows": [{**ROW, "source": " "}]}, "empty source"),
        ({"rows": [{**ROW, "published": None, "compare": "value"}]}, "compared with no number"),
        ({"rows": [{**ROW, "compare": "ratio"}]}, "tolerance of a ratio is a factor"),
        ({"rows": [{**ROW, "tolerance": -1}]}, "tolerance must be at least 0"),
        ({"rows": [{**ROW, "compare": "most"}]}, "not one of its choices"),
        ({"script": {"name": "os.system"}}, "name of a module"),
        ({"script": {"name": "gap", "result": "../secret.json"}}, "file's name"),
        ({"script": {"name": "gap", "shell": "ls"}}, "Unknown key 'shell'"),
        ({"name": "other"}, "name is not said in the file"),
        ({"scaled_down": True}, "scaled_down is not said in the file"),
    ],
)
def test_what_a_claim_must_say(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    claim = {key: value for key, value in scripted(**changes).items() if value is not None}
    home = write_claims(tmp_path, {"one": claim})
    with pytest.raises(ConfigError, match=words):
        read_entries(home)


def test_a_comparison_names_its_rows() -> None:
    base = {key: value for key, value in scripted(run=RUN).items() if key != "script"}
    entry = Entry.from_dict({**base, "rows": [COMPARED]})
    assert entry.rows[0].compared == "the sign: mha-esp above zero-shot" and not entry.needs_data
    for of in ([], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match="one or two rows"):
            Entry.from_dict({**base, "rows": [{**COMPARED, "of": of}]})
    ratio = {**COMPARED, "of": ["mha-esp"], "compare": "ratio", "tolerance": 2}
    with pytest.raises(ConfigError, match="ratio of two rows"):
        Entry.from_dict({**base, "rows": [ratio]})


def test_quick_changes_only_what_it_names() -> None:
    base = {key: value for key, value in scripted(run=RUN).items() if key != "script"}
    quick = {"task": {"max_train": 64}, "seeds": [0]}
    entry = Entry.from_dict({**base, "rows": [COMPARED], "quick": quick})
    assert entry.sized(False) is entry and not entry.scaled_down
    small = entry.sized(True)
    assert small.run == {**RUN, "task": {"data": "b3db", "max_train": 64}, "seeds": [0]} and small.scaled_down
    assert entry.run == RUN, "the claim itself stays"
    script = Entry.from_dict(scripted(quick={"flags": {"gap": 1.5}})).sized(True).script
    assert script is not None and script.flags == {"gap": 1.5} and script.name == "gap"
    whole = Entry.from_dict(scripted())
    assert whole.sized(True) is whole, "what has nothing to scale down is not labelled so"


def test_words_of_a_script() -> None:
    script = Script("pear", ("{model}",), {"data": "{data}", "chat": True, "mmlu": None, "test": False, "k": [1, 3]})
    words = script.command("out", "gemma3-270m", "sets")
    assert words[2:] == ["gemma3-270m", "--data", "sets", "--chat", "--k", "1", "3", "--out", "out"]
    assert script.needs_data and not Script("pear").needs_data


def test_than_is_said() -> None:
    row = Row("c", "s", "m", compare="less", than=1, of=("l2", "l1"))
    assert row.compared == "the sign: l2 below l1 + 1"
    assert Row("c", "s", "m", than=-5, path="x").compared == "the sign: ours above -5"


def test_unknown_names_and_empty_folders(tmp_path: Path) -> None:
    entries = read_entries(write_claims(tmp_path, {"first": scripted(), "second": scripted()}))
    assert list(chosen(entries, ("second", "first", "second"))) == ["second", "first"]
    with pytest.raises(ConfigError, match="Did you mean .second."):
        chosen(entries, ("seconds",))
    with pytest.raises(ConfigError, match="Run it from a checkout"):
        read_entries(tmp_path / "elsewhere")
