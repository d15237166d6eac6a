"""A frozen model as tensors see it: what it is, what goes into it, what comes out."""

from __future__ import annotations

import hashlib
import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from coldframe.frozen import attention
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.hooks import backbone_ports
from coldframe.frozen.model_sources import weight_hash
from coldframe.frozen.ports import EMPTY, Conditioning

# Tokens (pads included) per gradient-free forward pass of a processor: full matmul speed, little memory. And how many
# times as many a GPU reads at once.
_STATE_BATCH_TOKENS, _ON_GPU = 4096, 8


class Backbone:
    """A model of transformers whose weights never change; ``FrozenLM`` is one that reads text.

    Args:
        model: Any causal LM of a known architecture.
        provenance: Which bytes these are.
        weight_hash: That of the weights, if it is known.
    """

    #: Whether its layers are spread over processes, see :func:`coldframe.frozen.sharding.shard`.
    sharded = False

    def __init__(
        self, model: PreTrainedModel, provenance: dict[str, Any] | None = None, weight_hash: str | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.provenance = provenance or {"name": type(model).__name__, "source": "memory", "revision": None}
        self.anatomy = anatomy_of(model)
        # Falcon chooses its attention when it is built, and keeps it.
        if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
            model.set_attn_implementation(attention.register())
        self.body: nn.Module = self.anatomy.body
        self.takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters
        self._hash = weight_hash
        self._stamp = ""

    @property
    def d_model(self) -> int:
        """Width of a token embedding."""
        return self.anatomy.d_model

    @property
    def config(self) -> Any:
        """The model's config, of transformers."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """How the model generates, of transformers: which tokens end a text."""
        return self.model.generation_config

    @property
    def max_positions(self) -> int:
        """Length of the context in tokens."""
        return self.anatomy.max_positions

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def on_gpu(self) -> bool:
        """Whether the weights are on a GPU."""
        return self.device.type == "cuda"

    @property
    def batch_tokens(self) -> int:
        """Tokens, pads included, that are read together where no gradient is wanted."""
        return _STATE_BATCH_TOKENS * (_ON_GPU if self.on_gpu else 1)

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype; what is trained is float32 whatever this is."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def weight_hash(self) -> str:
        """SHA-256 of the weights, computed once: they are frozen."""
        if self._hash is None:
            self._hash = self.hash_now()
        return self._hash

    def hash_as(self, dtype: str) -> str:
        """:attr:`weight_hash` for an artifact that was fitted in ``dtype``: of the weights as they are here.

        A client of a server, which has the checkpoint and no weights, says it for any dtype.
        """
        return self.weight_hash

    def hash_now(self) -> str:
        """:attr:`weight_hash`, from the weights as they are at this moment."""
        weights = weight_hash(self.model)
        return hashlib.sha256(f"{weights} {self._stamp}".encode()).hexdigest() if self._stamp else weights

    def stamp(self, change: str) -> None:
        """Say that the model was changed for good by other means than its weights: its hash becomes another one."""
        self._stamp += change
        self._hash = None

    def embedding_norm(self) -> float:
        """Median norm of a token embedding: the scale a soft token should have."""
        embedded = self.embed(torch.arange(0, self.anatomy.vocab_size, 7, device=self.device))
        return float(embedded.float().norm(dim=-1).median())

    # ---- in and out -------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings as the model itself would make them of these ids."""
        embedded: Tensor = self.anatomy.embeddings(ids)
        return embedded

    def ports(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Head gains and weight deltas of a conditioning, in force while the block runs; other threads wait."""
        return backbone_ports(self.model, self.anatomy, conditioning)

    def head(self, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Logits in float32, for the whole vocabulary or for some tokens only."""
        output = self.anatomy.lm_head
        if token_ids is None:
            # Rows in one piece: of a slice, torch would make a copy of the whole matrix for every sequence.
            logits = output(hidden.reshape(-1, hidden.shape[-1])).unflatten(0, hidden.shape[:-1])
        else:
            # Few rows, so float32 costs nothing, and bf16 would round scores to steps of 0.06.
            bias = None if output.bias is None else output.bias[token_ids].float()
            logits = nn.functional.linear(hidden.float(), output.weight[token_ids].float(), bias)
        cap = self.anatomy.logit_softcap
        logits = logits.float()
        return cap * torch.tanh(logits / cap) if cap else logits

    def logits(self, ids: Tensor, mask: Tensor | None = None, conditioning: Conditioning = EMPTY) -> Tensor:
        """All logits of plain token ids, ``[batch, tokens, vocab]``: the base model's own when nothing is put in."""
        if (copies := conditioning.copies) > 1:
            ids, mask = ids.repeat_interleave(copies, 0), None if mask is None else mask.repeat_interleave(copies, 0)
        with self.ports(conditioning):
            output: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return output if conditioning.positions is None else conditioning.positions.mix(output)
