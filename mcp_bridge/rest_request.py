"""A tool call's arguments, put where REST takes them: path, query, headers, and a body of JSON or a form with files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw
from pydantic_core import to_json
from urllib3.filepost import encode_multipart_formdata

from mcp_bridge.canonical import idempotency_key, join, spell
from mcp_bridge.own_arguments import KEY
from mcp_bridge.rest_client import RestRequest
from mcp_bridge.tools import KEY_HEADER, Argument, CallableTool
from openapi.contract import JSON
from openapi.json_text import texts_of
from openapi.scalars import write_scalar


def rest_request(tool: CallableTool, arguments: Mapping[str, Any], caller: str) -> RestRequest:
    """The request that arguments mean which were read and checked: to each is done what its location says.

    Arguments that mean the same make the same request, byte for byte, and the same idempotency key: but for another `caller`, whose
    call is no repeat.
    """
    path = tool.operation.path
    query: list[tuple[str, str]] = []
    headers = {"Accept": tool.operation.response_media_type}
    form = tool.operation.body is not None and tool.operation.body.form
    texts = {}
    if tool.keyed or (tool.operation.body and not form):
        schemas = {n: tool.arguments[n].schema if tool.keyed else {} for n in arguments}
        texts = {n: spell(value, schemas[n]) for n, value in arguments.items()}
    members: dict[str, Raw] = {}
    fields: list[tuple[str, str]] = []
    body: bytes | None = None
    for name, argument in tool.arguments.items():
        if name not in arguments:
            continue
        value = arguments[name]
        if argument.location == "path":
            path = path.replace(f"{{{argument.target}}}", quote(write_scalar(value), safe=""))
        elif argument.location == "query":
            query += _query(argument, value)
        elif argument.location == "header":
            headers[argument.target] = write_scalar(value)
        elif argument.location == "member":
            members[argument.target] = texts[name]
        elif argument.location == "body":
            body = bytes(texts[name])
        elif argument.location == "field":
            fields += _query(argument, value)
    if tool.keyed and KEY_HEADER.lower() not in map(str.lower, headers):
        # The caller is part of the key either way, since REST sees one caller only, the bridge.
        meant = {KEY: texts[KEY]} if KEY in texts else texts
        headers[KEY_HEADER] = idempotency_key(caller, tool.declared.name, meant)
    if body is None and tool.operation.body and (tool.operation.body.required or members):
        body = b"".join(join(members))
    if form:
        body, headers["Content-Type"] = encode_multipart_formdata(
            [*fields, *_files(tool, arguments)]
        )
    elif body is not None:
        headers["Content-Type"] = JSON
    target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
    return RestRequest(tool.operation.method, target, headers, body)


def _files(
    tool: CallableTool, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, bytes, str]]]:
    """The parts of the form that are files: name, file's name, content and media type."""
    known = [tool.arguments[name] for name in arguments]
    names = {each.target: arguments[each.name] for each in known if each.location == "file-name"}
    types = tool.operation.body.part_types if tool.operation.body else {}
    for argument in known:
        if argument.location in ("file-text", "file-lines"):
            write = _written if argument.location == "file-text" else _written_lines
            part, content = argument.target, write(arguments[argument.name])
            media_type = types.get(part, "application/octet-stream")
            yield part, (names.get(part, part), content, media_type)


def _written(text: str | Raw) -> bytes:
    """The UTF-8 of a text, or of the JSON of one, a piece at a time: as one `str` it could take four times its size."""
    if isinstance(text, str):
        return text.encode()
    content = bytearray()
    for piece in texts_of(text):
        content += piece.encode()
    return bytes(content)


def _written_lines(objects: list[dict[str, Any]] | Raw) -> bytes:
    """JSON objects, or the JSON of a list of them, each as a line: a line break in JSON is a space (RFC 8259 section 2)."""
    text = objects if isinstance(objects, Raw) else to_json(objects, inf_nan_mode="constants")
    content = bytearray()
    for item in msgspec.json.decode(text, type=list[Raw]):
        content += bytes(item).replace(b"\n", b" ").replace(b"\r", b" ")
        content += b"\n"
    return bytes(content)


def _query(argument: Argument, value: Any) -> list[tuple[str, str]]:
    if argument.members:
        # In brackets a name is a member's, however like a parameter's it is, and so it is after a point, which lets it have
        # brackets of its own.
        forms = {name: "{}.{}" if "[" in name or "]" in name else "{}[{}]" for name in value}
        return [
            (forms[name].format(argument.target, name), write_scalar(value[name]))
            for name in sorted(value)
        ]
    if not isinstance(value, list):
        return [(argument.target, write_scalar(value))]
    items = [write_scalar(item) for item in value]
    return [(argument.target, item) for item in (items if argument.explode else [",".join(items)])]
