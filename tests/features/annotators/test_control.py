"""A run heeds what a person writes into control.yaml."""

from __future__ import annotations

import asyncio
import pathlib
import threading
import time

import pytest
import yaml

from features.annotators import control as module
from features.annotators.control import EXAMPLE, KEYS, Control, Orders, read_orders
from features.annotators.settings import PaceSettings
from features.errors import InvalidInput, Stopped
from tests.features.annotators.wrapping import now, virtually

BASE = PaceSettings(in_flight=32, max_cost=5.0)


def settled(control: Control, wanted: Orders) -> None:
    """The file is read in a thread: it is there soon."""
    ends = time.monotonic() + 10
    while control.orders() != wanted and time.monotonic() < ends:
        time.sleep(0.005)
    assert control.orders() == wanted


def test_the_file_wins_over_the_settings_and_going_away_brings_them_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "control.yaml"
    at = [100.0]
    control = Control(str(path), base=BASE, clock=lambda: at[0])
    base = Orders(in_flight=32, max_cost=5.0)
    control.open()
    assert control.orders() == base and control.problem == ""
    path.write_text("paused: true\nin_flight: 8\nmax_cost: 2.5\nmax_tokens:\nnote: lunch\n")
    assert control.orders() == base, "not looked at again yet"
    at[0] += 2.0
    settled(control, Orders(paused=True, in_flight=8, max_cost=2.5, note="lunch"))
    path.unlink()
    at[0] += 2.0
    settled(control, base)


def test_a_run_that_was_paused_before_it_began_is_paused_from_the_first_request_on(tmp_path: pathlib.Path) -> None:
    (tmp_path / "control.yaml").write_text("paused: true\n")
    control = Control(str(tmp_path / "control.yaml"))
    control.open()
    assert control.orders().paused


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("pausd: true", "unknown key 'pausd'; did you mean 'paused'?"),
        ("max_requests: 5", "did you mean 'max_requests_per_minute'?"),
        ("zzz: 1", "known are paused, stopped"),
        ("paused: maybe", "paused is 'maybe'; write true or false"),
        ("in_flight: 2.5", "in_flight is 2.5; write a whole number"),
        ("in_flight: true", "write a whole number"),
        ("max_cost: .nan", "max_cost is nan; write a number from 0"),
        ("in_flight: 0", "in_flight is 0; write a number from 1 to 4096"),
        ("- paused", "holds list and not keys"),
        ("paused: [", "is no YAML"),
        ("&a [*a, *a]", "holds list"),
    ],
)
def test_a_mistake_keeps_the_last_orders_and_is_told(tmp_path: pathlib.Path, content: str, says: str) -> None:
    path = tmp_path / "control.yaml"
    path.write_text("in_flight: 7\n")
    control = Control(str(path), base=BASE)
    control.open()
    path.write_text(content)
    control.read()
    assert control.orders().in_flight == 7
    assert says in control.problem and str(path) in control.problem and "still holds" in control.problem
    control.read()
    assert control.problem, "for as long as the mistake is there"
    path.write_text("in_flight: 9\n")
    control.read()
    assert control.orders().in_flight == 9 and control.problem == ""


def test_what_cannot_be_read_keeps_the_last_orders(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "control.yaml"
    path.write_text("paused: true\n")
    control = Control(str(path))
    control.open()
    path.unlink()
    path.mkdir()
    control.read()
    assert control.orders().paused and "cannot be read" in control.problem


def test_a_slow_store_holds_up_nobody(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = [], threading.Event()

    def slow(name: str) -> bytes:
        asked.append(name)
        go.wait(10)
        return b"paused: true"

    at = [0.0]
    control = Control("gs://bucket/control.yaml", clock=lambda: at[0])
    monkeypatch.setattr(module.storage, "read_bytes", slow)
    for _ in range(100):
        at[0] += 60
        assert not control.orders().paused
    go.set()
    settled(control, Orders(paused=True))
    assert len(asked) <= 2, "and is asked by one thread at a time"


def test_opening_waits_for_a_reading_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(name: str) -> bytes:
        time.sleep(0.05)
        return b"paused: true"

    monkeypatch.setattr(module.storage, "read_bytes", slow)
    control = Control("gs://bucket/control.yaml")
    control.orders()
    control.open()
    assert control.orders().paused


def test_it_is_read_from_a_bucket(bucket: str) -> None:
    from features import storage

    name = f"{bucket}/w/control.yaml"
    control = Control(name)
    control.open()
    assert control.orders() == Orders() and control.problem == ""
    storage.write_bytes(name, b"max_cost: 3")
    control.read()
    assert control.orders().max_cost == 3


def test_the_example_is_valid_and_shows_every_key() -> None:
    assert read_orders(EXAMPLE.encode(), "control.yaml", BASE).paused
    shown = yaml.safe_load("\n".join(line.removeprefix("# ") for line in EXAMPLE.splitlines()[2:]))
    assert set(shown) == set(KEYS)
    with pytest.raises(InvalidInput):
        read_orders(b"in_flight: 5000", "control.yaml", BASE)


def test_a_stop_ends_all_waiting_soon_and_says_who_stopped(tmp_path: pathlib.Path) -> None:
    async def main() -> tuple[list[BaseException | None], float]:
        stop = [False]
        control = Control(stopping=lambda: stop[0], clock=now)
        begins = now()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = [asyncio.ensure_future(control.wait_s(3600)) for _ in range(50)] + [asyncio.ensure_future(control.wait(future))]
        await asyncio.sleep(10.07)
        stop[0] = True
        results = await asyncio.gather(*waiting, return_exceptions=True)
        return list(results), now() - begins - 10.07

    results, took = virtually(main)
    assert all(isinstance(result, Stopped) for result in results) and took <= 0.3
    assert "the run was stopped" in str(results[0])
    path = tmp_path / "control.yaml"
    path.write_text("stopped: true\nnote: too dear\n")
    control = Control(str(path))
    control.open()
    with pytest.raises(Stopped, match=r"control.yaml says stopped \(too dear\)"):
        control.check()


def test_waiting_ends_when_it_is_over_and_leaves_nothing_behind() -> None:
    async def main() -> tuple[float, int]:
        control, begins = Control(clock=now), now()
        await control.wait_s(1.5)
        took = now() - begins
        cancelled = asyncio.ensure_future(control.wait_s(100))
        await asyncio.sleep(1)
        cancelled.cancel()
        await asyncio.sleep(1)
        return took, len(asyncio.all_tasks()) - 1

    took, left = virtually(main)
    assert took == pytest.approx(1.5) and left == 0
