"""Tokens are those that mistral-common counts; of a sample they are within the error that is told; and what cannot be counted is said."""

import json
import random
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistral_batch import sample, tokens
from mistral_batch.tokens import Sample, Unknown, count

CHAT = "/v1/chat/completions"
MODEL = "mistral-small-latest"
WORDS = "the delivery came two days late and nobody answered when I wrote but it is better than expected for 1,299.00 € größer 再见".split()  # noqa: SIM905


def line(**body: object) -> bytes:
    return json.dumps({"custom_id": "1", "body": body}).encode()


def asked(text: str, **more: object) -> bytes:
    return line(messages=[{"role": "user", "content": text}], **more)


def sample_of(lines: list[bytes], size: int = 2_000, seed: int = 0) -> Sample:
    sample = Sample(size, seed)
    for each in lines:
        sample.add(each)
    return sample


def own_counts(lines: list[bytes]) -> list[int]:
    """mistral-common's of each request, in the way of its documentation."""
    return [own_count(json.loads(each)["body"]) for each in lines]


def own_count(body: dict[str, Any]) -> int:
    request = ChatCompletionRequest.model_validate(body)
    return len(own_tokenizer().encode_chat_completion(request).tokens)


@cache
def own_tokenizer() -> MistralTokenizer:
    return MistralTokenizer.v3(is_tekken=True)


def skewed() -> list[bytes]:
    """1,500 requests: most are short, 1 in 100 has another language, and three have a third of all bytes."""
    draw = random.Random(7)

    def texts() -> Iterator[str]:
        for _ in range(1_497):
            length = min(400, int(8 * draw.paretovariate(1.1)))
            yield "委员会的会议于上午九点" * length if draw.random() < 0.01 else phrase(length)
        yield from (phrase(3_000) for _ in range(3))

    def phrase(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    lines = [asked(text) for text in texts()]
    draw.shuffle(lines)
    return lines


@pytest.fixture(scope="module")
def known() -> dict[bytes, int]:
    """The requests of a file with mistral-common's own count of each."""
    lines = skewed()
    return dict(zip(lines, own_counts(lines), strict=True))


class Told:
    """In place of the counter: what mistral-common said of each request, so that many samples are quickly counted."""

    how, doubt = "as told", 0.0

    def __init__(self, known: dict[bytes, int]) -> None:
        self.said = {_text(json.loads(each)["body"]): said for each, said in known.items()}

    def __call__(self, body: dict[str, Any]) -> int:
        return self.said[_text(body)]

    def notes(self) -> tuple[str, ...]:
        return ()


def _text(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def test_of_few_requests_all_are_counted_as_mistral_common_counts_them() -> None:
    lines = [asked(f"{' '.join(WORDS[: n % 30 + 1])} {n}") for n in range(300)]
    found = count(sample_of(lines), MODEL, CHAT)
    assert (found.tokens, found.error) == (sum(own_counts(lines)), 0)
    assert found.source.startswith("all requests counted, by mistral-common")


def test_a_sample_is_within_5_percent_of_mistral_commons_count_of_the_whole_file(
    known: dict[bytes, int],
) -> None:
    found = count(sample_of(list(known), 1_000), MODEL, CHAT)
    total = sum(known.values())
    assert abs(found.tokens - total) < 0.05 * total
    assert 0 < found.error < 0.05 * total


@pytest.mark.parametrize("size", [50, 200, 1_000])
def test_the_true_total_is_within_the_error_in_19_of_20_samples(
    known: dict[bytes, int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(known)
    monkeypatch.setattr(tokens, "Counter", lambda model, endpoint: told)
    found = [count(sample_of(list(known), size, seed), MODEL, CHAT) for seed in range(20)]
    total = sum(known.values())
    assert sum(abs(each.tokens - total) <= each.error for each in found) >= 19
    assert len({each.tokens for each in found}) > 10, "the samples must differ"


def test_a_seed_gives_one_sample() -> None:
    lines = [asked(str(n) * (n % 50 + 1)) for n in range(500)]
    assert list(sample_of(lines, 50, 3).lines()) == list(sample_of(lines, 50, 3).lines())
    assert list(sample_of(lines, 50, 3).lines()) != list(sample_of(lines, 50, 4).lines())


def test_large_requests_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "BUDGET", 100_000)
    drawn = sample_of([asked("word " * 1_000 + str(n)) for n in range(2_500)])
    kept = [each for each, _ in drawn.lines()]
    assert len(kept) <= sample.FEWEST
    assert count(drawn, MODEL, CHAT).error > 0


def test_a_pilots_requests_are_drawn_whatever_their_size() -> None:
    """Of requests of which one in ten is 100 times as large as the others, one in ten is drawn."""
    lines = [asked("word " * (500 if n % 10 == 0 else 5) + str(n)) for n in range(3_000)]
    drawn = [each for seed in range(20) for each in sample_of(lines, 1_000, seed).draw(50)]
    assert len(drawn) == 1_000
    assert 60 <= sum(len(each) > 1_000 for each in drawn) <= 150


def test_a_pilot_of_more_than_there_are_is_all() -> None:
    lines = [asked(str(n)) for n in range(5)]
    assert sorted(sample_of(lines).draw(50)) == lines


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}  # fmt: skip
USER = {"role": "user", "content": "What is the weather in Paris?"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": "Be short."}, USER]},
        {"messages": [USER], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]},
        {"messages": [USER, {"role": "assistant", "content": "Rain", "prefix": True}]},
    ],
    ids=["system", "tools", "parts", "prefix"],
)
def test_a_request_is_counted_with_all_that_is_in_it(body: dict[str, object]) -> None:
    assert count(sample_of([line(**body)]), MODEL, CHAT).tokens == own_count(body)


