"""Both clients against the model server, over a real socket: what comes back, what goes wrong, and what it is called."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import pickle
import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators import gemini, openai_compatible
from features.annotators.model_server import Rule, RunningServer, ServerConfig, running
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput, Permanent, Transient, Unavailable, VidattrError
from tests.features.annotators.asking_models import CLIENTS, KEY, MODELS, ask, ask_one, prompt, settings_for

pytestmark = pytest.mark.parametrize("protocol", ["openai", "gemini"])
KEY_VARIABLES = ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture(autouse=True)
def no_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEY_VARIABLES, "OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningServer]:
    with running(ServerConfig(cache_minimum_tokens=0)) as server:
        yield server


@pytest.fixture
def server(shared: RunningServer) -> RunningServer:
    shared.rules()
    shared.reset()
    return shared


def client_of(server: RunningServer, protocol: str, **more: Any) -> Any:
    return CLIENTS[protocol](settings_for(server, protocol, **more))


def test_a_prompt_with_frames_is_answered_and_billed(protocol: str, server: RunningServer) -> None:
    completion = ask_one(client_of(server, protocol), prompt())
    reply = json.loads(completion.text)
    assert completion.finish == "stop" and set(reply["attributes"]) == {"calming", "pace", "polish"}
    assert [next(iter(each)) for each in reply["attributes"].values()] == ["rationale"] * 3, "the reasons come first"
    assert completion.model == MODELS[protocol] and completion.usage.requests == 1 and completion.usage.cost_usd == 0
    books = server.stats()
    assert books["images"] == 1 and books["accepted"] == 1
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (books["tokens"]["input"], books["tokens"]["output"])


def test_the_same_again_is_read_from_the_cache(protocol: str, server: RunningServer) -> None:
    client = client_of(server, protocol)
    first, again = (ask_one(client, prompt()) for _ in range(2))
    assert first.text == again.text and first.usage.cached_input_tokens == 0
    assert 0.9 * again.usage.input_tokens < again.usage.cached_input_tokens <= again.usage.input_tokens
    assert len(server.stats()["prefixes"]) == 1


def test_log_probabilities_stand_beside_each_token(protocol: str, server: RunningServer) -> None:
    client = client_of(server, protocol, logprobs=7)
    for asked in (prompt(), prompt(ask="each")):
        completion = ask_one(client, asked)
        assert "".join(token.text for token in completion.tokens) == completion.text
        assert all(len(token.top) == 7 and token.logprob <= 0 for token in completion.tokens)
    assert not ask_one(client_of(server, protocol, logprobs=0), prompt()).tokens


def test_many_at_once_share_a_client(protocol: str, server: RunningServer) -> None:
    found = ask(client_of(server, protocol), *(prompt(f"Clip {number}") for number in range(50)))
    assert [getattr(each, "finish", each) for each in found] == ["stop"] * 50 and server.stats()["accepted"] == 50


@pytest.mark.parametrize(
    ("do", "finish"),
    [
        ("truncated", "length"),
        ("closed_but_length", "length"),
        ("refusal", {"openai": "refused", "gemini": "stop"}),
        ("safety", "blocked"),
        ("prompt_blocked", "blocked"),
        ("empty", "empty"),
        ("recitation", {"openai": "empty", "gemini": "blocked"}),
    ],
)
def test_how_a_reply_ends(protocol: str, server: RunningServer, do: str, finish: Any) -> None:
    server.rules(Rule(do))
    completion = ask_one(client_of(server, protocol), prompt())
    assert completion.finish == (finish[protocol] if isinstance(finish, dict) else finish)
    assert completion.finish == "stop" or completion.detail


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, Permanent, "invalid_request"),
        (401, Unavailable, "key"),
        (402, Unavailable, ""),
        (403, Unavailable, "key"),
        (404, Unavailable, "model"),
        (408, Transient, ""),
        (409, Transient, ""),
        (410, Unavailable, "model"),
        (413, Permanent, "too_large"),
        (422, Permanent, "invalid_request"),
        (425, Transient, ""),
        (429, Transient, ""),
        (499, Transient, ""),
        (500, Transient, ""),
        (501, Unavailable, ""),
        (502, Transient, ""),
        (503, Transient, ""),
        (504, Transient, ""),
        (529, Transient, ""),
    ],
)
def test_each_status_is_called_by_its_name(
    protocol: str, server: RunningServer, status: int, kind: type[VidattrError], says: str
) -> None:
    server.rules(Rule("status", status=status, message="no luck"))
    with pytest.raises(kind) as raised:
        ask_one(client_of(server, protocol), prompt())
    assert server.gemini_url in str(raised.value) and str(status) in str(raised.value) and "no luck" in str(raised.value)
    assert says in f"{raised.value} {getattr(raised.value, 'kind', '')}"
    if isinstance(raised.value, Transient):
        assert raised.value.rejected == (status == 429) and raised.value.retry_after_s is None
    assert sum(server.stats()["requests"]["by_status"].values()) == 1, "one call is one request"


@pytest.mark.parametrize("as_date", [False, True])
def test_the_wait_that_a_server_asks_for_is_handed_on(protocol: str, server: RunningServer, as_date: bool) -> None:
    for status in (429, 503):
        server.rules(Rule("status", status=status, retry_after_s=30, as_date=as_date))
        with pytest.raises(Transient) as raised:
            ask_one(client_of(server, protocol), prompt())
        wait = raised.value.retry_after_s
        assert wait is not None and (27 <= wait <= 31 if as_date else wait == 30)


@pytest.mark.parametrize("do", ["close", "cut_body", "malformed_body"])
def test_a_broken_connection_may_work_next_time(protocol: str, server: RunningServer, do: str) -> None:
    server.rules(Rule(do, times=1))
    client = client_of(server, protocol)
    broken, fine = [ask(client, prompt())[0] for _ in range(2)]
    assert isinstance(broken, Transient) and not broken.rejected and not isinstance(fine, Exception)


def test_nobody_there(protocol: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = ModelSettings(name=MODELS[protocol], base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Transient, match=r"http://127\.0\.0\.1:\d+ cannot be reached"):
            ask_one(CLIENTS[protocol](settings), prompt())


def wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(500):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within ten seconds")


def test_a_server_that_never_answers_is_left_at_the_deadline_and_told_so(protocol: str, server: RunningServer) -> None:
    server.rules(Rule("hang"))
    with pytest.raises(Transient, match=r"did not answer within 0\.3 s; the request was cancelled"):
        ask_one(client_of(server, protocol, timeout_s=0.3), prompt())
    wait_for(lambda: server.stats()["cancelled"] == 1 and server.stats()["in_flight"] <= 1)
    assert server.stats()["accepted"] == 0, "nothing was paid for"


def test_a_deadline_counts_until_the_last_byte(protocol: str, server: RunningServer) -> None:
    server.rules(Rule("drip", seconds=30))
    with pytest.raises(Transient, match="did not answer within"):
        ask_one(client_of(server, protocol, timeout_s=0.5), prompt())


def test_a_silent_socket_sees_its_connection_closed(protocol: str) -> None:
    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536):
                    pass
                closed.set()

        threading.Thread(target=listen, daemon=True).start()
        settings = ModelSettings(name=MODELS[protocol], base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3)
        with pytest.raises(Transient):
            ask_one(CLIENTS[protocol](settings), prompt())
        assert closed.wait(10)


def test_a_cancelled_question_is_cancelled_at_the_server(protocol: str, server: RunningServer) -> None:
    server.rules(Rule("hang"))
    client = client_of(server, protocol)

    async def run() -> None:
        client.open()
        task = asyncio.create_task(client.complete(prompt()))
        while server.stats()["in_flight"] == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while server.stats()["cancelled"] == 0:
            await asyncio.sleep(0.01)
        server.rules()
        assert (await client.complete(prompt())).finish == "stop", "the client goes on"
        await client.close()
        await client.close()

    asyncio.run(asyncio.wait_for(run(), 30))


# Secrets


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error.__dict__)


@pytest.fixture
def locked() -> Iterator[RunningServer]:
    with running(ServerConfig(key=KEY)) as server:
        yield server


@pytest.mark.parametrize("where", ["file", "environment", "usual"])
def test_the_key_opens_the_door(
    protocol: str, locked: RunningServer, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    more: dict[str, str] = {}
    if where == "file":
        (tmp_path / "key").write_text(f"{KEY}\n")
        more = {"api_key_file": str(tmp_path / "key")}
        monkeypatch.setenv("OPENAI_API_KEY", "another")
    elif where == "environment":
        monkeypatch.setenv("MY_KEY", KEY)
        more = {"api_key_env": "MY_KEY"}
    else:
        monkeypatch.setenv("OPENAI_API_KEY" if protocol == "openai" else "GOOGLE_API_KEY", KEY)
    assert ask_one(client_of(locked, protocol, **more), prompt()).finish == "stop"


def test_a_wrong_key_stops_the_run_and_says_where_it_came_from(
    protocol: str, locked: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong-wrong-wrong")
    with pytest.raises(Unavailable, match="MY_KEY") as raised:
        ask_one(client_of(locked, protocol, api_key_env="MY_KEY"), prompt())
    assert "wrong-wrong" not in everything_said(raised.value)
    with pytest.raises(Unavailable, match="--api-key-file"):
        ask_one(client_of(locked, protocol), prompt())


def test_a_missing_key_is_said_before_anything_is_asked(protocol: str) -> None:
    client = CLIENTS[protocol](ModelSettings(name=MODELS[protocol]))
    usual = "OPENAI_API_KEY" if protocol == "openai" else "GEMINI_API_KEY or GOOGLE_API_KEY"
    with pytest.raises(InvalidInput, match=usual):
        client.open()


def test_the_key_is_nowhere_to_be_read(
    protocol: str, server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    client = client_of(server, protocol, api_key_env="MY_KEY")
    travelled = pickle.loads(pickle.dumps(client))
    assert ask_one(travelled, prompt()).finish == "stop", "a copy works where it arrives"

    async def run() -> list[str]:
        client.open()
        said = [repr(client), str(client), str(vars(client)) + str(vars(client._posts))]
        with pytest.raises(TypeError, match="before open"):
            pickle.dumps(client)
        for rule in (
            Rule("status", status=401, message=f"Incorrect API key provided: {KEY}."),
            Rule("status", status=500, message=f"could not log in with {KEY}", headers={"X-Echo": "x"}),
            Rule("hang"),
            Rule("close"),
            Rule("cut_body"),
        ):
            server.rules(rule)
            with pytest.raises(VidattrError) as raised:
                async with asyncio.timeout(20):
                    await client.complete(prompt())
            said.append(everything_said(raised.value))
        await client.close()
        return said

    client.settings = settings_for(server, protocol, api_key_env="MY_KEY", timeout_s=0.5)
    said = asyncio.run(run())
    pickled = pickle.dumps(client)
    assert KEY.encode() not in pickled and KEY not in "".join(said) + caplog.text
    assert "***" in said[3]


# Servers that are something else


def reply_with(httpserver: Any, protocol: str, **response: Any) -> Any:
    httpserver.expect_request(handler_path(protocol), method="POST").respond_with_data(**response)
    return CLIENTS[protocol](
        ModelSettings(name=MODELS[protocol], base_url=httpserver.url_for("/v1" if protocol == "openai" else "").rstrip("/"))
    )


def handler_path(protocol: str) -> str:
    return "/v1/chat/completions" if protocol == "openai" else f"/v1beta/models/{MODELS['gemini']}:generateContent"


def test_a_page_instead_of_a_reply(protocol: str, httpserver: Any) -> None:
    client = reply_with(httpserver, protocol, response_data="<html>Log in</html>", content_type="text/html")
    with pytest.raises(Transient, match="not JSON: <html>Log in"):
        ask_one(client, prompt())


@pytest.mark.parametrize("data", ["[]", "null", '"x"', "[" * 100_000, b"\xff\xfe"])
def test_json_that_is_no_reply(protocol: str, httpserver: Any, data: Any) -> None:
    with pytest.raises(Transient, match="answered 200 with"):
        ask_one(reply_with(httpserver, protocol, response_data=data), prompt())


def test_a_redirect_is_not_followed(protocol: str, httpserver: Any, server: RunningServer) -> None:
    target = f"{server.gemini_url}{handler_path(protocol)}"
    client = reply_with(httpserver, protocol, status=307, headers={"Location": target})
    with pytest.raises(Unavailable, match="--base-url"):
        ask_one(client, prompt())
    assert server.stats()["requests"]["total"] == 0, "the key goes to nobody else"


@pytest.mark.parametrize(("code", "kind"), [(429, Transient), (404, Unavailable), ("odd", Transient), (200, Transient)])
def test_a_gateway_that_reports_errors_under_200(protocol: str, httpserver: Any, code: Any, kind: type[VidattrError]) -> None:
    body = json.dumps({"error": {"code": code, "message": "the backend is gone"}})
    with pytest.raises(kind, match="the backend is gone"):
        ask_one(reply_with(httpserver, protocol, response_data=body), prompt())


def test_a_reply_without_end_is_not_read_to_its_end(protocol: str, httpserver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.annotators.http_posts.LARGEST_REPLY", 1000)
    with pytest.raises(Permanent, match="more than") as raised:
        ask_one(reply_with(httpserver, protocol, response_data="x" * 200_000), prompt())
    assert raised.value.kind == "reply_too_large"


def test_a_packed_bomb_is_not_unpacked_to_its_end(protocol: str, httpserver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.annotators.http_posts.LARGEST_REPLY", 1_000_000)
    bomb = gzip.compress(bytes(50_000_000))
    client = reply_with(httpserver, protocol, response_data=bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(Permanent, match="more than"):
            ask_one(client, prompt())
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_what_is_sent_may_be_large_and_hold_anything(protocol: str, server: RunningServer) -> None:
    big = "\ud83d half a face, \u202e\x00 and \U0001f600 " * 60_000
    asked = prompt()
    asked = type(asked)(**(vars(asked) | {"system": asked.system + big}))
    completion = ask_one(client_of(server, protocol), asked)
    assert completion.finish == "stop" and completion.usage.input_tokens > 100_000


def test_a_closed_client_says_so(protocol: str, server: RunningServer) -> None:
    client = client_of(server, protocol)
    with pytest.raises(RuntimeError, match="open the client first"):
        asyncio.run(client.complete(prompt()))


def test_bad_settings_are_refused_when_it_is_made(protocol: str) -> None:
    for wrong, says in (
        ({"name": ""}, "--model"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user:hunter22@host/v1"}, "password"),
    ):
        with pytest.raises(InvalidInput, match=says) as raised:
            CLIENTS[protocol](ModelSettings(**({"name": "m"} | wrong)))
        assert "hunter22" not in str(raised.value)


def test_the_address_may_come_from_the_environment(protocol: str, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name, url = ("OPENAI_BASE_URL", server.openai_url) if protocol == "openai" else ("GOOGLE_GEMINI_BASE_URL", server.gemini_url)
    monkeypatch.setenv(name, f"{url}/")
    assert ask_one(CLIENTS[protocol](ModelSettings(name=MODELS[protocol])), prompt()).finish == "stop"


# Anything at all

NAMES = tuple(
    """
    error message code type param status details detail @type reason retryDelay violations fieldViolations quotaId choices model
    content refusal finish_reason logprobs usage prompt_tokens candidates parts text thought finishReason promptFeedback token
    safetyRatings category usageMetadata promptTokenCount logprobsResult chosenCandidates topCandidates logProbability blockReason
    top_logprobs logprob completion_tokens candidatesTokenCount cachedContentTokenCount content_filter_results modelVersion
    """.split()  # noqa: SIM905
)
SAID = st.sampled_from(
    ["STOP", "SAFETY", "stop", "length", "type.googleapis.com/google.rpc.RetryInfo", "API_KEY_INVALID", "limit: 0"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | SAID,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=6),
    max_leaves=25,
)


@given(document=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6))
def test_any_document_is_a_completion(protocol: str, document: dict[str, Any]) -> None:
    found = (openai_compatible if protocol == "openai" else gemini).completion(document)
    usage = found.usage
    assert usage.requests == 1 and 0 <= usage.cached_input_tokens <= usage.input_tokens and usage.output_tokens >= 0
    assert isinstance(found.text, str) and isinstance(found.detail, str) and isinstance(found.model, str)
    assert found.finish != "stop" or found.text
    assert all(token.logprob < math.inf and isinstance(token.text, str) for token in found.tokens)


@given(
    status=st.integers(300, 599),
    body=JSON | st.binary(max_size=50) | st.builds(lambda each: {"error": each}, JSON),
    headers=st.dictionaries(st.sampled_from(["Retry-After", "retry-after-ms", "X"]), st.text(max_size=10)),
)
def test_any_refusal_means_something(protocol: str, status: int, body: Any, headers: dict[str, str]) -> None:
    found = (openai_compatible if protocol == "openai" else gemini).problem(status, headers, body)
    assert isinstance(found, Transient | Permanent | Unavailable) and str(status) in str(found) and "\n" not in str(found)
    if isinstance(found, Transient):
        assert found.retry_after_s is None or 0 <= found.retry_after_s < math.inf
    assert pickle.loads(pickle.dumps(found)).args == found.args
