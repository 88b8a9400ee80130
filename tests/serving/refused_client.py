"""Run by a Python that has `mistralai` 3: `refused_client.py URL WRITER READER TIMES`; prints what was refused as JSON. Not a test module."""

import asyncio
import functools
import json
import sys
from collections import Counter

from mistralai.client import Mistral
from mistralai.client.errors import SDKError

LARGE = "x" * (5 << 18)


async def outcomes(times, call):
    """How often `call` came to which problem, or to which exception; eight at a time."""
    places = asyncio.Semaphore(8)

    async def one():
        async with places:
            try:
                await call()
            except SDKError as error:
                return json.loads(error.body)["type"].rpartition("#")[2]
            except Exception as error:
                return type(error).__name__

    return Counter(await asyncio.gather(*(one() for _ in range(times))))


def lines(count):
    return [
        b'{"custom_id": "%d", "body": {"input": "%s"}}\n' % (n, b"x" * 900) for n in range(count)
    ]


GOOD = b"".join(lines(400))
# kind of refusal -> what is uploaded: its purpose and its content
UPLOADS = {
    "scope": ("batch", GOOD),
    "purpose": ("fine-tune", GOOD),
    "purpose of a small file": ("fine-tune", lines(1)[0]),
    "size": ("batch", LARGE.encode()),
    "line": ("batch", GOOD + b"{}"),
}


async def main(url, writer, reader, times):
    async with Mistral(api_key=writer, server_url=url) as client:
        body = {"messages": [{"role": "user", "content": LARGE}]}
        report = {
            "create": await outcomes(
                times,
                lambda: client.batch.jobs.create_async(
                    endpoint="/v1/chat/completions", model="m", requests=[{"body": body}]
                ),
            ),
        }
    for kind, (purpose, content) in UPLOADS.items():
        token = reader if kind == "scope" else writer
        async with Mistral(api_key=token, server_url=url) as client:
            file = {"file_name": "a.jsonl", "content": content}
            upload = functools.partial(client.files.upload_async, file=file, purpose=purpose)
            report[kind] = await outcomes(times, upload)
    print(json.dumps(report))


asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
