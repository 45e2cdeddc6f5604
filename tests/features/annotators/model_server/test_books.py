"""What a server counts: paid calls of each pair, prefixes, slots, quotas, latencies."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import threading
import time
from typing import Any

import aiohttp
import openai
import pytest

from features.annotators.model_server import Decision, DigestJudge, Question, ServerConfig, latencies
from features.annotators.model_server.slots import Quota, Slots
from features.errors import InvalidInput
from tests.features.annotators.model_server.asking_servers import SYSTEM, chat, generate, packed, shown


def ask(served: Any, *titles: str, **more: Any) -> Any:
    return served.openai.chat.completions.create(**(packed(*titles, **more) if len(titles) > 1 else chat(*titles, **more)))


def many(url: str, count: int, **more: Any) -> list[int]:
    """Statuses of `count` requests at the same time."""

    async def all_of_them() -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(number: int) -> int:
                async with session.post(f"{url}/chat/completions", json=chat(f"Video {number}", **more)) as response:
                    await response.read()
                    return response.status

            return list(await asyncio.gather(*(one(number) for number in range(count))))

    return asyncio.run(all_of_them())


def test_paid_calls_are_counted_for_each_video_and_attribute(serving):
    served = serving(marker=r'title: "([^"]+)"')
    ask(served, "A lake")
    ask(served, "A lake")
    ask(served, "A race", "A lake")
    served.gemini.models.generate_content(**generate("A cat"))
    stats = served.server.stats()
    every = {"calming": 1, "pace": 1, "polish": 1}
    assert stats["pairs"] == {"A lake": {name: 3 for name in every}, "A race": every, "A cat": every}
    assert stats["paid_pairs"] == 15 and stats["accepted"] == 4
    assert stats["requests"]["by_path"] == {"POST /v1/chat/completions": 3, "POST generateContent": 1}
    served.server.reset()
    assert served.server.stats()["accepted"] == 0 and served.server.requests == []
    unnamed = serving()
    ask(unnamed, "A lake")
    ask(unnamed, "A lake", "A race")
    assert sorted(counts["pace"] for counts in unnamed.server.stats()["pairs"].values()) == [1, 2]


def test_questions_in_plain_words_are_counted_under_their_names(serving):
    served = serving(questions=(("Is it calm?", "calming"),))
    for question in ("Is it calm?\nAnswer with one word, Yes or No.", "Is it new?\nAnswer with one word, Yes or No."):
        content = [{"type": "text", "text": shown("A lake")}, {"type": "text", "text": question}]
        served.openai.chat.completions.create(**chat(messages=[{"role": "user", "content": content}], response_format=None))
    (counts,) = served.server.stats()["pairs"].values()
    assert counts == {"calming": 1, "Is it new?": 1}


def test_a_judge_of_one_s_own_decides(serving):
    def decide(question: Question) -> Decision:
        if question.boolean:
            return Decision("true", {"true": 0.9, "false": 0.1}, f"because of {question.attribute}", ((1.0, 2.0),))
        return Decision(question.labels[0] if question.labels else str(question.highest))

    served = serving(judge=DigestJudge(decide))
    text = ask(served, "A lake").choices[0].message.content
    assert '"because of calming","value":true,"moments":[{"start_s":1.0' in text
    assert '"value":"slow"' in text and '"value":5.0' in text


def test_prefixes_are_cached_only_when_they_were_seen(serving):
    served = serving(cache_minimum_tokens=0, cache_block_bytes=64)

    def cached(title: str, system: str = SYSTEM) -> int:
        messages = [{"role": "system", "content": system}, *chat(title)["messages"][1:]]
        return ask(served, title, messages=messages).usage.prompt_tokens_details.cached_tokens

    first, second, again = cached("A lake"), cached("A race"), cached("A race")
    assert first == 0 < second < again
    assert cached("A lake", "Other. " + SYSTEM) < second, "the system text differs from its first byte on: only the schema is left"
    response = served.gemini.models.generate_content(**generate())
    assert not response.usage_metadata.cached_content_token_count, "another model has a cache of its own"
    assert served.gemini.models.generate_content(**generate()).usage_metadata.cached_content_token_count > 50
    stats = served.server.stats()
    assert sorted(stats["prefixes"].values()) == [1, 2, 3] and sum(stats["schemas"].values()) == 6
    assert stats["tokens"]["cached"] > 0
    assert serving().server.config.cache_minimum_tokens == 1024
    short = serving()
    assert [ask(short, "A lake").usage.prompt_tokens_details.cached_tokens for _ in range(2)] == [0, 0]


def test_slots_bound_what_is_served_at_a_time(serving):
    served = serving(slots=3, latency_s=0.02)
    assert set(many(served.server.openai_url, 30)) == {200}
    stats = served.server.stats()
    assert stats["slots"]["most_taken"] == 3 and stats["most_in_flight"] > 20 and stats["slots"]["taken"] == 0
    assert len(stats["latencies"]) == 30 and stats["seconds"] > 30 * 0.02 / 3
    served.server.set_slots(20)
    many(served.server.openai_url, 30)
    assert 3 < served.server.stats()["slots"]["most_taken"] <= 20


def test_what_exceeds_the_slots_is_turned_away(serving):
    served = serving(slots=4, overflow="reject", latency_s=0.3)
    statuses = many(served.server.openai_url, 20)
    assert (statuses.count(200), statuses.count(429)) == (4, 16)
    stats = served.server.stats()
    assert (stats["accepted"], stats["rejected"]) == (4, 16)
    url = serving(slots=1, overflow="reject", latency_s=0.2, retry_after_s=0).server.openai_url
    assert sorted(many(url, 3)) == [200, 429, 429]
    assert sum(each["accepted"] for each in stats["timeline"]) == 4 and sum(each["rejected"] for each in stats["timeline"]) == 16


def test_latencies_are_lognormal_and_follow_from_the_seed():
    def drawn(seed: int) -> list[float]:
        return latencies(ServerConfig(latency_s=0.001, sigma=0.5, seed=seed), 2000)

    found = drawn(1)
    logs = [math.log(each) for each in found]
    assert statistics.median(found) == pytest.approx(0.001, rel=0.1) and statistics.stdev(logs) == pytest.approx(0.5, rel=0.1)
    assert drawn(1) == found != drawn(2)


def test_latencies_are_known_beforehand_and_begin_again_after_a_reset(serving):
    served = serving(latency_s=0.002, sigma=0.8, seed=7)
    expected = latencies(served.server.config, 20)
    for _ in range(2):
        many(served.server.openai_url, 20)
        assert served.server.stats()["latencies"] == expected
        served.server.reset()
    assert latencies(ServerConfig(), 3) == [0.0, 0.0, 0.0]


def test_a_slot_is_given_on_from_when_it_was_due():
    now, waits = 0.0, []

    async def too_long(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        await asyncio.sleep(0)
        now += seconds + 0.25

    async def run() -> None:
        slots = Slots(1, True, 1.0, 0.0, random.Random(), lambda: now, sleep=too_long)

        async def one() -> None:
            async with slots.served("openai"):
                pass

        await asyncio.gather(*(one() for _ in range(4)))

    asyncio.run(run())
    assert waits == [1.0, 0.75, 0.75, 0.75] and now == 4.25, "a server that is late once is not later each time"


def test_a_reset_in_mid_run_keeps_what_is_being_served(serving):
    served = serving(slots=2, latency_s=0.3)
    thread = threading.Thread(target=many, args=(served.server.openai_url, 2))
    thread.start()
    while served.server.stats()["slots"]["taken"] < 2:
        time.sleep(0.005)
    served.server.reset()
    assert served.server.stats()["in_flight"] == served.server.stats()["most_in_flight"] == 2
    thread.join()
    stats = served.server.stats()
    assert stats["in_flight"] == stats["slots"]["taken"] == 0 and stats["requests"]["by_status"] == {"200": 2}


def test_quotas_refuse_until_the_window_has_moved(serving):
    served = serving(requests_per_minute=2, quota_window_s=0.5)
    ask(served, "A lake")
    ask(served, "A lake")
    with pytest.raises(openai.RateLimitError) as raised:
        ask(served, "A lake")
    wait = float(raised.value.response.headers["retry-after"])
    assert 0 < wait <= 0.5 and raised.value.code == "rate_limit_exceeded"
    time.sleep(wait + 0.01)
    ask(served, "A lake")
    tokens = serving(tokens_per_minute=1500)
    with pytest.raises(openai.RateLimitError, match="tokens"):
        for _ in range(10):
            ask(tokens, "A lake")
    assert 1 <= tokens.server.stats()["accepted"] < 5


def test_a_quota_says_when_there_is_room():
    now = 0.0
    quota = Quota(0, 100, 60.0, lambda: now)
    quota.take("openai", 60)
    now = 10.0
    quota.used(30)
    with pytest.raises(Exception) as raised:
        quota.take("gemini", 20)
    assert raised.value.details[0]["retryDelay"] == "50.000s"
    now = 60.0
    quota.take("gemini", 70)


def test_settings_that_make_no_sense_are_refused(serving):
    for wrong in ({"slots": 0}, {"models": ()}, {"overflow": "drop"}, {"latency_s": float("nan")}, {"sigma": -1}, {"marker": "("}):
        with pytest.raises(InvalidInput):
            serving(**wrong)
