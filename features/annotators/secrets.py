"""Keys of model servers: read where they are used, wrapped so that they print as stars, and cut out of what others print."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import NoReturn

from features import storage
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput

STARS = "***"
LONGEST_KEY = 4096

_LOOKS_SECRET = (
    re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=*-]{6,}"),
    re.compile(r"(?i)\b(api[-_]?key|access_token|key|token)=[^\s&\"']{6,}"),
    re.compile(r"\bsk-[\w*-]{6,}"),  # OpenAI; it quotes half of a wrong key in its refusal
    re.compile(r"\bAIza[\w-]{20,}"),  # Google API keys
    re.compile(r"\bya29\.[\w.-]{10,}"),  # Google access tokens
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"),  # JSON web tokens
    re.compile(r"\b(?:hf|gsk|xai|nvapi)[-_][\w-]{16,}"),  # keys of services that host open models
    re.compile(r"(?<=//)[^/\s:@]+:[^/\s@]+(?=@)"),  # user and password in an address
)


class Secret:
    """A text that neither prints, nor is pickled, nor compares: only `reveal` gives it away.

    >>> Secret("sk-123")
    Secret(***)
    >>> f"{Secret('sk-123')}"
    '***'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the header that carries it and for nothing else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({STARS})"

    def __str__(self) -> str:
        return STARS

    def __format__(self, form: str) -> str:
        return STARS

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: it is read where it is used")


def api_key(
    settings: ModelSettings, default_variables: tuple[str, ...], environment: Mapping[str, str] = os.environ
) -> tuple[Secret, str]:
    """The key of a model server and where it came from, in words that go into messages.

    The file counts before the environment: whoever names a file means it. A file that others on the machine can read is used, since
    mounted secrets often are, and the words say so.

    Args:
        settings: `api_key_file` and `api_key_env`.
        default_variables: names of environment variables to look into, in this order, where the settings name none.
        environment: instead of the process's.

    Raises:
        InvalidInput: there is none, or what is there cannot be a key; it names the variable and the file, never the content.
    """
    if settings.api_key_file:
        return _from_file(settings.api_key_file)
    variables = (settings.api_key_env,) if settings.api_key_env else default_variables
    for variable in variables:
        if environment.get(variable, "").strip():
            where = f"the environment variable {variable}"
            return Secret(_checked(environment[variable], where)), where
    wanted = " or ".join(variables)
    raise InvalidInput(
        f"there is no API key: the environment variable {wanted} is not set on this machine. Set it, or name another variable with "
        "--api-key-env NAME, or a file that holds the key with --api-key-file FILE"
    )


def _from_file(path: str) -> tuple[Secret, str]:
    where = f"the file {path}"
    try:
        content = storage.read_bytes(path if storage.is_gcs(path) else os.path.abspath(os.path.expanduser(path)))
    except OSError as error:
        raise InvalidInput(f"{path}: the API key cannot be read ({error.strerror or error}); see --api-key-file") from error
    try:
        key = _checked(content.decode(), where)
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} holds no API key: it is not text; write the key into it, in one line") from None
    return Secret(key), where + _who_can_read(path)


def _who_can_read(path: str) -> str:
    if storage.is_gcs(path) or os.name != "posix":
        return ""
    mode = os.stat(os.path.expanduser(path)).st_mode
    return " (which other users of this machine can read: chmod 600)" if mode & (stat.S_IRGRP | stat.S_IROTH) else ""


def _checked(text: str, where: str) -> str:
    key = text.strip()
    if not key:
        raise InvalidInput(f"{where} holds no API key: it is empty")
    if len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput(f"{where} holds no API key: a key is one line of printable ASCII characters without spaces")
    return key


def redacted(text: str, secrets: Iterable[Secret] = ()) -> str:
    """`text` without the given secrets, and without what looks like anybody's key.

    >>> redacted("Incorrect API key provided: sk-abcd****wxyz.")
    'Incorrect API key provided: ***.'
    """
    for secret in secrets:
        if secret.reveal():
            text = text.replace(secret.reveal(), STARS)
    for pattern in _LOOKS_SECRET:
        text = pattern.sub(STARS, text)
    return text
