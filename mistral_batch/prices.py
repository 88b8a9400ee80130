"""What Mistral asks for a model's tokens in a batch: by a table of our own where that knows better, else by genai-prices.

No price is ever zero for not being known: it is None, with the reason.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from .errors import installing

MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True):
    """US dollars for a million tokens in a batch; `output` is 0 where there is none. `source` says where that is from, and of when."""

    input: float
    output: float
    source: str
    date: str

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """US dollars."""
        return (tokens_in * self.input + tokens_out * self.output) / MILLION


class NoPrice(Exception):
    """The price of a model is not known; the text says why."""


def price(model: str) -> Price:
    """The price of a model, by any name of it. NoPrice."""
    table = _table()
    if own := table["models"].get(model):
        return Price(own["input"], own["output"], table["source"], table["date"])
    try:
        listed = _listed(model)
    except ModuleNotFoundError as error:
        raise NoPrice(f"the price of {model} needs genai-prices: {installing('prices')}") from error
    if not listed:
        raise NoPrice(f"no price of {model or 'the model'} is known")
    return listed


@cache
def _table() -> Any:
    return msgspec.json.decode((files(__package__) / "prices.json").read_bytes())


@cache
def _listed(model: str) -> Price | None:
    """What genai-prices has; None when it has none, or one that is not by the token."""
    from genai_prices import Usage, calc_price

    def asked(usage: Usage, context: dict[str, str] | None) -> float:
        found = calc_price(usage, model, provider_id="mistral", price_context=context)
        return float(found.total_price)

    def of_both(context: dict[str, str] | None) -> tuple[float, float]:
        each = (Usage(input_tokens=MILLION), Usage(output_tokens=MILLION))
        return asked(each[0], context), asked(each[1], context)

    try:
        batch, standard = of_both({"processing": "batch"}), of_both(None)
    except LookupError:
        return None
    if not standard[0]:
        return None
    # genai-prices 0.2.3 answers with the full price where it has none of a batch; Mistral halves that of every model (FAQ of its docs).
    half = batch == standard
    if half:
        batch = standard[0] / 2, standard[1] / 2
    source = f"genai-prices {version('genai-prices')}" + (", halved" if half else "")
    return Price(*batch, source, _newest())


@cache
def _newest() -> str:
    """The day of the newest price of Mistral's that genai-prices has: the library does not say of which day its data is."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    provider = next(each for each in get_snapshot().providers if each.id == "mistral")
    conditions = (
        condition.constraint
        for model in provider.models
        if isinstance(model.prices, list)
        for condition in model.prices
    )
    days = [each.start_date for each in conditions if isinstance(each, StartDateConstraint)]
    return max(days).isoformat() if days else "unknown day"
