"""Options about a model annotator, which several commands take: which model, what it is asked, how fast, and how much of it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from features.errors import InvalidInput

MODEL, PROMPT, PACE = "Model", "What it is asked and shown", "Pace, cost and keeping"
TAKEN = "model_flags"
"""The parameter of a command that gets what these options say, by group of `pipelines.configuration.Configuration`."""


def _flag(kind: Any, group: str, field: str, panel: str, names: str, text: str, **more: Any) -> tuple[str, str, Any]:
    return group, field, Annotated[kind | None, typer.Option(*names.split(), help=text, rich_help_panel=panel, **more)]


_FLAGS = (
    _flag(str, "model", "name", MODEL, "--model", "Model id as the server knows it. gemini: gemini-2.5-flash by default."),
    _flag(
        str, "model", "base_url", MODEL, "--base-url", "Of the server, such as http://127.0.0.1:8000/v1. Default: the provider's."
    ),
    _flag(
        str,
        "model",
        "api_key_env",
        MODEL,
        "--api-key-env",
        "Environment variable with the key. Default: OPENAI_API_KEY, GEMINI_API_KEY.",
    ),
    _flag(str, "model", "api_key_file", MODEL, "--api-key-file", "File with the key; wins over the environment."),
    _flag(
        str, "model", "project", MODEL, "--project", "Google Cloud project: use Vertex AI and the machine's credentials (gemini)."
    ),
    _flag(str, "model", "location", MODEL, "--location", "Of Vertex AI, such as us-central1 or global."),
    _flag(float, "model", "timeout_s", MODEL, "--timeout", "Seconds for one request, after which it is cancelled. Default: 60."),
    _flag(float, "model", "temperature", MODEL, "--temperature", "0 to 2. Default: 0, and 0.7 with several samples."),
    _flag(int, "model", "max_output_tokens", MODEL, "--max-output-tokens", "Where a reply is cut off. Default: by the questions."),
    _flag(
        int,
        "model",
        "thinking_budget",
        MODEL,
        "--thinking-budget",
        "Tokens of hidden reasoning (gemini). 0: none. Default: the model's.",
    ),
    _flag(bool, "model", "structured", MODEL, "--structured/--no-structured", "Send the reply's JSON schema. Default: yes."),
    _flag(
        int,
        "model",
        "logprobs",
        MODEL,
        "--logprobs",
        "Log-probabilities: alternatives at each token, 0 to 20. Default: as many as help.",
    ),
    _flag(bool, "model", "clips", MODEL, "--clips/--frames-only", "Let the provider fetch gs:// videos itself (gemini)."),
    _flag(str, "model", "safety", MODEL, "--safety", "Threshold of every harm category, such as BLOCK_ONLY_HIGH or OFF (gemini)."),
    _flag(
        str, "prompt", "ask", PROMPT, "--ask", "together: all attributes in a request; each: one request an attribute, video first."
    ),
    _flag(
        str,
        "prompt",
        "evidence",
        PROMPT,
        "--evidence",
        "What may be shown: frames,title,transcript,... or text for all but frames. Default: all.",
    ),
    _flag(int, "prompt", "frames", PROMPT, "--frames", "The most frames that are shown of a video, 0 to 16. Default: 8."),
    _flag(
        int,
        "prompt",
        "examples",
        PROMPT,
        "--examples",
        "Golden Set examples in the prompt, for each attribute, 0 to 32. Default: 0.",
    ),
    _flag(bool, "prompt", "rationale", PROMPT, "--rationale/--no-rationale", "Ask for a reason before the verdict. Default: yes."),
    _flag(bool, "prompt", "moments", PROMPT, "--moments/--no-moments", "Ask for the seconds that carry the verdict. Default: yes."),
    _flag(int, "prompt", "videos_per_request", PROMPT, "--videos-per-request", "Videos in one request, 1 to 32. Default: 1."),
    _flag(
        int,
        "prompt",
        "samples",
        PROMPT,
        "--samples",
        "Ask each question so often; the share of votes is its probability, 1 to 32. Default: 1.",
    ),
    _flag(
        bool,
        "prompt",
        "first_token",
        PROMPT,
        "--first-token/--whole-reply",
        "With --ask each: take the likeliest answer at the first token, however the model goes on.",
    ),
    _flag(int, "pace", "in_flight", PACE, "--in-flight", "The most requests at the same time. Default: 64."),
    _flag(
        int, "pace", "max_requests_per_minute", PACE, "--max-requests-per-minute", "Quota of your account, kept to. Default: none."
    ),
    _flag(int, "pace", "max_tokens_per_minute", PACE, "--max-tokens-per-minute", "Quota, input and output. Default: none."),
    _flag(float, "pace", "max_cost", PACE, "--max-cost", "US dollars for this run; the rest stays pending. Default: no cap."),
    _flag(int, "pace", "max_tokens", PACE, "--max-tokens", "Input and output tokens for this run. Default: no cap."),
    _flag(int, "pace", "attempts", PACE, "--attempts", "Tries of one request, 1 to 20. Default: 5."),
    _flag(
        float,
        "pace",
        "outage_patience_s",
        PACE,
        "--outage-patience",
        "Seconds a server may be down before the rest stays pending. Default: 600.",
    ),
    _flag(str, "", "prices", PACE, "--prices", "A price table of your own (YAML), merged over the built-in one."),
    _flag(
        str,
        "",
        "answers",
        PACE,
        "--answers",
        "Where answers are kept: FILE.sqlite, or redis://HOST:PORT. Default: in the workspace.",
    ),
    _flag(str, "fallback", "annotator", MODEL, "--fallback", "Annotator that is asked where the first refuses or is down."),
    _flag(str, "fallback.model", "name", MODEL, "--fallback-model", "The fallback's model."),
    _flag(str, "fallback.model", "base_url", MODEL, "--fallback-base-url", "The fallback's server, as for --base-url."),
    _flag(str, "fallback.model", "api_key_env", MODEL, "--fallback-api-key-env", "Environment variable with the fallback's key."),
    _flag(list[str], "options", "", MODEL, "--option", "NAME=VALUE for an annotator of another package. Repeatable."),
)
_BY_PARAMETER = {
    re.sub(r"\W", "_", "_".join(filter(None, ("fallback" * group.startswith("fallback"), field)))) or group: (group, field, kind)
    for group, field, kind in _FLAGS
}
PROMPT_ONLY = frozenset(name for name, (group, _, _) in _BY_PARAMETER.items() if group == "prompt")
"""Parameters that say what a model is asked and shown."""
OF_PROMPTS = PROMPT_ONLY | {
    "name",
    "clips",
    "prices",
    "thinking_budget",
    "max_output_tokens",
    "structured",
    "logprobs",
    "temperature",
}
"""Parameters that decide what is sent and what it costs."""
OF_TRIALS = frozenset(name for name, (group, _, _) in _BY_PARAMETER.items() if group in ("model", "prompt", "options")) - {
    "samples"
}
"""Parameters that say who is asked about a few videos, and how."""


def with_model_options(command: Callable[..., None], only: Iterable[str] = ()) -> Callable[..., None]:
    """A command that takes these options too and hands them on as `model_flags`, those that were not given left out.

    Args:
        command: has a parameter `model_flags`.
        only: these parameters instead of all.
    """
    chosen = {name: entry for name, entry in _BY_PARAMETER.items() if not only or name in set(only)}
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != TAKEN]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, (_, _, kind) in chosen.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        flags: dict[str, Any] = {}
        for name, (group, field, _) in chosen.items():
            value = given.pop(name)
            if value is None:
                continue
            place = flags
            for step in filter(None, group.split(".")):
                place = place.setdefault(step, {})
            if field:
                place[field] = value
            else:
                place.update(map(_pair, value))
        command(**given, **{TAKEN: flags})

    parameters = [*keyword, *added]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del wrapper.__wrapped__  # type: ignore[attr-defined]  # or its signature would be read instead
    return wrapper


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name.strip():
        raise InvalidInput(f"--option is {text!r}; write NAME=VALUE")
    return name.strip(), value
