"""`make run` and `make demo` with documents of other APIs: the sandbox stands in for what it can answer, and for nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import mcp_bridge.config
from openapi.capability import read
from openapi.contract import DEFAULT_DOCUMENT, load
from openapi.derive import OWN_CAPABILITY, derive, render
from stack.__main__ import reason_for_no_sample
from stack.config import PLACEHOLDER_KEY, PROJECT, Settings, from_env
from tests.stack.conftest import LIGHT, processes_of, run, started

CAPABILITIES = PROJECT / "tests" / "openapi" / "capabilities"
FAMILY = sorted(path.stem for path in CAPABILITIES.glob("*.yaml") if path.stem != "calls")
SANDBOX = "http://127.0.0.1:8081"

Document = Callable[..., Path]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """The document derived from capabilities, by their names or as files."""

    @functools.cache
    def derived(*capabilities: str | Path) -> Path:
        files = [CAPABILITIES / f"{it}.yaml" if isinstance(it, str) else it for it in capabilities]
        path = tmp_path_factory.mktemp("derived") / "openapi.yaml"
        path.write_text(render(derive(*map(read, files)), "a test"), encoding="utf-8")
        return path

    return derived


def of(document: Path, **given: str) -> Settings:
    return from_env({"GATEWAY_OPENAPI": str(document), **given}, Path("/nonexistent/.env"))


@pytest.mark.parametrize("name", FAMILY)
def test_another_api_has_no_sandbox_no_sample_and_the_ports_of_its_document(name, document):
    settings, ports = of(document(name)), load(document(name)).ports
    assert [endpoint.name for endpoint in settings.endpoints] == ["rest", "mcp"]
    assert (settings.rest.port, settings.bridge.port) == (ports["rest"], ports["mcp"])
    assert settings.environment["BRIDGE_REST_URL"] == f"http://127.0.0.1:{ports['rest']}"
    assert PLACEHOLDER_KEY not in settings.environment.values()
    assert "GATEWAY_UPSTREAM_URL" not in settings.environment
    assert reason_for_no_sample(settings)


@pytest.mark.parametrize("name", FAMILY)
def test_a_bridge_by_itself_has_the_ports_of_its_document(name, document):
    ports = load(document(name)).ports
    bridge = mcp_bridge.config.Settings.from_env({"GATEWAY_OPENAPI": str(document(name))})
    assert (bridge.port, bridge.rest_url) == (ports["mcp"], f"http://127.0.0.1:{ports['rest']}")


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("orchard", {}, ["ORCHARD_API_KEY"]),
        ("orchard", {"MISTRAL_AI_API_KEY": "k"}, ["ORCHARD_API_KEY"]),
        ("orchard", {"ORCHARD_API_KEY_FILE": "/run/key"}, []),
        ("notebook", {}, ["NOTEBOOK_SECRET"]),
        ("switchboard", {"SWITCHBOARD_USER": "u"}, ["SWITCHBOARD_PASS"]),
        ("kiosk", {}, []),
    ],
)
def test_the_key_that_another_api_lacks_is_named(name, given, missing, document):
    found = of(document(name), **given).missing_keys()
    assert [line.split()[0] for line in found] == missing


def test_another_api_on_this_machine_is_taken_for_no_sandbox(document, tmp_path):
    capability = yaml.safe_load((CAPABILITIES / "orchard.yaml").read_text(encoding="utf-8"))
    capability["capability"]["consumes"][0]["baseUri"] = SANDBOX
    changed = tmp_path / "orchard.yaml"
    changed.write_text(yaml.safe_dump(capability), encoding="utf-8")
    assert of(document(changed)).stood_in == []


def test_another_api_is_called_where_the_settings_say(document):
    settings = of(document("orchard"), GATEWAY_UPSTREAM_URL="https://elsewhere.example")
    assert settings.environment["GATEWAY_UPSTREAM_URL"] == "https://elsewhere.example"
    assert not settings.overridden


@pytest.mark.parametrize(
    ("configured", "urls"),
    [
        ("", f"batch-batch-jobs={SANDBOX}/v1"),
        (
            "library=https://elsewhere.example",
            f"batch-batch-jobs={SANDBOX}/v1,library=https://elsewhere.example",
        ),
    ],
)
def test_beside_another_api_the_sandbox_stands_in_for_mistrals_alone(configured, urls, document):
    settings = of(
        document(OWN_CAPABILITY, "library"),
        LIBRARY_ACCESS_TOKEN="token",
        GATEWAY_UPSTREAM_URL=configured,
    )
    assert [endpoint.name for endpoint in settings.endpoints] == ["sandbox", "rest", "mcp"]
    assert settings.environment["GATEWAY_UPSTREAM_URL"] == urls
    assert settings.environment["MISTRAL_AI_API_KEY"] == PLACEHOLDER_KEY
    assert settings.environment["LIBRARY_ACCESS_TOKEN"] == "token"
    assert (settings.missing_keys(), reason_for_no_sample(settings)) == ([], "")


@pytest.mark.parametrize(
    "key",
    [
        *("MISTRAL_AI_API_KEY", "MISTRAL_AI_API_KEY_FILE"),
        *("MISTRAL_API_KEY", "MISTRAL_API_KEY_FILE"),
    ],
)
def test_any_variable_that_the_service_reads_a_key_from_means_the_real_upstream(key):
    settings = of(DEFAULT_DOCUMENT, **{key: "/run/key"})
    assert not settings.sandboxed
    assert "https://api.mistral.ai/v1" in reason_for_no_sample(settings)


def test_with_a_key_an_upstream_that_is_configured_is_named_for_what_it_may_cost():
    given = {"MISTRAL_API_KEY": "k", "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9/v1"}
    reason = reason_for_no_sample(of(DEFAULT_DOCUMENT, **given))
    assert "http://127.0.0.1:9/v1" in reason
    assert "Mistral" not in reason


def test_a_stack_of_another_api_says_what_it_serves_and_what_with(document, environment):
    environment |= {"GATEWAY_OPENAPI": str(document("notebook")), "NOTEBOOK_SECRET": "a-secret"}
    with started(environment, LIGHT) as stack:
        assert processes_of(environment, "serve sandbox") == []
    assert "https://notebook.example, with NOTEBOOK_SECRET" in stack.output
    assert "No sandbox and no sample job" in stack.output
    assert "/v1/batch" not in stack.output
    assert "a-secret" not in stack.output


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "NOTEBOOK_SECRET is not set"), (("demo",), "The demo is one of Mistral's batch jobs")],
)
def test_what_cannot_run_is_said_before_anything_starts(words, said, document, environment):
    environment |= {"GATEWAY_OPENAPI": str(document("notebook"))}
    ended = run(environment, *words, module=LIGHT)
    assert (ended.returncode, said in ended.stdout) == (1, True), ended.stdout
    assert "ready" not in ended.stdout
