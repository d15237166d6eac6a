"""Every soft-token method against its equations, written as loops in reference.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, METHODS, QUERIES, SCHEMA, STORE, Case, TinyEncoder, built, lm_of
from tests.parity import reference
from tests.parity.reference import Matrix, Vector
from torch import Tensor

from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import method_class
from coldframe.retrieval.store import Retrieved

D = 32
EXTRA = [
    Case("mha-esp/all", "mha-esp", {"encoder": "tiny-print", "adapter": 5, "heads": 3, "k": 3, "layers": 3}),
    Case("mha-esp/raw", "mha-esp", {"encoder": "tiny-print", "heads": 2, "k": 3, "similarity": "raw"}),
    Case("mha-esp/text labels", "mha-esp", {"encoder": "tiny", "heads": 2, "k": 3, "label_place": "text"}),
    Case("u-esp/learned labels", "u-esp", {"encoder": "tiny", "k": 2, "label_place": "learned"}),
    Case("p-esp/learned labels", "p-esp", {"encoder": "tiny", "k": 2, "label_place": "learned"}),
    Case("mha-esp/one", "mha-esp", {"encoder": "tiny", "adapter": None, "heads": 1, "k": 1, "query_part": False}),
    Case("mha-esp/learned labels", "mha-esp", {"encoder": "tiny", "heads": 2, "k": 3, "label_place": "learned"}),
    Case("p-esp/k2", "p-esp", {"encoder": "tiny", "k": 2}),
    Case("u-esp/k2", "u-esp", {"encoder": "tiny-print", "k": 2}),
]


def cases(name: str) -> Any:
    some = [case for case in [*METHODS, *EXTRA] if case.name == name]
    return pytest.mark.parametrize("case", some, ids=[case.id for case in some])


class Weights:
    """A method's parameters as lists, and the encoded texts it is given."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.held: dict[str, Any] = {name: p.double().tolist() for name, p in method.state_dict().items()}
        self.encoder = TinyEncoder(method.config.encoder)  # type: ignore[attr-defined]
        place = method.config.label_place  # type: ignore[attr-defined]
        self.label_in_text = self.encoder.takes_label_text if place == "auto" else place == "text"
        self.learned = place == "learned"

    def layer(self, name: str) -> tuple[Matrix, Vector]:
        return self.held[f"{name}.weight"], self.held[f"{name}.bias"]

    def vector(self, text: str) -> Vector:
        encoded = self.encoder.encode([text])[0].astype(float).tolist()
        return reference.adapted(encoded, self.held.get("adapter.weight"), self.held.get("adapter.bias", []))

    def solved(self, position: int) -> str:
        """``x_k (+) y_k`` as text, or the text alone."""
        example = STORE.examples[position]
        word = {"A": "yes", "B": "no", "C": "not at all"}[example.target]
        return f"{example.text} {word}" if self.label_in_text else example.text

    def label(self, position: int) -> Vector:
        """One-hot or learned, appended to the vector where the encoder does not read the label."""
        if self.label_in_text:
            return []
        if self.learned:
            return list(self.held["labels.table"]["ABC".index(STORE.examples[position].target)])
        return [1.0 if label == STORE.examples[position].target else 0.0 for label in "ABC"]

    def exemplar(self, position: int) -> Vector:
        return self.vector(self.solved(position)) + self.label(position)

    def attended(self, text: str, position: int) -> Vector:
        """An exemplar as MHA-ESP sees it; learned labels weigh as much as the text."""
        if not self.learned:
            return self.vector(text) + self.label(position)
        label = self.label(position)
        return reference.unit(self.vector(text)) + [reference.dot(row, label) for row in self.held["label_map.weight"]]

    def with_static(self, tokens: list[Vector]) -> list[Vector]:
        static = self.held.get("static")
        return tokens if static is None else [reference.add(z, p) for z, p in zip(tokens, static, strict=True)]


def conditioned(method: Method) -> Conditioning:
    with torch.no_grad():
        return method.condition(QUERIES, FOUND)


def close(got: Tensor | None, wanted: list[Any]) -> None:
    assert got is not None
    torch.testing.assert_close(got.double(), torch.tensor(wanted, dtype=torch.float64), atol=2e-5, rtol=2e-5)


