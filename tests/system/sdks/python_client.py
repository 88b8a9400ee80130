"""Run by a Python that has `mistralai`: `python_client.py URL FAULT...`; prints what happened as JSON. Not a test module."""

import json
import sys
from datetime import UTC, datetime, timedelta

try:
    from mistralai.client import Mistral
    from mistralai.client.errors import SDKError
except ImportError:
    from mistralai import Mistral
    from mistralai.models import SDKError

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def main(url):
    with Mistral(
        api_key="the gateway's clients need no key of Mistral's", server_url=url
    ) as client:
        jobs = client.batch.jobs
        report = {
            "life": life(jobs),
            "filters": filters(jobs),
            "failures": failures(jobs, client.files),
            "files": files(client.files),
            "calls": calls(jobs, "batch.jobs") + calls(client.files, "files"),
        }
    print(json.dumps(report))


def calls(part, name):
    """What can be called there, but for the twin of each call for asyncio."""
    own = [each for each in vars(type(part)) if not each.startswith("_")]
    return [f"{name}.{each}" for each in own if not each.endswith("_async")]


def life(jobs):
    created = jobs.create(
        endpoint="/v1/chat/completions",
        model="mistral-small-latest",
        requests=[{"custom_id": "a", "body": CHAT}, {"custom_id": "b", "body": CHAT}],
        metadata={"made": "by the SDK"},
        timeout_hours=48,
    )
    got = jobs.get(job_id=created.id)
    cancelled = jobs.cancel(job_id=created.id)
    return {
        "created": [created.status, created.model, created.metadata],
        "same": got.id == created.id == cancelled.id,
        "cancelled": cancelled.status,
        "listed": created.id in [job.id for job in jobs.list().data],
        "inline": inline(jobs),
        "waited": waited(jobs, created.id),
    }


def inline(jobs):
    (done,) = jobs.list(metadata={"name": "half-broken"}).data
    plain, full = jobs.get(job_id=done.id), jobs.get(job_id=done.id, inline=True)
    return {
        "without": plain.outputs,
        "results": len(full.outputs),
        "answered": len([line for line in full.outputs if line["error"] is None]),
    }


def waited(jobs, under_way):
    (done,) = jobs.list(metadata={"name": "half-broken"}).data
    waits = [(done.id, "wait=45"), (under_way, "wait=1")]
    got = [jobs.get(job_id=name, http_headers={"Prefer": wait}) for name, wait in waits]
    return [job.status for job in got]


def filters(jobs):
    def named(**options):
        return [job.metadata.get("name") for job in jobs.list(**options).data]

    day = timedelta(days=1)
    aware = datetime.now(UTC) - day
    return {
        "page, page_size": named(page=1, page_size=3, created_after=aware, order_by="created"),
        "model": named(model="mistral-embed"),
        "agent_id": named(agent_id="ag:1 & more"),
        "metadata": named(metadata={"team": "support"}),
        "metadata of two": named(metadata={"team": "support", "name": "labels"}),
        "created_after aware": named(created_after=aware, metadata={"team": "web"}),
        "created_after naive": named(
            created_after=aware.replace(tzinfo=None), metadata={"team": "web"}
        ),
        "created_by_me": named(created_by_me=True, metadata={"team": "support"}),
        "status": named(status=["FAILED", "TIMEOUT_EXCEEDED"]),
        "order_by": named(order_by="created", metadata={"team": "web"}),
        "total": jobs.list(page_size=1, status=["SUCCESS"]).total,
    }


def files(files):
    lines = [{"custom_id": str(number), "body": CHAT} for number in range(3)]
    content = "\n".join(map(json.dumps, lines)).encode()
    made = files.upload(file={"file_name": "été 1.jsonl", "content": content}, purpose="batch")
    got = files.retrieve(file_id=made.id)
    read = files.download(file_id=made.id).read()
    listed = files.list(page_size=10, search="été").data
    gone = files.delete(file_id=made.id)
    return {
        "uploaded": [made.filename, made.purpose, made.size_bytes == len(content), made.num_lines],
        "retrieved": [got.id == made.id, got.filename, got.deleted],
        "downloaded": read == content,
        "listed": [each.id for each in listed] == [made.id],
        "deleted": [gone.id == made.id, gone.deleted],
        "left": len(files.list(search="été").data),
    }


def failures(jobs, files):
    def status(call, **options):
        try:
            call(**options)
        except SDKError as error:
            return [error.status_code, json.loads(error.body)["source"]]
        return "no SDKError"

    def upload(line, purpose="batch"):
        file = {"file_name": "a.jsonl", "content": line.encode()}
        return status(files.upload, file=file, purpose=purpose)

    def upstream_failing(name):
        return status(jobs.list, metadata={"fault": name})

    return {
        "contract broken": status(jobs.create, endpoint="/v1/nonsense", model="m"),
        "no uuid": status(jobs.get, job_id="1"),
        "unknown job": status(jobs.get, job_id=UNKNOWN_ID),
        "unknown job cancelled": status(jobs.cancel, job_id=UNKNOWN_ID),
        "job deleted": hasattr(jobs, "delete") and status(jobs.delete, job_id=UNKNOWN_ID),
        "signed URL": status(files.get_signed_url, file_id=UNKNOWN_ID),
        "payment required": status(
            jobs.create,
            endpoint="/v1/chat/completions",
            model="m",
            requests=[{"body": CHAT}] * 6,
        ),
        "unknown file": status(files.retrieve, file_id=UNKNOWN_ID),
        "unknown file downloaded": status(files.download, file_id=UNKNOWN_ID),
        "bad line uploaded": upload('{"custom_id": "a"}'),
        "other purpose uploaded": upload('{"custom_id": "a", "body": {}}', "fine-tune"),
        **{name: upstream_failing(name) for name in sys.argv[2:]},
    }


main(sys.argv[1])
