"""Parts that are tokenised for themselves, joined, are the tokens of the whole text: for every kind of tokenizer."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt

CORPUS = [
    "Judge the molecule.\n\nMolecule: CCO\nToxic: Yes\n\nMolecule: C1=CC=CC=C1\nToxic: No\n\n",
    "Question: Is it 10 or 100?\nAnswer: It is 10.\n\n\nNew York City  lies there, New York does too.\n",
    "the answer is yes, the answer is no; it is not at all the answer. He's 1 of 10.\r\n\tdef f(x):\n    return x\n",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _trained(pre_tokenizer: Any, alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer.get_vocab(), [tuple(pair) for pair in merges]


def _byte_level(split: Any = None) -> Tokenizer:
    """GPT-2's (and SmolLM2's): a run of blanks gives its last one to the word that follows; or with another pattern."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cutting = level if split is None else pre_tokenizers.Sequence([split, level])
    tokenizer = Tokenizer(models.BPE(*_trained(cutting, pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.pre_tokenizer, tokenizer.decoder = cutting, decoders.ByteLevel()
    return tokenizer


PRINTABLE = [*map(chr, range(32, 127)), "▁", "\n", "\t", "\r"]
WORDS = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split("\n", "isolated")])


def _sentencepiece(pre_tokenizer: Any = WORDS) -> Tokenizer:
    """Llama 2's: a blank is put before the text, blanks are letters, nothing cuts the text before it is merged."""
    tokenizer = Tokenizer(models.BPE(*_trained(pre_tokenizer, PRINTABLE)))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def _metaspace() -> Tokenizer:
    """T5's: words begin with a mark for the blank, the first one as well."""
    tokenizer = Tokenizer(models.BPE(*_trained(WORDS, PRINTABLE)))
    tokenizer.pre_tokenizer, tokenizer.decoder = WORDS, decoders.Metaspace()
    return tokenizer


KINDS = {
    "byte-level": _byte_level,
    "byte-level, lines": lambda: _byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated")),
    "sentencepiece": _sentencepiece,
    "sentencepiece, lines in words": lambda: _sentencepiece(pre_tokenizers.Metaspace()),
    "metaspace": _metaspace,
}
every = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def lm_of(kind: str, bos: bool = True) -> FrozenLM:
    """A tiny model under the tokenizer, which has been through its file."""
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair=None, special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>").save_pretrained(
            folder
        )
        assert (Path(folder) / "tokenizer.json").is_file()
        loaded = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(loaded), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    return FrozenLM(AutoModelForCausalLM.from_config(config), loaded)


def whole(lm: FrozenLM, text: str) -> tuple[int, ...]:
    return tuple(lm.tokenizer(text).input_ids)


HEADERS = ["", "Judge the molecule.\n\n", "Judge the molecule.", "Judge:\n", "def f(x):\n    "]
QUERIES = ["Molecule: CCO\nToxic:", "New York\n\nIs it?", "\nAnswer:", "10", " the answer is", "'s", "éß 東京:"]
BLOCKS = [(), ("Molecule: C\nToxic: No\n\n",), ("It is 10.\n", "New York lies there.", "\n\n\n")]
ANSWERS = ["Yes", "10", "New York City", "not at all", "1", "(x)", "'s", "東京"]


@every
def test_the_kinds_of_tokenizers_are_what_they_should_be(kind: str) -> None:
    """Put together from parts they would differ: that is why the whole is tokenised."""
    lm = lm_of(kind)
    assert lm.decode(list(whole(lm, "Judge the molecule: yes"))) == "Judge the molecule: yes"
    apart = lm.tokenize("Judge the molecule.\n\n") + lm.tokenize("Molecule:") + lm.tokenize(" Yes")
    assert lm.bos + apart != whole(lm, "Judge the molecule.\n\nMolecule: Yes") or kind == "byte-level, lines"


