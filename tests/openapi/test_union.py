"""Several capability files as one document: what two of them declare alike is one, any other clash is refused with both places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from openapi.capability import CapabilityError, read
from openapi.contract import load
from openapi.derive import derive, main, render

BASE = "https://api.example/v1"
BEARER = {"type": "bearer", "token": "{{env.KEY}}"}

Write = Callable[..., Path]


def http(namespace: str, *operations: str, base: str = BASE, authentication: Any = BEARER) -> Any:
    """An upstream; an operation is given as `getshelf GET /shelves/{id}`."""
    return {
        "type": "http",
        "namespace": namespace,
        "baseUri": base,
        "authentication": authentication,
        "resources": [
            {"path": path, "operations": [{"name": name, "method": method}]}
            for name, method, path in map(str.split, operations)
        ],
    }


def capability(consumes: list[Any], *, tool: str = "", port: int = 8080) -> dict[str, Any]:
    """A capability that exposes all that it consumes under the same paths, and as tools of the same names or of the one given."""
    called = [
        (upstream["namespace"], resource["path"], operation)
        for upstream in consumes
        for resource in upstream["resources"]
        for operation in resource["operations"]
    ]
    rest = [
        {
            "name": "all",
            "path": path,
            "operations": [{**operation, "call": f"{namespace}.{operation['name']}"}],
        }
        for namespace, path, operation in called
    ]
    exposes = [{"type": "rest", "namespace": "r", "port": port, "resources": rest}]
    tools = [
        {
            "name": tool or operation["name"],
            "description": f"{operation['name']} by {namespace}",
            "call": f"{namespace}.{operation['name']}",
        }
        for namespace, _, operation in called
    ]
    exposes.append({"type": "mcp", "namespace": "m", "port": 9090, "tools": tools})
    return {
        "naftiko": "1.0.0-alpha2",
        "info": {"label": "Of a test"},
        "capability": {"consumes": consumes, "exposes": exposes},
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a capability into the file of that name."""

    def written(name: str, *consumes: Any, **options: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(capability(list(consumes), **options)), encoding="utf-8")
        return path

    return written


def union(*files: Path) -> dict[str, Any]:
    return derive(*map(read, files))


