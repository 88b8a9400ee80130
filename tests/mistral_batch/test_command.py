"""The command, from its words to its exit code, before a gateway whose sandbox ends every job a moment after it was made."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import mistral_batch
from mistral_batch import cli, steps
from mistral_batch.chunks import Limits, plan
from mistral_batch.cli import app
from mistral_batch.results import Results
from mistral_batch.runs import Runs
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, sandbox_process

MODEL = "m"
"""One of which nobody knows tokens or prices, as that takes its time."""
PRICED = "mistral-small-latest"
TEXTS = "sandbox:fail-string"  # an error of which nobody knows whether it will come again
OBJECTS = "sandbox:fail-object"  # a 422, which would come again


@pytest.fixture(scope="module")
def fast() -> Iterator[tuple[Sandbox, Gateway]]:
    with (
        sandbox_process(speed=100_000) as sandbox,
        gateway_process(f"{sandbox.url}/v1") as gateway,
    ):
        yield sandbox, gateway


@pytest.fixture
def place(
    fast: tuple[Sandbox, Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Sandbox:
    """An empty sandbox, and a user's folder and environment."""
    sandbox, gateway = fast
    sandbox.reset()
    monkeypatch.setenv("MISTRAL_BATCH_URL", gateway.url)
    monkeypatch.setenv("MISTRAL_BATCH_HOME", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return sandbox


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> list[str]:
    """Options with a prompt that no other test has: a gateway knows creates for a day."""
    prompt = f"{request.node.name}: {{text}}"
    return ["--prompt", prompt, "--id", "id", "--model", MODEL]


def command(*words: object, **given: Any) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), **given)


def table(texts: Sequence[str] = ("a", "b", "c")) -> Path:
    path = Path("table.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text"), *((f"r-{i}", text) for i, text in enumerate(texts))]
        )
    return path


def creates(sandbox: Sandbox) -> int:
    return len(sandbox.ledger(method="POST", path="/v1/batch/jobs"))


def rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_every_row_comes_back_in_order_with_its_answer(place: Sandbox, asked: list[str]) -> None:
    done = command("run", table(["x"] * 30), *asked, "--yes", "-o", "out.csv")
    with Path("out.csv").open() as file:
        found = list(csv.DictReader(file))
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert [row["id"] for row in found] == [f"r-{i}" for i in range(30)]
    assert all(row["answer"] and not row["error"] for row in found)


def test_without_a_file_standard_output_has_the_rows_and_nothing_else(
    place: Sandbox, asked: list[str]
) -> None:
    done = command("run", table(), *asked, "--yes")
    assert [row["id"] for row in rows(done.stdout)] == ["r-0", "r-1", "r-2"]
    assert "3 rows ok" in done.stderr


def test_the_same_command_again_buys_nothing_and_asks_nothing(
    place: Sandbox, asked: list[str]
) -> None:
    first = command("run", table(), *asked, "--yes")
    second = command("run", table(), *asked)
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    assert creates(place) == 1


def test_the_same_rows_from_another_kind_of_file_are_the_same_run(
    place: Sandbox, asked: list[str]
) -> None:
    command("run", table(["a", "b"]), *asked, "--yes")
    lines = [json.dumps({"id": f"r-{i}", "text": text}) for i, text in enumerate("ab")]
    Path("table.jsonl").write_text("\n".join(lines))
    again = command("run", "table.jsonl", *asked, "--take", "said=choices[0].message.content")
    assert again.exit_code == 0 and all(row["said"] for row in rows(again.stdout))
    assert creates(place) == 1


def test_again_buys_it_anew(place: Sandbox, asked: list[str]) -> None:
    for _ in range(2):
        assert command("run", table(), *asked, "--yes", "--again").exit_code == 0
    assert creates(place) == 2


def test_where_nobody_can_be_asked_nothing_is_bought_without_yes(
    place: Sandbox, asked: list[str]
) -> None:
    for name in ("run", "submit"):
        done = command(name, table(), *asked, input="y\n")
        assert done.exit_code == 2 and "--yes" in done.stderr
    assert creates(place) == 0 and not list(Path("runs").glob("*/run.json"))


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["a", TEXTS, "b"], 3),
        ([OBJECTS, "a"], 3),
        ([OBJECTS, OBJECTS], 4),
        ([TEXTS], 4),
    ],
)
def test_the_exit_code_says_what_became_of_the_rows(
    place: Sandbox, asked: list[str], texts: list[str], code: int
) -> None:
    done = command("run", table(texts), *asked, "--yes", "-o", "out.jsonl")
    assert done.exit_code == code, done.output
    found = rows(Path("out.jsonl").read_text())
    assert [bool(row["error"]) for row in found] == ["fail" in text for text in texts]
    name = next(iter(Runs(Path("runs")))).manifest.name
    assert command("results", name, "-o", "again.jsonl").exit_code == code
    assert command("watch", name).exit_code == code


