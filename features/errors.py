"""Every error the system raises on purpose, and what each one means for a run.

What is retried is decided here and nowhere else: `Transient` is, everything else is not. No caller looks at an error's text.
"""

from __future__ import annotations

from typing import ClassVar


class VidattrError(Exception):
    """Base of all errors that a person is meant to read: a sentence naming the value, the place and the remedy.

    Attributes:
        exit_code: what the command line exits with (2 for the user's mistake, 1 for a failure).
    """

    exit_code: ClassVar[int] = 1


class InvalidInput(VidattrError):
    """The user's input is wrong: a manifest row, a definition, an option. Nothing was written; mend it and run again."""

    exit_code = 2


class NothingToLearn(InvalidInput):
    """No student can be trained from what the workspace holds yet: a run over all stages goes on without one."""


class Transient(VidattrError):
    """It may work if asked again: a time-out, a busy store, a rejected burst. The only kind that is retried.

    Args:
        message: the sentence a person reads.
        retry_after_s: seconds that the server asks to wait before the next try; None when it does not say.
        rejected: the server turned the request away because there were too many (429), not because something broke.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, rejected: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.rejected = rejected

    def __reduce__(self) -> tuple[type[Transient], tuple[str, float | None, bool]]:
        return type(self), (str(self), self.retry_after_s, self.rejected)


class Permanent(VidattrError):
    """Asking again gives the same result: a file that does not decode, a refused request, a digest that differs.

    Args:
        message: the sentence a person reads.
        kind: a short, stable word for dead letters and counters, such as `not_a_video`.
    """

    def __init__(self, message: str, kind: str = "permanent") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Permanent], tuple[str, str]]:
        return type(self), (str(self), self.kind)


class Halted(VidattrError):
    """No more questions are asked in this run: what was not asked stays pending, and the next run goes on from there."""


class BudgetSpent(Halted):
    """A cap on cost or tokens is reached."""


class Unavailable(Halted):
    """The service refuses everybody, whatever is asked: a revoked key, a retired model, a server that is gone for good."""


class Stopped(Halted):
    """A person stopped or paused the run before this was asked."""