def operations(document: dict[str, Any]) -> dict[str, str]:
    """The upstream call of each operation, by method and route."""
    return {
        f"{method.upper()} {path}": operation["x-naftiko"]["call"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_each_operation_keeps_its_namespaces_upstream_and_authentication(
    write: Write, tmp_path: Path
) -> None:
    basic = {"type": "basic", "username": "{{env.NAME}}", "password": "{{env.PASSWORD}}"}
    document = union(
        write("a", http("shelves", "getshelf GET /shelves/{id}")),
        write(
            "b",
            http(
                "books", "getbook GET /books/{id}", base="https://b.example", authentication=basic
            ),
        ),
    )
    assert operations(document) == {
        "GET /shelves/{id}": "shelves.getshelf",
        "GET /books/{id}": "books.getbook",
    }
    path = tmp_path / "openapi.yaml"
    path.write_text(render(document, "a test"), encoding="utf-8")
    contract = load(path)
    upstreams = {n: contract.upstreams[each.namespace] for n, each in contract.operations.items()}
    assert {n: (u.base_url, u.authentication.type) for n, u in upstreams.items()} == {
        "getshelf": (BASE, "bearer"),
        "getbook": ("https://b.example", "basic"),
    }


def test_one_file_may_consume_several_upstreams_and_says_the_same_as_two(write: Write) -> None:
    shelves, books = (
        http("shelves", "getshelf GET /shelves/{id}"),
        http("books", "getbook GET /books/{id}", base="https://b.example"),
    )
    together = union(write("both", shelves, books))
    apart = union(write("a", shelves), write("b", books))
    assert together["paths"] == apart["paths"]
    assert together["x-naftiko"] == apart["x-naftiko"]


def test_what_two_files_declare_alike_is_one_in_the_words_of_the_first(write: Write) -> None:
    document = union(
        write("a", http("shelves", "getshelf GET /shelves/{id}", "liston GET /shelves")),
        write("b", http("others", "getshelf GET /shelves/{id}", "getbook GET /books/{id}")),
    )
    assert operations(document) == {
        "GET /shelves": "shelves.liston",
        "GET /shelves/{id}": "shelves.getshelf",
        "GET /books/{id}": "others.getbook",
    }
    tool = document["paths"]["/shelves/{id}"]["get"]["x-mcp-tool"]
    assert tool["description"] == "getshelf by shelves"


def test_paths_that_differ_in_the_names_of_variables_are_one(write: Write) -> None:
    document = union(
        write("a", http("a", "getshelf GET /shelves/{id}")),
        write("b", http("b", "deleteshelf DELETE /shelves/{shelf}")),
    )
    assert set(document["paths"]) == {"/shelves/{id}"}
    deleting = document["paths"]["/shelves/{id}"]["delete"]
    assert [each["name"] for each in deleting["parameters"]] == ["id"]
    assert deleting["x-naftiko"]["names"] == {"id": "shelf"}


SHELF = "getshelf GET /shelves/{id}"


@pytest.mark.parametrize(
    ("second", "place", "clash"),
    [
        (
            {"consumes": http("b", "showshelf GET /shelves/{id}")},
            "exposes[0].resources[0].operations[0]",
            "GET /shelves/{id}",
        ),
        (
            {"consumes": http("b", "getshelf GET /other/{id}")},
            "exposes[0].resources[0].operations[0]",
            "the operation 'getshelf'",
        ),
        (
            {"consumes": http("b", SHELF, base="https://b.example")},
            "exposes[0].resources[0].operations[0]",
            "GET /shelves/{id}",
        ),
        (
            {"consumes": http("a", "getbook GET /books", base="https://b.example")},
            "consumes[0]",
            "the namespace 'a'",
        ),
        (
            {
                "consumes": http(
                    "b",
                    "getbook GET /books",
                    authentication={"type": "bearer", "token": "{{env.OTHER}}"},
                )
            },
            "consumes[0].authentication",
            f"the authentication of {BASE}",
        ),
        (
            {"consumes": http("b", "getbook GET /books"), "port": 8082},
            "exposes",
            "the port of rest",
        ),
        (
            {"consumes": http("b", "getbook GET /books"), "tool": "getshelf"},
            "exposes[1].tools[0]",
            "the tool 'getshelf'",
        ),
    ],
    ids=["route", "operation", "upstream", "namespace", "key", "port", "tool"],
)
def test_a_clash_is_refused_with_both_places(
    write: Write, second: dict[str, Any], place: str, clash: str
) -> None:
    first = write("first", http("a", SHELF))
    other = write("other", second.pop("consumes"), **second)
    with pytest.raises(CapabilityError) as refused:
        union(first, other)
    assert str(refused.value).startswith(
        f"{other}: capability.{place}: {clash} is something else in {first}: capability."
    )


def test_hosts_that_differ_in_case_are_one_base(write: Write) -> None:
    other = {"type": "bearer", "token": "{{env.OTHER}}"}
    same = http("b", "getbook GET /books", base=BASE.replace("api", "API"), authentication=other)
    with pytest.raises(CapabilityError, match="the authentication of"):
        union(write("first", http("a", SHELF)), write("other", same))


def test_a_variable_that_two_files_bind_to_different_names_is_refused(write: Write) -> None:
    first = write("first", http("a", SHELF))
    other = write("other", http("b", "getbook GET /books", base="https://b.example"))
    other.write_text(other.read_text() + "binds: [{namespace: env, keys: {KEY: ANOTHER_KEY}}]\n")
    with pytest.raises(CapabilityError, match=r"\{\{env.KEY\}\} is something else in"):
        union(first, other)


def test_a_namespace_twice_in_one_file_is_refused(write: Write) -> None:
    twice = write("twice", http("a", SHELF), http("a", "getbook GET /books"))
    with pytest.raises(CapabilityError, match=r"consumes\[1\].namespace: the namespace 'a' is"):
        read(twice)


def test_a_fault_of_the_second_file_names_that_file(write: Write) -> None:
    first = write("first", http("a", SHELF))
    other = write(
        "other",
        http("b", "getbook GET /books", authentication={"type": "bearer", "token": "secret"}),
    )
    with pytest.raises(
        CapabilityError, match=r"other.yaml: capability.consumes\[0\].authentication: no secret"
    ):
        union(first, other)


def test_the_command_takes_several_and_names_them_in_the_document(
    write: Write, tmp_path: Path
) -> None:
    files = [write("a", http("a", SHELF)), write("b", http("b", "getbook GET /books"))]
    output = tmp_path / "openapi.yaml"
    assert main([*map(str, files), "--output", str(output)]) == 0
    assert "python -m openapi.derive a.yaml b.yaml\n" in output.read_text()
    assert set(load(output).operations) == {"getshelf", "getbook"}


def test_bytes_that_are_passed_on_are_declared_as_such(write: Write) -> None:
    upstream = http("a", SHELF)
    upstream["resources"][0]["operations"][0]["outputRawFormat"] = "binary"
    answer = union(write("a", upstream))["paths"]["/shelves/{id}"]["get"]["responses"]["200"]
    assert set(answer["content"]) == {"application/octet-stream"}


@pytest.mark.parametrize(
    ("second", "another"),
    [
        (http("b", "showshelf GET /shelves/{id}"), "another name and tool"),
        (http("b", SHELF, base="https://b.example"), "another upstream"),
        (http("b", "getshelf GET /other/{id}"), "another route and upstream"),
        (http("a", "getbook GET /books", base="https://b.example"), "another baseUri"),
    ],
    ids=["names", "upstream", "route", "base"],
)
def test_a_clash_says_what_is_not_the_same(write: Write, second: Any, another: str) -> None:
    with pytest.raises(CapabilityError) as refused:
        union(write("first", http("a", SHELF)), write("other", second))
    assert str(refused.value).endswith(f": {another}")
