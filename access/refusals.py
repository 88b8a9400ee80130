"""The ways in which this package says no."""

from __future__ import annotations

from collections.abc import Iterable


class Refused(Exception):
    """A request that is turned away: `slug` and `status` say how, `detail` why, `headers` go with the answer."""

    def __init__(
        self, slug: str, status: int, detail: str, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(slug, detail)
        self.slug = slug
        self.status = status
        self.detail = detail
        self.headers = tuple(headers)


class Untrusted(ValueError):
    """A token is not good; the message says why in words fit for the caller."""


class KeysUnavailable(Exception):
    """There are no keys to check a token with: none could be fetched. `seconds` until that is tried again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds
