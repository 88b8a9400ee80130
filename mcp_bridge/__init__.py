"""The MCP bridge: the contract's operations as tools, each call of one a request to REST.

It reads nothing but the derived document and its settings. It holds no upstream key and knows of
no upstream.
"""
