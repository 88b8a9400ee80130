"""An estimate is a range with its sources, or unknown with the reason; limits are kept by its upper end; a bill leaves nothing out."""

import json
import random
import sys
from types import SimpleNamespace

import pytest

from mistral_batch import prices
from mistral_batch.errors import OVER_LIMIT, OverLimit
from mistral_batch.estimate import Bill, Estimate, estimate, keep_limits, scaled
from mistral_batch.prices import NoPrice, price
from mistral_batch.tokens import Sample

CHAT = "/v1/chat/completions"
SMALL = "mistral-small-latest"


def estimated(
    *bodies: dict[str, object], model: str = SMALL, endpoint: str = CHAT, times: int = 1
) -> Estimate:
    sample = Sample()
    for body in bodies * times:
        sample.add(json.dumps({"custom_id": "1", "body": body}).encode())
    checked = SimpleNamespace(requests=sample.requests, size=sample.size)
    return estimate(checked, sample, model, endpoint)


def asked(text: str = "Positive or negative? Good.", **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


def test_the_price_is_from_no_answer_at_all_to_the_longest_answers() -> None:
    found = estimated(asked(max_tokens=5), asked(max_tokens=7), times=10)
    assert found.input and found.output and found.price and found.per_million
    assert found.input.low == found.input.high == found.input.likely
    assert (found.output.low, found.output.high, found.output.likely) == (0, 120, None)
    # Mistral's list of 2026-08: 0.15 and 0.60 for a million, half of it in a batch.
    assert (found.per_million.input, found.per_million.output) == (0.075, 0.3)
    assert found.price.low == pytest.approx(found.input.low * 0.075 / 1e6)
    assert found.price.high == pytest.approx((found.input.low * 0.075 + 120 * 0.3) / 1e6)
    assert found.unknown == {}


def test_several_answers_to_a_request_are_all_counted() -> None:
    found = estimated(asked(max_tokens=5, n=3))
    assert found.output and found.output.high == 15


def test_where_the_price_is_from_is_said() -> None:
    assert price(SMALL).source.startswith("genai-prices 0.")
    assert price(SMALL).date.startswith("20")
    assert (price("ministral-3b-latest").date, price("ministral-3b-latest").input) == (
        "2026-08-21",
        0.05,
    )


@pytest.mark.parametrize(
    ("model", "list_price"),
    [
        ("mistral-small-2603", (0.15, 0.60)),
        ("mistral-medium-latest", (1.5, 7.5)),
        ("mistral-large-latest", (0.5, 1.5)),
        ("mistral-large-2512", (0.5, 1.5)),
        ("magistral-medium-latest", (2, 5)),
        ("devstral-latest", (0.4, 2)),
        ("codestral-latest", (0.3, 0.9)),
        ("ministral-3b-latest", (0.1, 0.1)),
        ("ministral-8b-latest", (0.15, 0.15)),
        ("ministral-14b-latest", (0.2, 0.2)),
    ],
)
def test_a_batch_is_half_of_mistrals_list_price(
    model: str, list_price: tuple[float, float]
) -> None:
    """The list of docs.mistral.ai, 2026-08."""
    assert (price(model).input * 2, price(model).output * 2) == pytest.approx(list_price)


@pytest.mark.parametrize(
    "model", ["mistral-ocr-latest", "voxtral-mini-latest", "mistral-moderation-latest", "gpt-4o", "mistral-nemo:free", "ft:mistral-small-latest:me", ""]
)  # fmt: skip
def test_a_price_that_is_not_known_is_never_zero(model: str) -> None:
    with pytest.raises(NoPrice, match="price"):
        price(model)


def test_embeddings_have_no_output_and_a_price() -> None:
    found = estimated({"input": ["one", "two"]}, model="mistral-embed", endpoint="/v1/embeddings")
    assert found.output and found.output.high == 0
    assert found.price and found.price.high >= found.price.low > 0


def test_without_max_tokens_output_and_price_are_unknown_but_not_the_input() -> None:
    found = estimated(asked(max_tokens=5), asked())
    assert found.input and found.input.likely
    assert (found.output, found.price) == (None, None)
    assert "1 requests have no max_tokens" in found.unknown["output"]
    assert "the input alone" in found.unknown["price"]


@pytest.mark.parametrize(
    ("body", "model", "endpoint"),
    [
        ({"document": {"document_url": "https://x"}}, "mistral-ocr-latest", "/v1/ocr"),
        (asked(max_tokens=5), "", "/v1/agents/completions"),
        (asked(max_tokens=5), "somebody-elses", CHAT),
        ({"input": "text"}, "mistral-moderation-latest", "/v1/moderations"),
    ],
)
def test_what_has_an_unknown_part_has_no_price_and_a_reason(
    body: dict[str, object], model: str, endpoint: str
) -> None:
    found = estimated(body, model=model, endpoint=endpoint)
    assert found.price is None
    assert found.unknown["price"]


def test_without_genai_prices_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_listed", prices._listed.__wrapped__)
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    found = estimated(asked(max_tokens=5))
    assert found.price is None
    assert "install genai-prices" in found.unknown["price"]


def test_limits_are_kept_by_the_upper_end_of_the_price() -> None:
    found = estimated(asked(max_tokens=1_000), times=100)
    assert found.price and found.price.low < 0.001 < 0.03 < found.price.high
    keep_limits(found, max_requests=100, max_cost=1)
    with pytest.raises(OverLimit, match=r"\$0\.03.*--max-cost 0\.03") as over:
        keep_limits(found, max_cost=0.03)
    assert over.value.exit_code == OVER_LIMIT
    with pytest.raises(OverLimit, match="100 requests are more than --max-requests 99"):
        keep_limits(found, max_requests=99)


def test_a_cost_that_nobody_can_know_is_over_any_limit() -> None:
    with pytest.raises(OverLimit, match=r"unknown.*max_tokens.*--pilot.*--max-requests"):
        keep_limits(estimated(asked()), max_cost=1_000_000)


def test_a_pilot_tells_what_answers_take() -> None:
    draw = random.Random(1)
    answers = [int(draw.lognormvariate(4, 0.5)) for _ in range(500)]
    before = estimated(asked(), times=500)
    held = 0
    for seed in range(20):
        some = random.Random(seed).sample(answers, 50)
        used = [{"prompt_tokens": 12, "completion_tokens": each} for each in some]
        found = scaled(before, used)
        assert found.output and found.price and not found.unknown
        assert found.output.source == "50 of 500 requests run, and scaled"
        held += found.output.low <= sum(answers) <= found.output.high
    assert held >= 19


def test_a_pilot_tells_the_input_too_where_it_cannot_be_counted() -> None:
    image = [{"type": "image_url", "image_url": "https://x/y.png"}]
    before = estimated({"messages": [{"role": "user", "content": image}]}, times=100)
    used = [{"prompt_tokens": 900 + n, "completion_tokens": 10} for n in range(10)]
    found = scaled(before, used)
    assert before.input is None
    assert found.input and found.input.low < 90_450 < found.input.high
    assert found.price and not found.unknown


def test_a_pilot_does_not_go_beyond_max_tokens() -> None:
    used = [{"prompt_tokens": 12, "completion_tokens": n} for n in (1, 5, 5, 4)]
    found = scaled(estimated(asked(max_tokens=5), times=100), used)
    assert found.output and found.output.high == 500


@pytest.mark.parametrize("used", [[], [None] * 9, [{"prompt_tokens": 5, "completion_tokens": 9}]])
def test_a_pilot_without_usage_says_nothing(used: list[dict[str, int] | None]) -> None:
    found = scaled(estimated(asked(), times=100), used)
    assert found.output is None
    assert "the pilot says nothing" in found.notes[-1]


def test_a_bill_sums_by_model_and_leaves_nothing_out() -> None:
    bill = Bill()
    for _ in range(10):
        bill.add(SMALL, {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100})
    bill.add(SMALL, None)
    bill.add("somebody-elses", {"prompt_tokens": 7, "completion_tokens": 1})
    bill.add("mistral-embed", {"prompt_tokens": 50, "total_tokens": 50})
    bill.add("mistral-ocr-latest", {"pages_processed": 2})
    small, stranger, embed, ocr = bill.charges()
    assert (small.results, small.without, small.input, small.output) == (11, 1, 10_000, 1_000)
    assert small.price == pytest.approx((10_000 * 0.075 + 1_000 * 0.3) / 1e6)
    assert (stranger.price, stranger.input) == (None, 7)
    assert "somebody-elses" in stranger.why
    assert (embed.input, embed.output) == (50, 0)
    assert embed.price
    assert (ocr.without, ocr.price) == (1, None)
    assert ocr.why
