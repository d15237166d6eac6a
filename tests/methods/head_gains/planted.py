"""A GPT-2 that copies, with one head built to hold the copying back: the truth that discovery has to find.

The width is cut into fields of 64: the token, the token before it, the next token as far as it is known, and the
position. Head 0.0 writes the token before; head 1.1 finds the place after an earlier occurrence of the token and
writes what stands there (induction); head 2.2 looks up the token that is being predicted and writes against it
(copy suppression). All other heads and the feed-forward blocks are small random numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from coldframe.frozen.model import FrozenLM

SUPPRESSOR, COPIER = (2, 2), (1, 1)
FIELD = 64
TOKEN, BEFORE, NEXT, POSITION = (slice(FIELD * i, FIELD * (i + 1)) for i in range(4))
WORDS = 60


def tokenizer(words: int = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(words))])}
    words_alone = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words_alone.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_alone, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>"
    )


def planted() -> tuple[Any, PreTrainedTokenizerFast]:
    """The model, in float32, and a tokenizer of 60 words."""
    tokens = tokenizer()
    config = GPT2Config(
        vocab_size=len(tokens), n_embd=256, n_head=4, n_layer=3, n_positions=FIELD, n_inner=32,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
        for parameter in model.transformer.h.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.02)
    same = torch.eye(FIELD)
    model.transformer.wte.weight.data.zero_()[:, TOKEN] = same[: len(tokens)]
    model.transformer.wpe.weight.data.zero_()[:, POSITION] = same
    model.lm_head.weight.data.zero_()[:, NEXT] = 0.5 * same[: len(tokens)]
    _head(model, (0, 0), query=POSITION, key=POSITION, reads=TOKEN, writes=BEFORE, amount=0.09, back=1)
    _head(model, COPIER, query=TOKEN, key=BEFORE, reads=TOKEN, writes=NEXT, amount=0.2)
    _head(model, SUPPRESSOR, query=NEXT, key=TOKEN, reads=TOKEN, writes=NEXT, amount=-0.1)
    return model.eval().requires_grad_(False), tokens


def planted_lm() -> FrozenLM:
    model, tokens = planted()
    return FrozenLM(model, tokens)


def _head(
    model: Any,
    at: tuple[int, int],
    *,
    query: slice,
    key: slice,
    reads: slice,
    writes: slice,
    amount: float,
    back: int = 0,
) -> None:
    """Attend to where ``key`` holds what ``query`` holds here (positions: ``back`` places back); copy a field."""
    layer, head = at
    attention, same = model.transformer.h[layer].attn, torch.eye(FIELD)
    width, mine = model.config.n_embd, FIELD * head
    for third in range(3):
        attention.c_attn.weight.data[:, third * width + mine : third * width + mine + FIELD] = 0
    attention.c_attn.weight.data[query, mine : mine + FIELD] = same.roll(-back, dims=1)
    attention.c_attn.weight.data[key, width + mine : width + mine + FIELD] = same
    attention.c_attn.weight.data[reads, 2 * width + mine : 2 * width + mine + FIELD] = same
    attention.c_proj.weight.data[mine : mine + FIELD] = 0
    attention.c_proj.weight.data[mine : mine + FIELD, writes] = amount * same
