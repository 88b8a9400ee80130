"""An offline stand-in for Mistral's Batch and Files APIs, for trying things out and for tests.

`python -m sandbox` serves it. It reaches no model and costs nothing; its state lives in memory and
ends with the process. docs/sandbox.md says what Mistral documents and what was chosen here.
"""
