"""Run by a Python that has `mistralai`; answers each line `[URL, KEY]` with what a create came to, the SDK's retries on. Not a test module."""

import json
import sys

try:
    import httpx2 as httpx
except ImportError:
    import httpx

try:
    from mistralai.client import Mistral
    from mistralai.client.errors import SDKError
    from mistralai.client.utils import BackoffStrategy, RetryConfig
except ImportError:
    from mistralai import Mistral
    from mistralai.models import SDKError
    from mistralai.utils import BackoffStrategy, RetryConfig


def create(url, key):
    calls = []
    retries = RetryConfig(
        "backoff", BackoffStrategy(50, 200, 1.5, 4000), retry_connection_errors=True
    )
    transport = httpx.Client(event_hooks={"request": [calls.append]}, trust_env=False, timeout=30)
    with Mistral(api_key="any", server_url=url, client=transport, retry_config=retries) as client:
        try:
            job = client.batch.jobs.create(
                endpoint="/v1/ocr",
                requests=[{"body": {"a": 1}}],
                http_headers={"Idempotency-Key": key} if key else None,
            )
            report = {"id": job.id, "status": 200}
        except SDKError as error:
            report = {"id": None, "status": error.status_code}
    return {**report, "calls": len(calls)}


for line in sys.stdin:
    print(json.dumps(create(*json.loads(line))), flush=True)
