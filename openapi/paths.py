"""Which path was meant by one at which there is nothing."""

from __future__ import annotations

from openapi.contract import OWN_PAGES, Contract
from openapi.names import Names

LOOKED_AT = 12
"""Steps at the end of a path that are compared."""

_ANY, _ID = "*", "#"

# What other servers call such pages.
_OTHER_PAGES = {
    **dict.fromkeys(("/health", "/healthz", "/health/live", "/live", "/ping"), "/livez"),
    **dict.fromkeys(("/health/ready", "/ready"), "/readyz"),
    **dict.fromkeys(("/swagger", "/redoc"), "/docs"),
    "/swagger.json": "/openapi.json",
}


class KnownPaths:
    """The paths of a contract, the pages beside them, and what other APIs have in their places. Thread-safe; make it once and keep it."""

    def __init__(self, contract: Contract) -> None:
        paths = {operation.path: operation.path for operation in contract.operations.values()}
        pages = {**_OTHER_PAGES, **{page: page for page in OWN_PAGES - {"/"}}}
        self._templates = {**contract.other_paths, **paths, **pages}
        self._steps = {
            template: _steps(template, _ANY if template in paths else _ID)
            for template in self._templates
        }
        words = [step for each in self._steps.values() for step in each]
        self._words = Names({word: {} for word in words if word not in (_ANY, _ID)})

    def meant(self, path: str) -> str:
        """The path of the contract, as a template, or the page that `path` probably stands for; empty when it is like none.

        That is one at the end of `path` (`/v1/v1/x`, `/proxy/v1/x`), or one without its own first step (`/x` for `/v1/x`), in whatever
        case, with slashes too many and words misspelt; or one that other APIs have in its place (`Contract.other_paths`). Behind other
        steps one word is too little, and the first step must be missing: `/v1/other/x` is a path of its own.
        """
        given = [step for step in path.split("/") if step]
        whole = len(given)
        given = [self._words.meant(step) or step for step in given[-LOOKED_AT:]]
        best, likeness = "", (0, 0)
        for template, wanted in self._steps.items():
            for tail in (wanted, wanted[1:]):
                told = len(tail) - tail.count(_ANY) - tail.count(_ID)
                if (
                    not told
                    or (len(tail), told) <= likeness
                    or not _same(given[-len(tail) :], tail)
                ):
                    continue
                if tail is wanted or whole == len(tail) or (told > 1 and wanted[0] not in given):
                    best, likeness = self._templates[template], (len(tail), told)
        return best if best != path else ""


def _steps(template: str, variable: str) -> list[str]:
    return [variable if step.startswith("{") else step for step in template.split("/") if step]


def _same(given: list[str], wanted: list[str]) -> bool:
    return len(given) == len(wanted) and all(
        # Where another API has an id, a word is likelier the name of something else of its; ids have digits.
        want in (_ANY, step) or (want == _ID and any(map(str.isdigit, step)))
        for step, want in zip(given, wanted, strict=True)
    )
