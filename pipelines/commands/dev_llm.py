"""`vidattr dev llm`: a real language model on this machine, to annotate with."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Json

if TYPE_CHECKING:
    from features.annotators.local_llm import LocalLlm

TOKEN_VARIABLE = "VIDATTR_LLM_TOKEN"
"""Where a token is taken from, so that it need not stand in the list of processes."""

TIMEOUT_S = 600
"""For one request: a processor may need a minute for a long prompt, and requests wait for each other."""


def llm(
    model: Annotated[
        str,
        typer.Argument(
            help="smollm (to try the protocol with) or qwen2.5-1.5b (modest judgement); or pass --gguf.", metavar="MODEL"
        ),
    ] = "",
    gguf: Annotated[pathlib.Path | None, typer.Option("--gguf", help="Any other model, a GGUF file.")] = None,
    mmproj: Annotated[
        pathlib.Path | None, typer.Option("--mmproj", help="Its eyes, a GGUF file too. Without it the model reads text only.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one.")] = 0,
    slots: Annotated[int, typer.Option("--slots", min=1, max=256, help="Requests at the same time.")] = 2,
    context: Annotated[int, typer.Option("--context", min=256, help="Tokens of a prompt and its reply together.")] = 4096,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="Processor threads. 0: all; fewer where the machine is busy.")
    ] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Others than loopback need a --token.")] = "127.0.0.1",
    token: Annotated[str, typer.Option("--token", help=f"Key that requests must carry. Or set {TOKEN_VARIABLE}.")] = "",
    as_json: Json = False,
) -> None:
    """Serve a language model on this machine through llama.cpp, in OpenAI's protocol. No key, no cost, no network.

    It is the extra `llm`: pip install 'vidattr[llm]'. Fetch a model by name once with `vidattr weights install`. Ctrl-C ends it.
    """
    from features.annotators.local_llm import LocalLlm, model_file
    from features.errors import InvalidInput
    from pipelines import terminal

    if bool(model) == (gguf is not None):
        raise InvalidInput("name one model: smollm, qwen2.5-1.5b, or --gguf FILE")
    if mmproj is not None and gguf is None:
        raise InvalidInput("--mmproj goes with --gguf: the models by name read text only")
    secret = token or os.environ.get(TOKEN_VARIABLE, "")
    served = LocalLlm(
        gguf or model_file(model),
        mmproj,
        slots=slots,
        context=context,
        threads=threads,
        port=port,
        alias=model,
        host=host,
        token=secret,
    )
    if not as_json:
        terminal.tell(f"Loading {served.gguf}")
    try:
        with served:
            _tell(served, bool(secret), as_json)
            served.wait()
    except KeyboardInterrupt:
        if not as_json:
            terminal.say("Stopped.")


def _tell(served: LocalLlm, secret: bool, as_json: bool) -> None:
    """The address, and the command that annotates with it; the token itself is never printed."""
    from pipelines import terminal

    eyes = {} if served.mmproj else {"evidence": "text"}
    about = {"annotator": "openai", "base_url": served.base_url, "model": served.alias, "ask": "each", **eyes}
    line = terminal.command("annotate", **about, in_flight=str(served.slots), timeout=str(TIMEOUT_S)) + " --first-token"
    if secret:
        line = f"OPENAI_API_KEY=YOUR_TOKEN {line}"
    if as_json:
        terminal.emit({"base_url": served.base_url, "model": served.alias, "sees": bool(served.mmproj), "command": line})
        return
    terminal.say(f"OpenAI protocol: {served.base_url}")
    terminal.say(f"Model: {served.alias}, {'with' if served.mmproj else 'without'} eyes. {served.slots} slots. Ctrl-C ends it.")
    terminal.next_command(line)
