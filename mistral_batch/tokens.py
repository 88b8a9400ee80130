"""How many tokens requests are: counted by mistral-common, of all of them when they are few, else of a sample, with its error.

A request is drawn for the sample with a chance that grows with its bytes. The mean of the drawn ones' tokens per byte, times the bytes
of all requests, which are known, is then the tokens of all. A few huge rows do no harm to that: they are drawn as often as they weigh.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from .errors import installing

SIZE = 2_000
BUDGET = 32 << 20
"""Bytes of drawn requests that are kept, so that large ones take neither the memory nor the time; at least `FEWEST` are."""
FEWEST = 30
CHARACTERS = 4.5
ROUGH = 0.3
"""Characters of a token where mistral-common is not installed, and what share of tokens that may be wrong: 5.0 was measured on English
prose, 4.1 on German, 3.4 on Markdown with tables; far less on Chinese (1.1), of which the count is too low."""
TEKKEN = (
    *("mistral-", "ministral-", "magistral-", "codestral-", "devstral-", "pixtral-", "voxtral-"),
    *("open-mistral-nemo", "labs-"),
)
"""How the names of models begin whose vocabulary is tekken (mistral-common's own table says which older ones have another)."""
NO_OUTPUT = ("/v1/embeddings", "/v1/moderations", "/v1/chat/moderations", "/v1/classifications", "/v1/chat/classifications")  # fmt: skip
"""Endpoints whose answers are no tokens."""
UNCOUNTED = {
    "/v1/ocr": "OCR is paid by the page, and how many there are shows only when they are read",
    "/v1/audio/transcriptions": "audio is paid by its length, which shows only when it is heard",
    "/v1/agents/completions": "an agent adds instructions and tools that are known only at Mistral",
    "/v1/conversations": "a conversation adds what is known only at Mistral",
}
"""Why the tokens of an endpoint cannot be counted beforehand."""


class Unknown(Exception):
    """Tokens cannot be counted; the text says why."""


class Count(msgspec.Struct, frozen=True):
    """The tokens of all requests, more or less `error` tokens; `source` says of how many of them that was counted, and how."""

    tokens: int
    error: int
    source: str
    notes: tuple[str, ...] = ()


class _Body(msgspec.Struct):
    max_tokens: Any = None
    n: Any = None


class _Line(msgspec.Struct):
    body: _Body = msgspec.field(default_factory=_Body)


class Sample:
    """Of all requests that are added, what an estimate needs: their number and bytes, the sum of their `max_tokens`, and a sample.

    All requests are kept until there are more than `count`, or more than `BUDGET` bytes; then `count` of them, drawn with replacement by
    their bytes: each of so many slots holds the request that has a certain byte of all, any byte with the same chance.
    """

    def __init__(self, count: int = SIZE, seed: int = 0) -> None:
        self.requests = 0
        self.size = 0
        self.bound = 0
        """The sum of the tokens that the answers of those requests may have that say so."""
        self.unbounded = 0
        """How many do not say."""
        self.uncounted = ""
        """Why a request among them cannot be counted."""
        self._count = count
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._all: list[bytes] | None = []
        self._kept: dict[
            int, list[Any]
        ] = {}  # number of a request: the request, and of how many slots
        self._held = 0
        self._slots: list[int] = []
        self._next: list[tuple[float, int]] = []  # the byte at which a slot gets another request

    def add(self, line: bytes) -> None:
        """Takes a request line, without a line end, into account."""
        self.requests += 1
        self.size += len(line)
        body = _decode(line).body
        if isinstance(body.max_tokens, int):
            self.bound += body.max_tokens * (body.n if isinstance(body.n, int) else 1)
        else:
            self.unbounded += 1
        if not self.uncounted and any(mark in line for mark in _MARKS):
            self.uncounted = _uncounted(msgspec.json.decode(line)["body"])
        if self._all is None:
            while self._next[0][0] < self.size:
                self._put(self._next[0][1], self.requests, line)
            return
        self._all.append(line)
        if len(self._all) > self._count or self.size > BUDGET:
            self._begin(self._all)

    @property
    def exact(self) -> bool:
        """True when all requests are kept."""
        return self._all is not None

    def lines(self) -> Iterator[tuple[bytes, int]]:
        """The requests of the sample, each with how often it was drawn."""
        if self._all is not None:
            yield from ((line, 1) for line in self._all)
        else:
            yield from ((line, times) for line, times in self._kept.values())

    def draw(self, count: int) -> list[bytes]:
        """So many requests, each with the same chance whatever its size, for a pilot; fewer when there are not so many."""
        draw = random.Random(self._random.random())  # noqa: S311
        weights = ((line, 1.0 if self.exact else times / len(line)) for line, times in self.lines())
        drawn = heapq.nsmallest(
            count,
            ((draw.expovariate(weight), at, line) for at, (line, weight) in enumerate(weights)),
        )
        return [line for _, _, line in drawn]

    def _begin(self, lines: list[bytes]) -> None:
        """From here on a request in each slot, not all."""
        self._all = None
        weights = [len(line) for line in lines]
        drawn = self._random.choices(range(len(lines)), weights, k=self._count)
        self._slots = [-1] * self._count
        self._next = [(0.0, slot) for slot in range(self._count)]
        for slot, at in enumerate(drawn):
            if slot < len(self._slots):
                self._hold(slot, at, lines[at])
        self._next = [
            (self.size / (1 - self._random.random()), slot) for slot in range(len(self._slots))
        ]
        heapq.heapify(self._next)

    def _put(self, slot: int, number: int, line: bytes) -> None:
        """Gives the slot this request. That a byte is still the drawn one after all up to byte x came has the chance of itself to x."""
        at = self._next[0][0]
        if slot >= len(self._slots):
            heapq.heappop(self._next)
            return
        heapq.heapreplace(self._next, (at / (1 - self._random.random()), slot))
        self._hold(slot, number, line)

    def _hold(self, slot: int, number: int, line: bytes) -> None:
        if number not in self._kept:
            self._kept[number] = [line, 0]
            self._held += len(line)
        self._kept[number][1] += 1
        self._release(self._slots[slot])
        self._slots[slot] = number
        while self._held > BUDGET and len(self._slots) > FEWEST:
            self._release(self._slots.pop())

    def _release(self, number: int) -> None:
        if number in self._kept:
            self._kept[number][1] -= 1
            if not self._kept[number][1]:
                self._held -= len(self._kept.pop(number)[0])


def count(sample: Sample, model: str, endpoint: str) -> Count:
    """The input tokens of all requests of the sample, as Mistral's own library counts those of this model. Unknown, with the reason.

    The error is three standard errors of the mean of tokens per byte, more of few requests, and what requests unlike any that was drawn
    may add: in 19 of 20 samples these are less than 3/n of the bytes.
    """
    if reason := UNCOUNTED.get(endpoint) or sample.uncounted:
        raise Unknown(reason)
    if not model:
        raise Unknown("the model is not known; name it with --model")
    counter = Counter(model, endpoint)
    total, shares = 0, []
    for line, times in sample.lines():
        tokens = counter(msgspec.json.decode(line)["body"])
        total += tokens
        shares.append((tokens / len(line), times))
    if not total:
        raise Unknown("there is no text in the requests")
    error = 0.0
    if not sample.exact:
        drawn = sum(times for _, times in shares)
        mean = sum(share * times for share, times in shares) / drawn
        variance = sum((share - mean) ** 2 * times for share, times in shares) / (drawn - 1)
        total = round(mean * sample.size)
        error = 3 * math.sqrt(variance / drawn) * (1 + 4 / (drawn - 1)) + 3 / drawn * mean
    of = f"{len(shares):,} of {sample.requests:,}" if error else f"all {sample.requests:,}"
    return Count(
        total,
        math.ceil(error * sample.size + counter.doubt * total),
        f"{of} requests counted, {counter.how}",
        counter.notes(),
    )


class Counter:
    """Counts the input tokens of requests of a model; Unknown when it has no tokenizer here.

    `how` says how, and `doubt` which share of the count that may be wrong.
    """

    def __init__(self, model: str, endpoint: str) -> None:
        self._refused = 0
        self._endpoint = endpoint
        self._tokenizer: Any = None
        try:
            self._tokenizer = _tokenizer(model.removeprefix("ft:").split(":")[0])
        except ModuleNotFoundError:
            extra = f"{installing('tokens')} has them counted"
            self.how = f"at {CHARACTERS} characters a token, since mistral-common is not installed ({extra})"
            self.doubt = ROUGH
            return
        self.how = f"by mistral-common {version('mistral-common')}"
        self.doubt = 0.0

    def __call__(self, body: dict[str, Any]) -> int:
        if reason := _uncounted(body):
            raise Unknown(reason)
        texts = [text for text in _texts(body) if text]
        if not self._tokenizer:
            return math.ceil(sum(map(len, texts)) / CHARACTERS)
        try:
            if "messages" in body:
                return _chat(self._tokenizer, body)
            if "prompt" in body:
                return _fim(self._tokenizer, body)
        except _refusals():
            self._refused += 1
        encode = self._tokenizer.instruct_tokenizer.tokenizer.encode
        return sum(len(encode(text, bos=True, eos=False)) for text in texts)

    def notes(self) -> tuple[str, ...]:
        """What there is to say of what was counted."""
        if self._refused:
            return (
                f"{self._refused:,} of the counted requests are not as mistral-common wants them: of these only the texts",
            )
        if self._tokenizer and self._endpoint in NO_OUTPUT:
            return (
                "Mistral does not publish the tokenizer of such models; tokens are those of its chat models",
            )
        return ()


@cache
def _tokenizer(model: str) -> Any:
    """mistral-common's tokenizer of a model, which takes a second to load. Unknown, or ModuleNotFoundError without the library."""
    from mistral_common.tokens.tokenizers.mistral import (
        MODEL_NAME_TO_TOKENIZER_CLS,
        MistralTokenizer,
    )

    load = MODEL_NAME_TO_TOKENIZER_CLS.get(model)
    if not load and not model.startswith(TEKKEN):
        raise Unknown(f"the tokenizer of {model} is not known")
    try:
        return load() if load else MistralTokenizer.v3(is_tekken=True)
    except ImportError as error:
        raise Unknown(
            f"counting for {model} needs: pip install 'mistral-common[sentencepiece]'"
        ) from error


def _chat(tokenizer: Any, body: dict[str, Any]) -> int:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    asked = {name: body[name] for name in ("messages", "tools") if body.get(name)}
    return len(tokenizer.encode_chat_completion(ChatCompletionRequest(**asked)).tokens)


def _fim(tokenizer: Any, body: dict[str, Any]) -> int:
    from mistral_common.protocol.fim.request import FIMRequest

    asked = {name: body[name] for name in ("prompt", "suffix") if body.get(name)}
    return len(tokenizer.encode_fim(FIMRequest(**asked)).tokens)


def _refusals() -> tuple[type[Exception], ...]:
    """What mistral-common raises for requests that it does not take, which Mistral may take."""
    from mistral_common.exceptions import MistralCommonException

    return MistralCommonException, ValueError, TypeError, AssertionError


_PARTS = ("text", "thinking", "reference")
_READ = ("messages", "tools", "input", "prompt", "suffix")


def _uncounted(body: dict[str, Any]) -> str:
    """Why the tokens of a request cannot be counted: a part of a message that is no text. mistral-common would fetch its address."""
    for message in body.get("messages") or ():
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in _PARTS:
                return f"what a part of a message of the type {str(kind)!r} takes is not known beforehand"
    return ""


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """All that a model reads of a request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in _READ or (name and key not in ("role", "type", "id")):
                yield from _texts(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)


_decode = msgspec.json.Decoder(_Line).decode
_MARKS = (b'"image_url"', b'"input_audio"', b'"document_url"', b'"file"')
