"""Run by a Python that has `mistralai` 2 or 3: `batch_client.py URL COUNT...`; prints what each run of so many requests gave as JSON. Not a test module."""

import asyncio
import json
import sys

from mistralai.client import Mistral
from mistralai.client.models import ChatCompletionResponse
from mistralai.extra.batch import BatchClient


async def run(client, count):
    chat = BatchClient(
        client, endpoint="/v1/chat/completions", response_body_type=ChatCompletionResponse
    )
    body = {"messages": [{"role": "user", "content": "Bonjour, ça va ?"}]}
    ids = [f"request {number}" for number in range(count)]
    lines = "\n".join(json.dumps({"custom_id": each, "body": body}) for each in ids)
    result = await chat.run(lines, model="mistral-small-latest", poll_interval_seconds=0.1)
    return {
        "status": result.status,
        "answered": sorted(result.by_id()) == sorted(ids),
        "failed": len(result.errors()) + len(result.response_errors()),
    }


async def main(url, counts):
    async with Mistral(
        api_key="the gateway's clients need no key of Mistral's", server_url=url
    ) as client:
        print(json.dumps({count: await run(client, int(count)) for count in counts}))


asyncio.run(main(sys.argv[1], sys.argv[2:]))
