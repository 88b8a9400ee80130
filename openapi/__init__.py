"""The contract: one capability file and one overlay, the OpenAPI document derived from them, and its reading.

`derive` writes `openapi.yaml`; `contract` is the only reader of that document at run time.
"""
