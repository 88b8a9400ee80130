"""Applies an OpenAPI Overlay (1.0 and 1.1) to a document.

Stricter than the standard in one point: an action whose target matches nothing is an error, since
it means that the capability and its overlay have drifted apart. Why no library does this:
docs/adr/0002-overlay-application.md.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from jsonpath import JSONPathEnvironment, JSONPathMatch
from jsonpath.exceptions import JSONPathError

from openapi.capability import CapabilityError, load

_CHANGES = {"update", "remove", "copy"}
_KEYS = {"target", "description", *_CHANGES}
_JSONPATH = JSONPathEnvironment(strict=True)  # RFC 9535 and nothing beyond it


class OverlayError(ValueError):
    """The overlay cannot be read or applied: the file, the action and the reason in one line."""


def apply(document: dict[str, Any], source: Path) -> dict[str, Any]:
    """A copy of `document` with the actions of the overlay file `source` applied; OverlayError."""
    result = copy.deepcopy(document)
    for number, action in enumerate(_actions(source)):
        try:
            _act(result, action)
        except (OverlayError, JSONPathError) as error:
            reason = str(error).splitlines()[0]
            raise OverlayError(
                f"{source}: actions[{number}] (target {action['target']}): {reason}"
            ) from error
    return result


def _actions(source: Path) -> list[dict[str, Any]]:
    try:
        overlay = load(source)
    except CapabilityError as error:
        raise OverlayError(f"{source}: {error}") from error
    if not isinstance(overlay, dict) or str(overlay.get("overlay"))[:4] not in ("1.0.", "1.1."):
        raise OverlayError(f"{source}: overlay: must be 1.0.x or 1.1.x")
    actions = overlay.get("actions")
    if not isinstance(actions, list) or not actions:
        raise OverlayError(f"{source}: actions: must be a list of at least one action")
    for number, action in enumerate(actions):
        if not isinstance(action, dict) or not isinstance(action.get("target"), str):
            raise OverlayError(f"{source}: actions[{number}]: has no target")
        if len(_CHANGES & set(action)) != 1:
            raise OverlayError(f"{source}: actions[{number}]: needs one of update, remove, copy")
        unknown = [key for key in action if key not in _KEYS and not key.startswith("x-")]
        if unknown:
            raise OverlayError(f"{source}: actions[{number}].{unknown[0]}: unknown key")
    return actions


def _act(document: dict[str, Any], action: dict[str, Any]) -> None:
    matches = {match.parts: match for match in _JSONPATH.finditer(action["target"], document)}
    if not matches:
        raise OverlayError("matches nothing")
    if "remove" in action:
        # From the last one on, so that an array's earlier indices stay right.
        for match in reversed(list(matches.values()) if action["remove"] else []):
            del _parent(match)[match.parts[-1]]
        return
    value = action.get("update")
    if "copy" in action:
        found = list(_JSONPATH.finditer(action["copy"], document))
        if len(found) != 1:
            reason = f"copy {action['copy']} matches {len(found)} nodes, must match one"
            raise OverlayError(reason)
        value = found[0].obj
    for match in matches.values():
        if isinstance(match.obj, list):
            match.obj.extend(copy.deepcopy(value if isinstance(value, list) else [value]))
            continue
        merged = _merged(match.obj, copy.deepcopy(value))
        if merged is not match.obj:
            _parent(match)[match.parts[-1]] = merged


def _parent(match: JSONPathMatch) -> Any:
    if match.parent is None:
        raise OverlayError("the root can only be merged into")
    return match.parent.obj


def _merged(target: Any, value: Any) -> Any:
    """`target` with `value` merged into it in place; `value` itself where both are scalars."""
    kinds = {_kind(target), _kind(value)}
    if len(kinds) > 1:
        raise OverlayError(f"{' and '.join(sorted(kinds))} cannot be merged")
    if isinstance(target, dict):
        for key, member in value.items():
            target[key] = _merged(target[key], member) if key in target else member
        return target
    if isinstance(target, list):
        target.extend(value)
        return target
    return value


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "an array"}
    return kinds.get(type(value), "a scalar")
