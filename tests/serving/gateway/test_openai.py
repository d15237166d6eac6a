"""OpenAI's routes, asked by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.gateway.support import TEXTS, adapters_of, client_of

from coldframe.serving.gateway.adapters import Adapters

pytestmark = pytest.mark.slow


@pytest.fixture
def adapters(folders: dict[str, Path]) -> Adapters:
    return adapters_of({name: folders[name] for name in ("mha-esp", "prag", "knn")})


@pytest.fixture
def client(adapters: Adapters) -> Iterator[Any]:
    with client_of(adapters) as client:
        yield client


def openai_client(client: Any) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none", http_client=client, max_retries=0)


def test_models_are_adapters(client: Any) -> None:
    assert [model.id for model in openai_client(client).models.list()] == ["knn", "mha-esp", "prag"]


def test_a_completion_is_the_label(client: Any, adapters: Adapters) -> None:
    expected = adapters.get("mha-esp").pipeline.predict(TEXTS)
    completion = openai_client(client).completions.create(model="mha-esp", prompt=TEXTS, max_tokens=1, temperature=0)
    assert [choice.text for choice in completion.choices] == expected
    assert completion.usage.completion_tokens == 4 and completion.usage.prompt_tokens > 40


def test_a_chat_answers_the_last_message_of_the_user(client: Any, adapters: Adapters) -> None:
    messages = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "something else"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": TEXTS[1]}]},
    ]
    answer = openai_client(client).chat.completions.create(model="mha-esp", messages=messages)
    pipeline = adapters.get("mha-esp").pipeline
    assert answer.choices[0].message.content == pipeline.predict(TEXTS[1:2])[0]
    assert list(answer.coldframe["probabilities"][0].values()) == pytest.approx(
        pipeline.predict_proba(TEXTS[1:2])[0], abs=1e-4
    )


def test_streams(client: Any, adapters: Adapters) -> None:
    openai = openai_client(client)
    expected = adapters.get("mha-esp").pipeline.predict(TEXTS[:1])[0]
    messages = [{"role": "user", "content": TEXTS[0]}]
    chunks = list(openai.chat.completions.create(model="mha-esp", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    parts = list(openai.completions.create(model="mha-esp", prompt=TEXTS[0], stream=True))
    assert "".join(part.choices[0].text for part in parts) == expected
    raw = client.post("/v1/completions", json={"model": "mha-esp", "prompt": TEXTS[0], "stream": True}).text
    assert (
        raw.endswith("data: [DONE]\n\n")
        and json.loads(raw.splitlines()[0].removeprefix("data: "))["model"] == "mha-esp"
    )


def test_what_is_written_has_the_length_that_is_wanted(client: Any, adapters: Adapters) -> None:
    pipeline = adapters.get("prag").pipeline
    openai = openai_client(client)
    whole = openai.completions.create(model="prag", prompt="what is a")
    assert whole.choices[0].text == pipeline.predict(["what is a"])[0]
    short = openai.completions.create(model="prag", prompt="what is a", max_tokens=1)
    assert short.usage.completion_tokens <= 1 and whole.choices[0].text.startswith(short.choices[0].text)


def test_what_cannot_be_done_is_said(client: Any) -> None:
    def refused(route: str, **body: Any) -> str:
        answer = client.post(f"/v1/{route}", json=body)
        assert 400 <= answer.status_code < 500, answer.text
        return str(answer.json()["error"]["message"])

    assert "no adapter 'gpt'" in refused("completions", model="gpt", prompt="x")
    assert "n cannot be used" in refused("completions", model="knn", prompt="x", n=3)
    assert "user" in refused("chat/completions", model="knn", messages=[{"role": "system", "content": "x"}])
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "messages.0.content" in refused("chat/completions", model="knn", messages=picture)
    assert "prompt" in refused("completions", model="knn", prompt=[])
    half = rb'{"model": "knn", "messages": [{"role": "user", "content": "\ud800"}]}'  # JSON can say it, UTF-8 cannot
    answer = client.post("/v1/chat/completions", content=half, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and "half a surrogate pair" in answer.json()["error"]["message"]
