"""The help of every command: what people read first says what is so, in words, few of them on top."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.cli.conftest import Ran

from coldframe.cli import COMMANDS
from coldframe.methods.catalogue import described_methods
from coldframe.methods.registry import all_methods

Run = Callable[..., Ran]

#: Flags in the first box, --help among them.
MOST_ON_TOP = 18


@pytest.fixture(params=list(COMMANDS))
def help_text(request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "240")
    shown = run(request.param, "--help")
    assert shown.status == 0
    return shown.out


def test_no_markup_and_no_words_of_the_programming_language(help_text: str) -> None:
    shown = help_text.replace("``{text}``", "")
    for markup in ("`", "**", "{None}", "None", "(default: )", "(default: False)", "(default: True)", "Args:"):
        assert markup not in shown, markup
    assert not re.search(r"--[\w-]+ STR\b|INT\b|FLOAT\b", shown)


def test_a_switch_says_what_it_does(help_text: str) -> None:
    for words in re.findall(r"--no-[\w-]+\s+(.*)", help_text):
        assert words.startswith(("Do not", "Leave out")), words


def test_few_flags_stand_on_top_and_the_others_in_groups(help_text: str) -> None:
    boxes = re.findall(r"╭─ ([\w ]+?) ─+╮\n(.*?)╰", help_text, re.S)
    counts = {title: len(re.findall(r"^│ -", body, re.M)) for title, body in boxes}
    assert counts.get("options", 0) <= MOST_ON_TOP, counts
    assert all(count <= 20 for count in counts.values()), counts


def test_long_commands_can_be_quiet(run: Run) -> None:
    for name in ("fit", "compare", "evaluate", "diagnose", "predict", "reweight", "encode", "ask", "demo"):
        assert "--quiet" in run(name, "--help").out, name
    assert "--json" in run("predict", "--help").out


def test_data_has_no_silent_default(run: Run) -> None:
    for name in ("fit", "compare", "encode"):
        missing = run(name)
        assert missing.status == 2 and "There is no data" in missing.err and len(missing.err.splitlines()) == 1, name


def test_a_device_that_is_not_there_is_one_line(run: Run, tmp_path: object, lm: str, table: object) -> None:
    for device in ("cuda:7", "gpu", "cudas"):
        missing = run("fit", table, "--model", lm, "--method", "zero-shot", "--device", device, "--quiet")
        assert missing.status == 2 and missing.err.startswith("coldframe: error: There is no device")
        assert len(missing.err.splitlines()) == 1 and "Expected: cpu" in missing.err


def test_the_module_runs() -> None:
    ran = subprocess.run([sys.executable, "-m", "coldframe", "--version"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith("coldframe ")


# ---- methods ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_methods_are_explained_without_torch() -> None:
    code = (
        "import sys\nfrom coldframe.cli import main\nmain(['methods', 'mha-esp'])\nmain(['methods', '--json'])\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'rdkit'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "heads=8" in ran.stdout and "soft tokens per query" in ran.stdout


def test_what_the_source_says_is_what_the_classes_have() -> None:
    methods = described_methods()
    assert set(methods) == set(all_methods())
    for name, cls in all_methods().items():
        assert {s.name: s.default for s in methods[name].settings} == cls.config_class().to_dict(), name
        for trait in ("paper", "trainable", "uses_retrieval", "order_invariant"):
            assert methods[name].traits[trait] == getattr(cls, trait), (name, trait)
        for setting in methods[name].settings:
            assert setting.meaning, f"{name}.{setting.name} is not explained"


def test_an_unknown_method_names_the_nearest(run: Run) -> None:
    missing = run("methods", "mha-es")
    assert missing.status == 2 and "Did you mean 'mha-esp'?" in missing.err
    explained = run("methods", "icl", "--json").json
    assert {"name": "k", "default": 5} == {key: explained["settings"][0][key] for key in ("name", "default")}


@pytest.mark.slow
def test_what_a_stranger_types_first_loads_nothing_heavy() -> None:
    """Help and the explanation of a method come at once: not a timed test, but what makes it true."""
    code = """
import sys
from coldframe.cli import main

for words in (["--help"], ["--version"], ["methods"], ["methods", "mha-esp"], ["methods", "mha-esp", "--json"]):
    before = set(sys.modules)
    assert main(words) == 0
    heavy = {"torch", "transformers", "numpy", "scipy", "sklearn", "rdkit", "pandas"} & set(sys.modules)
    assert not heavy, (words, heavy)
    if words[0].startswith("--"):
        assert not {"rich", "tyro"} & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heads" in done.stdout
