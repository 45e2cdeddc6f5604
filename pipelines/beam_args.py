"""What may stand after `--`, as far as it can be told without Beam: options only, and none that carries a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from features.errors import InvalidInput

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"AIza[\w-]{30}|ya29\.|\bsk-[\w-]{16}|-----BEGIN|\bgh[pousr]_\w{20}")
_NO_SECRETS = frozenset({"dataflow_kms_key"})
"""Beam's own flags that sound like secrets and name a resource."""
FOR_A_JOB = (
    "a job's options are logged and shown in the console, so secrets travel by name: leave it out, and let the workers' "
    "--service-account read it where it is kept"
)
FOR_THIS_MACHINE = (
    "options are written into run records and logs, so secrets stay out of them: leave it out, and put it where the library that "
    "needs it looks, its environment variable or its own credentials file"
)
"""Where to put a secret instead."""


@dataclass(frozen=True)
class Refused:
    """Why an argument is refused, and what to write instead. Neither repeats a secret."""

    sentence: str
    remedy: str


def option_name(argument: str) -> str:
    """`--disk-size-gb=50` -> `disk_size_gb`."""
    return argument.lstrip("-").partition("=")[0].replace("-", "_")


def refusal(argument: str, instead: str) -> Refused | None:
    """Why `argument` may not be passed on to Beam; None when nothing speaks against it.

    Args:
        argument: one word after `--`.
        instead: the remedy for a secret, such as `FOR_THIS_MACHINE`.
    """
    name = option_name(argument)
    names, value = argument.rsplit("=", 1) if "=" in argument else (argument, "")
    if not argument.startswith("--") or not name:
        shown = "an argument after --" if _SECRET_VALUE.search(argument) else repr(argument)
        return Refused(f"{shown} is no Beam option", "write --name=value")
    if (name not in _NO_SECRETS and _SECRET_NAME.search(names)) or _SECRET_VALUE.search(value):
        return Refused(f"--{name} looks like a secret", instead)
    return None


def check_beam_args(arguments: Sequence[str]) -> None:
    """Raises InvalidInput for the first argument that is no option or looks like a secret, for stages that run here."""
    for argument in arguments:
        found = refusal(argument, FOR_THIS_MACHINE)
        if found:
            raise InvalidInput(f"{found.sentence}: {found.remedy}")
