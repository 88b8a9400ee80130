"""A sample of requests, by which the tokens of all of them are told.

A request is drawn with a chance that grows with its bytes. The mean of the drawn ones' tokens per byte, times the bytes of all requests,
which are known, is then the tokens of all. A few huge rows do no harm to that: they are drawn as often as they weigh.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterator
from typing import Any

import msgspec

SIZE = 2_000
BUDGET = 16 << 20
"""Bytes of drawn requests that are kept, so that large ones take neither the memory nor the time; at least `FEWEST` are."""
FEWEST = 30


class _Body(msgspec.Struct, gc=False):
    max_tokens: Any = None
    n: Any = None


class _Line(msgspec.Struct, gc=False):
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
        self.not_text = ""
        """Why the tokens of a request among them cannot be counted."""
        self._count = count
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._all: list[bytes] | None = []
        self._kept: dict[int, list[Any]] = {}
        """By the number of a request: the request, and how many slots have it."""
        self._held = 0
        self._slots: list[int] = []
        self._next: list[tuple[float, int]] = []
        """The byte of all at which a slot gets another request, and the slot: a heap."""

    def add(self, line: bytes) -> None:
        """Takes a request line, without a line end, into account."""
        self.requests += 1
        self.size += len(line)
        body = _decode(line).body
        most = (body.max_tokens, 1 if body.n is None else body.n)
        if all(type(each) is int and 0 <= each < 1 << 53 for each in most):
            self.bound += most[0] * most[1]
        else:
            self.unbounded += 1
        if not self.not_text and _marked(line):
            self.not_text = not_text(msgspec.json.decode(line)["body"])
        if self._all is None:
            while self._next[0][0] < self.size:
                self._put(self.requests, line)
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
        """So many requests, each with the same chance whatever its size, for a pilot; fewer when there are not so many.

        They are the same ones each time.
        """
        draw = random.Random(self.size)  # noqa: S311 (no secret)
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
        for slot, at in enumerate(drawn):
            if slot < len(self._slots):
                self._hold(slot, at, lines[at])
        self._next = [
            (self.size / (1 - self._random.random()), slot) for slot in range(len(self._slots))
        ]
        heapq.heapify(self._next)

    def _put(self, number: int, line: bytes) -> None:
        """Gives the next slot this request. The byte that a slot has is still the drawn one of a further x with the chance byte / x."""
        at, slot = heapq.heappop(self._next)
        if slot < len(self._slots):
            heapq.heappush(self._next, (at / (1 - self._random.random()), slot))
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


_PARTS = ("text", "thinking", "reference")


def not_text(body: dict[str, Any]) -> str:
    """Why the tokens of a request cannot be counted: a part of a message that is no text. mistral-common would fetch its address."""
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in _PARTS:
                return f"what a part of a message of the type {str(kind)!r} takes is not known beforehand"
    return ""


_decode = msgspec.json.Decoder(_Line).decode
# Of a line of 600 bytes this takes 1 us; `in` for each of the words 5.
_marked = re.compile(rb'"(?:image_url|input_audio|document_url|file)"').search
