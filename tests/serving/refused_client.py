"""Run by a Python that has `mistralai` 3: `refused_client.py URL TOKEN TIMES`; prints what was refused as JSON. Not a test module."""

import asyncio
import json
import sys
from collections import Counter

from mistralai.client import Mistral

LARGE = "x" * (3 << 20)


async def statuses(times, call):
    """How often `call` failed with which status, or with which exception; eight at a time."""
    places = asyncio.Semaphore(8)

    async def one():
        async with places:
            try:
                await call()
            except Exception as error:
                return str(getattr(error, "status_code", type(error).__name__))

    return Counter(await asyncio.gather(*(one() for _ in range(times))))


async def main(url, token, times):
    async with Mistral(api_key=token, server_url=url) as client:
        body = {"messages": [{"role": "user", "content": LARGE}]}
        report = {
            "create": await statuses(
                times,
                lambda: client.batch.jobs.create_async(
                    endpoint="/v1/chat/completions", model="m", requests=[{"body": body}]
                ),
            ),
            "upload": await statuses(
                times,
                lambda: client.files.upload_async(
                    file={"file_name": "a.jsonl", "content": LARGE.encode()}, purpose="batch"
                ),
            ),
        }
    print(json.dumps(report))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
