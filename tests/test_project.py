"""What is true of the project as a whole: a light import, the layers, docs and workflows that name what exists."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import coldframe

ROOT = Path(__file__).resolve().parents[1]
PROSE = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])

PROBE = """
import json, locale, logging, os, signal, sys, warnings

def state():
    return {
        "environment": dict(os.environ),
        "warnings": [str(f) for f in warnings.filters],
        "log level": logging.getLogger().level,
        "log handlers": [str(h) for h in logging.getLogger().handlers],
        "locale": locale.setlocale(locale.LC_ALL),
        "sigint": str(signal.getsignal(signal.SIGINT)),
        "recursion": sys.getrecursionlimit(),
        "path": list(sys.path),
        "directory": os.getcwd(),
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
    }

before = state()
import coldframe
coldframe.__version__, dir(coldframe)
after = state()
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "changed": [key for key in before if before[key] != after[key]],
}))
"""


def test_import_is_light_and_changes_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen["changed"] == []
    assert not {"torch", "transformers", "numpy", "rdkit", "sklearn"} & set(seen["modules"])


@pytest.mark.slow
def test_import_layers() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--config", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", coldframe.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(coldframe, name) is not None


def test_lazy_names_are_the_typed_names() -> None:
    # Type checkers read the imports under TYPE_CHECKING, Python reads the table: they must say the same.
    source = (ROOT / "src/coldframe/__init__.py").read_text(encoding="utf-8")
    typed = {name: home for home, name in re.findall(r"^    from ([\w.]+) import \(?\s*(\w+) as \2\b", source, re.M)}
    assert typed.pop("errors") == "coldframe"
    assert typed == coldframe._HOMES
    assert sorted(coldframe.__all__) == sorted([*typed, "errors", "__version__"])


def test_the_settings_of_a_public_method_are_public() -> None:
    from coldframe.methods.base import Method
    from coldframe.methods.compose import Compose
    from coldframe.methods.config import MethodConfig

    values = [getattr(coldframe, name) for name in coldframe.__all__ if name != "__version__"]
    methods = [value for value in values if isinstance(value, type) and issubclass(value, Method)]
    assert len(methods) > 15
    for method in methods:
        if method.config_class is not MethodConfig and method is not Compose:  # Compose takes those of its parts
            config = method.config_class
            assert getattr(coldframe, config.__name__, None) is config, f"coldframe.{config.__name__}"
            assert method(config()).config == config()


def test_json_for_people_is_written_in_one_place() -> None:
    """``storage.files.to_json`` writes null for NaN; what is stored for ourselves may have its own form."""
    ours = {"diagnosis/memory.py", "evaluation/runs.py"}
    ours |= {f"evaluation/{name}.py" for name in ("studies", "trials", "tune")}
    package = ROOT / "src/coldframe"
    files = {p.relative_to(package).as_posix(): p for part in ("cli", "reports", "diagnosis", "evaluation")
             for p in (package / part).rglob("*.py")}  # fmt: skip
    assert len(files) > 50 and ours <= files.keys()
    writers = {name for name, path in files.items() if re.search(r"json\.dumps?\(", path.read_text(encoding="utf-8"))}
    assert writers == ours


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = coldframe.no_such_name


def test_version_is_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{coldframe.__version__}]" in changelog


PAPER_INDEX = (ROOT / "docs/paper-index.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"`(\w+)=([\w.\-]+)`", "\n".join(line for line in body.splitlines() if line.startswith("|")))
    for title, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAPER_INDEX, re.M | re.S)
}


@pytest.mark.parametrize("title", [title for title, defaults in SECTIONS.items() if defaults])
def test_paper_index_has_the_defaults(title: str) -> None:
    from coldframe.retrieval.retriever import RetrievalConfig
    from coldframe.training.config import TrainingConfig

    home: Any = {"Training": TrainingConfig, "Retrieval": RetrievalConfig}.get(title)
    if home is None:
        match = re.search(rf"^## {re.escape(title)}\n\nClass `(\w+)`", PAPER_INDEX, re.M)
        assert match, f"the section {title!r} does not begin with its class"
        home = getattr(coldframe, match[1])
    values = {**TrainingConfig().to_dict(), **getattr(home, "training_defaults", {})}
    values |= {"learning_rate": getattr(home, "learning_rate", None), **getattr(home, "config_class", home)().to_dict()}
    for name, written in SECTIONS[title]:
        value = values[name]
        same = float(written) == value if isinstance(value, float) else written == str(value)
        assert same, f"{title}: {name} is {value!r}, the paper index says {written}"


@pytest.mark.parametrize("name", [name for name in coldframe.__all__ if name != "__version__"])
def test_public_names_are_in_the_reference(name: str) -> None:
    reference = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/reference/*.md"))
    assert re.search(rf"\b{name}\b", reference), f"{name} is in coldframe.__all__ but not in docs/reference"


def test_no_machine_paths() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    machine_path = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|tmp|Users|mnt|opt)/[\w.+-]")
    found = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{i}: {line}" for i, line in enumerate(lines, 1) if machine_path.search(line)
        ]
    assert files and not found, "\n".join(found)


@cache
def cli_help(*command: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", "from coldframe.cli import main; main()", *command, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def commands_in(path: Path) -> list[tuple[str, list[str]]]:
    """Every ``coldframe COMMAND ... --flag ...`` in the code of a page: the command and its flags."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    code = re.findall(r"```(?:bash|console|sh|shell)\n(.*?)```", text, re.S)
    code += re.findall(r"(?<!`)`(coldframe .*?)`", text)
    calls = re.findall(r"(?:^|[\s(|])coldframe[ ]+([a-z][\w-]*)([^\n|;#]*)", "\n".join(code))
    return [(command, re.findall(r"(?<!\S)--[a-z][\w-]*", rest)) for command, rest in calls]


