"""A server in this process that speaks OpenAI's protocol, really scores and writes, and can be made to fail."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from coldframe.frozen.ports import Prompt


class Server(ThreadingHTTPServer):
    """Speaks OpenAI's protocol over a tiny model; ``trouble`` answers instead of it while it has anything to say."""

    daemon_threads = True

    def __init__(self, lm):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lm, self.lock, self.requests, self.most_at_once, self.now = lm, threading.Lock(), [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.echoes, self.lists_the_end, self.key, self.pause = True, True, None, 0.0
        self.trouble = lambda route, body: None

    @classmethod
    @contextlib.contextmanager
    def running(cls, lm):
        with cls(lm) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()

    def completions(self, body):
        ids = self.lm.bos + self.lm.tokenize(body["prompt"])
        with self.lock:
            logits = self.lm.logits(torch.tensor([ids]))[0]
        new = int(logits[-1].argmax())
        values = [None, *logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]
        decode = self.lm.tokenizer.decode
        written = decode([new], skip_special_tokens=True)
        tokens, values = [*map(decode, map(list, zip(ids))), decode([new])], [*values, float(logits[-1].max())]
        if not self.echoes:
            return written, tokens[-1:], values[-1:]
        if not written and not self.lists_the_end:
            tokens, values = tokens[:-1], values[:-1]
        return body["prompt"] + written, tokens, values

    def written(self, body):
        with self.lock:
            prompt = [Prompt(body["prompt"])]
            return self.lm.generate(prompt, max_new_tokens=body["max_tokens"], stop=body.get("stop", ()))[0]

    def chat(self, body):
        with self.lock:
            return self.lm.generate([Prompt(body["messages"][0]["content"])], max_new_tokens=body["max_tokens"])[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"data": [{"id": "tiny"}]})

    def do_POST(self):
        server, route = self.server, self.path.removeprefix("/v1/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((route, body))
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        time.sleep(server.pause)
        reply = server.trouble(route, body) or self.reply(route, body)
        with server.lock:
            server.now -= 1
        if reply == "hang up":
            self.close_connection = True
        else:
            self.answer(*reply)

    def reply(self, route, body):
        server = self.server
        if server.key is not None and self.headers["Authorization"] != f"Bearer {server.key}":
            return 401, {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}"}}
        if body["model"] != "tiny":
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if route == "completions" and not body.get("echo"):
            return 200, {"choices": [{"text": server.written(body)}]}
        if route == "completions":
            text, tokens, values = server.completions(body)
            return 200, {"choices": [{"text": text, "logprobs": {"tokens": tokens, "token_logprobs": values}}]}
        if route == "chat/completions":
            return 200, {"choices": [{"message": {"role": "assistant", "content": server.chat(body)}}]}
        return 404, {"detail": "Not Found"}

    def answer(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""