def found(row: int, k: int) -> list[int]:
    return [int(i) for i in FOUND.indices[row][:k] if i >= 0]


def windows_of(text: str, count: int) -> list[str]:
    """Windows of ``2 n / (count + 1)`` words, so that each overlaps the next by half, first and last at the ends."""
    words = text.split()
    width = max(1, round(2 * len(words) / (count + 1)))
    last = max(0, len(words) - width)
    return [" ".join(words[(at := round(i * last / (count - 1))) : at + width]) for i in range(count)]


@cases("mha-esp")
def test_mha_esp(case: Case) -> None:
    method = built(case, lm_of("llama"))
    got, w, config = conditioned(method), Weights(method), method.config
    times = config.windows  # type: ignore[attr-defined]
    wanted, attention = [], []
    for row, text in enumerate(QUERIES):
        positions = found(row, config.k)
        texts = {i: [w.solved(i)] if times == 1 else windows_of(w.solved(i), times) for i in positions}
        keys = [w.attended(part, i) for i in positions for part in texts[i]]
        similarities = [float(s) for s in FOUND.scores[row][: len(positions)] for _ in range(times)]
        if config.similarity == "standard":  # type: ignore[attr-defined]
            similarities = reference.standardised(similarities)
        temperatures = w.held.get("attention.log_temperature")
        z, a = reference.mha_esp(
            w.vector(text), keys, w.layer("attention.query"), w.layer("attention.key"), w.layer("value"),
            config.heads, D, temperatures and [math.exp(value) for value in temperatures],
            w.held.get("attention.slope"), similarities,
            w.layer("direct") if config.query_part else None,  # type: ignore[attr-defined]
        )  # fmt: skip
        for layer in range(config.layers - 1):  # type: ignore[attr-defined]
            z = reference.deeper(z, *w.layer(f"deeper.{layer}"))
        wanted.append(w.with_static(z))
        # The library reports attention in the canonical order of the set: by position.
        order = np.argsort(positions)
        absent = [0.0] * times * (config.k - len(positions))
        attention.append([[head[p * times + t] for p in order for t in range(times)] + absent for head in a])
    close(got.soft_tokens, wanted)
    close(got.attention, attention)
    c = config.text_exemplars  # type: ignore[attr-defined]
    if c:
        blocks = [
            f"Question: {STORE.examples[i].text}\nAnswer: {SCHEMA.word(STORE.examples[i].target)}\n\n" for i in range(6)
        ]
        assert got.contexts == tuple(tuple(blocks[i] for i in reversed(found(row, c))) for row in range(4))
    else:
        assert got.contexts is None


@cases("idpg")
def test_idpg(case: Case) -> None:
    method = built(case, lm_of("llama"))
    w, m = Weights(method), method.config.tokens  # type: ignore[attr-defined]
    wanted = []
    for text in QUERIES:
        z = reference.linear(*w.layer("project"), w.vector(text))
        wanted.append(w.with_static([z[i * D : (i + 1) * D] for i in range(m)]))
    close(conditioned(method).soft_tokens, wanted)


@cases("u-esp")
def test_u_esp(case: Case) -> None:
    method = built(case, lm_of("llama"))
    w, k = Weights(method), method.config.k
    wanted = []
    for row, text in enumerate(QUERIES):
        positions = found(row, k)
        if w.label_in_text:
            joined = w.vector("\n".join([text, *(w.solved(i) for i in positions)]))
        else:
            width = len(w.exemplar(positions[0]))
            joined = w.vector(text) + [value for i in positions for value in w.exemplar(i)]
            joined += [0.0] * width * (k - len(positions))
        wanted.append(w.with_static([reference.linear(*w.layer("project"), joined)]))
    close(conditioned(method).soft_tokens, wanted)


@cases("p-esp")
def test_p_esp(case: Case) -> None:
    """The nearest exemplar's token stands last, next to the answer or the text."""
    method = built(case, lm_of("llama"))
    w, k = Weights(method), method.config.k
    wanted = []
    for row, text in enumerate(QUERIES):
        tokens = []
        for i in found(row, k):
            pair = w.vector(f"{text}\n{w.solved(i)}") if w.label_in_text else w.vector(text) + w.exemplar(i)
            tokens.append(reference.linear(*w.layer("project"), pair))
        while len(tokens) < k:  # an exemplar that was not found: the query with nothing
            alone = w.vector(text) if w.label_in_text else w.vector(text) + [0.0] * len(w.exemplar(0))
            tokens.append(reference.linear(*w.layer("project"), alone))
        wanted.append(w.with_static(tokens[::-1]))
    close(conditioned(method).soft_tokens, wanted)


