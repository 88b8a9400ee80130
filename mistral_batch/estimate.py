"""What requests will take and may cost, before they are sent; what a pilot says of that; and what results have cost.

What is not known is None, with the reason in `unknown`, and never counted as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from . import tokens
from .check import Checked
from .errors import OverLimit
from .prices import NoPrice, Price, price
from .tokens import NO_OUTPUT, Sample


class Range(msgspec.Struct, frozen=True):
    """Tokens, or US dollars; `likely` is None where only the bounds are known."""

    low: float
    high: float
    likely: float | None = None
    source: str = ""


class Estimate(msgspec.Struct, frozen=True):
    """What `requests` will take. `price` is in US dollars, `per_million` what tokens cost in a batch.

    `unknown` has why `input`, `output` or `price` is None.
    """

    requests: int
    size: int
    model: str
    endpoint: str
    input: Range | None
    output: Range | None
    price: Range | None
    per_million: Price | None
    unknown: dict[str, str]
    notes: list[str]


def estimate(checked: Checked | Sample, sample: Sample, model: str, endpoint: str) -> Estimate:
    """What requests will take and cost, by the sample that was drawn from them; they were checked, or sent before."""
    unknown: dict[str, str] = {}
    notes: list[str] = []
    input_tokens = None
    try:
        counted = tokens.count(sample, model, endpoint)
    except tokens.Unknown as error:
        unknown["input"] = str(error)
    else:
        notes += counted.notes
        low, high = max(1, counted.tokens - counted.error), counted.tokens + counted.error
        input_tokens = Range(low, high, counted.tokens, counted.source)
    output = None
    if endpoint in NO_OUTPUT:
        output = Range(0, 0, 0, "answers are no tokens")
    elif endpoint in tokens.UNCOUNTED:
        unknown["output"] = tokens.UNCOUNTED[endpoint]
    elif sample.unbounded:
        unknown["output"] = (
            f"{sample.unbounded:,} requests have no max_tokens (to learn what they take: estimate --pilot 50)"
        )
    else:
        output = Range(0, sample.bound, None, "at most max_tokens of each request")
    found = Estimate(
        checked.requests, checked.size, model, endpoint, input_tokens, output, None, None, unknown, notes
    )  # fmt: skip
    return _priced(found)


def _priced(found: Estimate) -> Estimate:
    """With the price of its tokens."""
    unknown = {name: why for name, why in found.unknown.items() if name != "price"}
    try:
        each = price(found.model)
    except NoPrice as error:
        return msgspec.structs.replace(found, unknown=unknown | {"price": str(error)})
    total = None
    if found.input and found.output:
        low = each.of(found.input.low, found.output.low)
        high = each.of(found.input.high, found.output.high)
        total = Range(low, high, None, f"{each.source}, {each.date}")
    elif found.input:
        least = each.of(found.input.low, 0)
        unknown["price"] = f"{unknown['output']}; the input alone is ${least:.2g} or more"
    else:
        unknown["price"] = unknown["input"]
    return msgspec.structs.replace(found, price=total, per_million=each, unknown=unknown)


def scaled(found: Estimate, usages: Iterable[Mapping[str, Any] | None]) -> Estimate:
    """The estimate with what a pilot's requests took, scaled to all of them; None stands for one that has no usage.

    The requests must have been drawn at random (`Sample.draw`). The error is three standard errors of the mean, more of few requests.
    """
    known = [used for used in map(usage, usages) if used]
    if len(known) < 2:
        note = "the pilot says nothing: fewer than two of its requests tell what they took"
        return msgspec.structs.replace(found, notes=[*found.notes, note])
    source = f"{len(known):,} of {found.requests:,} requests run, and scaled"
    unknown = {name: why for name, why in found.unknown.items() if name not in ("input", "output")}
    output = _all_of(found.requests, [used[1] for used in known], source)
    if found.output and found.output.high < output.high:
        output = msgspec.structs.replace(output, high=found.output.high)
    asked = found.input or _all_of(found.requests, [used[0] for used in known], source)
    return _priced(msgspec.structs.replace(found, input=asked, output=output, unknown=unknown))


def _all_of(requests: int, some: list[int], source: str) -> Range:
    """What all requests take when these of them took so much."""
    count = len(some)
    mean = sum(some) / count
    variance = sum((each - mean) ** 2 for each in some) / (count - 1)
    part = max(0.0, 1 - count / requests)
    error = 3 * math.sqrt(variance * part / count) * (1 + 4 / (count - 1)) + 3 / count * mean * part
    low = max(sum(some), math.floor((mean - error) * requests))
    return Range(low, math.ceil((mean + error) * requests), round(mean * requests), source)


def keep_limits(
    found: Estimate, max_requests: int | None = None, max_cost: float | None = None
) -> None:
    """OverLimit when there are more requests, or they may cost more US dollars, than that; or when nobody can say what they may cost."""
    if max_requests is not None and found.requests > max_requests:
        raise OverLimit(
            f"{found.requests:,} requests are more than --max-requests {max_requests:,}; nothing was sent"
        )
    if max_cost is None:
        return
    if not found.price:
        raise OverLimit(
            f"the price is unknown, so that --max-cost {max_cost:g} cannot be kept, and nothing was sent:"
            f" {found.unknown['price']}; --max-requests limits without a price"
        )
    if found.price.high > max_cost:
        raise OverLimit(
            f"it may cost ${found.price.high:,.4g}, which is more than --max-cost {max_cost:g}; nothing was sent"
        )


def usage(said: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """The tokens in and out that a result's `usage` says; None when it does not say."""
    if not isinstance(said, Mapping) or not isinstance(said.get("prompt_tokens"), int):
        return None
    out = said.get("completion_tokens")
    if out is None:
        out = said.get("total_tokens", said["prompt_tokens"]) - said["prompt_tokens"]
    return said["prompt_tokens"], out


class Charge(msgspec.Struct):
    """What the results of one model took; `without` of them do not say. `price` is in US dollars, None when `why` says so."""

    model: str
    results: int = 0
    without: int = 0
    input: int = 0
    output: int = 0
    price: float | None = None
    per_million: Price | None = None
    why: str = ""


class Bill:
    """What results took, by model, and what that costs."""

    def __init__(self) -> None:
        self._charges: dict[str, Charge] = {}

    def add(self, model: str, said: Mapping[str, Any] | None) -> None:
        """Takes a result into account: the model that answered, and its `usage`."""
        charge = self._charges.setdefault(model, Charge(model))
        used = usage(said)
        charge.results += 1
        if used is None:
            charge.without += 1
        else:
            charge.input += used[0]
            charge.output += used[1]

    def charges(self) -> list[Charge]:
        """Of each model, the one with most results first."""
        for charge in self._charges.values():
            try:
                each = price(charge.model)
            except NoPrice as error:
                charge.why = str(error)
                continue
            charge.per_million = each
            if charge.results > charge.without:
                charge.price = each.of(charge.input, charge.output)
            else:
                charge.why = "no result says what it took"
        return sorted(self._charges.values(), key=lambda charge: -charge.results)
