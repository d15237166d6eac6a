"""Every method leaves in a form that others load, and says there what it says here; or it says why it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.contract.cases import ALL, PORTS, QUERIES, STORE, Case, built
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning, LowRank, Prompt
from coldframe.methods.base import Method, prompts
from coldframe.methods.compose import Compose
from coldframe.methods.head_gains.pear import PEAR
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved
from coldframe.training.config import TrainingConfig

pytest.importorskip("bm25s")
TOKENS = torch.tensor([[1, 20, 30, 40, 50]])


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    folder = tmp_path_factory.mktemp("checkpoint")
    model, tokenizer = tiny("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_lm(str(folder), dtype="float32")


def pipeline_of(case: Case, lm: FrozenLM) -> Pipeline:
    method = built(case, lm)
    for part in method.modules():
        if isinstance(part, PEAR):  # whose gains are moved, and of heads that are chosen
            part.chosen[:] = True
    retrieval = RetrievalConfig(encoder="tiny", similarity="cosine")
    return Pipeline(method, lm, method.ready.schema, STORE, retrieval, TrainingConfig())


def retrieved_for(pipeline: Pipeline, method: Method) -> tuple[list[str], Retrieved]:
    examples = pipeline.queries(QUERIES)
    retrieved = pipeline.retrieve(examples)
    return [e.text for e in examples], retrieved.nearest(method.config.k) if method.uses_retrieval else retrieved


def conditioning_of(pipeline: Pipeline, method: Method) -> Conditioning:
    with torch.no_grad():
        return method.condition(*retrieved_for(pipeline, method))


def check(form: str, pipeline: Pipeline, method: Method, folder: Path) -> None:
    """What lies in a folder says what the method says here."""
    lm, conditioning = pipeline.lm, conditioning_of(pipeline, method)
    if form == "peft" and conditioning.soft_tokens is not None:
        check_peft_prompt(folder, lm, conditioning)
    elif form in ("peft", "sglang", "gguf"):
        rows = adapted(form, folder, lm)
        assert len(rows) == (1 if method.name == "lora" else len(QUERIES))
        for number, logits in enumerate(rows):
            deltas = {
                n: type(d)(*(f if f.dim() == 2 else f[number] for f in (d.a, d.b)), d.scale)
                for n, d in conditioning.deltas.items()
            }
            ours = lm.logits(TOKENS, None, Conditioning(deltas=deltas))
            torch.testing.assert_close(logits, ours, atol=1e-3, rtol=1e-3)
            assert float((ours - lm.logits(TOKENS)).detach().abs().max()) > 1e-2
    elif form == "safetensors":
        tensors = load_file(folder / "soft_tokens.safetensors")
        assert conditioning.soft_tokens is not None
        expected = conditioning.soft_tokens.expand(len(QUERIES), -1, -1)
        torch.testing.assert_close(torch.stack([tensors[f"query-{n + 1}"] for n in range(len(QUERIES))]), expected)
        weights = load_file(folder / "weights.safetensors")
        assert {n: tuple(t.shape) for n, t in weights.items()} == {
            n: tuple(t.shape) for n, t in method.state_dict().items()
        }
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert all(f"`{name}` | {list(tensor.shape)} |" in page for name, tensor in weights.items())
        check_prompts(pipeline, conditioning, folder)
    elif form == "checkpoint":
        again = load_lm(str(folder), dtype="float32")
        torch.testing.assert_close(again.logits(TOKENS), lm.logits(TOKENS, None, conditioning), atol=1e-4, rtol=1e-4)
    else:
        check_prompts(pipeline, conditioning, folder)


def check_peft_prompt(folder: Path, lm: FrozenLM, conditioning: Conditioning) -> None:
    peft = pytest.importorskip("peft")
    row = lm.rows([Prompt("is CCO")])[0]
    text = torch.tensor([(row.shared + row.own)[len(lm.bos) :]])
    with torch.no_grad():
        wrapped = peft.AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        theirs = wrapped(input_ids=text).logits[0, -1]
    answers = ["yes", "no"]
    ids = [lm.answer_tokens(answer)[0] for answer in answers]
    losses = lm.losses([Prompt("is CCO")], [answers], conditioning)
    torch.testing.assert_close(theirs.log_softmax(-1)[ids], -losses[0], atol=1e-3, rtol=1e-3)


def check_prompts(pipeline: Pipeline, conditioning: Conditioning, folder: Path) -> None:
    texts = [query.text for query in pipeline.queries(QUERIES)]
    rows = pipeline.lm.rows(prompts(pipeline.method.ready.schema, texts), Conditioning(contexts=conditioning.contexts))
    written = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    assert [entry["query"] for entry in written] == texts
    for row, entry in zip(rows, written, strict=True):
        assert pipeline.lm.bos + pipeline.lm.tokenize(entry["prompt"]) == row.shared + row.own


def adapted(form: str, folder: Path, lm: FrozenLM) -> list[torch.Tensor]:
    """Logits of the model under each adapter of a folder, by whoever else loads it."""
    peft = pytest.importorskip("peft")
    if form == "gguf":
        return [lm.logits(TOKENS, None, Conditioning(deltas=deltas)) for deltas in from_gguf(folder, lm)]
    homes = sorted(path for path in folder.iterdir() if path.is_dir()) or [folder]
    rows = []
    for home in homes:
        if form == "sglang":  # the same tensors and settings under other names
            (home / "lora_tensors.safetensors").rename(home / "adapter_model.safetensors")
            (home / "lora_config.json").rename(home / "adapter_config.json")
        with torch.no_grad():
            rows.append(
                peft.AutoPeftModelForCausalLM.from_pretrained(home, dtype=torch.float32)(input_ids=TOKENS).logits
            )
    return rows


def from_gguf(folder: Path, lm: FrozenLM) -> Iterator[Any]:
    """The update of every request, summed up from the files by their scales; q and k in transformers' order."""
    gguf = pytest.importorskip("gguf")
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    places = {
        name: gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, lm.anatomy.n_layers).get_name(name)
        for name, module in lm.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    order, files = LlamaTensorProcessor(lm.model.config.to_dict()), json.loads((folder / "scales.json").read_text())
    assert files["architecture"] == "llama"
    read = {}
    for entry in files["adapters"]:
        reader = gguf.GGUFReader(folder / entry["file"])
        fields = {name: field.contents() for name, field in reader.fields.items()}
        assert (fields["general.architecture"], fields["general.type"], fields["adapter.type"]) == (
            "llama",
            "adapter",
            "lora",
        )
        tensors = {tensor.name: tensor.data.copy() for tensor in reader.tensors}
        for name in list(tensors):
            if name.endswith("lora_b"):
                tensors[name] = order.process(tensors[name], name).weights.copy()
        read[entry["id"]] = tensors, float(fields["adapter.lora.alpha"])
    for request in files["requests"]:
        assert [one["id"] for one in request["lora"]] == list(read)  # unlisted ones would stay on
        deltas = {}
        for module, place in places.items():
            update = torch.zeros(lm.model.get_submodule(module).weight.shape)
            for one in request["lora"]:
                tensors, alpha = read[one["id"]]
                if f"{place}.weight.lora_a" in tensors:
                    a, b = (torch.from_numpy(tensors[f"{place}.weight.lora_{x}"]) for x in "ab")
                    update += one["scale"] * alpha / len(a) * b @ a
            deltas[module] = LowRank(torch.eye(update.shape[1]), update)
        yield deltas


