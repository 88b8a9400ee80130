"""One more operation in a copy of the project's first capability, whatever it has already: names and a path of its own. Not a test module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from openapi.derive import OWN_CAPABILITIES, OWN_CAPABILITY


class Addition(NamedTuple):
    """The operation's names, and the changed capability. It deletes a job upstream, as Mistral's API can."""

    operation: str
    tool: str
    path: str
    capability: Path


def with_an_addition(folder: Path) -> Addition:
    """The addition, whose capability is in `folder`."""
    taken = "".join(path.read_text(encoding="utf-8") for path in OWN_CAPABILITIES)
    word = "added"
    while word in taken:
        word += "x"
    whole: dict[str, Any] = yaml.safe_load(OWN_CAPABILITY.read_text(encoding="utf-8"))
    (consumed,), (rest, mcp) = (whole["capability"][key] for key in ("consumes", "exposes"))
    addition = Addition(
        f"{word}job", f"{word}-job", f"/v1/{word}/{{job-id}}", folder / f"{word}.yaml"
    )
    call = {"call": f"{consumed['namespace']}.{addition.operation}", "description": "Delete it"}
    deletes = {"name": addition.operation, "method": "DELETE"}
    consumed["resources"].append(
        {"name": word, "path": "/batch/jobs/{job_id}", "operations": [deletes]}
    )
    rest["resources"].append(
        {"name": word, "path": addition.path, "operations": [{**deletes, **call}]}
    )
    mcp["tools"].append({"name": addition.tool, **call})
    addition.capability.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return addition
