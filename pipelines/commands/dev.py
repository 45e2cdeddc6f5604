"""`vidattr dev`: servers on this machine, for trying a run out without a key."""

from __future__ import annotations

import typer

from pipelines.commands.dev_llm import llm
from pipelines.commands.dev_model_server import model_server

app = typer.Typer(no_args_is_help=True, help="Servers on this machine, to label without a key.")
app.command("model-server")(model_server)
app.command("llm")(llm)
