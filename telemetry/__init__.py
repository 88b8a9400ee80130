"""What a process tells about itself: `logs` and `trace_context` for both processes, `metrics` and `spans` for the REST service.

It knows neither process. Nothing here may stop a request: what cannot be written is dropped and counted.
"""