@every
@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
def test_rows_are_the_tokens_of_the_whole_prompt(kind: str, blocks: tuple[str, ...]) -> None:
    lm = lm_of(kind)
    for header in HEADERS:
        prompts = [Prompt(query, header) for query in QUERIES]
        own = Conditioning(contexts=tuple((f"{i}", *blocks) for i in range(len(prompts))))
        shared = Conditioning(contexts=(blocks,) * len(prompts))
        for conditioning in (own, shared, Conditioning()):
            rows = lm.rows(prompts, conditioning)
            for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
                context = "".join(conditioning.contexts[i]) if conditioning.contexts else ""
                assert row.shared + row.own == whole(lm, header + context + prompt.query)
                assert row.own


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "in words" not in kind])
def test_a_header_is_shared_as_far_as_no_query_changes_its_tokens(kind: str) -> None:
    lm = lm_of(kind)
    prompts = [Prompt(query, "Judge the molecule.\n\n") for query in QUERIES]
    (shared,) = {row.shared for row in lm.rows(prompts)}
    assert len(shared) >= len(whole(lm, "Judge the molecule")) - 1
    same = Conditioning(contexts=(("It is 10.\n\n",),) * len(prompts))
    (longer,) = {row.shared for row in lm.rows(prompts, same)}
    assert len(longer) > len(shared)
    assert {row.shared for row in lm.rows([Prompt(query) for query in QUERIES])} == {lm.bos}


@every
@pytest.mark.parametrize("end", ["", "\n", ".\n", "\n\n", " END"])
def test_an_answer_and_its_end_go_on_from_the_prompt_as_in_the_whole_text(kind: str, end: str) -> None:
    lm = lm_of(kind)
    for query in ("Molecule: CCO\nToxic:", "Is it?", "the answer is", "It is:\n", "東京"):
        (row,) = lm.rows([Prompt(query, "Judge the molecule.\n\n")])
        for answer in ANSWERS:
            joined = row.shared + row.own + lm.answer_tokens(answer, end)
            assert joined == whole(lm, f"Judge the molecule.\n\n{query} {answer}{end}"), (query, answer)


@every
def test_losses_are_those_of_the_whole_text(kind: str) -> None:
    lm, prompt = lm_of(kind), Prompt("Molecule: CCO\nToxic:", "Judge the molecule.\n\n", "\n")
    ids = torch.tensor([whole(lm, "Judge the molecule.\n\nMolecule: CCO\nToxic: not at all\n")])
    answer = len(lm.answer_tokens("not at all", "\n"))
    with torch.no_grad():
        each = lm.logits(ids)[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        torch.testing.assert_close(lm.loss([prompt], ["not at all"])[0], -each[-answer:].sum())


@every
def test_exemplars_are_dropped_until_the_whole_fits(kind: str) -> None:
    lm = lm_of(kind)
    blocks = tuple(f"Molecule: {'C' * i}\nToxic: No\n\n" for i in range(60))
    before = lm.dropped_contexts
    (row,) = lm.rows([Prompt("Molecule: N\nToxic:", "Judge.\n\n")], Conditioning(contexts=(blocks,)), reserve=9)
    dropped = lm.dropped_contexts - before
    assert 0 < dropped < 60
    text = "Judge.\n\n" + "".join(blocks[dropped:]) + "Molecule: N\nToxic:"
    assert row.shared + row.own == whole(lm, text)
    room = lm.anatomy.max_positions - 9
    assert len(row) <= room < len(whole(lm, "Judge.\n\n" + "".join(blocks[dropped - 1 :]) + "Molecule: N\nToxic:"))


def test_a_header_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shared is known from the first batch on; after that every row is tokenised once."""
    model, tokenizer = tiny("llama")
    lm, read = FrozenLM(model, tokenizer), []
    lm.rows([Prompt("x", "The header, read before.\n")])
    plain = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, text, **o: read.append(text) or plain(self, text, **o)
    )
    lm.rows([Prompt("one", "The header, read before.\n"), Prompt("two", "The header, read before.\n")])
    assert read == [["The header, read before.\none", "The header, read before.\ntwo"]]
