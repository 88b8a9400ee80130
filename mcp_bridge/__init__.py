"""The MCP bridge: the contract's operations as tools, each call of one a request to REST.

A call's way: `edge` and `access.admission` -> the SDK's endpoint -> `server` -> `calls` -> `transport` -> the REST service ->
`answers`; `tools` makes the tools at the start. It reads nothing but the derived document and its settings. It holds no
upstream key and knows of no upstream.
"""