def test_a_job_that_fails_as_a_whole_is_exit_code_5(place: Sandbox, asked: list[str]) -> None:
    done = command("run", table(), *asked, "--model", "unknown-model", "--yes")
    assert done.exit_code == 5
    assert [bool(row["error"]) for row in rows(done.stdout)] == [True] * 3


def test_strict_writes_nothing_unless_every_row_has_an_answer(
    place: Sandbox, asked: list[str]
) -> None:
    Path("out.csv").write_text("as it was")
    done = command("run", table(["a", OBJECTS]), *asked, "--yes", "--strict", "-o", "out.csv")
    assert done.exit_code == 3 and Path("out.csv").read_text() == "as it was"


def test_a_fault_ends_it_with_its_line_before_anything_is_sent(
    place: Sandbox, asked: list[str]
) -> None:
    path = table()
    path.write_text(path.read_text() + "r-1,twice\n")
    done = command("run", path, *asked, "--yes")
    checked = command("check", path, *asked)
    assert (done.exit_code, checked.exit_code) == (2, 2)
    assert "line 5" in done.stderr and "line 5" in checked.stdout
    told = json.loads(command("check", path, *asked, "--json").stdout)
    assert [fault["place"] for fault in told["faults"]] == ["line 5"]
    assert creates(place) == 0


def test_a_table_that_is_well_checks_with_0(place: Sandbox, asked: list[str]) -> None:
    assert command("check", table(), *asked).exit_code == 0


@pytest.mark.parametrize(
    "limit",
    [
        ["--max-requests", "2"],
        ["--max-cost", "0.00000001", "--max-tokens", "5", "--model", PRICED],
        ["--max-cost", "100", "--max-tokens", "5"],  # at a price that nobody knows
    ],
)
def test_over_a_limit_nothing_is_sent(place: Sandbox, asked: list[str], limit: list[str]) -> None:
    done = command("run", table(), *asked, "--yes", *limit)
    assert done.exit_code == 6 and limit[0] in done.stderr
    assert creates(place) == 0


def test_what_an_account_may_not_buy_is_exit_code_6_and_the_same_command_goes_on_later(
    place: Sandbox, asked: list[str]
) -> None:
    place.faults({"fault": "payment-required", "match": {"method": "POST"}})
    refused = command("run", table(), *asked, "--yes", "-o", "out.csv")
    assert refused.exit_code == 6 and not Path("out.csv").exists()
    assert command("run", table(), *asked, "--yes", "-o", "out.csv").exit_code == 0


def test_limits_hold_for_what_of_a_run_was_not_sent_yet(
    place: Sandbox, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "plan", partial(plan, limits=Limits(1, 1 << 20)))
    path = table(["x"] * 3)
    name = command("submit", path, *asked, "--yes", "--pending", "1").stdout.strip()
    assert creates(place) == 1
    for limit in ("--max-requests", "--max-cost"):
        assert command("run", path, *asked, "--yes", limit, "2").exit_code == 6
        assert command("retry", name, "--yes", limit, "2").exit_code == 6
    with pytest.raises(mistral_batch.OverLimit):
        mistral_batch.run(path, prompt=asked[1], id="id", model=MODEL, max_requests=2)
    assert creates(place) == 1
    assert command("run", path, *asked, "--max-requests", "3").exit_code == 0
    assert command("run", path, *asked, "--max-requests", "2").exit_code == 0  # nothing is left


def test_an_estimate_sends_nothing_and_a_pilot_only_so_many(
    place: Sandbox, asked: list[str]
) -> None:
    path = table(["x"] * 40)
    told = json.loads(command("estimate", path, *asked, "--json").stdout)
    assert told["requests"] == 40 and told["output"] is None and creates(place) == 0
    piloted = json.loads(command("estimate", path, *asked, "--json", "--pilot", "5").stdout)
    (create,) = place.ledger(method="POST", path="/v1/batch/jobs")
    assert len(json.loads(create["body"])["requests"]) == 5 and piloted["output"]["likely"] > 0


def test_a_run_can_be_carried_out_in_parts(place: Sandbox, asked: list[str]) -> None:
    submitted = command("submit", table(), *asked, "--yes")
    name = submitted.stdout.strip()
    assert submitted.exit_code == 0
    assert command("watch", name).exit_code == 0
    done = command("results", name, "--take", "usage=usage.total_tokens")
    assert [row["id"] for row in rows(done.stdout)] == ["r-0", "r-1", "r-2"]
    assert all(row["usage"] > 0 for row in rows(done.stdout))
    assert creates(place) == 1


