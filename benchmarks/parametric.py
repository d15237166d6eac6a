"""Passages into weights: encoding, storage, and a query, beside the published way of PRAG and text RAG.

    python -m benchmarks.parametric

Encoding: the published way trains one passage after another through peft (batch 1, float32); the same loop in the
model's dtype stands beside it, then our PRAG and Poly-PRAG. All train the same sequences (of invented passages)
at the same rank, scale and epochs as the methods' own settings say.

Storage: numbers as they follow from the shapes, and files as they are written, for 1,000 passages and more; and how
long it takes to read one passage's row out of a table of a million.

A query: from its text to so many new tokens, retrieval counted, one at a time and in batches. Adapters are of random
numbers: they cost what trained ones cost, and nothing ends an answer early.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Way, arguments, goal, interleaved, say, tell
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.base import Method, prompts
from coldframe.methods.text.icl import RetrievedICL
from coldframe.methods.text.zero_shot import ZeroShot
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.bank_files import BANK, write_bank, write_shard, written_shards
from coldframe.methods.weight_deltas.banks import AdapterShards, RoutedBank
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.methods.weight_deltas.poly_prag import PolyPRAG, PolyPRAGConfig
from coldframe.methods.weight_deltas.prag import PRAG, PRAGConfig
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of, training_data, training_settings
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks import load_task
from coldframe.tasks.task import Example, Task
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

PEER = "peft, one passage after another, float32"
PEER_OWN = "peft, one passage after another, own dtype"
NEW_TOKENS, K = 8, 3


class Peer:
    """The loop of PRAG's authors: a LoRA from the shared start, batch 1, AdamW, one passage after another."""

    def __init__(self, lm: FrozenLM, config: PRAGConfig, training: TrainingConfig, dtype: torch.dtype) -> None:
        from peft import LoraConfig, get_peft_model

        self.training = training
        targets = sorted({name.rpartition(".")[2] for name in Layout.of(lm.anatomy, config.rank, config.targets).names})
        lora = LoraConfig(r=config.rank, lora_alpha=int(config.alpha), target_modules=targets, task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = get_peft_model(copy.deepcopy(lm.model).to(dtype), lora)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        self.device = lm.device

    def encode(self, passages: Sequence[Sequence[TokenSequence]]) -> None:
        """Adapters of some passages; they stay in memory, as what is timed is training."""
        for sequences in passages:
            with torch.no_grad():
                for p, start in zip(self.trained, self.start, strict=True):
                    p.copy_(start)
            rate = self.training.learning_rate or PRAG.learning_rate
            optimizer = torch.optim.AdamW(self.trained, lr=rate, weight_decay=self.training.weight_decay)
            for _ in range(self.training.epochs):
                for sequence in sequences:
                    ids = torch.tensor([sequence.ids], device=self.device)
                    labels = ids.clone()
                    labels[:, : sequence.start] = -100
                    optimizer.zero_grad()
                    self.model(input_ids=ids, labels=labels).loss.backward()
                    optimizer.step()


def train(method: Method, lm: FrozenLM, task: Task) -> None:
    """All of a method's problems; what comes of them stays in memory or in a temporary folder."""
    training, store = training_settings(method, None), Store.of(task.exemplars)
    method.setup(context_of(method, lm, task.schema), training.seed)
    for problem in method.problems(training_data(method, lm, task, store, RetrievalConfig(), training, quiet=True)):
        Trainer(problem, lm, training, quiet=True).train()


def sequences_of(method: PassageAdapters, lm: FrozenLM, task: Task) -> list[list[TokenSequence]]:
    """What a method trains, for every passage."""
    method.setup(context_of(method, lm, task.schema))
    data = training_data(method, lm, task, Store.of(task.exemplars), RetrievalConfig(), TrainingConfig())
    return [sequences for _, sequences, _ in method.lessons(data)]


def encoding(lm: FrozenLM, passages: int, peers: int, rounds: int) -> dict[str, Any]:
    """Passages a second, each way on as many passages as it is given; the peers get fewer."""
    task, config, poly = load_task(f"fact-corpus:{passages}"), PRAGConfig(), PolyPRAGConfig()
    training, sequences = training_settings(PRAG(), None), sequences_of(PRAG(), lm, task)[:peers]
    ways = {
        PEER: Way(Peer(lm, config, training, torch.float32).encode, lambda: sequences),
        PEER_OWN: Way(Peer(lm, config, training, lm.dtype).encode, lambda: sequences),
        "prag": Way(lambda _: train(PRAG(), lm, task)),
        "poly-prag": Way(lambda _: train(PolyPRAG(), lm, task)),
    }
    counts = {name: peers if name in (PEER, PEER_OWN) else passages for name in ways}
    times = interleaved(ways, rounds)
    lines = [
        {
            "way": name,
            "passages": counts[name],
            "seconds_per_passage": statistics.median(t.wall / counts[name] for t in taken),
            "processor_seconds_per_passage": statistics.median(t.cpu / counts[name] for t in taken),
        }
        for name, taken in times.items()
    ]

    def ratio(slow: str, fast: str) -> float:
        both = zip(times[slow], times[fast], strict=True)
        return statistics.median((s.wall / counts[slow]) / (f.wall / counts[fast]) for s, f in both)

    goals = [
        goal(f"prag, passages/s against {PEER}", ratio(PEER, "prag"), 5.0),
        goal(f"prag, passages/s against {PEER_OWN}", ratio(PEER_OWN, "prag"), 1.0),
    ]
    what = "poly-prag, seconds a passage as a multiple of prag's"
    goals.append(goal(what, ratio("poly-prag", "prag"), 1.0, least=False))
    settings = {"prag": config.to_dict(), "poly-prag": poly.to_dict(), "training": training.to_dict()}
    return {"settings": settings, "ways": lines, "goals": goals}


def bytes_by_shape(lm: FrozenLM, passages: int) -> dict[str, Any]:
    """Bytes of both as they follow from the shapes, at the same rank, in bfloat16."""
    config = PolyPRAGConfig()
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    prag = passages * layout.parameters
    poly = config.adapters * layout.parameters + passages * len(layout.names) * config.adapters
    return {"passages": passages, "prag": prag * 2, "poly-prag": poly * 2, "ratio": prag / poly}


def storage(lm: FrozenLM, passages: int) -> dict[str, Any]:
    """Bytes of both, by shapes and on the disk, at the same rank and in the same dtype."""
    config = PolyPRAGConfig()
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    ids = [f"{i:016x}" for i in range(passages)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for start in range(0, passages, 64):
            lessons = {id: "" for id in ids[start : start + 64]}
            write_shard(folder, lessons, torch.zeros(len(lessons), layout.parameters, dtype=torch.bfloat16), "f")
        shards = AdapterShards(written_shards(folder), layout, config.scale, dict.fromkeys(ids, "")).nbytes
        bank, table = torch.zeros(config.adapters, layout.parameters), (passages, len(layout.names), config.adapters)
        routed = write_bank(folder, ids, bank, torch.zeros(table), torch.bfloat16).stat().st_size
    files = {"passages": passages, "prag": shards, "poly-prag": routed, "ratio": shards / routed}
    shapes = [bytes_by_shape(lm, count) for count in sorted({100, 1_000, 10_000, 100_000, passages})]
    what = f"bytes of prag against poly-prag, {passages:,} passages, S = {config.adapters}, rank {config.rank}"
    exact = bytes_by_shape(lm, passages)["ratio"]
    goals = [goal(f"{what}, by shapes", exact, 100.0), goal(f"{what}, files", files["ratio"], 100.0)]
    return {"bfloat16, by shapes": shapes, "bfloat16, files": files, "goals": goals}


def lookup(lm: FrozenLM, rows: int, reads: int = 500) -> dict[str, Any]:
    """Seconds to read the weights of one passage out of a table of many, each time another; the file is mapped."""
    layout = Layout.of(lm.anatomy, PolyPRAGConfig.rank, PolyPRAGConfig.targets)
    adapters = PolyPRAGConfig.adapters
    ids = [f"{i:016x}" for i in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        table = torch.zeros(1, len(layout.names), adapters, dtype=torch.bfloat16).expand(rows, -1, -1)
        write_bank(Path(folder), ids, torch.zeros(adapters, layout.parameters), table, torch.bfloat16)
        bank = RoutedBank(Path(folder) / BANK, layout, 1.0)
        taken = []
        for place in torch.randint(rows, (reads,), generator=torch.Generator().manual_seed(0)).tolist():
            started = time.perf_counter()
            bank.weights([ids[place]])
            taken.append(time.perf_counter() - started)
        size = bank.nbytes
    taken.sort()
    middle, late = 1e6 * statistics.median(taken), 1e6 * taken[int(0.95 * reads)]
    goals = [goal(f"microseconds to read a routing row out of {rows:,}", middle, 100.0, unit="", least=False)]
    return {"rows": rows, "bytes": size, "microseconds": middle, "microseconds_p95": late, "goals": goals}


def answering(lm: FrozenLM, passages: int, queries: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds a query of each way, in the same round."""
    task = load_task(f"fact-corpus:{passages}")
    schema = task.schema.replace(template=task.schema.template.replace(end=""))  # so that all write as much
    questions = [row for row in task.test if row.hops == 1][: queries + 1]
    ids, draw = [entry.id for entry in task.exemplars], torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 1e-3

    def answering_with(method: Method) -> Pipeline:
        method.setup(context_of(method, lm, schema))
        return Pipeline(method, lm, schema, Store.of(task.exemplars), RetrievalConfig(), TrainingConfig())

    adapters_of, rows_of = PRAG(k=K), PolyPRAG(k=K)
    prag, poly = answering_with(adapters_of), answering_with(rows_of)
    layout = adapters_of.layout
    for start in range(0, passages, 64):
        lessons = {id: "" for id in ids[start : start + 64]}
        write_shard(folder, lessons, random(len(lessons), layout.parameters).bfloat16(), "f")
    adapters_of.bank = AdapterShards(written_shards(folder), layout, PRAGConfig().scale, dict.fromkeys(ids, ""))
    adapters = PolyPRAGConfig().adapters
    table = random(passages, len(layout.names), adapters)
    write_bank(folder, ids, random(adapters, layout.parameters), table, torch.bfloat16)
    rows_of.load(folder)
    pipelines = {
        "closed book": answering_with(ZeroShot()),
        f"text RAG, k = {K}": answering_with(RetrievedICL(k=K)),
        f"prag, k = {K}, summed": prag,
        "prag, k = 1": prag.replace(k=1),
        f"poly-prag, k = {K}": poly,
        "poly-prag, k = 1": poly.replace(k=1),
    }
    goals: list[dict[str, Any]] = []
    told: dict[str, list[dict[str, Any]]] = {}
    for batch in (1, 16):
        say(f"{batch} at a time")
        ways = {name: _ask(pipeline, questions, batch) for name, pipeline in pipelines.items()}
        times = interleaved(ways, rounds)
        told[f"{batch} at a time"] = [
            {
                "way": name,
                "seconds_per_query": statistics.median(t.wall for t in taken) / queries,
                "multiple_of_closed_book": statistics.median(
                    t.wall / c.wall for t, c in zip(taken, times["closed book"], strict=True)
                ),
            }
            for name, taken in times.items()
        ]
        for line in told[f"{batch} at a time"]:
            if line["way"] == f"poly-prag, k = {K}":
                what = f"query as a multiple of closed book, {batch} at a time: {line['way']}"
                goals.append(goal(what, line["multiple_of_closed_book"], 1.1, least=False))
    return {"new_tokens": NEW_TOKENS, "queries": queries, **told, "goals": goals}


def _ask(pipeline: Pipeline, questions: Sequence[Example], batch_size: int) -> Way:
    """From text to so many new tokens."""
    lm, method = pipeline.lm, pipeline.method

    def answer(rows: Sequence[Example]) -> None:
        texts = [row.text for row in rows]
        conditioning = method.condition(texts, pipeline.retrieve(rows))
        lm.generate(prompts(pipeline.schema, texts), conditioning, max_new_tokens=NEW_TOKENS)

    def prepare() -> None:
        lm.states.clear()
        answer(questions[:1])  # indexes the passages

    def run(_: Any) -> None:
        for start in range(1, len(questions), batch_size):
            answer(questions[start : start + batch_size])

    return Way(run, prepare)


def measure(
    lm: FrozenLM, *, passages: int, peers: int, stored: int, rows: int, queries: int, rounds: int
) -> dict[str, Any]:
    """All of it."""
    say("encoding")
    parts = {"encoding": encoding(lm, passages, peers, rounds)}
    say("storage")
    parts |= {"storage": storage(lm, stored), "lookup": lookup(lm, rows)}
    say("a query")
    with tempfile.TemporaryDirectory() as folder:
        parts["query"] = answering(lm, max(passages, 64), queries, rounds, Path(folder))
    goals = [line for part in parts.values() for line in part.pop("goals")]
    return {"rounds": rounds, **parts, "goals": goals}


def main() -> None:
    options = arguments(__doc__, passages=64, peers=2, stored=1000, rows=1_000_000, queries=16, rounds=3)
    lm = load_lm(options.model)
    numbers = {name: getattr(options, name) for name in ("passages", "peers", "stored", "rows", "queries", "rounds")}
    tell(measure(lm, **numbers), lm)


if __name__ == "__main__":
    main()
