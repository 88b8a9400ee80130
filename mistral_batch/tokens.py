"""How many tokens requests are, counted by mistral-common, which is loaded only when something is counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from .errors import installing
from .sample import Sample as Sample
from .sample import not_text

BYTES = 4.0
AROUND = 4
ROUGH = 0.4
"""Where mistral-common is not installed: bytes of UTF-8 of a token, tokens around a message, and what share of all that may be wrong.
5.0 bytes were measured on English prose, 4.2 on German, 3.4 on Markdown with tables, 3.3 on Chinese."""
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


def count(sample: Sample, model: str, endpoint: str) -> Count:
    """The input tokens of all requests of the sample, as Mistral's own library counts those of this model. Unknown, with the reason.

    The error is three standard errors of the mean of tokens per byte, more of few requests, and what requests unlike any that was drawn
    may add: in 19 of 20 samples these are less than 3/n of the bytes. Measured with 100 seeds each on files of 20,000 requests
    (log-normal and Pareto lengths, a third in another language, a few words each): 399 of 400 totals were within it, the worst was 2.7 %
    off, and the error 1.5 to 2.2 %.
    """
    if reason := UNCOUNTED.get(endpoint) or sample.not_text:
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
    of = f"{len(shares):,} of {sample.requests:,}" if error else "all"
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
            self.how = (
                f"at {BYTES:g} bytes a token, since mistral-common is not installed ({extra})"
            )
            self.doubt = ROUGH
            return
        self.how = f"by mistral-common {version('mistral-common')}"
        self.doubt = 0.0

    def __call__(self, body: dict[str, Any]) -> int:
        if reason := not_text(body):
            raise Unknown(reason)
        if not self._tokenizer:
            size = sum(len(text.encode(errors="replace")) for text in _texts(body))
            return math.ceil(size / BYTES) + AROUND * len(body.get("messages", ()))
        try:
            if "messages" in body:
                return _chat(self._tokenizer, body)
            if "prompt" in body:
                return _fim(self._tokenizer, body)
        except _refusals():
            self._refused += 1
        encode = self._tokenizer.instruct_tokenizer.tokenizer.encode
        return sum(len(encode(text, bos=True, eos=False)) for text in _texts(body) if text)

    def notes(self) -> tuple[str, ...]:
        """What there is to say of what was counted."""
        if not self._tokenizer:
            return ("a rough count: the price may be higher or lower than this",)
        if self._refused:
            return (
                f"{self._refused:,} of the counted requests are not as mistral-common wants them: of these only the texts",
            )
        if self._endpoint in NO_OUTPUT:
            return (
                "Mistral does not publish the tokenizer of such models; tokens are those of its chat models",
            )
        return ()


def _tokenizer(model: str) -> Any:
    """mistral-common's tokenizer of a model. Unknown, or ModuleNotFoundError without the library."""
    from mistral_common.tokens.tokenizers.mistral import MODEL_NAME_TO_TOKENIZER_CLS

    load = MODEL_NAME_TO_TOKENIZER_CLS.get(model)
    if not load and not model.startswith(TEKKEN):
        raise Unknown(f"the tokenizer of {model} is not known")
    try:
        return load() if load else _tekken()
    except ImportError as error:
        needed = "pip install 'mistral-common[sentencepiece]'"
        raise Unknown(f"counting for {model} needs: {needed}") from error


@cache
def _tekken() -> Any:
    """Takes a second to load."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.v3(is_tekken=True)


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

    return MistralCommonException, ValueError, TypeError, AssertionError, RecursionError


_READ = ("messages", "tools", "input", "prompt", "suffix")


def _texts(body: dict[str, Any]) -> Iterator[str]:
    """All that a model reads of a request, in no order."""
    left = [body[name] for name in _READ if name in body]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += [each for name, each in value.items() if name not in ("role", "type", "id")]
