"""`python finished_run.py FOLDER ROWS`: a table of so many rows, and a run of it that is over, as `mistral-batch` leaves one.

In FOLDER are then `table.parquet`, `results.jsonl` with all results, in another order, and below `runs` the run. Prints its name.
"""

import json
import random
import sys
from pathlib import Path

import pyarrow
from pyarrow import parquet

from mistral_batch import steps
from mistral_batch.api import BatchAPI
from mistral_batch.chunks import plan
from mistral_batch.lines import Form
from mistral_batch.runs import Runs

TEXT = "The delivery came late, but what was in it is just what I had been looking for. " * 2


def table(rows: int) -> pyarrow.Table:
    """Reviews with an id each."""
    texts = [f"{number}: {TEXT}" for number in range(rows)]
    ids = [f"review-{number:07}" for number in range(rows)]
    return pyarrow.table({"review": ids, "stars": [1 + n % 5 for n in range(rows)], "text": texts})


def result(number: int) -> bytes:
    """A line of results, as Mistral writes it."""
    message = {"role": "assistant", "tool_calls": None, "content": f"positive, {number}"}
    body = {
        "id": f"cmpl-{number:032}", "object": "chat.completion", "created": 1790000000,
        "model": "mistral-small-latest",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 44, "completion_tokens": 5, "total_tokens": 49},
    }  # fmt: skip
    response = {"status_code": 200, "body": body}
    line = {"id": f"batch-{number:032}", "custom_id": f"review-{number:07}", "response": response}
    return json.dumps({**line, "error": None}, separators=(",", ":")).encode() + b"\n"


def main(folder: Path, rows: int) -> None:
    """Makes them."""
    path = folder / "table.parquet"
    parquet.write_table(table(rows), path)
    form = Form(prompt="Positive or negative? {text}", id="review", model="mistral-small-latest")
    work = steps.good(path, form)
    place = steps.Place(BatchAPI("http://127.0.0.1:9", ""), Runs(folder / "runs"))
    run = steps.begin(work, place).run
    attempt = plan(
        run, 1, (line for each in work.lines.source.batches() for line in work.lines.of(each))
    )
    first = 0
    with (folder / "results.jsonl").open("wb") as everything:
        for chunk in attempt.chunks:
            numbers = list(range(first, first + chunk.requests))
            random.Random(1).shuffle(numbers)  # noqa: S311 - an order, no secret
            first += chunk.requests
            name = f"1.{chunk.number}-output_file.jsonl"
            with (run.folder / name).open("wb") as file:
                for number in numbers:
                    file.write(result(number))
            everything.write((run.folder / name).read_bytes())
            chunk.job_id, chunk.status, chunk.done = "job", "SUCCESS", chunk.requests
            chunk.saved, chunk.fetched = [name], True
    run.save()
    print(run.manifest.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
