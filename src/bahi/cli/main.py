"""The `bahi` command."""

import typer

from bahi.cli.bench import bench
from bahi.cli.demo import demo
from bahi.cli.run import run
from bahi.schema.cli import app as schema

__all__ = ["app"]

app = typer.Typer(
    help="bahi: an event-sourced engine that trades retail strategies. Every command takes --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(run)
app.command()(bench)
app.add_typer(schema, name="schema", help="Export the events' schemas, or check the committed ones.")
