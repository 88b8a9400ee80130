"""What a process tells about itself: log lines, audit lines, metrics, traces. Shared by the REST service and the MCP bridge.

It knows neither of them. Nothing here may stop a request: what cannot be written is dropped and counted.
"""
