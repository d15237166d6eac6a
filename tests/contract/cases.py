"""Every method, in its variants, on every architecture: the data that the contract tests run over."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.contract.banks import fill, learn
from tests.tiny import ARCHITECTURES, tiny, tiny_tokenizer
from transformers import BertConfig, BertModel

from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method
from coldframe.methods.compose import JOIN
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create, method_class
from coldframe.retrieval.neural import HFEncoder
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Passage, Schema, Task, Template

FLOAT32 = 1e-4  # batch, padding and caching change the order of float additions, no more
BFLOAT16 = 0.5  # of log-scores whose spread on these random models is about 20; bf16 has 8 bits


class TinyEncoder:
    """Character trigrams at hashed places, later ones weighing more: a pure function that heeds word order."""

    dim = 12

    def __init__(self, spec: str = "tiny") -> None:
        self.spec, self.hash, self.takes_label_text = spec, f"hash of {spec}", spec != "tiny-print"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for i in range(len(text) - 2):
                code = zlib.crc32(text[i : i + 3].encode())
                out[row, code % self.dim] += (1 + i / len(text)) * (1 if code & 1024 else -1)
        return out


class TinyBert(HFEncoder):
    """A random BERT of two layers that is made in memory, for methods that fine-tune their encoder."""

    def __init__(self) -> None:
        super().__init__("tiny-bert", spec="tiny-bert")

    @functools.cached_property
    def model(self) -> Any:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bert = BertModel(BertConfig(vocab_size=len(self._tokenizer), **sizes))
        return bert.eval().requires_grad_(False)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return tiny_tokenizer()


def tiny_encoder(spec: str) -> Any:
    """``tiny``, ``tiny-print`` or ``tiny-bert``."""
    return TinyBert() if spec == "tiny-bert" else TinyEncoder(spec)


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with settings; ``id`` names the variant."""

    id: str
    name: str
    settings: dict[str, Any]

    def method(self) -> Method:
        return create(self.name, self.settings)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Where it can be put: the rivals that turn positions need positions that turn, controls no model."""
        if not self.method().reads_model:
            return ("llama",)
        return ROTARY if "positions" in self.method().ports else tuple(ARCHITECTURES)


def _case(id: str, **settings: Any) -> Case:
    name = id.partition("/")[0]
    if JOIN not in name and method_class(name).uses_encoder:
        usual = {"encoder": "tiny", "adapter": 8}
        config = method_class(name).config_class
        settings = {key: value for key, value in usual.items() if hasattr(config, key)} | settings
    return Case(id, name, settings)


PROXY = {"heads": 2, "fixed": 0.5, "repetitions": [[3, 6]], "length": 6, "held_out": 2}
DOT = {"scores": "dot", "similarity": "none"}
PLAIN = {"static": False, "adapter": None, "dropout": 0.0}
METHODS = [
    _case("zero-shot"),
    _case("icl", k=3),
    _case("icl/solved", k=2, solved=3, order="nearest-first", instruction="auto"),
    _case("icl-fixed", k=3),
    _case("prompt-tuning", tokens=3),
    _case("prompt-tuning/prefix", tokens=3, placement="prefix"),
    _case("reparameterised-prompt-tuning", tokens=3, hidden=6),
    _case("black-box-tuning", tokens=3, dimensions=5, population=4, evaluations=24),
    _case("idpg", tokens=2),
    _case("idpg/paper", tokens=1, placement="prefix", **PLAIN),
    _case("u-esp", k=3),
    _case("u-esp/paper", k=3, placement="prefix", **PLAIN),
    _case("u-esp/vectors", k=3, encoder="tiny-print"),
    _case("p-esp", k=3),
    _case("p-esp/paper", k=3, placement="prefix", **PLAIN),
    _case("p-esp/vectors", k=3, encoder="tiny-print"),
    _case("mha-esp", heads=2, k=3),
    _case("mha-esp/paper", heads=2, k=3, **DOT, label_place="text", query_part=False, placement="prefix", **PLAIN),
    _case("mha-esp/averaging", heads=2, k=3, **DOT, label_place="vector", encoder="tiny-print"),
    _case("mha-esp/vectors", heads=2, k=3, encoder="tiny-print"),
    _case("mha-esp/layers", heads=3, k=3, layers=2),
    _case("mha-esp/windows", heads=2, k=3, windows=2),
    _case("mha-esp/text", heads=2, k=3, text_exemplars=2),
    _case("mha-esp/text-prefix", heads=2, k=3, text_exemplars=1, placement="prefix"),
    _case("latent-memory", tokens=3, k=3),
    _case("latent-memory/article", tokens=3, k=3, placement="prefix", **PLAIN),
    _case("latent-memory/vectors", tokens=2, k=3, encoder="tiny-print"),
    _case("pear", **PROXY),
    _case("ms-poe", first_layer=0, lowest=1.5, highest=1.6),  # ranks that bf16 exchanges are near each other
    _case("attention-buckets", bases=[10000.0, 300.0]),
    _case("moice", bases=[10000.0, 300.0, 40.0], top_k=3, texts=8),
    _case("lora", rank=2),
    _case("lora/attention", rank=2, targets="attention"),
    _case("prag", rank=2, k=2, stored="float32"),
    _case("prag/published", rank=1, k=3, form="published", targets="all", combine="ties"),
    _case("poly-prag", rank=2, k=2, adapters=3, stored="float32"),
    _case("dyprag", rank=2, k=2, width=4, init_std=0.1, stored="float32"),
    _case("icl+prag", icl={"k": 2}, prag={"k": 1, "stored": "float32"}),
    _case("mha-esp+pear", **{"mha-esp": {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 3}, "pear": PROXY}),
]
CONTROLS = [
    _case("knn", k=3),
    _case("knn/similarity", k=2, weights="similarity"),
    _case("knn/temperature", k=3, weights="temperature", temperature=0.3),
    _case("logistic-regression", c=100.0),
    _case("logistic-regression/tfidf", features="tfidf", c=10.0),
    _case("random-forest", trees=5),
    _case("gradient-boosting", iterations=3, leaf=1),
    _case("encoder-head"),
    _case("encoder-head/neighbours", k=3, heads=2),
    _case("encoder-head/tuned", k=3, heads=2, encoder="tiny-bert", encoder_rank=2),
    _case("mha-esp-head", heads=2, k=3),
    _case("setfit", encoder="tiny-bert", encoder_rank=2, pairs=2),
]
ALL = [*METHODS, *CONTROLS]
TRAINED = [case for case in ALL if case.method().trainable]
ON_ROWS = [case for case in TRAINED if not case.method().needs_passages]  # those that a table of rows is enough for
# One case for each way into a model; the rest differ in what they compute, not in how it is put in.
PORTS = [case for case in METHODS if case.id in ("icl", "idpg", "mha-esp/text-prefix", "lora", "prag")]

ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi", "phi3", "gpt_neox")
EVERY = [(case, architecture) for case in ALL for architecture in case.architectures]
FITTED = [(case, "llama") for case in TRAINED] + [
    (case, architecture)
    for case in PORTS
    if case in TRAINED
    for architecture in ARCHITECTURES
    if architecture != "llama"
]


def ids(pairs: Sequence[tuple[Case, str]]) -> list[str]:
    return [f"{case.id}-{architecture}" for case, architecture in pairs]


def example(i: int, target: str, text: str | None = None) -> Example:
    text = text or f"row {i}: " + "the molecule is CCO " * (i % 4) + chr(97 + i % 26)
    return Example(text, target, id=f"row-{i:03d}", key=text.casefold())


SCHEMA = Schema(
    name="tiny",
    template=Template("Question: {text}\nAnswer: {label}", instruction="Say what the answer is."),
    labels=("A", "B", "C"),
    words=("yes", "no", "not at all"),
    metric="accuracy",
)
TWO = SCHEMA.replace(labels=("A", "B"), words=("yes", "no"))
WRITE = SCHEMA.replace(kind="generation", labels=(), words=(), metric="token_f1", max_new_tokens=8)
STORE = Store.of([example(i, "ABC"[i % 3]) for i in range(6)])
QUERIES = ["is CCO", "x", "is C1=CC=CC=C1C(=O)O with the answer and more of it a molecule", "the water is yes"]
# As a retriever gives them, nearest first; the last query found only two.
FOUND = Retrieved(
    STORE,
    np.array([[2, 0, 5], [5, 4, 1], [0, 3, 2], [4, 1, -1]]),
    np.array([[0.9, 0.5, 0.4], [0.8, 0.7, 0.1], [0.6, 0.6, 0.3], [0.9, 0.2, 0.0]], np.float32),
)


def task(schema: Schema = TWO, rows: int = 12, validation: int = 4) -> Task:
    """Rows whose label shows in their text; the first two are the same thing twice."""

    def text(i: int) -> str:
        return f"{'yes' if i % 2 else 'the no'} {chr(97 + i % 26)}" + " CC(=O)O" * (i % 3)

    targets = schema.labels[:2] or ("yes", "no")
    made = [example(i, targets[i % 2], text(i)) for i in range(rows + validation)]
    made[1] = dataclasses.replace(made[0], id=made[1].id)
    return Task(schema, tuple(made[:rows]), tuple(made[rows:]), tuple(made[:2]))


def corpus(schema: Schema = WRITE, passages: int = 6, questions: int = 3) -> Task:
    """Passages, questions about them to train on, and a table of labelled rows beside them where there are labels."""
    store = [
        Passage.of(f"{chr(65 + i)} is the answer to {chr(97 + i)}", f"Page {i}", id=f"page-{i}")
        for i in range(passages)
    ]
    about = [
        Example(f"what is {chr(97 + i)}" + "?" * n, chr(65 + i), f"q-{i}-{n}", f"q-{i}-{n}", row=n, gold=(f"page-{i}",))
        for i in range(passages)
        for n in range(questions)
    ]
    if schema.kind == "classification":
        return dataclasses.replace(task(schema), store=tuple(store), about=tuple(about))
    held_out = {f"q-{i}-0" for i in range(0, passages, 2)}
    train, validation = ([e for e in about if (e.id in held_out) == out] for out in (False, True))
    return Task(schema, tuple(train), tuple(validation), tuple(about[:4]), store=tuple(store))


def task_of(case: Case) -> Task:
    """What the case can be fitted to."""
    return corpus() if case.method().needs_passages else task()


@functools.cache
def lm_of(architecture: str, state_budget: int | None = None) -> FrozenLM:
    """Shared among tests, which is only right because nothing may change it."""
    model, tokenizer = tiny(architecture)
    return FrozenLM(model, tokenizer, {"name": f"tiny {architecture}"}, state_budget)


def built(case: Case, lm: FrozenLM, schema: Schema = SCHEMA) -> Method:
    """A method set up, with every weight moved from where it starts (so that nothing is zero), in eval mode."""
    method = case.method()
    encoder = tiny_encoder(getattr(method.config, "encoder", "tiny")) if method.uses_encoder else None
    method.setup(MethodContext(lm, method.schema_for(task(schema)), encoder))
    fill(method, STORE)
    learn(method, STORE)
    generator = torch.Generator().manual_seed(3)
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method.eval()
