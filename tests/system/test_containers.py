"""Dockerfile, compose.yaml and kubernetes.yaml, judged without an engine: linters, schemas, and what they promise."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from openapi.contract import DEFAULT_DOCUMENT, load
from tests.support.processes import ROOT, environment, free_port, start, stop, wait_until_ready

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
DEPLOYMENTS = [each for each in OBJECTS if each["kind"] == "Deployment"]
TOOLS = Path(sys.executable).parent


def name(thing: dict[str, Any]) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


# -- the image


def copied() -> list[str]:
    """What of this folder the image has."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in shlex.split(line)[:-1]]


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    subprocess.run([TOOLS / "hadolint", DEPLOY / "Dockerfile"], check=True)


def test_the_image_runs_as_a_number_that_is_not_root_with_locked_packages_and_a_health_check() -> (
    None
):
    assert re.findall(r"^USER (\d+:\d+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "--no-deps --require-hashes --only-binary :all: -r /requirements.lock" in DOCKERFILE
    assert "HEALTHCHECK" in DOCKERFILE


def test_no_layer_of_the_image_has_a_secret() -> None:
    assert re.findall(r"^ARG|--mount=type=secret|API_KEY|TOKEN", DOCKERFILE, re.MULTILINE) == []
    assert {Path(source).name for source in copied()} & {".env", "secrets", ".git", "."} == set()


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith(("#", "!"))] == ["*", "**/__pycache__"]
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the image has of this one."""
    folder = tmp_path / "image"
    folder.mkdir()
    for source in copied():
        path = ROOT / source
        ignored = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, folder / source, ignore=ignored)
        else:
            shutil.copy(path, folder)
    return folder


def dockerfile_command(instruction: str) -> list[str]:
    command: list[str] = ast.literal_eval(re.findall(rf"{instruction}.*? (\[.+\])", DOCKERFILE)[-1])
    return command


def test_the_image_has_everything_that_its_processes_need_and_its_health_check_tells_life_from_death(
    image: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    environ = environment(
        MISTRAL_AI_API_KEY="sk-CANARY-0123456789",
        GATEWAY_PORT=port,
        GATEWAY_STORE=str(tmp_path / "keys.sqlite3"),
        WEB_CONCURRENCY="1",
        PATH=f"{TOOLS}:/usr/bin:/bin",
    )
    health = dockerfile_command("HEALTHCHECK")
    dead = subprocess.run(health, cwd=image, env=environ, check=False, capture_output=True)
    command = ["env", "-C", str(image), *dockerfile_command("\nCMD")]
    process = start(command, environ)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/livez", process)
        alive = subprocess.run(health, cwd=image, env=environ, check=False, capture_output=True)
    finally:
        stop(process)
    assert (dead.returncode, alive.returncode) == (1, 0)


@pytest.mark.parametrize("service", ["mcp", "demo-sandbox"])
def test_the_other_commands_of_the_image_start_too(image: Path, service: str) -> None:
    port = free_port()
    environ = environment(
        BRIDGE_PORT=str(port), SANDBOX_PORT=str(port), PATH=f"{TOOLS}:/usr/bin:/bin"
    )
    process = start(["env", "-C", str(image), *SERVICES[service]["command"]], environ)
    try:
        page = "livez" if service == "mcp" else ""
        wait_until_ready(f"http://127.0.0.1:{port}/{page}", process)
        asked = SERVICES[service]["healthcheck"]["test"][-1]
        there = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", asked)
        assert there != asked
        exec(compile(there, "healthcheck", "exec"), {"urllib": urllib})  # raises when not healthy
    finally:
        stop(process)


# -- compose


def test_compose_yaml_is_valid() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    subprocess.run([TOOLS / "check-jsonschema", *schema, DEPLOY / "compose.yaml"], check=True)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_of_compose_can_do_no_more_than_it_must(service: str) -> None:
    it = SERVICES[service]
    assert it["read_only"] is True
    assert it["cap_drop"] == ["ALL"]
    assert it["security_opt"] == ["no-new-privileges:true"]
    assert it["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in it.get("ports", []))


@pytest.mark.parametrize("service", SERVICES)
def test_the_secrets_of_compose_are_files(service: str) -> None:
    environ = SERVICES[service].get("environment", {})
    given = {
        n: v for n, v in environ.items() if re.search("KEY|TOKEN", n) and not n.endswith("_FILE")
    }
    assert service.startswith("demo") or given == {}
    files = [v for n, v in environ.items() if n.endswith("_FILE")]
    mounted = [f"/run/secrets/{secret}" for secret in SERVICES[service].get("secrets", [])]
    mounted += [config["target"] for config in SERVICES[service].get("configs", [])]
    assert set(files) <= set(mounted)


def test_the_demo_starts_without_a_key_and_apart_from_the_rest() -> None:
    demo = {name: it for name, it in SERVICES.items() if it.get("profiles") == ["demo"]}
    assert set(demo) == {"demo", "demo-rest", "demo-sandbox"}
    assert all("secrets" not in it for it in demo.values())
    assert all(set(it.get("depends_on", {})) <= set(demo) for it in demo.values())


def test_the_token_of_the_demo_is_one_that_its_gateways_accept(tmp_path: Path) -> None:
    from access.token_file import TokenFile

    tokens = tmp_path / "tokens"
    tokens.write_text(COMPOSE["configs"]["demo-tokens"]["content"])
    token = SERVICES["demo"]["environment"]["BRIDGE_REST_TOKEN"]
    grant = TokenFile(tokens).find(token)
    assert grant and grant.scopes == load(DEFAULT_DOCUMENT).scopes
    assert token in (DEPLOY / "compose.yaml").read_text().partition("name:")[0]  # told at the top


# -- kubernetes


@pytest.mark.parametrize("thing", OBJECTS, ids=name)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_an_object_of_kubernetes_is_valid(thing: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(thing, version, strict=True)


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for deployment in DEPLOYMENTS:
        pod = deployment["spec"]["template"]["spec"]
        yield pod, pod["containers"][0]


def test_pods_are_restricted() -> None:
    for pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_pods_are_probed_and_drained() -> None:
    for _, container in containers():
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0


def test_the_key_reaches_only_the_rest_service_and_as_a_file() -> None:
    holders = [
        name(deployment)
        for deployment in DEPLOYMENTS
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if "mistral-key" in [item["key"] for item in volume.get("secret", {}).get("items", [])]
    ]
    assert holders == ["Deployment mistral-batch-gateway"]
    assert "key: mistral-key}" not in (DEPLOY / "kubernetes.yaml").read_text().replace(
        "path: mistral-key}", ""
    )


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy"])
def test_there_is_one_for_each_deployment_that_selects_its_pods(kind: str) -> None:
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in DEPLOYMENTS]
    selected = []
    for thing in OBJECTS:
        if thing["kind"] == kind:
            spec = thing["spec"]
            selector = spec.get("podSelector") or spec["selector"]
            selected.append(selector.get("matchLabels", selector))
    assert selected == labels


def test_pods_are_added_by_requests_under_way() -> None:
    (scaler,) = [each for each in OBJECTS if each["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == "mistral-batch-gateway"
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == "gateway_inflight_requests"
