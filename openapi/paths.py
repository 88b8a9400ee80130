"""Which path was meant by one at which there is nothing."""

from __future__ import annotations

from openapi.contract import OWN_PAGES, Contract
from openapi.validation import near_name

LOOKED_AT = 12
"""Steps at the end of a path that are compared."""

_ANY = "*"


def meant_path(path: str, contract: Contract) -> str:
    """The path of the contract, as a template, or the page that `path` probably stands for; empty when it is like none.

    That is one at the end of `path` (`/v1/v1/x`, `/proxy/v1/x`), with or without its own first step (`/x` for `/v1/x`), in whatever
    case, with slashes too many and words misspelt; or one that other APIs have in its place (`Contract.other_paths`).
    """
    paths = {operation.path: operation.path for operation in contract.operations.values()}
    templates = {**contract.other_paths, **paths, **dict.fromkeys(OWN_PAGES - {"/"})}
    steps = {template: _steps(template) for template in templates}
    words = {step for each in steps.values() for step in each if step != _ANY}
    given = [near_name(step, words) or step for step in path.split("/") if step][-LOOKED_AT:]
    best, likeness = "", (0, 0)
    for template, wanted in steps.items():
        for tail in (wanted, wanted[1:]):
            told = len(tail) - tail.count(_ANY)
            if told and (len(tail), told) > likeness and _same(given[-len(tail) :], tail):
                best, likeness = templates[template] or template, (len(tail), told)
    return best if best != path else ""


def _steps(template: str) -> list[str]:
    return [_ANY if step.startswith("{") else step for step in template.split("/") if step]


def _same(given: list[str], wanted: list[str]) -> bool:
    return len(given) == len(wanted) and all(
        want in (_ANY, step) for step, want in zip(given, wanted, strict=True)
    )