def test_results_of_a_table_that_has_changed_are_refused_until_it_is_back(
    place: Sandbox, asked: list[str]
) -> None:
    name = command("submit", table(), *asked, "--yes").stdout.strip()
    table(["a", "b", "d"])
    done = command("results", name)
    assert done.exit_code == 2 and "changed" in done.stderr
    table()
    assert command("results", name).exit_code == 0


def test_retry_sends_what_may_succeed_and_all_what_failed(place: Sandbox, asked: list[str]) -> None:
    name = command("submit", table(["a", TEXTS, OBJECTS]), *asked, "--yes").stdout.strip()
    assert command("watch", name).exit_code == 3
    assert command("retry", name).exit_code == 2  # asks, and there is nobody
    first = command("retry", name, "--yes")
    assert [row["attempt"] for row in rows(first.stdout)] == [1, 2, 1]
    for limit in ("--max-requests", "--max-cost"):
        assert command("retry", name, "--yes", "--all", limit, "0").exit_code == 6
    second = command("retry", name, "--yes", "--all", "-o", "out.jsonl")
    assert (second.exit_code, command("watch", name).exit_code) == (3, 3)
    sent = [json.loads(each["body"]) for each in place.ledger(method="POST", path="/v1/batch/jobs")]
    ids = [[each["custom_id"] for each in create["requests"]] for create in sent]
    assert ids == [["r-0", "r-1", "r-2"], ["r-1"], ["r-1", "r-2"]]


def test_a_cancelled_run_says_so_and_keeps_what_was_done(place: Sandbox, asked: list[str]) -> None:
    name = command("submit", table(), *asked, "--yes").stdout.strip()
    assert command("cancel", name).exit_code == 0
    assert command("results", name).exit_code in (0, 3, 4)


def test_runs_are_listed_and_shown_with_their_jobs_and_costs(
    place: Sandbox, asked: list[str]
) -> None:
    command("run", table(), *asked, "--model", PRICED, "--yes")
    (listed,) = json.loads(command("ls", "--json").stdout)
    shown = json.loads(command("show", "table", "--json").stdout)
    (charge,) = json.loads(command("cost", "table", "--json").stdout)
    assert listed["name"] in command("ls").stdout
    assert shown["name"] == listed["name"] and shown["jobs"][0]["done"] == 3
    assert charge["model"] == PRICED and charge["results"] == 3 and charge["input"] > 0


def test_at_the_gateway_nothing_is_said_of_the_promise_and_elsewhere_that_it_does_not_hold(
    place: Sandbox, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_BATCH_TOKEN", "a-key")
    said = command("run", table(), *asked, "--yes").stderr
    direct = command("run", table(), *asked, "--yes", "--url", place.url)
    assert "no gateway" not in said
    assert direct.exit_code == 0 and "no gateway" in direct.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "nothing.csv"], 2),
        (["check", "table.txt"], 2),
        (["run", "table.csv", "--id", "nr"], 2),
        (["run", "table.csv", "--url", "ftp://x"], 2),
        (["run", "table.csv", "--url", "http://user:CANARY@x"], 2),
        (["run", "table.csv", "-o", "out.xls"], 2),
        (["run", "table.csv", "-o", "nowhere/out.csv"], 2),
        (["run", "table.csv", "--take", "x"], 2),
        (["run", "table.csv", "--body", "nothing.json"], 2),
        (["run", "table.csv", "--body", "table.csv"], 2),
        (["run", "table.csv", "--endpoint", "/v1/chat"], 2),
        (["run", "table.csv", "--max-cost", "-1"], 2),
        (["run", "table.csv", "--max-cost", "nan"], 2),
        (["run", "table.csv", "--pending", "0"], 2),
        (["run", "table.csv", "--colour"], 2),
        (["run"], 2),
        (["watch", "nothing"], 2),
        (["results", "nothing"], 2),
        (["show", "../table"], 2),
        (["frobnicate"], 2),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_is_sent(
    place: Sandbox, asked: list[str], words: list[str], code: int
) -> None:
    table()
    Path("table.txt").write_text("x")
    more = [*asked, "--max-tokens", "5", "--yes"] if words[0] == "run" else []
    done = command(*words[:2], *more, *words[2:])
    assert done.exit_code == code, done.output
    assert done.stderr.strip() and "CANARY" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert creates(place) == 0


