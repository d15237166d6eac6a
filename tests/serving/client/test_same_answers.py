"""What a server answers is what the model here answers: over methods, placements, words, texts and wire forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, METHODS, QUERIES, SCHEMA, STORE, TWO, WRITE, Case, built, lm_of, task
from tests.serving.soft_server import SoftServer
from tests.tiny import ARCHITECTURES

import coldframe as cf
from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, Prompt
from coldframe.inference.run import run
from coldframe.methods.base import prompts
from coldframe.retrieval.store import Retrieved
from coldframe.serving.remote import RemoteLM
from coldframe.tasks.task import Schema, Template

pytestmark = pytest.mark.slow  # tests/serving/client/test_pipelines.py keeps one of them in the fast tier
Remote = Callable[..., RemoteLM]

SERVED = [
    case
    for case in METHODS
    if ".text." in type(case.method()).__module__ or ".soft_tokens." in type(case.method()).__module__
]
QUICK = ("icl", "prompt-tuning", "prompt-tuning/prefix", "mha-esp")
WRITERS = [pytest.param(case, marks=() if case.id in QUICK else pytest.mark.slow, id=case.id) for case in SERVED]
SHORT = SCHEMA.replace(words=("yes", "no", "is"))  # of one token each
IN_CHAT = dataclasses.replace(SCHEMA.template, instruction="\nSay what the answer is.")  # begins with a line break


def retrieved(case: Case) -> Retrieved:
    return FOUND if case.method().uses_retrieval else Retrieved.nothing(STORE, len(QUERIES))


def close(served: torch.Tensor | np.ndarray, local: torch.Tensor | np.ndarray, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(served), torch.as_tensor(local), atol=tolerance, rtol=0)


def test_served_methods_are_those_of_texts_and_soft_tokens() -> None:
    names = {case.name for case in SERVED}
    assert {"zero-shot", "icl", "icl-fixed", "prompt-tuning", "idpg", "u-esp", "p-esp", "mha-esp"} <= names
    placements = {case.settings.get("placement", "suffix") for case in SERVED}
    assert placements == {"suffix", "prefix"}


@pytest.mark.parametrize("schema", [SCHEMA, SHORT], ids=["words of several tokens", "words of one token"])
@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.id)
def test_a_method_says_the_same_through_a_server(case: Case, schema: Schema, here: FrozenLM, remote: Remote) -> None:
    method = built(case, here, schema)
    local = run(method, here, method.ready.schema, QUERIES, retrieved(case)).probabilities
    served = run(method, remote(), method.ready.schema, QUERIES, retrieved(case)).probabilities
    close(served, local)


@pytest.mark.parametrize("case", WRITERS)
def test_a_method_writes_the_same_through_a_server(case: Case, here: FrozenLM, remote: Remote) -> None:
    try:
        method = built(case, here, WRITE)
    except ConfigError:
        pytest.skip("it goes by labels")
    gold = ["yes", "no", "not at all", "a molecule"]
    local = run(method, here, method.ready.schema, QUERIES, retrieved(case), gold=gold)
    served = run(method, remote(), method.ready.schema, QUERIES, retrieved(case), gold=gold)
    assert served.generated == local.generated
    assert served.losses is not None and local.losses is not None
    close(served.losses, local.losses)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_read_from_its_checkpoint(
    architecture: str, checkpoint: Callable[[str], Path], remote: Remote
) -> None:
    lm = lm_of(architecture)
    conditioning = Conditioning(soft_tokens=torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(1)))
    with SoftServer.running(lm) as server:
        client = remote(url=server.url, checkpoint=checkpoint(architecture))
        queries = prompts(SCHEMA, QUERIES)
        served = client.label_scores(queries, SCHEMA.words, conditioning)
        assert (client.weight_hash, client.d_model, client.bos) == (lm.weight_hash, lm.d_model, lm.bos)
        assert client.hash_as("bfloat16") != client.weight_hash
        close(served, lm.label_scores(queries, SCHEMA.words, conditioning))
        close(client.embedding_norm(), torch.tensor(lm.embedding_norm()))


def test_scores_of_words_over_the_whole_vocabulary_and_among_choices(here: FrozenLM, remote: Remote) -> None:
    queries, words = prompts(SCHEMA, QUERIES), ["yes", "no", "not at all", "not here"]
    for choices in (False, True):
        local = here.label_scores(queries, words, choices=choices)
        close(remote().label_scores(queries, words, EMPTY, choices=choices), local)
        targets = [0, 1, 2, 3]
        close(
            remote().label_losses(queries, words, targets, choices=choices),
            here.label_losses(queries, words, targets, choices=choices),
        )


def test_only_what_is_needed_is_asked_for(server: SoftServer, remote: Remote) -> None:
    client = remote()
    client.label_scores(prompts(TWO, QUERIES), TWO.words, EMPTY, choices=True)
    assert sum(len(body["prompt"]) for _, body in server.requests) == len(QUERIES)
    server.requests.clear()
    client.label_scores(prompts(SCHEMA, QUERIES), ["a b", "a c"], EMPTY, choices=True)  # they part at one token
    assert sum(len(body["prompt"]) for _, body in server.requests) == len(QUERIES)


def test_more_words_than_a_request_may_name(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    words = [chr(code) + "x" * (code % 2) for code in range(0x4E00, 0x4E00 + 200)]
    queries = prompts(SCHEMA, QUERIES[:1])
    served = remote().label_scores(queries, words, EMPTY, choices=True)
    close(served, here.label_scores(queries, words, choices=True), 1e-3)
    assert max(len(body["logprob_token_ids"]) for _, body in server.requests) <= 128


def test_losses_of_several_answers(here: FrozenLM, remote: Remote) -> None:
    queries = [Prompt("Question", end="\n"), Prompt("Another one", header="Say. ", end="<end of text>")]
    answers = [["yes", "not at all"], ["no", "the molecule"]]
    close(remote().losses(queries, answers), here.losses(queries, answers))
    close(remote().loss(queries, ["yes", "no"]), here.loss(queries, ["yes", "no"]))
    losses, texts = remote().answer(queries, answers, max_new_tokens=5)
    local_losses, local_texts = here.answer(queries, answers, max_new_tokens=5)
    close(losses, local_losses)
    assert texts == local_texts
    assert remote().answer(queries, answers, max_new_tokens=0)[1] == ["", ""]


@pytest.mark.parametrize("form", ["completions", "sglang", "auto"])
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_wire_forms_with_vectors(form: str, placement: str, here: FrozenLM, remote: Remote) -> None:
    conditioning = Conditioning(soft_tokens=torch.randn(4, 3, here.d_model), placement=placement)  # type: ignore[arg-type]
    queries = prompts(SCHEMA, QUERIES)
    for port in (conditioning, EMPTY):
        client = remote(form=form)
        close(client.label_scores(queries, SCHEMA.words, port), here.label_scores(queries, SCHEMA.words, port))
        assert client.generate(queries, port, max_new_tokens=6) == here.generate(queries, port, max_new_tokens=6)


def test_sglang_is_known_by_its_list_of_models(here: FrozenLM, remote: Remote) -> None:
    with SoftServer.running(here, owner="sglang") as server:
        remote(url=server.url).label_scores(prompts(TWO, QUERIES), TWO.words)
        assert {route for route, _ in server.requests} == {"/generate"}


def test_a_chat_has_soft_tokens_beside_text(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    soft = Conditioning(soft_tokens=torch.randn(4, 3, here.d_model), placement="prefix")
    schema = SCHEMA.replace(template=IN_CHAT)
    queries = prompts(schema, QUERIES)
    client = remote(form="chat")
    for port in (soft, EMPTY):
        close(client.label_scores(queries, schema.words, port), here.label_scores(queries, schema.words, port))
        assert client.generate(queries, port, max_new_tokens=6) == here.generate(queries, port, max_new_tokens=6)
    assert len({body["cache_salt"] for _, body in server.requests if "cache_salt" in body}) == len(queries)


def test_a_chat_with_soft_tokens_behind_the_text(here: FrozenLM, remote: Remote) -> None:
    soft = Conditioning(soft_tokens=torch.randn(2, 3, here.d_model))
    queries = [Prompt("Question\n"), Prompt("Another\n\n")]
    words = ["yes", "not at all"]
    close(remote(form="chat").label_scores(queries, words, soft), here.label_scores(queries, words, soft))


def test_an_artifact_whose_label_stands_on_its_own_line_is_asked_in_a_chat(
    here: FrozenLM, remote: Remote, tmp_path: Path
) -> None:
    rows = task(validation=4)
    template = Template("Input: {text}\\nLabel:\\n{label}")
    assert template.query("A") == "Input: A\nLabel:\n" and template.exemplar("A", "b") == "Input: A\nLabel:\n b\n\n"
    rows = dataclasses.replace(rows, schema=rows.schema.replace(template=template))
    pipeline = cf.fit(cf.PromptTuning(tokens=3), here, rows, epochs=1, out=tmp_path / "artifact", quiet=True)
    texts = [example.text for example in rows.validation]
    served = cf.load(tmp_path / "artifact", lm=remote(form="chat"))
    np.testing.assert_allclose(served.predict_proba(texts), pipeline.predict_proba(texts), atol=1e-4)


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_a_chat_refuses_what_was_trained_without_its_line_break(
    placement: str, here: FrozenLM, server: SoftServer, remote: Remote
) -> None:
    soft = Conditioning(soft_tokens=torch.randn(4, 3, here.d_model), placement=placement)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="line break between soft tokens and text"):
        remote(form="chat").label_scores(prompts(SCHEMA, QUERIES), SCHEMA.words, soft)
    assert not server.requests


@pytest.mark.parametrize("form", ["completions", "sglang", "chat"])
def test_a_stream_gives_what_generate_gives(form: str, here: FrozenLM, remote: Remote) -> None:
    soft = Conditioning(soft_tokens=torch.randn(1, 3, here.d_model), placement="prefix")
    prompt = Prompt("\nQuestion: what is it? Answer:", end="")
    for seed in range(3):
        soft = dataclasses.replace(soft, soft_tokens=torch.randn(1, 3, here.d_model) * seed)
        pieces = list(remote(form=form).stream(prompt, soft, max_new_tokens=12))
        assert "".join(pieces) == here.generate([prompt], soft, max_new_tokens=12)[0]
        assert len(pieces) > 1


@pytest.mark.parametrize("stop", [(), ("a",), ("is", "mo"), ("\u0120",)])
def test_texts_end_where_they_end_here(stop: tuple[str, ...], here: FrozenLM, remote: Remote) -> None:
    queries = [Prompt(text, end=end) for text in QUERIES for end in ("", "\n", "<end of text>", "e")]
    for query in queries:
        local = here.generate([query], max_new_tokens=16, stop=stop)
        assert remote().generate([query], max_new_tokens=16, stop=stop) == local
        assert "".join(remote().stream(query, max_new_tokens=16, stop=stop)) == local[0]


def test_a_mark_in_the_blanks_before_the_first_word_ends_nothing(
    here: FrozenLM, server: SoftServer, remote: Remote
) -> None:
    """The server stops there and is asked to go on."""
    newline, word = here.tokenize("\n")[0], here.tokenize(" yes")[0]
    script = [newline, newline, word, newline, word]

    def scripted(route: str, body: object) -> tuple[int, object] | None:
        if body is None:
            return None
        done = sum(len(reply) for reply in given)
        end = next((i + 1 for i in range(done, len(script)) if script[i] == newline), len(script))
        given.append(script[done:end])
        return 200, {"choices": [{"index": 0, "token_ids": given[-1], "logprobs": None}]}

    given: list[list[int]] = []
    server.trouble = scripted
    assert remote().generate([Prompt("x", end="\n")], max_new_tokens=8) == ["yes"]
    assert given == [[newline], [newline], [word, newline]]


def test_a_server_of_a_shorter_context_drops_contexts_as_a_model_of_one(server: SoftServer, remote: Remote) -> None:
    server.longest = 40
    client = remote()
    assert client.max_positions == 40
    conditioning = Conditioning(contexts=(("far away " * 4, "near by " * 2),))
    client.label_scores([Prompt("Question")], ["yes", "no"], conditioning)
    assert client.dropped_contexts == 1
