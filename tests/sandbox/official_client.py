"""Run by the Python that has `mistralai` 3; prints what happened as JSON. Not a test module."""

import asyncio
import json
import sys
import urllib.request

from mistralai.client import Mistral
from mistralai.client import models as m
from mistralai.extra.batch import BatchClient

LINES = b"\n".join(
    json.dumps(
        {"custom_id": name, "body": {"messages": [{"role": "user", "content": text}]}}
    ).encode()
    for name, text in [
        ("a", "hi"),
        ("b", "ho"),
        ("bad-string", "sandbox:fail-string"),
        ("bad-object", "sandbox:fail-object"),
    ]
)
BODIES = {
    "/v1/chat/completions": m.ChatCompletionResponse,
    "/v1/embeddings": m.EmbeddingResponse,
    "/v1/fim/completions": m.FIMCompletionResponse,
    "/v1/moderations": m.ModerationResponse,
    "/v1/chat/moderations": m.ModerationResponse,
    "/v1/ocr": m.OCRResponse,
    "/v1/classifications": m.ClassificationResponse,
    "/v1/chat/classifications": m.ClassificationResponse,
    "/v1/conversations": m.ConversationResponse,
    "/v1/audio/transcriptions": m.TranscriptionResponse,
}


async def main(url):
    async with Mistral(api_key="any", server_url=url) as client:
        chat = BatchClient(
            client,
            endpoint="/v1/chat/completions",
            response_body_type=m.ChatCompletionResponse,
        )
        report = {"inline": await run(chat, 1000), "uploaded": await run(chat, 1), "bodies": {}}
        for endpoint, model in BODIES.items():
            batch = BatchClient(client, endpoint=endpoint, response_body_type=model)
            line = b'{"custom_id":"x","body":{"input":"text"}}'
            result = await batch.run(line, model="m", poll_interval_seconds=0.05)
            report["bodies"][endpoint] = f"{result.status} {len(result.by_id())}"
        report["files"] = await files(client)
    print(json.dumps(report))


async def run(chat, threshold):
    result = await chat.run(
        LINES, model="m", poll_interval_seconds=0.05, inline_threshold=threshold
    )
    return {
        "status": result.job.status,
        "responses": sorted(result.by_id()),
        "request_errors": sorted(error.custom_id for error in result.errors()),
        "response_errors": [str(error) for error in result.response_errors()],
    }


async def files(client):
    content = b'{"body":{}}'
    file = await client.files.upload_async(
        file={"file_name": "x.jsonl", "content": content}, purpose="batch"
    )
    listed = await client.files.list_async()
    got = await client.files.retrieve_async(file_id=file.id)
    read = await (await client.files.download_async(file_id=file.id)).aread()
    signed = await client.files.get_signed_url_async(file_id=file.id)
    opened = urllib.request.urlopen(signed.url).read()
    gone = await client.files.delete_async(file_id=file.id)
    return {
        "listed": file.id in [each.id for each in listed.data] and got.id == file.id,
        "content": read.decode(),
        "signed": opened == content,
        "deleted": gone.deleted,
    }


asyncio.run(main(sys.argv[1]))
