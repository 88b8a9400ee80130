"""The MCP bridge: the contract's operations as tools, each call of one a request to REST.

`app` is the map. A call's way: `edge` -> `access.admission` -> `message_reader` -> the SDK -> `server` -> `arguments` ->
`rest_client` -> the REST service -> `results`, and `shortening` for a large answer; `tools` makes the tools at the start.
It reads nothing but the derived document and its settings. It holds no upstream key and knows of no upstream.
"""
