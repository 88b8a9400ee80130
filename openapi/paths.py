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


def meant_path(path: str, contract: Contract) -> str:
    """The path of the contract, as a template, or the page that `path` probably stands for; empty when it is like none.

    That is one at the end of `path` (`/v1/v1/x`, `/proxy/v1/x`), or one without its own first step (`/x` for `/v1/x`), in whatever
    case, with slashes too many and words misspelt; or one that other APIs have in its place (`Contract.other_paths`). Behind other
    steps one word is too little, and the first step must be missing: `/v1/other/x` is a path of its own.
    """
    paths = {operation.path: operation.path for operation in contract.operations.values()}
    pages = {**_OTHER_PAGES, **{page: page for page in OWN_PAGES - {"/"}}}
    templates = {**contract.other_paths, **paths, **pages}
    steps = {
        template: _steps(template, _ANY if template in paths else _ID) for template in templates
    }
    words = Names({step: {} for each in steps.values() for step in each if step not in (_ANY, _ID)})
    given = [step for step in path.split("/") if step]
    whole = len(given)
    given = [words.meant(step) or step for step in given[-LOOKED_AT:]]
    best, likeness = "", (0, 0)
    for template, wanted in steps.items():
        for tail in (wanted, wanted[1:]):
            told = len(tail) - tail.count(_ANY) - tail.count(_ID)
            if not told or (len(tail), told) <= likeness or not _same(given[-len(tail) :], tail):
                continue
            if tail is wanted or whole == len(tail) or (told > 1 and wanted[0] not in given):
                best, likeness = templates[template], (len(tail), told)
    return best if best != path else ""


def _steps(template: str, variable: str) -> list[str]:
    return [variable if step.startswith("{") else step for step in template.split("/") if step]


def _same(given: list[str], wanted: list[str]) -> bool:
    return len(given) == len(wanted) and all(
        # Where another API has an id, a word is likelier the name of something else of its; ids have digits.
        want in (_ANY, step) or (want == _ID and any(map(str.isdigit, step)))
        for step, want in zip(given, wanted, strict=True)
    )