@pytest.mark.parametrize("words", [["run"], ["submit"], ["estimate", "--pilot", "1"]])
def test_without_a_model_nothing_is_sent(place: Sandbox, words: list[str]) -> None:
    first, *more = words
    more += [] if first == "estimate" else ["--yes"]
    done = command(first, table(), "--prompt", "{text}", *more)
    assert done.exit_code == 2 and "--model" in done.stderr
    assert creates(place) == 0


def test_a_token_is_never_shown(
    place: Sandbox, asked: list[str], monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    for token in ("CANARY", "CANARY\u2014", "CAN\nARY"):
        monkeypatch.setenv("MISTRAL_BATCH_TOKEN", token)
        done = command("run", table(), *asked, "--yes", "--url", f"http://127.0.0.1:{closed_port}")
        assert done.exit_code in (1, 2) and "CAN" not in done.output
        assert isinstance(done.exception, SystemExit)


def test_a_setting_that_is_misspelt_is_told(
    place: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_BATCH_TOKN", "CANARY")
    done = command("ls")
    assert done.exit_code == 2 and "MISTRAL_BATCH_TOKEN" in done.stderr
    assert "CANARY" not in done.output


def test_a_notebook_has_the_same_as_functions(place: Sandbox, asked: list[str]) -> None:
    texts = [{"id": f"n-{i}", "text": text} for i, text in enumerate(["a", TEXTS, "b"])]
    options = {"prompt": asked[1], "id": "id", "model": MODEL}
    assert mistral_batch.check(texts, **options).requests == 3
    assert mistral_batch.estimate(texts, **options).price is None
    run = mistral_batch.run(texts, **options)
    assert run.results().column_names == ["id", "text", "answer", "error", "attempt"]
    assert run.results().column("id").to_pylist() == ["n-0", "n-1", "n-2"]
    assert run.results({"n": "usage.total_tokens"}).column("n").to_pylist()[1] is None
    run.retry()
    assert run.results().column("attempt").to_pylist() == [1, 2, 1]
    assert mistral_batch.run(texts, **options).name == run.name in mistral_batch.runs()
    assert creates(place) == 2


def test_rows_that_were_changed_meanwhile_get_nobody_else_s_answers(
    place: Sandbox, asked: list[str]
) -> None:
    listed = [{"text": text} for text in "abc"]
    run = mistral_batch.run(listed, prompt=asked[1], model=MODEL)
    listed.reverse()
    with pytest.raises(mistral_batch.InputError, match="has changed"):
        run.results()
    listed.reverse()
    assert run.results().num_rows == 3
    path = table(["a", "b", "c"])
    filed = mistral_batch.run(path, prompt=asked[1], model=MODEL)
    table(["c", "b", "a"])
    with pytest.raises(mistral_batch.InputError, match="has changed"):
        filed.results()


def test_a_table_that_changes_while_it_is_joined_is_not_written(
    place: Sandbox, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(results: Results, custom_id: str) -> Any:
        table(["c", "b", "a"])
        return found(results, custom_id)

    found = Results.of
    monkeypatch.setattr(Results, "of", of)
    done = command("run", table(), *asked, "--yes", "-o", "out.csv")
    assert (done.exit_code, Path("out.csv").exists()) == (2, False)


def test_nothing_that_is_told_steers_a_terminal(place: Sandbox, asked: list[str]) -> None:
    body = {"detail": "\x1b]0;title\x07 no \x1b[31mred"}
    place.faults({"fault": "status", "status": 402, "body": body, "match": {"method": "POST"}})
    done = command("run", table(), *asked, "--yes")
    assert done.exit_code == 6 and "red" in done.stderr
    assert not {"\x1b", "\x07"} & {*done.output}


def test_a_fault_of_its_own_ends_it_with_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of nobody")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main() == 1
    said = capsys.readouterr().err
    (told,) = tmp_path.iterdir()
    assert "ZeroDivisionError: of nobody" in said and "Traceback" not in said
    assert "Traceback" in told.read_text()


def test_a_notebook_buys_nothing_that_is_over_a_limit_or_has_a_fault(
    place: Sandbox, asked: list[str]
) -> None:
    texts = [{"id": "one", "text": "a"}, {"id": "one", "text": "b"}]
    with pytest.raises(mistral_batch.InputError, match="row 2"):
        mistral_batch.run(texts, prompt=asked[1], id="id", model=MODEL)
    with pytest.raises(mistral_batch.OverLimit):
        mistral_batch.submit(texts, prompt=asked[1], model=MODEL, max_requests=1)
    assert creates(place) == 0
