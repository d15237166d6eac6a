"""A server in this process that speaks vLLM's and SGLang's wire forms over a tiny model, and can be made to fail."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import torch
from torch import Tensor

from coldframe.frozen.model import FrozenLM


class Refused(Exception):
    """Said with status 400."""


class SoftServer(ThreadingHTTPServer):
    """Reads prompts as vectors. ``trouble`` answers instead while it has anything to say: ``(status, body)``.

    Its answers are the model's own: one forward pass over the whole prompt for each token, without a cache.
    """

    daemon_threads = True

    def __init__(self, lm: FrozenLM, owner: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lm, self.owner, self.lock = lm, owner, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.now = self.most_at_once = 0
        self.longest = 256
        self.key: str | None = None
        self.trouble: Callable[[str, Any], tuple[int, Any] | None] = lambda route, body: None

    @classmethod
    @contextlib.contextmanager
    def running(cls, lm: FrozenLM, owner: str = "vllm") -> Iterator[Self]:
        with cls(lm, owner) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()

    # ---- the model --------------------------------------------------------------------------------------

    def embeds(self, ids: list[int]) -> Tensor:
        return self.lm.embed(torch.tensor(ids, dtype=torch.long))

    def vectors(self, data: str) -> Tensor:
        read = torch.load(io.BytesIO(base64.b64decode(data, validate=True)), weights_only=True)
        if read.dim() != 2 or read.shape[1] != self.lm.d_model:
            raise Refused("prompt_embeds has the wrong shape")
        assert torch.isfinite(read).all(), "a row that is not finite left the client"
        return read.to(self.lm.dtype)

    @torch.no_grad()
    def steps(self, prompt: Tensor, body: dict[str, Any]) -> Iterator[tuple[int, Tensor, str | None]]:
        """Tokens with the log-probabilities that they were chosen from, and why the last of them is the last."""
        if len(prompt) + body["max_tokens"] > self.longest:
            raise Refused(f"maximum context length is {self.longest}")
        ends = {self.lm.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        written: list[int] = []
        for step in range(body["max_tokens"]):
            with self.lock:
                embeds = torch.cat((prompt, self.embeds(written))) if written else prompt
                logits = self.lm.model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1].float()
            token = int(logits.argmax())
            written.append(token)
            text = self.lm.decode(written)
            ended = token in ends or any(mark in text for mark in body.get("stop", ()))
            reason = "stop" if ended else "length" if step + 1 == body["max_tokens"] else None
            yield token, logits.log_softmax(-1), reason
            if reason:
                return

    def written(self, prompt: Tensor, body: dict[str, Any]) -> tuple[list[int], list[Tensor], str]:
        tokens, scores, reasons = zip(*self.steps(prompt, body), strict=True)
        return list(tokens), list(scores), reasons[-1]

    # ---- the wire forms ---------------------------------------------------------------------------------

    def completion_prompts(self, body: dict[str, Any]) -> list[Tensor]:
        if "prompt_embeds" in body:
            data = body["prompt_embeds"]
            return [self.vectors(item) for item in ([data] if isinstance(data, str) else data)]
        prompt = body["prompt"]
        return [self.embeds(ids) for ids in (prompt if isinstance(prompt[0], list) else [prompt])]

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, prompt in enumerate(self.completion_prompts(body)):
            tokens, scores, reason = self.written(prompt, body)
            choice = {"index": index, "text": self.lm.decode(tokens), "token_ids": tokens, "finish_reason": reason}
            ids = asked(body, tokens[0])
            top = [{f"token_id:{i}": float(scores[0][i]) for i in ids}]
            choices.append({**choice, "logprobs": {"top_logprobs": top} if "logprobs" in body else None})
        return {"choices": choices[::-1]}

    def chat_prompt(self, body: dict[str, Any]) -> Tensor:
        """The template of the request, which puts one message after another; parts are joined by line breaks."""
        assert body["chat_template"] == "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        assert not body["add_generation_prompt"]
        pieces: list[str | Tensor] = []
        for message in body["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for i, part in enumerate(parts):
                pieces += ["\n"] if i else []
                pieces.append(part["text"] if part["type"] == "text" else self.vectors(part["data"]))
        merged: list[Tensor] = [self.embeds(list(self.lm.bos))] if body["add_special_tokens"] else []
        text = ""
        for piece in [*pieces, torch.zeros(0, self.lm.d_model)]:
            if isinstance(piece, str):
                text += piece
                continue
            merged += [self.embeds(list(self.lm.tokenize(text)))] if text else []
            merged.append(piece)
            text = ""
        return torch.cat(merged)

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        tokens, scores, reason = self.written(self.chat_prompt(body), body)
        top = [{"token": f"token_id:{i}", "logprob": float(scores[0][i])} for i in asked(body, tokens[0])]
        choice = {"index": 0, "token_ids": tokens, "finish_reason": reason, "message": {"content": "?"}}
        return {"choices": [{**choice, "logprobs": {"content": [{"top_logprobs": top}]}}]}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        embeds = body.get("input_embeds")
        prompt = self.embeds(body["input_ids"]) if embeds is None else torch.tensor(embeds).to(self.lm.dtype)
        sampling = body["sampling_params"]
        tokens, scores, reason = self.written(prompt, {**sampling, "max_tokens": sampling["max_new_tokens"]})
        listed = [[[float(scores[0][i]), i, None] for i in body.get("token_ids_logprob", ())]]
        return {"output_ids": tokens, "meta_info": {"finish_reason": reason, "output_token_ids_logprobs": listed}}

    def events(self, route: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if route == "/generate":
            embeds = body.get("input_embeds")
            prompt = self.embeds(body["input_ids"]) if embeds is None else torch.tensor(embeds).to(self.lm.dtype)
            written: list[int] = []
            sampling = body["sampling_params"]
            for token, _, _ in self.steps(prompt, {**sampling, "max_tokens": sampling["max_new_tokens"]}):
                written.append(token)
                yield {"output_ids": list(written), "meta_info": {"completion_tokens": len(written)}}
            return
        chat = route == "/v1/chat/completions"
        prompt = self.chat_prompt(body) if chat else self.completion_prompts(body)[0]
        if chat:
            yield {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
        for token, _, reason in self.steps(prompt, body):
            yield {"choices": [{"index": 0, "token_ids": [token], "finish_reason": reason}]}


def asked(body: dict[str, Any], chosen: int) -> list[int]:
    """The tokens whose log-probabilities are listed: vLLM adds the one that it chose."""
    return list(dict.fromkeys([chosen, *body.get("logprob_token_ids", ())]))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SoftServer

    def do_GET(self) -> None:
        model = {"id": "tiny", "owned_by": self.server.owner, "max_model_len": self.server.longest}
        self.reply(*(self.server.trouble(self.path, None) or (200, {"data": [model]})))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((self.path, body))
            server.headers_seen.append(dict(self.headers))
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        try:
            answer = server.trouble(self.path, body) or self.answer(body)
        except Refused as error:
            answer = 400, {"error": {"message": str(error)}}
        with server.lock:
            server.now -= 1
        if answer is None:
            self.events(server.events(self.path, body))
        else:
            self.reply(*answer)

    def answer(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        """Status and body; None for a stream."""
        server, key = self.server, self.headers["Authorization"]
        if server.key is not None and key != f"Bearer {server.key}":
            return 401, {"error": {"message": f"no entry for {key}"}}
        if body.get("stream"):
            return None
        routes = {"completions": server.completions, "chat/completions": server.chat, "generate": server.generate}
        return 200, routes[self.path.removeprefix("/v1").removeprefix("/")](body)

    def events(self, events: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for event in events:
                self.wfile.write(b": a comment\n\ndata: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

    def reply(self, status: int, body: Any) -> None:
        headers: dict[str, str] = {}
        if isinstance(body, tuple):
            body, headers = body
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
