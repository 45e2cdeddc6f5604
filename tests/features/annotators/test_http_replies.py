from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from features.annotators.http_posts import as_json, from_json
from features.annotators.http_replies import (
    LONGEST_EXCERPT,
    Service,
    checked_address,
    document_of,
    excerpt,
    is_loopback,
    proxy_for,
    retry_after_s,
)
from features.annotators.secrets import Secret
from features.errors import InvalidInput

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"Retry-After": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"Retry-After-Ms": "1500", "Retry-After": "9"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "9"}, 9.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Thu, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after_s(headers, NOW) == wait


@pytest.mark.parametrize(
    ("body", "document"),
    [
        ({"a": 1}, {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        ('[{"a": 1}]', {"a": 1}),
        ([{"a": 1}], {"a": 1}),
        ([{"a": 1}, {}], {}),
        ("[1]", {}),
        (b"<html>", {}),
        (b"\xff", {}),
        ("[" * 100_000, {}),
        (None, {}),
        (5, {}),
    ],
)
def test_the_document_in_a_body(body: Any, document: dict[str, Any]) -> None:
    assert document_of(body) == document


def test_an_excerpt_is_one_short_line_without_secrets() -> None:
    assert excerpt("a\n\tb \x1b[31m c", "") == "a b [31m c"
    assert excerpt("", b"\xffabc") == "\ufffdabc" and excerpt(None, {"a": 1}) == '{"a": 1}' and excerpt(" ", "said") == "said"
    assert excerpt("", "") == excerpt("\n", None) == "it gave no reason"
    assert len(excerpt("x" * 10_000, "")) == LONGEST_EXCERPT
    key = Secret("hunter2hunter2")
    for start in range(LONGEST_EXCERPT - 20, LONGEST_EXCERPT + 5):
        assert "hunter" not in excerpt("x" * start + " hunter2hunter2", "", [key]), "half a key is a key"


@pytest.mark.parametrize(
    "address",
    ["", "host", "ftp://host", "http://", "file:///etc/passwd", "http://h:99999", "http://h/?a=b", "http://h/#x", "http://[x"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidInput, match="base_url"):
        checked_address(address)


def test_addresses() -> None:
    assert checked_address("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000/v1"
    with pytest.raises(InvalidInput, match="password") as raised:
        checked_address("https://user:hunter22@host")
    assert "hunter22" not in str(raised.value)


def test_proxies_are_used_but_never_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("https://host") is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("https://host/v1") == "http://proxy:3128" and proxy_for("http://host") is None
    assert proxy_for("https://inside.example") is None
    monkeypatch.setenv("all_proxy", "http://all:1")
    assert proxy_for("http://host") == "http://all:1"
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "model.localhost"):
        assert proxy_for(f"http://{host}:8000") is None
    assert not is_loopback("10.0.0.1") and not is_loopback("localhost.example")


def test_whom_a_message_is_about() -> None:
    service = Service("Gemini", "https://host", "m", "the file /key", (Secret("hunter2"),))
    assert service.said(500, "no hunter2", b"") == "https://host answered 500: no ***"
    assert "the file /key" in service.key_remedy and "--api-key-env" in Service("x").key_remedy and Service("x").place == "x"
    assert "hunter2" not in repr(service)


def test_what_is_sent_is_json_whatever_it_holds() -> None:
    assert (
        as_json({"a": [1, 0.5, None, True, "\u00e9\U0001f600\x00"]}) == '{"a":[1,0.5,null,true,"\u00e9\U0001f600\\u0000"]}'.encode()
    )
    assert as_json({"a": "x\ud83d \u00e9"}) == '{"a":"x? \u00e9"}'.encode()
    assert as_json({"a": 2**70}) == b'{"a":%d}' % 2**70


def test_what_comes_back_is_read_whatever_it_holds() -> None:
    assert from_json(b'{"a": "cut \\ud83d", "b": [1, 0.5, null]}') == {"a": "cut \ud83d", "b": [1, 0.5, None]}
    assert from_json(b'{"a": -Infinity}') == {"a": float("-inf")}
    for none in (b"", b"{", b"\xff", b"<html>"):
        with pytest.raises(ValueError):
            from_json(none)
