"""The contract: one capability file and one overlay, the OpenAPI document derived from them, and its reading.

`derive` writes `openapi.yaml`: `capability` reads the file, `mapping` finds which input fills which, `overlay` adds what a capability
cannot say. `contract` is the only reader of that document at run time; `validation` (over `json_schema`) checks what callers send by it,
`partial_json` and `json_text` read their JSON.
"""