@pytest.mark.slow
@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_use_commands_that_exist(path: Path) -> None:
    if not hasattr(importlib.import_module("coldframe.cli"), "main"):
        pytest.skip("the command line does not exist yet")
    for command, flags in commands_in(path):
        assert re.search(rf"(?<![\w-]){command}(?![\w-])", cli_help()), f"no command: coldframe {command}"
        for flag in flags:
            known = re.search(rf"(?<![\w-]){flag}(?![\w-])", cli_help(command))
            assert known, f"no flag {flag} in: coldframe {command} --help"


def test_the_command_finder_finds() -> None:
    readme = commands_in(ROOT / "README.md")
    assert ("fit", ["--text", "--label", "--method", "--model", "--out"]) in readme


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_exists(path: Path) -> None:
    steps = [step for job in read_yaml(path)["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands and all("uses" in step for step in steps if "run" not in step)
    for command in commands:
        first, *rest = command.split()
        assert rest[0] in make_targets() if first == "make" else os.access(ROOT / first, os.X_OK), command
    for step in steps:
        for name in step.get("with", {}).get("cache-dependency-path", "").split():
            assert (ROOT / name).is_file(), name


def test_the_workflow_runs_ci_on_every_python_of_the_project() -> None:
    job = read_yaml(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]
    pythons = job["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {python}" for python in pythons] == [
        line for line in PROJECT["classifiers"] if re.search(r"3\.\d+$", line)
    ]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_ci_runs_lint_and_all_tests() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    targets = re.findall(r"^(?:exec )?make ([\w-]+)$", script, re.M)
    assert targets == ["lint", "test"] and set(targets) <= make_targets()


def test_make_knows_its_targets_as_phony() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()) == make_targets()  # type: ignore[index]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_complete(path: Path) -> None:
    form = read_yaml(path)
    assert {"name", "description", "body"} <= form.keys()
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown") and field["attributes"]["label"]


def test_the_citation_is_that_of_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and all("name" in author for author in citation["authors"])
    assert citation["version"] == coldframe.__version__ and citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    assert citation["url"] == PROJECT["urls"]["Documentation"]


def test_the_project_has_one_address() -> None:
    source = PROJECT["urls"]["Source"]
    pages = [*PROSE, ROOT / "SECURITY.md", ROOT / "CITATION.cff", *ROOT.glob(".github/**/*.*")]
    addresses = {
        address
        for page in pages
        for address in re.findall(r"https://github\.com/[\w-]+/coldframe\b", page.read_text(encoding="utf-8"))
    }
    assert addresses == {source}
