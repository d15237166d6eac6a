"""An artifact goes to the hub only where its rows may, and to nobody else unless somebody says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.cases import lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders

import coldframe as cf
from coldframe.errors import ArtifactError, ConfigError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a hub would see; ``public`` is what is there already."""
    seen = SimpleNamespace(created=[], files=set(), public=False)

    def create(repo_id: str, **options: Any) -> None:
        seen.created.append((repo_id, options["private"]))

    def upload(repo_id: str, folder_path: str, **_: Any) -> str:
        seen.files = {path.name for path in Path(folder_path).iterdir()}
        return "https://hub/commit"

    class Api:
        def repo_info(self, repo_id: str, token: str | None = None) -> SimpleNamespace:
            return SimpleNamespace(private=not seen.public)

    for name, value in {"create_repo": create, "upload_folder": upload, "HfApi": Api}.items():
        monkeypatch.setattr(f"huggingface_hub.{name}", value)
    return seen


def fitted(method: Any) -> cf.Pipeline:
    retrieval = cf.RetrievalConfig(encoder="tiny")
    return cf.fit(method, lm_of("llama"), task(), retrieval=retrieval, training={"epochs": 1}, quiet=True)


def test_rows_leave_the_machine_only_when_said(hub: SimpleNamespace) -> None:
    pipeline = fitted(cf.RetrievedICL(k=2))
    with pytest.raises(ConfigError, match=r"16 rows of the store would leave this machine.*share_rows=True"):
        pipeline.push_to_hub("me/model")
    assert not hub.created and not hub.files
    assert pipeline.push_to_hub("me/model", share_rows=True) == "https://hub/commit"
    assert hub.created == [("me/model", True)] and "exemplars.jsonl" in hub.files


def test_a_method_without_rows_sends_none(hub: SimpleNamespace, tmp_path: Path) -> None:
    pipeline = fitted(cf.PromptTuning(tokens=2))
    pipeline.push_to_hub("me/model")
    assert hub.created == [("me/model", True)]
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "exemplars.jsonl").read_text() == ""


def test_a_public_repository_gets_nothing_unless_said(hub: SimpleNamespace) -> None:
    hub.public = True
    pipeline = fitted(cf.ZeroShot())
    with pytest.raises(ArtifactError, match=r"is public: nothing was uploaded.*private=False"):
        pipeline.push_to_hub("me/model")
    assert not hub.files
    pipeline.push_to_hub("me/model", private=False)
    assert hub.created[-1] == ("me/model", False) and hub.files
