"""`vidattr dev model-server`: a model server on this machine, to try a run against."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Json

if TYPE_CHECKING:
    from features.annotators.model_server import RunningServer, ServerConfig

TOKEN_VARIABLE = "VIDATTR_MODEL_SERVER_TOKEN"
"""Where a token is taken from, so that it need not stand in the list of processes."""


def model_server(
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Others than loopback need a --token.")] = "127.0.0.1",
    slots: Annotated[int, typer.Option("--slots", min=1, help="Requests served at the same time.")] = 64,
    reject: Annotated[
        bool, typer.Option("--reject", help="Turn more requests away with 429, instead of letting them wait.")
    ] = False,
    latency: Annotated[float, typer.Option("--latency", min=0.0, help="Median seconds that a request takes.")] = 0.1,
    sigma: Annotated[float, typer.Option("--sigma", min=0.0, help="Spread: standard deviation of the latency's logarithm.")] = 0.5,
    requests_per_minute: Annotated[int, typer.Option("--requests-per-minute", min=0, help="Quota. 0: none.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option("--tokens-per-minute", min=0, help="Quota. 0: none.")] = 0,
    model: Annotated[list[str] | None, typer.Option("--model", help="Name of a model that it serves. Repeatable.")] = None,
    key: Annotated[str, typer.Option("--key", help="The only API key that it takes. Empty: any.")] = "",
    token: Annotated[
        str, typer.Option("--token", help=f"As --key, for a --host that others can reach. Or set {TOKEN_VARIABLE}.")
    ] = "",
    control: Annotated[bool, typer.Option("--control", help="Serve /_control/: counts, scripted faults, slots.")] = False,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Check the headers of pictures, instead of decoding them.")
    ] = False,
    marker: Annotated[
        str,
        typer.Option("--marker", help="Regular expression that finds what to call a video in the counts. Empty: a digest of it."),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of latencies and of faults with a share.")] = 0,
    as_json: Json = False,
) -> None:
    """A model server for trying things out: OpenAI's and Gemini's protocol, strict, with slots, latencies and quotas.

    It takes what the real ones take and refuses what they refuse, counts tokens and paid calls, and costs nothing. Its verdicts
    follow from a digest of the video: they mean nothing. Ctrl-C ends it.
    """
    from features.annotators.model_server import ServerConfig, serve
    from features.errors import InvalidInput
    from pipelines import terminal

    secret = token or os.environ.get(TOKEN_VARIABLE, "") or key
    if key and secret != key:
        raise InvalidInput("--key and --token differ; give one of them")
    defaults = ServerConfig()
    config = ServerConfig(
        models=tuple(model or defaults.models),
        key=secret,
        slots=slots,
        overflow="reject" if reject else "queue",
        latency_s=latency,
        sigma=sigma,
        seed=seed,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        decode_images=not headers_only,
        marker=marker,
        control=control,
        keep_requests=defaults.keep_requests if control else 0,
    )

    def told(server: RunningServer) -> None:
        found = {kind: _command(kind, server, config) for kind in ("openai", "gemini")}
        if as_json:
            terminal.emit({"openai_url": server.openai_url, "gemini_url": server.gemini_url, "commands": found})
            return
        terminal.say(f"OpenAI protocol: {server.openai_url}")
        terminal.say(f"Gemini protocol: {server.gemini_url}")
        if control:
            terminal.say(f"Counts: {server.gemini_url}/_control/stats")
        terminal.say(f"Models: {', '.join(config.models)}. {slots} slots, {latency:g} s a request. Ctrl-C ends it.")
        for line in found.values():
            terminal.say(line)

    try:
        serve(config, port, host, told)
    except KeyboardInterrupt:
        if not as_json:
            terminal.say("Stopped.")


def _command(kind: str, server: RunningServer, config: ServerConfig) -> str:
    """The command that annotates with this server; a key itself is never printed."""
    from pipelines import terminal

    variable = {"openai": "OPENAI_API_KEY", "gemini": "GEMINI_API_KEY"}[kind]
    url = server.openai_url if kind == "openai" else server.gemini_url
    name = next((each for each in config.models if each.startswith("gemini") is (kind == "gemini")), config.models[0])
    line = terminal.command("annotate", annotator=kind, base_url=url, model=name)
    return f"{variable}={'YOUR_KEY' if config.key else 'any'} {line}"
