"""A frozen model that runs on a server: vLLM or SGLang, as people already run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.frozen import tokens
from coldframe.frozen.devices import dtype_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, Prompt
from coldframe.frozen.skeleton import Skeleton
from coldframe.frozen.states import StateCache
from coldframe.inference.client import MAX_BODY, Client
from coldframe.serving import scoring, writing
from coldframe.serving.backend import Backend
from coldframe.serving.forms import Form, FormName
from coldframe.serving.wire import Span, check_ports, check_sendable, spans


class RemoteLM(FrozenLM):
    """A frozen language model behind a stock server; here are its tokenizer and its embedding matrix, on disk.

    It answers what a :class:`~coldframe.frozen.model.FrozenLM` answers: scores of labels, losses of answers, texts. A
    prompt with soft tokens goes out as vectors, one without as token ids; nothing is installed on the server. What
    only weights can do (gradients, head gains, weight deltas) is a :class:`ConfigError` that says what to do instead.

    Threads may share it. Nothing is sent before the first question.

    Args:
        url: Up to and with the version: ``http://localhost:8000/v1``.
        model: As the server names it; may be left out where it serves a single one.
        checkpoint: The same model's files: a built-in name, a local folder or a hub id. ``model``, if None.
        revision: Of a hub id.
        api_key: Sent as a bearer token, and shown nowhere.
        form: ``"completions"`` (vLLM with ``--enable-prompt-embeds``: the whole prompt as vectors), ``"chat"`` (vLLM,
            soft tokens beside text: see :class:`coldframe.serving.forms.Chat` for what it asks of an artifact),
            ``"sglang"`` (``/generate`` with ``input_embeds``), or ``"auto"``: what the server says it is.
        dtype: The server's. ``"auto"``: the checkpoint's; vectors then go out in float32, which is right for all and
            twice as large.
        concurrency: Requests at a time, at least 1.
        timeout: Seconds for one answer.
        retries: Further attempts after a rate limit, a server error or a broken connection.
        wait: Seconds before the first of them; doubled each time.
        verify: Whom to trust over https: the system's authorities (True), a file of them (PEM), or anybody (False).
        max_request: Bytes of a request, at most.

    Raises:
        ConfigError: A setting is out of range.
        ModelError: The checkpoint cannot be read. Later: the server cannot be reached, wants another key, has no such
            model, keeps failing or says something else than was asked for.
        NotFiniteError: Later, and before anything is sent: a soft token is not finite in the server's dtype.

    Cost:
        Labels of one token each: one request for each prompt. Longer ones, and losses: one for each token at which the
        answer goes on, all of a batch together.

    Example:
        >>> import coldframe as cf
        >>> lm = cf.RemoteLM("http://localhost:8000/v1", "smollm2", dtype="bfloat16")  # doctest: +SKIP
        >>> pipeline = cf.load("runs/b3db", lm=lm)                                     # doctest: +SKIP
        >>> pipeline.predict(["CC(=O)OC1=CC=CC=C1C(=O)O"])                             # doctest: +SKIP
        ['BBB+']
    """

    has_weights = False

    def __init__(  # not FrozenLM's: there are no weights to freeze
        self,
        url: str,
        model: str | None = None,
        *,
        checkpoint: str | Path | None = None,
        revision: str | None = None,
        api_key: str | None = None,
        form: FormName = "auto",
        dtype: str | torch.dtype = "auto",
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 5,
        wait: float = 1.0,
        verify: bool | str | Path = True,
        max_request: int = MAX_BODY,
    ) -> None:
        check(min(retries, wait) >= 0 < timeout, "Times cannot be negative", got=(retries, timeout, wait))
        check(max_request >= 1, "No request fits", got=f"max_request={max_request}", expected="at least 1")
        settings: dict[str, Any] = {"timeout": timeout, "retries": retries, "wait": wait}
        client = Client(url, model or "", api_key, verify=verify, max_request=max_request, **settings)
        self.backend = Backend(client, form, self._form, concurrency)
        name = checkpoint or model
        check(name is not None, "A client needs the model's checkpoint", expected="checkpoint='smollm2' or a folder")
        self.skeleton = Skeleton(str(name), revision)
        self.provenance = self.skeleton.provenance
        self.tokenizer: PreTrainedTokenizerBase = self.skeleton.tokenizer
        self.anatomy = self.skeleton.anatomy
        self.bos = tokens.bos_of(self.tokenizer)
        self.states = StateCache(0, self.device)
        self.dropped_contexts = 0
        self._known_dtype = dtype != "auto"
        self._dtype = dtype_of(dtype, self.device) if self._known_dtype else self.skeleton.matrix.dtype
        self._exact = False

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name == "backend":  # of copies and pickles, which expect an AttributeError
            raise AttributeError(name)
        raise ConfigError(
            f"{self.backend.client.url} runs the model, and what is done here needs its weights",
            got=name,
            fix="Load the model here: coldframe.load_lm.",
        )

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        """The checkpoint's config."""
        return self.skeleton.model.config

    @property
    def generation_config(self) -> Any:
        """The checkpoint's."""
        return self.skeleton.model.generation_config

    @property
    def max_positions(self) -> int:
        """Length of the context in tokens: the model's, or the server's where that is shorter."""
        return min(self.anatomy.max_positions, self.backend.longest or self.anatomy.max_positions)

    @property
    def device(self) -> torch.device:
        """Where a method makes its soft tokens: the processor."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The server's, as far as it is known; else the checkpoint's."""
        return self._dtype

    @property
    def numbers(self) -> str:
        """The dtype, and that a server counts."""
        return f"{self.dtype}, served"

    @property
    def exact(self) -> bool:
        """False: a server reads queries beside those of others."""
        return self._exact

    @exact.setter
    def exact(self, exact: bool) -> None:
        check(not exact, "A server reads queries together: none is exact", expected="a model that is loaded here")

    @property
    def weight_hash(self) -> str:
        """SHA-256 of the checkpoint's weights, as a model of :attr:`dtype` would have it."""
        return self.skeleton.weight_hash(self.dtype)

    def hash_as(self, dtype: str) -> str:
        """:attr:`weight_hash`, of the checkpoint as a model of another dtype."""
        return self.skeleton.weight_hash(dtype_of(dtype, self.device))

    def hash_now(self) -> str:
        """:attr:`weight_hash`: nothing here can change it."""
        return self.weight_hash

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings as the server's model would make them, read from the checkpoint."""
        return self.skeleton.embed(ids, self.dtype)

    # ---- scoring ----------------------------------------------------------------------------------------

    def losses(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], conditioning: Conditioning = EMPTY
    ) -> Tensor:
        """As :meth:`FrozenLM.losses`, without a gradient."""
        return scoring.losses(self, prompts, answers, conditioning)

    def label_scores(
        self,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        conditioning: Conditioning = EMPTY,
        *,
        choices: bool = False,
    ) -> Tensor:
        """As :meth:`FrozenLM.label_scores`, without a gradient; words of one token get log-probabilities, not logits.

        Both have the same softmax.
        """
        return scoring.label_scores(self, prompts, words, conditioning, choices)

    def label_losses(
        self,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        targets: Sequence[int],
        conditioning: Conditioning = EMPTY,
        *,
        choices: bool = False,
    ) -> Tensor:
        """As :meth:`FrozenLM.label_losses`, without a gradient; all labels are asked for."""
        scores = self.label_scores(prompts, words, conditioning, choices=choices)
        return torch.nn.functional.cross_entropy(scores, torch.tensor(targets), reduction="none")

    # ---- writing ----------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        conditioning: Conditioning = EMPTY,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """As :meth:`FrozenLM.generate`; a seed draws what the server makes of it."""
        settings = writing.Settings(max_new_tokens, temperature, top_p, tuple(stop), seed)
        return writing.generate(self, prompts, conditioning, settings)

    def stream(
        self,
        prompt: Prompt,
        conditioning: Conditioning = EMPTY,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """The text that :meth:`generate` would give for one prompt, piece by piece as it is written.

        A piece is given out once nothing that follows can take it back. Closing the iterator ends the writing.
        """
        settings = writing.Settings(max_new_tokens, temperature, top_p, tuple(stop), seed)
        return writing.stream(self, prompt, conditioning, settings)

    def answer(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        conditioning: Conditioning = EMPTY,
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
    ) -> tuple[Tensor, list[str]]:
        """As :meth:`FrozenLM.answer`, without a gradient."""
        check(max_new_tokens >= 0, "max_new_tokens cannot be negative", got=max_new_tokens)
        losses = scoring.losses(self, prompts, answers, conditioning, max_new_tokens)
        if not max_new_tokens:
            return losses, [""] * len(prompts)
        texts = self.generate(prompts, conditioning, max_new_tokens=max_new_tokens, stop=stop)
        return losses, [text.lstrip() for text in texts]

    # ---- the wire ---------------------------------------------------------------------------------------

    def spans(self, prompts: Sequence[Prompt], conditioning: Conditioning, reserve: int | Sequence[int]) -> list[Span]:
        """Prompts as they go out, every vector of them looked at; see :meth:`rows` for the room that is kept.

        Raises:
            ConfigError: The conditioning fills a port that no request can.
            NotFiniteError: A vector is not finite in the server's dtype.
        """
        check_ports(conditioning)
        ready = spans(self.rows(prompts, conditioning, reserve), len(self.bos), conditioning)
        narrowest = self.dtype if self._known_dtype else torch.float16  # of unknown ones, that with the smallest range
        for query, span in enumerate(ready):
            if span.soft is not None:
                check_sendable(span.vectors(self._embedded), narrowest, span, query)
        return ready

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        return self.embed(torch.tensor(ids))

    def _form(self, kind: type[Form]) -> Form:
        wire = self.dtype if self._known_dtype else torch.float32
        return kind(self._embedded, wire, self.tokenizer, len(self.bos))
