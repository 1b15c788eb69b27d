"""`bahi explain`: one order's story, from the log alone."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bahi.cli.common import (
    Home,
    Json,
    bar,
    fail,
    load_settings,
    out,
    print_json,
    run_async,
    say,
    show,
    table,
    until_closed,
)

if TYPE_CHECKING:
    from bahi.cli.reader import Reader
    from bahi.cli.story import Story
    from eventstore.log import EventLog

__all__ = ["explain"]


def explain(
    order: Annotated[str, typer.Argument(help="The order's tag, or its id at the broker.", metavar="ORDER|TAG")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Tell the story of one order: cause, checks, request, outcome, fills, and how long each took."""
    with until_closed():
        run_async(_explain(load_settings(home), order.strip(), json))


async def _explain(settings: Any, order: str, json: bool) -> None:
    from bahi.cli.audited import reading
    from bahi.cli.reader import open_reader
    from bahi.cli.story import as_object, tell
    from bahi.order_history import order_history
    from domain.tags import parse_tag

    if not order:
        fail("say which order: its tag, or its id at the broker")
    tag = order.upper() if parse_tag(order.upper()) else ""
    async with open_reader(settings) as reader:
        parts = parse_tag(tag)
        logs = reader.logs if parts is None else await reader.logs_of(parts.strategy_id)
        await reading(reader, "order", {"order": order}, partition=logs[0].keys.partition)
        for log in logs:
            mine = tag or await _tag_of(log, order, quiet=json)
            if not mine:
                continue
            named = parse_tag(mine)
            if named is None:
                continue
            history = await order_history(log, reader.database if reader.database_url else None, named)
            story = tell(mine, history.events, reader.times, history.others)
            if story is not None:
                if json:
                    print_json(as_object(story, reader.times, reader.places, log.keys.partition))
                else:
                    _show(reader, log.keys.partition, story)
                return
    if parts is not None:
        what = f"order {parts.number} of run {parts.run} of strategy {parts.strategy_id}"
        mine = ", ".join(log.log_id for log in reader.logs)
        other = "" if parts.log_id in mine else f"; it is of the log {parts.log_id}, and this is {mine}"
        fail(f"the log tells nothing of {tag}, which would be {what}{other}")
    fail(f"no order of this log has the tag or the broker's id {order!r}")


async def _tag_of(log: "EventLog", order_id: str, *, quiet: bool) -> str:
    """The tag of the order that the broker calls so; "" if the log does not know it. The newest, if there are two:
    brokers number anew each day."""
    from eventstore.entries import read_entries
    from eventstore.envelope import decode
    from eventstore.errors import CorruptEvent

    found, name, last = "", order_id.encode(), await log.last_position()
    with bar("looking for the order", hidden=quiet) as progress:
        async for page in read_entries(log):
            for raw in page:
                if name not in raw.envelope:
                    continue
                try:
                    event = decode(raw).event
                except CorruptEvent:
                    continue
                if getattr(event, "order_id", None) == order_id:
                    found = getattr(event, "tag", None) or found
            progress(page[-1].position, last)
    return found


def _show(reader: "Reader", partition: int, story: "Story") -> None:
    from rich.text import Text

    from bahi.cli.summary import duration

    out.print(f"[bold]{escape(story.title)}[/]", soft_wrap=True)
    for sentence in story.sentences:
        say(sentence, indent=2)
    told = table(
        "Step by step", "position", "time", "after", "step", "what", right=("position", "after"), fold=("what",)
    )
    for step in story.steps:
        since = "" if step.since is None else duration(step.since)
        where = reader.places.show(partition, step.it.position)
        text = Text(step.text.replace(f", {story.tag}", ""))
        told.add_row(where, reader.times.of_day(step.it.recorded_at), since, step.name, text)
    show(told)
    if story.timings:
        say("Timings: " + ", ".join(f"{name} {duration(span)}" for name, span in story.timings.items()))
