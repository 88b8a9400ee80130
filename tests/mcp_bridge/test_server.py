"""The server as an MCP client sees it, with a REST service of the tests' own, in one process."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult, TextContent

from mcp_bridge import server as server_module
from mcp_bridge.config import Settings
from mcp_bridge.server import build_server
from mcp_bridge.tools import build_tools
from openapi.contract import Contract, load
from tests.mcp_bridge.conftest import DOCUMENTS
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID

pytestmark = pytest.mark.anyio
Make = Callable[..., AbstractAsyncContextManager[Client]]
CREATE = {"endpoint": "/v1/embeddings", "requests": [{"body": {"input": "x"}}]}
ERAS = ["legacy", "2026-07-28"]


def text(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@pytest.fixture(params=ERAS)
def era(request: Any) -> str:
    return str(request.param)


async def test_both_eras_see_the_same_tools(bridge: Make, contract: Contract) -> None:
    listed = []
    for mode in ["auto", *ERAS]:
        async with bridge(mode) as client:
            listed.append((await client.list_tools()).tools)
    assert listed[0] == listed[1] == listed[2]
    assert [tool.name for tool in listed[0]] == list(build_tools(contract))


async def test_the_server_introduces_itself_with_the_document_s_words(
    bridge: Make, contract: Contract
) -> None:
    async with bridge("legacy") as client:
        assert client.server_info is not None
        assert client.server_info.name == contract.mcp_name
        assert client.server_info.version == contract.version
        assert client.instructions == contract.mcp_instructions


async def test_a_call_gives_data_and_the_same_as_text(bridge: Make, rest: Rest, era: str) -> None:
    rest.answers({"id": JOB_ID, "status": "SUCCESS", "new": None})
    async with bridge(era) as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
    assert result.structured_content == {"id": JOB_ID, "status": "SUCCESS", "new": None}
    assert text(result) == f'{{"id":"{JOB_ID}","status":"SUCCESS","new":null}}'


async def test_a_large_answer_is_a_result_like_any_other(
    bridge: Make, rest: Rest, era: str
) -> None:
    rest.answers({"id": JOB_ID, "outputs": [{"a": "x" * 100}] * 10_000})
    async with bridge(era) as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "inline": True})
    assert result.structured_content["id"] == JOB_ID
    assert "of 10000 results" in result.structured_content["_note"]


async def test_bad_arguments_are_a_result_and_nothing_is_sent(
    bridge: Make, rest: Rest, era: str
) -> None:
    async with bridge(era) as client:
        result = await client.call_tool("create-batch-job", {"timeoutHours": 900})
    assert result.is_error and rest.arrived == []
    assert "- timeoutHours" in text(result) and "- endpoint" in text(result)


async def test_a_call_is_made_without_what_a_client_added_and_says_so(
    bridge: Make, rest: Rest, era: str
) -> None:
    given = {"toolCallId": "call_1", "sessionId": "s", "page": 2}
    async with bridge(era) as client:
        done = await client.call_tool("list-batch-jobs", given)
        rest.answers({"title": "No.", "status": 404}, 404)
        failed = await client.call_tool("list-batch-jobs", given)
    assert rest.last.query == [("page", "2"), ("page_size", "20")]
    assert done.structured_content["_note"].partition(": ")[2].startswith("toolCallId, sessionId.")
    assert failed.is_error and "toolCallId, sessionId." in text(failed)


async def test_an_unknown_tool_is_a_protocol_error_with_the_near_name(
    bridge: Make, era: str
) -> None:
    async with bridge(era) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("get_batch_job", {})
    assert caught.value.code == -32602
    assert "get-batch-job" in caught.value.message


async def test_a_problem_is_a_result_without_data(bridge: Make, rest: Rest, era: str) -> None:
    rest.answers({"title": "Gone", "status": 404, "source": "upstream"}, 404)
    async with bridge(era) as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
    assert result.is_error and result.structured_content is None
    assert text(result).startswith("get-batch-job failed: Gone.")


@pytest.mark.parametrize("status", [204, 302, 304])
async def test_an_answer_without_json_never_breaks_a_call(
    bridge: Make, rest: Rest, status: int
) -> None:
    rest.answers(b"", status, location="http://elsewhere.example/")
    async with bridge() as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
    assert result.is_error == (status != 204)
    assert len(rest.arrived) == 1


async def test_a_success_that_is_not_json_is_a_failure(bridge: Make, rest: Rest) -> None:
    rest.answers(b"<html>ok</html>")
    async with bridge() as client:
        result = await client.call_tool("create-batch-job", CREATE)
    assert result.is_error and "may have taken effect" in text(result)


async def test_an_answer_to_another_request_is_nobody_s(bridge: Make, rest: Rest) -> None:
    rest.answers({"id": "NOBODYS"}, x_request_id="another")
    async with bridge() as client:
        result = await client.call_tool("create-batch-job", CREATE)
    assert result.is_error and "NOBODYS" not in text(result)
    assert "may have taken effect" in text(result)


@pytest.mark.parametrize(
    ("tool", "given"), [("get-batch-job", {"job_id": JOB_ID}), ("create-batch-job", CREATE)]
)
async def test_an_answer_that_is_too_large_is_told_as_that(
    bridge: Make, rest: Rest, tool: str, given: dict[str, Any]
) -> None:
    rest.answers({"id": JOB_ID})
    async with bridge(max_answer=10) as client:
        result = await client.call_tool(tool, given)
    assert "more than 10 bytes" in text(result)
    assert ("may have taken effect" in text(result)) == (tool == "create-batch-job")
    assert ("page by page" in text(result)) == (tool == "get-batch-job")


async def test_the_bridge_s_own_token_is_in_no_result(bridge: Make, rest: Rest) -> None:
    rest.answers({"id": "Bearer t-12345"})
    async with bridge(rest_token="t-12345") as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
    assert result.structured_content == {"id": "Bearer ***"}


async def test_what_a_model_cannot_be_shown_is_still_delivered(bridge: Make, rest: Rest) -> None:
    rest.answers(b'{"id":"\\ud800","n":1e400,"deep":' + b"[" * 200 + b"]" * 200 + b"}")
    async with bridge() as client:
        result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
    assert result.content


class TestAnAnswerThatIsNoJson:
    async def test_is_read_by_lines(self, bridge: Make, rest: Rest, era: str) -> None:
        rest.answers(b"one\ntwo\nthree\n")
        async with bridge(era) as client:
            result = await client.call_tool("read-file", {"file_id": JOB_ID, "from": 1, "count": 1})
        assert result.structured_content == {"from": 1, "lines": ["two"], "next_from": 2}
        assert (rest.last.path, rest.last.query) == (f"/v1/files/{JOB_ID}/content", [])

    async def test_may_be_far_larger_than_any_that_is_json(self, bridge: Make, rest: Rest) -> None:
        rest.pieces = [b"%d\n" % number for number in range(20_000)]
        async with bridge(max_answer=1000) as client:
            given = {"file_id": JOB_ID, "from": 15_000, "count": 2}
            result = await client.call_tool("read-file", given)
        assert result.structured_content["lines"] == ["15000", "15001"]
        assert result.structured_content["next_from"] == 15_002

    async def test_is_no_result_when_it_breaks_off(self, bridge: Make, rest: Rest) -> None:
        rest.answers(b"one\ntwo\nthree", content_length="5000")
        async with bridge() as client:
            result = await client.call_tool("read-file", {"file_id": JOB_ID})
            assert result.is_error and result.structured_content is None
            assert "closed the connection before the end of its answer" in text(result)
            assert "2 lines had come" in text(result) and "call again" in text(result)
            enough = await client.call_tool("read-file", {"file_id": JOB_ID, "count": 1})
        assert enough.structured_content["lines"] == ["one"]

    async def test_is_a_failure_when_it_is_a_problem(self, bridge: Make, rest: Rest) -> None:
        rest.answers({"title": "Gone", "status": 404, "source": "upstream"}, 404)
        async with bridge() as client:
            result = await client.call_tool("read-file", {"file_id": JOB_ID})
        assert text(result).startswith("read-file failed: Gone.")


class TestAnUpload:
    @pytest.mark.parametrize("size", [1, 100_000])
    async def test_is_a_form_with_the_file(self, bridge: Make, rest: Rest, size: int) -> None:
        rest.answers({"id": JOB_ID, "object": "file"})
        given = {"file_text": "x" * size, "file_name": "a.jsonl"}
        async with bridge() as client:
            result = await client.call_tool("upload-file", given)
        assert result.structured_content["id"] == JOB_ID
        sent = rest.last
        assert (sent.method, sent.path) == ("POST", "/v1/files")
        assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"x" * size in sent.body and b'filename="a.jsonl"' in sent.body
        assert "idempotency-key" not in sent.headers

    async def test_whose_answer_is_lost_is_not_sent_again(self, bridge: Make, rest: Rest) -> None:
        rest.answers(b"{", content_length="50")
        async with bridge() as client:
            result = await client.call_tool("upload-file", {"file_lines": [{"custom_id": "1"}]})
        assert "before any repeat, check with list-files or get-file" in text(result)
        assert len(rest.arrived) == 1


class TestAnInternalError:
    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def breaks(*_: Any) -> None:
            raise RuntimeError("SECRET /etc/passwd")

        monkeypatch.setattr(server_module, "read_call", breaks)
        yield

    async def test_never_shows_an_exception(self, bridge: Make, broken: None, era: str) -> None:
        async with bridge(era) as client:
            result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
        assert result.is_error and "SECRET" not in text(result)

    async def test_is_in_the_log_under_the_id_that_the_model_sees(
        self, bridge: Make, broken: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with bridge() as client:
            result = await client.call_tool("get-batch-job", {"job_id": JOB_ID})
        own = [record for record in caplog.records if record.name.startswith("mcp_bridge")]
        (record,) = [record for record in own if record.levelno == logging.ERROR]
        assert record.getMessage().rpartition(" ")[2] in text(result)
        assert record.exc_info


class TestTheRestService:
    async def test_gets_trace_and_request_id_of_the_call(self, bridge: Make, rest: Rest) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        meta: Any = {"traceparent": trace, "tracestate": "a=1", "x-request-id": "agent-7"}
        async with bridge() as client:
            await client.call_tool("get-batch-job", {"job_id": JOB_ID}, meta=meta)
        sent = rest.last.headers
        assert (sent["traceparent"], sent["tracestate"]) == (trace, "a=1")
        assert sent["x-request-id"] == "agent-7"

    async def test_gets_a_new_trace_and_request_id_for_malformed_ones(
        self, bridge: Make, rest: Rest
    ) -> None:
        meta: Any = {"traceparent": "x\r\ny: z", "tracestate": 5, "x-request-id": "a b"}
        async with bridge() as client:
            await client.call_tool("get-batch-job", {"job_id": JOB_ID}, meta=meta)
        sent = rest.last.headers
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", sent["traceparent"])
        assert "tracestate" not in sent
        assert len(sent["x-request-id"]) == 36

    async def test_gets_the_bridge_s_own_token(self, bridge: Make, rest: Rest) -> None:
        async with bridge(rest_token="t-1") as client:
            await client.call_tool("get-batch-job", {"job_id": JOB_ID})
        assert rest.last.headers["authorization"] == "Bearer t-1"

    async def test_gets_one_key_for_one_action_however_often_it_is_asked_for(
        self, bridge: Make, rest: Rest
    ) -> None:
        for _ in range(2):
            async with bridge() as client:
                await client.call_tool("create-batch-job", CREATE)
        assert len({arrived.headers["idempotency-key"] for arrived in rest.arrived}) == 1

    async def test_that_is_not_there_is_told_with_nothing_sent(self, contract: Contract) -> None:
        settings = Settings(rest_url="http://127.0.0.1:1")
        async with Client(build_server(contract, settings)) as client:
            result = await client.call_tool("create-batch-job", CREATE)
        assert result.is_error and "Nothing was sent" in text(result)

    @pytest.mark.parametrize(
        ("tool", "given"), [("get-batch-job", {"job_id": JOB_ID}), ("create-batch-job", CREATE)]
    )
    async def test_that_does_not_answer_in_time_is_told_in_time(
        self, bridge: Make, rest: Rest, tool: str, given: dict[str, Any]
    ) -> None:
        rest.hold = asyncio.Event()
        async with bridge(timeout=0.2) as client:
            with anyio.fail_after(5):
                result = await client.call_tool(tool, given)
        assert result.is_error and "within 0.2 seconds" in text(result)
        assert ("may have taken effect" in text(result)) == (tool == "create-batch-job")

    async def test_that_breaks_off_is_told(self, contract: Contract) -> None:
        async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 SECRET\r\nContent-Length: 9\r\n\r\nSECRET")
            writer.close()

        async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            settings = Settings(rest_url=f"http://127.0.0.1:{port}")
            async with Client(build_server(contract, settings)) as client:
                result = await client.call_tool("create-batch-job", CREATE)
        assert result.is_error and "may have taken effect" in text(result)
        assert "SECRET" not in text(result)

    async def test_hears_when_a_call_is_cancelled(self, bridge: Make, rest: Rest, era: str) -> None:
        arrived, hung_up = anyio.Event(), anyio.Event()
        rest.hold, rest.on_arrival, rest.on_hang_up = asyncio.Event(), arrived.set, hung_up.set
        async with bridge(era) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.call_tool, "get-batch-job", {"job_id": JOB_ID})
                    await arrived.wait()
                    scope.cancel()
            with anyio.fail_after(10):
                await hung_up.wait()


async def test_another_document_makes_another_server(bridge: Make, rest: Rest) -> None:
    rest.answers([{"id": 1}])
    async with bridge(contract=load(DOCUMENTS / "odd.yaml")) as client:
        assert client.server_info is not None and client.server_info.name == "odds"
        result = await client.call_tool("list-things", {"ids": [1, 2]})
    assert result.structured_content == {"result": [{"id": 1}]}
    assert rest.last.query == [("ids", "1,2"), ("limit", "5")]