DEEP: dict[str, Any] = {"type": "web_search"}
for _ in range(700):
    DEEP = {"type": "web_search", "of": DEEP}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [dict(USER, name="bob")]},
        {"messages": [USER, {"role": "assistant", "content": "Rain."}]},
        {"messages": [USER], "tools": [{"type": "web_search"}]},
        {"messages": [USER], "tools": [DEEP]},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}, USER]},
    ],
    ids=["name", "assistant last", "web search", "deep", "thinking"],
)  # fmt: skip
def test_what_mistral_common_refuses_is_counted_by_its_texts_and_said(
    body: dict[str, object],
) -> None:
    found = count(sample_of([line(**body)]), MODEL, CHAT)
    assert 5 < found.tokens < 40
    assert found.notes


@pytest.mark.parametrize("texts", ["Embed this sentence.", ["Embed this", " sentence."]])
def test_embeddings_are_counted_of_a_text_and_of_a_list(texts: object) -> None:
    found = count(sample_of([line(input=texts)]), "mistral-embed", "/v1/embeddings")
    assert 5 <= found.tokens <= 7
    assert found.notes


def test_a_gap_to_fill_is_counted_with_both_sides() -> None:
    one = count(sample_of([line(prompt="def f(a, b):")]), "codestral-latest", "/v1/fim/completions")
    both = count(
        sample_of([line(prompt="def f(a, b):", suffix="return a + b")]),
        "codestral-latest",
        "/v1/fim/completions",
    )
    assert both.tokens > one.tokens > 5


IMAGE = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": "http://127.0.0.1:1/x.png"}]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "model", "endpoint"),
    [
        ({"document": {"type": "document_url", "document_url": "https://x/y.pdf"}}, "mistral-ocr-latest", "/v1/ocr"),
        ({"file_url": "https://x/y.mp3"}, "voxtral-mini-latest", "/v1/audio/transcriptions"),
        ({"messages": [USER], "agent_id": "ag:1"}, "", "/v1/agents/completions"),
        ({"messages": [{"role": "user", "content": IMAGE}]}, MODEL, CHAT),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": "AAAA"}]}]}, "voxtral-small-latest", CHAT),
        ({"messages": [USER]}, "gpt-4o", CHAT),
        ({"messages": [USER]}, "", CHAT),
        ({"messages": [USER]}, "codestral-2405", CHAT),
        ({"input": []}, "mistral-embed", "/v1/embeddings"),
    ],
    ids=["ocr", "audio", "agent", "image", "heard", "a stranger", "no model", "other tokenizer", "nothing"],
)  # fmt: skip
def test_what_cannot_be_counted_is_unknown_with_a_reason(
    body: dict[str, object], model: str, endpoint: str
) -> None:
    with pytest.raises(Unknown, match=r"\w+ \w+"):
        count(sample_of([line(**body)]), model, endpoint)


def test_one_image_among_many_texts_is_not_overlooked() -> None:
    lines = [asked(f"text {n}") for n in range(900)]
    lines.insert(450, line(messages=[{"role": "user", "content": IMAGE}]))
    with pytest.raises(Unknown, match="image_url"):
        count(sample_of(lines, 10), MODEL, CHAT)


def test_a_text_about_images_is_a_text() -> None:
    assert count(sample_of([asked('say "image_url"', note={"image_url": 1})]), MODEL, CHAT).tokens


def test_without_mistral_common_bytes_are_counted_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mistral_common.tokens.tokenizers.mistral", None)
    found = count(sample_of([asked("x" * 384)]), MODEL, CHAT)
    assert (found.tokens, found.error) == (100, 40)
    assert "4 bytes" in found.source
    assert "install mistral-common" in found.source
    assert "rough" in found.notes[0]


def test_max_tokens_that_bound_nothing_count_as_none() -> None:
    sample = Sample()
    for most in ("10", "-10", "true", "1" + "0" * 30):
        sample.add(b'{"body":{"max_tokens":%b}}' % most.encode())
    assert (sample.bound, sample.unbounded) == (10, 3)
