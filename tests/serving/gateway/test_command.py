"""``coldframe serve``: what it refuses before it loads anything."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from coldframe.cli import main
from coldframe.errors import MissingExtraError
from coldframe.serving.gateway.server import check_extra


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to serve"),
        (["--adapter", "runs/b3db"], "NAME=DIR"),
        (["--adapter", "a=x", "--adapter", "a=y"], "Two adapters have the name 'a'"),
        (["--adapter", "a=x", "--host", "0.0.0.0"], "reached from outside"),
        (["--adapter", "a=nowhere", "--port", "0"], "is not a coldframe artifact"),
        (["--adapter", "a b=nowhere", "--port", "0"], "name of an adapter cannot be used"),
        (["--adapter", "a=x", "--port", "70000"], "port must be at most 65,535"),
        (["--adapter", "a=x", "--access", "nowhere.yaml"], "Cannot read nowhere.yaml"),
        (["--adapter-root", "nowhere", "--port", "0"], "folder of adapters is not there"),
        (["--adapter", "a=x", "--host", "no.such.host.invalid", "--allow-unauthenticated"], "Cannot listen"),
    ],
)
def test_one_line_says_what_is_wrong(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("COLDFRAME_API_KEY", "COLDFRAME_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["serve", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown and len(shown.splitlines()) == 1 and shown.startswith("coldframe: error:")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_the_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'coldframe\[serve\]'"):
        check_extra()