def no_row_in(folder: Path) -> bool:
    return not any(
        e.text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file() for e in STORE.examples
    )


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in PORTS else [pytest.mark.slow]) for case in ALL],
    ids=[case.id for case in ALL],
)
def test_every_method_leaves_as_it_is_or_says_why_it_cannot(case: Case, lm: FrozenLM, tmp_path: Path) -> None:
    pipeline = pipeline_of(case, lm)
    method = pipeline.method
    if not method.forms:
        with pytest.raises(ConfigError, match="scores the labels itself|how positions are read"):
            pipeline.export(tmp_path / "out", queries=QUERIES)
        assert not (tmp_path / "out").exists()
        return
    writes_rows = "icl" in method.name or getattr(method.config, "text_exemplars", 0)
    if writes_rows:
        with pytest.raises(ConfigError, match="would leave this machine.*share_rows"):
            pipeline.export(tmp_path / "out", queries=QUERIES)
        assert list(tmp_path.iterdir()) == []
    for form in method.forms:
        exported = pipeline.export(tmp_path / form, queries=QUERIES, form=form, share_rows=bool(writes_rows))
        assert exported.form == form and exported.notes
        if isinstance(method, Compose):
            for part in method.methods:
                check(form if form in part.forms else part.forms[0], pipeline, part, tmp_path / form / part.name)
        else:
            check(form, pipeline, method, tmp_path / form)
        assert no_row_in(tmp_path / form) != bool(writes_rows)
        assert {path.suffix for path in (tmp_path / form).rglob("*") if path.is_file()} <= {
            ".json",
            ".safetensors",
            ".gguf",
            ".md",
            ".jinja",
        }
        about = json.loads((tmp_path / form / "coldframe_export.json").read_text(encoding="utf-8"))
        assert (
            about["base_model"]["weight_hash"] == lm.weight_hash
            and about["prompt"]["query"] == "Question: {text}\nAnswer:"
        )
