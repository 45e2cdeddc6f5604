"""The commands of `vidattr`. Each module imports typer and rich only; a command imports what it runs when it runs."""
