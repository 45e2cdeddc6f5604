from __future__ import annotations

import os
import signal

import pytest

from pipelines import stopping


def test_the_first_interrupt_asks_and_the_second_interrupts(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping.on_interrupt():
        assert not stopping.requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.requested()
        assert "stays pending" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_new_run_starts_unasked() -> None:
    stopping.request()
    with stopping.on_interrupt():
        assert not stopping.requested()
