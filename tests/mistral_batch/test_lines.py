"""How a row becomes a request, and which rows cannot."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
import yaml
from pyarrow import parquet

from mistral_batch.errors import InputError
from mistral_batch.lines import NEEDS, Form, Lines
from mistral_batch.sources import open_source

NAN = float("nan")


class _Moment(datetime):
    """As pandas has it."""


GOOD = b'{"custom_id":"a","body":{"messages":[{"role":"user","content":"Good?"}]}}'


def lines_of(table: Any, **form: Any) -> list[bytes]:
    lines = Lines(open_source(table), Form(**form))
    made = [line for batch in lines.source.batches() for line in lines.of(batch)]
    ids = [each for batch in lines.source.batches() for each in lines.ids(batch)]
    assert [json.loads(line)["custom_id"] for line in made] == ids
    return made


def bodies(table: Any, **form: Any) -> list[Any]:
    return [json.loads(line)["body"] for line in lines_of(table, **form)]


def prompts(table: Any, prompt: str) -> list[str]:
    return [body["messages"][0]["content"] for body in bodies(table, prompt=prompt)]


def said(table: Any, **form: Any) -> str:
    with pytest.raises(InputError) as caught:
        lines_of(table, **form)
    return str(caught.value)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_prompt_makes_a_chat_with_what_the_options_say() -> None:
    form = {"prompt": "Good or bad? {text}", "system": "You judge {of}.", "max_tokens": 5}
    line = lines_of([{"text": "It broke", "of": "shoes", "id": 7}], id="id", **form)[0]
    assert json.loads(line) == {
        "custom_id": "7",
        "body": {
            "messages": [
                {"role": "system", "content": "You judge shoes."},
                {"role": "user", "content": "Good or bad? It broke"},
            ],
            "max_tokens": 5,
        },
    }


def test_rows_without_an_id_are_numbered_across_batches() -> None:
    made = lines_of([{"text": "a"}] * 5000, prompt="{text}")
    assert [json.loads(made[at])["custom_id"] for at in (0, 4999)] == ["row-1", "row-5000"]


def test_the_same_requests_come_from_text_from_types_and_from_memory(tmp_path: Path) -> None:
    rows = [{"key": "007", "text": 'é "x"\n\\ 100 %b {y}'}, {"key": "8", "text": "b"}]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "a.parquet")
    content = 'key,text\n007,"é ""x""\n\\ 100 %b {y}"\n8,b\n'.encode()
    kinds = [table, tmp_path / "a.parquet", written(tmp_path / "a.csv", content), rows]
    jsonl = b"\n".join(json.dumps(row).encode() for row in rows)
    kinds.append(written(tmp_path / "a.jsonl", jsonl))
    made = [lines_of(kind, prompt="100 %s: {text}", id="key") for kind in kinds]
    assert made[1:] == made[:-1]
    assert json.loads(made[0][0])["body"]["messages"][0]["content"] == f"100 %s: {rows[0]['text']}"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{text}}", "{text}"),
        ("{{{text}}}", "{T}"),
        ('Answer {{"label": "{text}"}}', 'Answer {"label": "T"}'),
        ("{text}{text}", "TT"),
        ("{my column}: {a.b[0]}", "C: D"),
        ("{é}", "E"),
        ("\\n\t\"'{text}", "\\n\t\"'T"),
        ("%s %(a)s %% {text}", "%s %(a)s %% T"),
    ],
)
def test_braces_in_a_prompt_are_columns_and_doubled_ones_braces(prompt: str, text: str) -> None:
    row = {"text": "T", "my column": "C", "a.b[0]": "D", "é": "E"}
    assert prompts([row], prompt) == [text]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (10**30, str(10**30)),
        (1.5, "1.5"),
        (True, "true"),
        (Decimal("1.10"), "1.10"),
        (["a", 1], '["a",1]'),
        ({"a": None}, '{"a":null}'),
        ("{text}", "{text}"),
        ('"', '"'),
        (date(2026, 11, 30), "2026-11-30"),
        (_Moment(2026, 11, 30, 12, 0, 0, 5), "2026-11-30T12:00:00.000005"),
        (numpy.int64(7), "7"),
        (numpy.array([1, 2]), "[1,2]"),
    ],
)
def test_what_is_no_text_stands_in_a_text_as_json(value: Any, text: str) -> None:
    assert prompts([{"value": value}], "is {value}!") == [f"is {text}!"]
    assert prompts([{"value": value}], "{value}") == [text]


def test_a_body_has_values_with_their_types_where_a_text_is_exactly_a_column() -> None:
    body = {
        "input": "{text}",
        "n": "{n}",
        "deep": [{"tags": "{tags}", "fixed": [1, 2.5, None, True, {}, [], "{{n}}"]}],
        "mixed": "{n} of {text}",
        "price": "{price}",
    }
    row = {"text": "a", "n": 10**20, "tags": ["x"], "price": Decimal("0.10")}
    form = {"body": body, "endpoint": "/v1/embeddings"}
    assert bodies([row], **form) == [
        {
            "input": "a",
            "n": 10**20,
            "deep": [{"tags": ["x"], "fixed": [1, 2.5, None, True, {}, [], "{n}"]}],
            "mixed": f"{10**20} of a",
            "price": 0.1,
        }
    ]


@pytest.mark.parametrize(
    "value", [None, NAN, float("inf"), Decimal("NaN"), numpy.float32("nan"), [1.0, NAN], {"a": NAN}]
)
@pytest.mark.parametrize(
    "form",
    [
        {"prompt": "of {value}"},
        {"prompt": "{value}"},
        {"prompt": "{text}", "system": "{value}"},
        {"body": {"input": "{value}"}, "endpoint": "/v1/embeddings"},
        {"body": {"input": "", "x": [{"y": "{value}"}]}, "endpoint": "/v1/embeddings"},
    ],
)
def test_a_row_without_a_value_that_is_used_is_named(value: Any, form: dict[str, Any]) -> None:
    rows = [{"text": "a", "value": [1.0]}, {"text": "b", "value": value}]
    assert said(rows, **form).startswith("row 2: column 'value' has")
    assert said([rows[0], {"text": "b"}], **form) == "row 2: column 'value' has no value"
    assert len(lines_of(rows, prompt="{text}")) == 2  # it is not used


def test_half_of_a_surrogate_pair_is_named() -> None:
    assert said([{"text": "a"}, {"text": "\ud800"}], prompt="{text}").startswith(
        "row 2: column 'text'"
    )


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_prompt_that_asks_nothing_is_named(text: str) -> None:
    rows = [{"a": "x", "b": ""}, {"a": text, "b": text}]
    assert said(rows, prompt="{a} {b}").startswith("row 2: ")
    assert len(lines_of(rows, prompt="Say: {a}")) == 2
    assert "blank" in said(rows, prompt=" \n")


@pytest.mark.parametrize(
    ("value", "custom_id"),
    [("007", "007"), (7, "7"), (7.0, "7"), (7.5, "7.5"), (10**20, str(10**20)), (Decimal("1.0"), "1.0"),
     ("é", "é"), (" a ", " a ")],
)  # fmt: skip
def test_an_id_is_the_text_of_a_text_or_a_number(value: Any, custom_id: str) -> None:
    line = lines_of([{"id": value, "text": "a"}], id="id", prompt="{text}")[0]
    assert json.loads(line)["custom_id"] == custom_id


@pytest.mark.parametrize(
    "value", [None, "", NAN, True, ["a"], {"a": 1}, b"a", "x" * 65_537, "\ud800"]
)
def test_a_row_whose_id_is_none_is_named(value: Any) -> None:
    rows = [{"id": "a", "text": "a"}, {"id": value, "text": "a"}]
    assert said(rows, id="id", prompt="{text}").startswith("row 2: ")
    lines = Lines(open_source(rows), Form(id="id", prompt="{text}"))
    batch = next(lines.source.batches())
    if not isinstance(value, str) or not value:
        with pytest.raises(InputError):
            lines.ids(batch)


@pytest.mark.parametrize(
    "form",
    [
        {"prompt": "{txet}"},
        {"prompt": "{text}", "system": "{txet}"},
        {"prompt": "{text}", "id": "txet"},
        {"body": {"messages": [{"content": "{txet}"}]}},
        {"body": {"messages": [{"content": "a {txet}"}]}},
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(form: dict[str, Any]) -> None:
    text = said([{"id": "a", "text": "b"}], **form)
    assert "'txet'" in text
    assert "id, text" in text
    assert "did you mean 'text'" in text


@pytest.mark.parametrize(
    "prompt", ["{", "}", "a { b {text}", "{text}}", '{"a": {text}}', "{{text}"]
)
def test_a_single_brace_is_refused_with_what_to_write(prompt: str) -> None:
    text = said([{"text": "a"}], prompt=prompt)
    assert "{{" in text or "}}" in text


@pytest.mark.parametrize(
    "form",
    [
        {"prompt": "{text}", "body": {"input": ""}},
        {"body": {"messages": [{}]}, "max_tokens": 5},
        {"body": {"messages": [{}]}, "system": "a"},
        {"id": "text"},
        {"system": "a"},
        {"max_tokens": 5},
        {},
        {"prompt": "{text}", "endpoint": "/v1/embeddings"},
        {"prompt": "{text}", "endpoint": "/v1/chat/completion"},
        {"prompt": "{text}", "endpoint": "nonsense"},
        {"body": {"input": "{text}"}},
        {"body": {"input": NAN}, "endpoint": "/v1/embeddings"},
        {"body": {}},
    ],
)
def test_options_that_do_not_fit_are_refused(form: dict[str, Any]) -> None:
    assert said([{"text": "a"}], **form)


@pytest.mark.parametrize(
    "table", [[], pyarrow.table({"text": pyarrow.array([], pyarrow.string())})]
)
def test_a_table_without_rows_is_refused(table: Any) -> None:
    assert "has no rows" in said(table, prompt="{text}")


def test_requests_in_mistrals_form_are_sent_as_they_stand(tmp_path: Path) -> None:
    lines = [
        GOOD,
        b'{ "body" : {"messages":[ {"content":"\xc3\xa9 \\u00e9 \\ud83d\\ude00"} ], "t": 1.10, "n": 12345678901234567890123},'
        b' "custom_id" : "b", "label": 1e5 }',
    ]
    content = b"\xef\xbb\xbf" + b"\r\n\n  ".join(lines)
    assert lines_of(written(tmp_path / "a.jsonl", content)) == lines


def test_requests_without_ids_are_given_theirs_and_nothing_else_is_changed(tmp_path: Path) -> None:
    given = b'{ "label":1.10, "body": {"messages":[{"content":"\\u00e9"}]}}'
    path = written(tmp_path / "a.jsonl", b"\n\n".join([given, given]))
    made = [b'{"custom_id":"row-%d",%b' % (number, given[2:]) for number in (1, 2)]
    assert lines_of(path) == made


@pytest.mark.parametrize("line", [1, 2])
def test_an_id_is_not_missing_where_others_have_one(tmp_path: Path, line: int) -> None:
    lines = [GOOD, GOOD.replace(b'"a"', b'"b"')]
    lines[line - 1] = GOOD.replace(b"custom_id", b"custom-id")
    path = written(tmp_path / "a.jsonl", b"\n".join(lines))
    assert said(path).startswith(f"line {line}: custom_id is missing")


def test_openais_form_names_model_and_endpoint(tmp_path: Path) -> None:
    one = '{"custom_id":"%s","method":"POST","url":"%s","body":{"model":"%s","input":"a"}}'
    same = "\n".join(one % (each, "/v1/embeddings", "mistral-embed") for each in "ab").encode()
    path = written(tmp_path / "a.jsonl", same)
    lines = Lines(open_source(path), Form())
    assert (lines.endpoint, lines.model) == ("/v1/embeddings", "mistral-embed")
    assert lines_of(path) == same.split(b"\n")
    chosen = Lines(open_source(path), Form(model="other", endpoint="/v1/moderations"))
    assert (chosen.endpoint, chosen.model) == ("/v1/moderations", "other")


@pytest.mark.parametrize(
    ("url", "model", "word"),
    [
        ("/v1/embeddings", "b", "--model"),
        ("/v1/moderations", "a", "url"),
        ("/v1/embeddings", "", "--model"),
    ],
)
def test_requests_that_name_different_models_or_urls_are_named(
    tmp_path: Path, url: str, model: str, word: str
) -> None:
    one = '{"custom_id":"%s","url":"%s","body":{"model":"%s","input":"a"}}'
    lines = [one % ("a", "/v1/embeddings", "a"), one % ("b", url, model)]
    path = written(tmp_path / "a.jsonl", "\n".join(lines).encode())
    text = said(path)
    assert text.startswith("line 2: ")
    assert word in text
    assert len(lines_of(path, model="a", endpoint="/v1/embeddings")) == 2


def test_a_model_in_a_body_is_that_of_the_job() -> None:
    body = {"input": "{text}", "model": "mistral-embed"}
    form = Form(body=body, endpoint="/v1/embeddings")
    assert Lines(open_source([{"text": "a"}]), form).model == "mistral-embed"
    body["model"] = "{model}"
    rows = [{"text": "a", "model": "m"}, {"text": "b", "model": "n"}]
    assert Lines(open_source(rows), form).model == "m"
    assert said(rows, body=body, endpoint="/v1/embeddings").startswith("row 2: body.model is 'n'")


NEEDED = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/embeddings": {"input": ["a"]},
    "/v1/fim/completions": {"prompt": "def"},
    "/v1/moderations": {"input": "a"},
    "/v1/chat/moderations": {"input": [{"role": "user", "content": "a"}]},
    "/v1/ocr": {"document": {"type": "document_url", "document_url": "https://example.com/a.pdf"}},
    "/v1/classifications": {"input": "a"},
    "/v1/chat/classifications": {"input": {"messages": []}},
    "/v1/conversations": {"inputs": "a"},
    "/v1/audio/transcriptions": {"file_url": "https://example.com/a.mp3"},
}


@pytest.mark.parametrize("endpoint", NEEDS)
def test_a_request_has_what_its_endpoint_needs(endpoint: str) -> None:
    good = NEEDED[endpoint]
    rows = [{"custom_id": "a", "body": good}, {"custom_id": "b", "body": good}]
    assert len(lines_of(rows, endpoint=endpoint)) == 2
    if NEEDS[endpoint][0]:
        (name,) = good
        for bad in ({}, {name: None}, {name: 5}):
            rows[1]["body"] = {"temperature": 0, **bad}
            assert said(rows, endpoint=endpoint).startswith(f"row 2: body.{name} ")


def test_the_endpoints_are_those_of_mistrals_document() -> None:
    text = Path("openapi/openapi.yaml").read_text(encoding="utf-8")
    document = yaml.load(text, Loader=yaml.CSafeLoader)
    assert sorted(NEEDS) == sorted(document["components"]["schemas"]["ApiEndpoint"]["enum"])


@pytest.mark.parametrize("number", ["1e999", "9" * 5_000])
def test_a_number_that_is_out_of_range_is_a_fault(tmp_path: Path, number: str) -> None:
    table = tmp_path / "t.jsonl"
    body = '{"messages":[{"role":"user","content":"x"}],"seed":%s}'
    table.write_text("".join(f'{{"custom_id":"{n}","body":{body % n}}}\n' for n in (1, number)))
    source = open_source(table)
    read = Lines(source, Form()).read(next(source.batches()))
    assert [fault.place for fault in read.faults] == ["line 2"]