@cases("prompt-tuning")
def test_prompt_tuning(case: Case) -> None:
    method = built(case, lm_of("llama"))
    got = conditioned(method)
    assert got.soft_tokens is method.prompt and got.placement == method.config.placement  # type: ignore[attr-defined]


@cases("reparameterised-prompt-tuning")
def test_reparameterised_prompt_tuning(case: Case) -> None:
    """``P_i = W_2 tanh(W_1 e_i + b_1) + b_2``, for every slot by itself."""
    method = built(case, lm_of("llama"))
    held = {name: p.double().tolist() for name, p in method.state_dict().items()}
    wanted = []
    for slot in held["slots"]:
        hidden = [math.tanh(x) for x in reference.linear(held["inner.weight"], held["inner.bias"], slot)]
        wanted.append(reference.linear(held["outer.weight"], held["outer.bias"], hidden))
    assert len(wanted) == 3 and wanted[0] != wanted[1]
    close(conditioned(method).soft_tokens, wanted)


@cases("lora")
def test_lora(case: Case) -> None:
    """``dW = (alpha / r) B A`` on every target, nothing elsewhere."""
    lm = lm_of("llama")
    method = built(case, lm)
    deltas, config = conditioned(method).deltas, method.config
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj") + (
        () if config.targets == "attention" else ("gate_proj", "up_proj", "down_proj")
    )  # type: ignore[attr-defined]
    names = [name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] in kinds]
    assert sorted(deltas) == sorted(names)
    for name, delta in deltas.items():
        out, into = lm.model.get_submodule(name).weight.shape
        assert (delta.a.shape, delta.b.shape) == ((2, into), (out, 2))
        assert delta.scale == config.alpha / config.rank  # type: ignore[attr-defined]


def test_a_query_without_any_exemplar_attends_to_nothing() -> None:
    case = next(case for case in METHODS if case.id == "mha-esp")
    method = built(Case(case.id, case.name, {**case.settings, "query_part": False}), lm_of("llama"))
    nobody = Retrieved(STORE, np.array([[2, 0, 5], [-1, -1, -1]]), np.array([[0.9, 0.5, 0.4], [0, 0, 0]], np.float32))
    with torch.no_grad():
        got = method.condition(QUERIES[:2], nobody)
    assert got.soft_tokens is not None and got.attention is not None
    torch.testing.assert_close(got.soft_tokens[1], method.static)  # type: ignore[arg-type]
    assert not got.attention[1].any() and got.attention[0].sum(-1).allclose(torch.ones(2))


def test_what_is_generated_starts_at_the_norm_of_token_embeddings() -> None:
    prompt = method_class("reparameterised-prompt-tuning")().setup(MethodContext(lm_of("llama"), SCHEMA))
    norm = float(conditioned(prompt).soft_tokens.norm(dim=-1).mean())  # type: ignore[union-attr]
    assert norm == pytest.approx(lm_of("llama").embedding_norm())
    for case in METHODS:
        if "+" in case.id or not case.method().uses_encoder:
            continue
        lm = lm_of("llama")
        settings = (
            {**case.settings, "static": False, "layers": 1}
            if case.name == "mha-esp"
            else {**case.settings, "static": False, "adapter": None}
        )
        method = Case(case.id, case.name, settings).method()
        method.setup(MethodContext(lm, SCHEMA, TinyEncoder(method.config.encoder))).eval()  # type: ignore[attr-defined]
        tokens = conditioned(method).soft_tokens
        assert tokens is not None
        assert 0.3 < float(tokens.norm(dim=-1).mean()) / lm.embedding_norm() < 3, case.id


def test_dropout_is_for_training_alone() -> None:
    method = built(next(case for case in METHODS if case.id == "mha-esp"), lm_of("llama"))
    assert torch.equal(*(conditioned(method).soft_tokens for _ in range(2)))  # type: ignore[arg-type]
    method.train()
    assert not torch.equal(*(conditioned(method).soft_tokens for _ in range(2)))  # type: ignore[arg-type]
