"""Files to deploy the gateway with: they can be read, and say what the command takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from coldframe.cli.serve import Serve

DEPLOY = Path(__file__).parents[3] / "deploy"
FLAGS = {f"--{field.replace('_', '-')}" for field in Serve.__dataclass_fields__}


def flags(words: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z-]+", words))


def test_the_image_starts_the_gateway() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("ENTRYPOINT", "CMD"))]
    words = " ".join(word for line in lines for word in re.findall(r'"([^"]+)"', line))
    assert words.startswith("coldframe serve --host 0.0.0.0") and flags(words) <= FLAGS
    assert "USER gateway" in text and "[serve" in text


def test_compose_keeps_the_model_server_inside() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    gateway, vllm = services["gateway"], services["vllm"]
    assert flags(gateway["command"]) <= FLAGS and "--enable-prompt-embeds" in vllm["command"]
    assert "ports" not in vllm and all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    assert {"COLDFRAME_API_KEY", "COLDFRAME_ADMIN_KEY"} <= set(gateway["environment"])
    assert int(gateway["stop_grace_period"].removesuffix("s")) > Serve().deadline


def test_kubernetes_probes_keys_and_a_policy() -> None:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    by_name = {(d["kind"], d["metadata"]["name"]): d["spec"] for d in documents}
    pod = by_name["Deployment", "coldframe-gateway"]["template"]["spec"]
    (container,) = pod["containers"]
    assert flags(" ".join(container["args"])) <= FLAGS
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert all("secretKeyRef" in variable["valueFrom"] for variable in container["env"])
    assert pod["terminationGracePeriodSeconds"] > Serve().deadline
    policy = by_name["NetworkPolicy", "coldframe-vllm"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "coldframe-gateway"}}}]
