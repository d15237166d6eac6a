"""The gateway under load: requests a second and their times at concurrency 1, 8 and 32, beside `coldframe predict`.

    python -m benchmarks.serving --artifact DIR                    # and `coldframe predict` in a loop
    python -m benchmarks.serving --artifact DIR --vllm             # through a real vLLM, beside retrieved ICL
    python -m benchmarks.serving --adapters 200 --requests 10000   # on one tiny model: right answers, bounded memory

Real processes on this machine alone: the gateway is `coldframe serve`, clients are threads with a connection each. vLLM
needs the environment that `python -m tests.vllm.server make` makes.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import K, goal
from coldframe.storage.artifact import MANIFEST

CONCURRENCY = (1, 8, 32)
ROOT = Path(__file__).resolve().parents[1]


class Served:
    """A gateway in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{") and "address" in (event := json.loads(line)):
                self.port = int(event["address"].rpartition(":")[2])
                break
        else:
            raise SystemExit("the gateway did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.ready()

    def ready(self) -> None:
        """Wait until it can answer."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                if self.get("/ready")[0] == 200:
                    return
            time.sleep(0.1)
        raise SystemExit("the gateway does not answer")

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    @property
    def megabytes(self) -> float:
        """What the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def close(self) -> int:
        self.process.terminate()
        return self.process.wait(120)


def load(
    port: int, requests: Sequence[dict[str, Any]], concurrency: int, check: Callable[[int, dict[str, Any]], None]
) -> tuple[float, list[float]]:
    """Seconds for all requests, and the milliseconds of each."""
    numbers, times = iter(range(len(requests))), [0.0] * len(requests)
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            body = json.dumps(requests[number])
            started = time.perf_counter()
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
            times[number] = 1000 * (time.perf_counter() - started)
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {content}")
            check(number, content)

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, times


def figures(seconds: float, times: Sequence[float]) -> dict[str, Any]:
    quantiles = statistics.quantiles(times, n=100) if len(times) > 1 else [times[0]] * 99
    return {
        "requests": len(times),
        "requests_per_second": round(len(times) / seconds, 2),
        "p50_ms": round(quantiles[49], 1),
        "p95_ms": round(quantiles[94], 1),
        "p99_ms": round(quantiles[98], 1),
    }


def level_sizes(count: int) -> list[int]:
    """Requests of each level: four rounds of its clients at least; half of one round only waits in the queue."""
    return [max(count, 4 * concurrency) for concurrency in CONCURRENCY]


def cut(texts: Sequence[str], sizes: Sequence[int]) -> list[Sequence[str]]:
    """Parts of these sizes, one after another."""
    ends = list(itertools.accumulate(sizes))
    return [texts[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def texts_of(artifact: Path, count: int) -> list[str]:
    """Inputs that the model has not read: texts of the store, each with something of its own."""
    lines = (artifact / "exemplars.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["text"] for line in lines[:count]]
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    molecules = manifest["schema"]["domain"] == "molecules"
    return [rows[i % len(rows)] if molecules else f"{rows[i % len(rows)]} {i}" for i in range(count)]


def one_adapter(artifact: Path, count: int) -> dict[str, Any]:
    """An artifact behind the gateway, and the same by one command after another."""
    sizes = level_sizes(count)
    texts = texts_of(artifact, sum(sizes) + 7)  # of its own for every level: states of texts are kept
    parts = cut(texts, sizes)
    served = Served([sys.executable, "-m", "coldframe", "serve", "--adapter", f"a={artifact}", "--port", "0"])
    levels = {}
    try:
        load(served.port, _bodies("a", texts[-4:]), 1, lambda *_: None)
        for concurrency, part in zip(CONCURRENCY, parts, strict=True):
            levels[str(concurrency)] = figures(*load(served.port, _bodies("a", part), concurrency, lambda *_: None))
    finally:
        served.close()
    started = time.perf_counter()
    for text in texts[-7:-4]:
        command = [sys.executable, "-m", "coldframe", "predict", str(artifact), "-"]
        subprocess.run(command, input=text, text=True, capture_output=True, check=True, cwd=ROOT)
    loop = 3 / (time.perf_counter() - started)
    times = levels["1"]["requests_per_second"] / loop
    what = "requests a second of the gateway against `coldframe predict` in a loop, concurrency 1"
    return {"gateway": levels, "predict_in_a_loop_per_second": round(loop, 3), "goals": [goal(what, times, 3.0)]}


def through_vllm(artifact: Path, count: int) -> dict[str, Any]:
    """An artifact and retrieved ICL with as many exemplars, through one vLLM; and what reaches it, sent without us."""
    from tests.vllm import server

    import coldframe as cf
    from coldframe.inference.client import Client
    from coldframe.storage.artifact import read_manifest
    from coldframe.tasks.task import Task

    manifest = read_manifest(artifact)
    model, dtype = manifest["base_model"]["name"], manifest["base_model"]["dtype"].removeprefix("torch.")
    # Texts of its own for every level: what a server has read once it keeps (prefix caching).
    sizes = level_sizes(count)
    texts = texts_of(artifact, 2 * sum(sizes) + 4)
    parts = cut(texts, sizes + sizes)
    with tempfile.TemporaryDirectory() as home:
        text_artifact = Path(home) / "icl"
        pipeline = cf.load(artifact)
        k = getattr(pipeline.method.config, "k", K)
        task = Task(pipeline.schema, (), (), (), store=pipeline.store.examples)
        text = cf.fit(cf.RetrievedICL(k=k), pipeline.lm, task, retrieval=pipeline.retrieval, quiet=True)
        text.save_pretrained(text_artifact)
        del pipeline, text
        adapters = {"soft": artifact, "icl": text_artifact}
        with server.running(model, dtype, Path(home)) as url:
            words = [word for name, folder in adapters.items() for word in ("--adapter", f"{name}={folder}")]
            command = [sys.executable, "-m", "coldframe", "serve", *words, "--backend", url, "--port", "0"]
            served, result = Served(command), {"soft": {}, "icl": {}, "straight to vLLM": {}}
            client = Client(url, model, None, timeout=120)
            try:
                for name in adapters:
                    load(served.port, _bodies(name, texts[-4:]), 1, lambda *_: None)
                for concurrency, ours, others in zip(CONCURRENCY, parts[:3], parts[3:], strict=True):
                    for name in adapters:
                        timed = load(served.port, _bodies(name, ours), concurrency, lambda *_: None)
                        result[name][str(concurrency)] = figures(*timed)
                    bodies = _requests_to_the_model(artifact, url, model, dtype, others)
                    timed = straight(client, bodies, concurrency)
                    result["straight to vLLM"][str(concurrency)] = figures(*timed)
            finally:
                served.close()
    goals = []
    for level in map(str, CONCURRENCY):
        soft, text, bare = (result[name][level] for name in ("soft", "icl", "straight to vLLM"))
        times = soft["requests_per_second"] / text["requests_per_second"]
        goals.append(goal(f"requests a second beside retrieved ICL of {k}, concurrency {level}", times, 3.0))
        goals.append(
            goal(f"lower p50 than retrieved ICL of {k}, concurrency {level}", text["p50_ms"] / soft["p50_ms"], 3.0)
        )
        most = max(5.0, 0.1 * bare["p50_ms"])
        added = soft["p50_ms"] - bare["p50_ms"]
        goals.append(goal(f"what the gateway adds to p50, concurrency {level}", added, most, unit="ms", least=False))
    return {"model": model, "dtype": dtype, "k": k, **result, "goals": goals}


def _bodies(name: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Requests to the gateway."""
    return [{"adapter": name, "inputs": [text], "neighbours": False} for text in texts]


class _Recorded(Exception):
    """A request was kept, and not sent."""


def _requests_to_the_model(
    artifact: Path, url: str, model: str, dtype: str, texts: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Route and body of what the artifact would send to the server for each text, whose labels are of one token."""
    import coldframe as cf

    lm = cf.RemoteLM(url, model, dtype=dtype)
    pipeline, requests = cf.load(artifact, lm=lm), []

    def record(route: str, body: dict[str, Any], *rest: Any) -> dict[str, Any]:
        requests.append((route, body))
        raise _Recorded

    lm.backend.client.post = record  # type: ignore[assignment, method-assign]
    for text in texts:
        with contextlib.suppress(_Recorded):
            pipeline.predict([text])
    return requests


def straight(client: Any, bodies: Sequence[tuple[str, dict[str, Any]]], concurrency: int) -> tuple[float, list[float]]:
    """Seconds for all of them, and the milliseconds of each."""

    def ask(request: tuple[str, dict[str, Any]]) -> float:
        started = time.perf_counter()
        client.post(*request)
        return 1000 * (time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        times = list(pool.map(ask, bodies))
    return time.perf_counter() - started, times


@contextlib.contextmanager
def many(count: int) -> Iterator[tuple[dict[str, Path], list[Any]]]:
    """Folders and pipelines of many adapters on one tiny model, of several methods."""
    from tests.serving.gateway.support import fitted, tiny_encoders

    methods = ("mha-esp", "idpg", "prompt-tuning", "lora", "icl")
    with tempfile.TemporaryDirectory() as home:
        folders, pipelines = {}, []
        for i in range(count):
            pipeline = fitted(methods[i % len(methods)], seed=i)
            folders[f"a{i}"] = Path(home) / f"a{i}"
            pipeline.save_pretrained(folders[f"a{i}"])
            pipelines.append(pipeline)
        with tiny_encoders():
            yield folders, pipelines


def many_adapters(count: int, requests: int, concurrency: int = 32) -> dict[str, Any]:
    """Every request to another adapter; every answer compared with its own adapter's, and with all others'."""
    from tests.serving.gateway.support import TEXTS

    rng = np.random.default_rng(0)
    questions = [f"{TEXTS[i % 4]} {i}" for i in range(20)]
    with many(count) as (folders, pipelines):
        right = np.stack([pipeline.predict_proba(questions) for pipeline in pipelines])
        settings = json.dumps({"queue": 4096, "state_bytes": 16 << 20})
        words = [f"{name}={folder}" for name, folder in folders.items()]
        served = Served([sys.executable, "-m", "tests.serving.gateway.process", settings, *words])
        try:
            pairs = [(int(rng.integers(count)), int(rng.integers(len(questions)))) for _ in range(requests)]
            bodies = [{"adapter": f"a{a}", "inputs": [questions[q]]} for a, q in pairs]
            wrong: list[int] = []

            def compare(number: int, content: dict[str, Any]) -> None:
                adapter, question = pairs[number]
                shares = list(content["answers"][0]["probabilities"].values())
                if content["adapter"] != f"a{adapter}" or not np.allclose(shares, right[adapter, question], atol=1e-4):
                    wrong.append(number)

            seconds, times, megabytes = 0.0, [], []
            for start in range(0, requests, -(-requests // 10)):
                part = slice(start, start + -(-requests // 10))
                own = load(served.port, bodies[part], concurrency, lambda i, c, start=start: compare(start + i, c))
                seconds, times = seconds + own[0], times + own[1]
                megabytes.append(round(served.megabytes, 1))
            batches = served.get("/metrics")[1].decode()
            sizes = [float(batches.split(f"coldframe_batch_inputs_{name} ")[1].split()[0]) for name in ("sum", "count")]
        finally:
            status = served.close()
        apart = np.abs(right[:, None] - right[None]).max(-1).max(-1)
        distinct = int((apart > 2e-4).sum()) / (count * (count - 1))
    return {
        **figures(seconds, times),
        "adapters": count,
        "concurrency": concurrency,
        "wrong": len(wrong),
        "pairs_of_adapters_that_differ": round(distinct, 4),
        "inputs_a_batch": round(sizes[0] / sizes[1], 2),
        "megabytes": megabytes,
        "exit_status": status,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--artifact", type=Path, default=Path("coldframe-demo/artifact"), help="a folder that `fit` wrote"
    )
    parser.add_argument("--adapters", type=int, default=0, help="as many on one tiny model, in the place of --artifact")
    parser.add_argument("--vllm", action="store_true", help="the artifact through a real vLLM")
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    if options.adapters:
        result = many_adapters(options.adapters, options.requests)
    elif options.vllm:
        result = through_vllm(options.artifact.resolve(), options.requests)
    else:
        result = one_adapter(options.artifact.resolve(), options.requests)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
