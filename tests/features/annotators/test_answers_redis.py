from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import pickle
import shutil
import socket
import subprocess
import threading
import time

import pytest
import redis

from features.annotators.answers import StoredAnswers, open_answers
from features.annotators.answers_redis import PASSWORD, RedisAnswers
from features.annotators.protocol import Usage
from features.errors import InvalidInput, Transient
from tests.features.annotators.answer_stores import (
    ANSWER,
    CALM,
    FUNNY,
    ONE,
    Asked,
    RedisServer,
    free_port,
    redis_for_all,
    request,
    stored,
)

__all__ = ["redis_for_all"]  # a fixture


@pytest.mark.parametrize(
    ("url", "shown", "prefix"),
    [
        ("redis://127.0.0.1", "redis://127.0.0.1:6379/0", "vidattr:"),
        ("redis://user:secret@redis.example:7000/3", "redis://redis.example:7000/3", "vidattr:"),
        ("rediss://:secret@h/?prefix={team}:", "rediss://h:6379/0?prefix={team}:", "{team}:"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str, prefix: str) -> None:
    store = open_answers(url)
    assert isinstance(store, RedisAnswers) and store.location == shown and store.prefix == prefix
    assert "secret" not in repr(store) and pickle.loads(pickle.dumps(store)).url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://:secret@h:port",
        "redis://:secret@h/zero",
        "redis://:secret@h:99999",
        "redis://:secret@[::1",
        "redis://:secret@h?password=secret",
        "redis://:secret@h?prefix=a*",
        "redis://:secret@h?prefix=",
        "redis://:secret@h?ssl_ca_certs=file",
        "redis://:secret@h/0#secret",
    ],
)
def test_a_wrong_address_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInput, match="answers") as caught:
        open_answers(url)
    assert "secret@" not in str(caught.value) and ":secret" not in str(caught.value)


def test_a_server_that_is_away_is_worth_another_try() -> None:
    store = RedisAnswers(f"redis://:secret@127.0.0.1:{free_port()}")
    for call in (lambda: store.get_many(["a"]), lambda: store.put_many([stored("a")], {"run": ONE}), store.stats):
        with pytest.raises(Transient, match="does not answer") as caught:
            call()
        assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.annotators.answers_redis.REPLY_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(Transient, match="does not answer"):
            RedisAnswers(f"redis://127.0.0.1:{silent.getsockname()[1]}").get_many(["a"])


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        ("LOADING Redis is loading the dataset in memory", Transient, "still loading"),
        ("READONLY You can't write against a read only replica.", InvalidInput, "name its primary"),
        ("OOM command not allowed when used memory > 'maxmemory'.", InvalidInput, "raise its maxmemory"),
        ("ERR Error running script: @user_script:7: -OOM command not allowed when used memory", InvalidInput, "maxmemory"),
        ("MISCONF Redis is configured to save RDB snapshots, but unable to persist", InvalidInput, "cannot hold answers"),
        ("WRONGPASS invalid username-password pair", InvalidInput, PASSWORD),
        ("NOAUTH Authentication required.", InvalidInput, PASSWORD),
        ("NOPERM this user has no permissions", InvalidInput, "allow it"),
        ("MOVED 3999 127.0.0.1:6381", InvalidInput, "prefix in braces"),
        ("CROSSSLOT Keys in request don't hash to the same slot", InvalidInput, "prefix in braces"),
        ("CLUSTERDOWN The cluster is down", Transient, "try again"),
        ("BUSY Redis is busy running a script.", Transient, "try again"),
    ],
)
def test_what_a_server_says_no_with(reply: str, kind: type[Exception], says: str) -> None:
    """Replies as servers of several versions write them, from a socket that says nothing else."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    count = sum(data.count(f"*{number}\r\n".encode()) for number in range(1, 9)) or 1
                    connection.sendall(f"-{reply}\r\n".encode() * count)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        store = RedisAnswers(f"redis://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(kind, match=says):
            store.get_many(["a"])
        store.close()


def test_a_password_from_the_address_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer("--requirepass", "sesame") as server:
        with pytest.raises(InvalidInput, match=PASSWORD):
            RedisAnswers(server.url).get_many(["a"])
        with pytest.raises(InvalidInput, match=PASSWORD) as caught:
            RedisAnswers(server.url.replace("//", "//:wrong@")).get_many(["a"])
        assert "wrong@" not in str(caught.value)
        RedisAnswers(server.url.replace("//", "//:sesame@")).put_many([stored("a")])
        monkeypatch.setenv(PASSWORD, "sesame")
        assert len(RedisAnswers(server.url)) == 1


def test_tls_is_used_and_its_certificate_checked(tmp_path: pathlib.Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(make, check=True, capture_output=True)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no")
    with RedisServer(*options):
        store = RedisAnswers(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        store.put_many([stored("a")])
        assert len(store) == 1 and store.location.endswith(f"?ssl_ca_certs={certificate}")
        with pytest.raises(Transient, match="certificate"):
            RedisAnswers(f"rediss://127.0.0.1:{port}/0").get_many(["a"])


def test_a_full_server_counts_nothing_as_stored() -> None:
    """Fault 13 of the answers store: a store that refuses rows."""
    with RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        store = RedisAnswers(server.url)
        big = dataclasses.replace(ANSWER, rationale="x" * 1000)
        put = 0
        with pytest.raises(InvalidInput, match="Redis is full; raise its maxmemory"):
            for put in range(0, 100_000, 100):
                store.put_many([stored(f"{number}", big) for number in range(put, put + 100)], {"run": ONE})
        assert len(store) == put and store.spent("run").requests == put // 100, "a batch is stored at once or not at all"
        inner, client = Asked(), redis.Redis(port=server.port)
        client.config_set("maxmemory", "1mb")

        async def walk() -> None:
            annotator = StoredAnswers(inner, store, "run")
            annotator.open()
            with pytest.raises(InvalidInput, match="full"):
                await annotator.annotate(request("v", CALM))
            client.config_set("maxmemory", "0")
            reply = await annotator.annotate(request("v", CALM))
            assert [answer.reused for answer in reply.answers] == [False] and reply.spent == ONE
            await annotator.close()

        asyncio.run(walk())
        assert inner.asked == [("calm",)], "paid for once"
        assert len(store) == put + 1 and store.spent("run").requests == put // 100 + 2, "with what the refused batch had cost"


def test_a_killed_server_loses_nothing_it_had_taken(tmp_path: pathlib.Path) -> None:
    # With "everysec" a write may wait two seconds behind a slow flush, and a killed server loses it.
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with RedisServer(*options) as server:
        inner = Asked()

        async def walk() -> None:
            annotator = StoredAnswers(inner, RedisAnswers(server.url), "run")
            annotator.open()
            await asyncio.gather(*(annotator.annotate(request(f"v{number}", CALM, FUNNY)) for number in range(300)))
            server.kill()
            with pytest.raises(Transient, match="does not answer"):
                await annotator.annotate(request("v0", CALM))
            server.start()
            for _ in range(200):
                try:
                    replies = [await annotator.annotate(request(f"v{number}", CALM, FUNNY)) for number in range(300)]
                    break
                except Transient:
                    time.sleep(0.05)
            assert all(answer.reused for reply in replies for answer in reply.answers)
            assert annotator.store.spent("run").requests == 300
            await annotator.close()

        asyncio.run(walk())
        assert len(inner.asked) == 300, "nobody was asked twice"


def test_a_server_that_dies_while_a_reply_is_stored(tmp_path: pathlib.Path) -> None:
    with RedisServer("--appendonly", "yes", "--dir", str(tmp_path)) as server:

        async def die(request: object) -> None:
            if len(inner.asked) == 1:
                server.kill()

        inner = Asked(die)

        async def walk() -> None:
            annotator = StoredAnswers(inner, RedisAnswers(server.url), "run")
            annotator.open()
            with pytest.raises(Transient):
                await annotator.annotate(request("v", CALM))
            server.start()
            reply = await annotator.annotate(request("v", CALM))
            assert not reply.answers[0].reused and reply.spent == ONE
            assert annotator.store.spent("run") == ONE
            await annotator.close()

        asyncio.run(walk())
        assert inner.asked == [("calm",)]


def test_spend_that_is_sent_twice_counts_once(redis_for_all: RedisServer) -> None:
    """A reply that is lost on its way back: the same batch comes again."""
    store = RedisAnswers(f"{redis_for_all.url}/998")
    store.put_many([stored("a")], {"run": ONE})
    store._behind.add("run")
    store.put_many([stored("a")])
    assert store.spent("run") == ONE
    store.note_spent("run", ONE)
    assert store.spent("run").requests == 2


def test_a_fork_goes_on_with_totals_of_its_own(redis_for_all: RedisServer) -> None:
    store = RedisAnswers(f"{redis_for_all.url}/997")
    store.put_many([stored("a")], {"run": ONE})
    child = os.fork()
    if not child:
        store.put_many([stored("b")], {"run": ONE})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.note_spent("run", Usage(5))
    assert store.spent("run").requests == 7 and len(store) == 2


def test_it_notes_a_server_that_forgets(tmp_path: pathlib.Path) -> None:
    with RedisServer("--dir", str(tmp_path)) as server:
        client, store = redis.Redis(port=server.port), RedisAnswers(server.url)
        assert store.stats().notes == ("persistence is off: a restart of Redis forgets every answer; set appendonly to yes",)
        client.config_set("save", "3600 1")
        assert "since its last snapshot" in store.stats().notes[0]
        client.config_set("appendonly", "yes")
        assert store.stats().notes == ()
        client.config_set("appendfsync", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")
        policy, flush = store.stats().notes
        assert "maxmemory-policy is allkeys-lru" in policy and "appendfsync is no" in flush
        client.config_set("maxmemory-policy", "volatile-lru")
        assert len(store.stats().notes) == 1, "answers never expire: nothing of them is evicted"


def test_two_prefixes_share_a_database(redis_for_all: RedisServer) -> None:
    one, other = (RedisAnswers(f"{redis_for_all.url}/995?prefix={name}:") for name in ("one", "other"))
    one.put_many([stored("a")], {"run": ONE})
    assert other.get_many(["a"]) == {} and len(other) == 0 and other.stats().spent == {}
    redis.Redis(port=redis_for_all.port, db=995).set("other:answer:a", "not ours")
    with pytest.raises(InvalidInput, match="name another prefix"):
        other.get_many(["a"])
    redis.Redis(port=redis_for_all.port, db=995).set("other:answer:a", "[9]")
    with pytest.raises(InvalidInput, match="newer version"):
        list(other.rows())


def test_answers_of_an_evicted_identity_are_still_answers(redis_for_all: RedisServer) -> None:
    store = RedisAnswers(f"{redis_for_all.url}/994")
    store.put_many([stored("a")])
    redis.Redis(port=redis_for_all.port, db=994).delete("vidattr:identities")
    assert [row.answer for row in store.rows()] == [ANSWER] and next(store.rows()).identity.model == ""
