"""`bahi archive status`: the work of it."""

from typing import Any

from bahi.cli.archive_facts import facts_of
from bahi.cli.archive_home import open_archive
from bahi.cli.common import CHECK_FAILED, OK, err, print_json, say, show, table, until_closed
from bahi.cli.places import Places

__all__ = ["show_status"]


async def show_status(settings: Any, json: bool) -> int:
    """The exit code: 1 when there is no key to seal with."""
    async with open_archive(settings) as home:
        told = await facts_of(home)
    code = OK if told["sealing_stopped"] is None else CHECK_FAILED
    with until_closed(code):
        if json:
            print_json(told)
        else:
            _show(told)
    return code


def _show(told: dict[str, Any]) -> None:
    places = Places(len(told["partitions"]))
    for part in told["partitions"]:
        _show_partition(part, places)
    months = table("", "month", "events", "size", right=("events", "size"))
    for month in told["months"]:
        about = "" if month["exact"] else "~"
        months.add_row(month["month"], f"{about}{month['events']:,}", _size(month["bytes"]))
    if told["months"]:
        show(months)
    keys = ", ".join(f"{key['id']}{'' if key['opens'] else ' (closed)'}" for key in told["seal_keys"])
    say(f"seal keys, oldest first: {keys or 'none yet: the archive makes one when it starts'}")
    if not told["redis"]:
        err.print("There is no Redis here that answers: what it holds is not known")
    if told["sealing_stopped"] is not None:
        say(f"Nothing can be sealed: {told['sealing_stopped']}")


def _show_partition(part: dict[str, Any], places: Places) -> None:
    number = part["partition"]
    say(f"{part['log']}, epoch {part['epochs'][-1]['number']}")
    lines = [f"archived up to position {places.show(number, part['archived'])}"]
    if part["behind"] is not None:
        behind = part["behind"]
        lines[0] += f", {behind:,} events ({part['behind_seconds']:.1f} s) behind the log" if behind else ", all of it"
    if part["newest_seal"] is None:
        lines.append("nothing is sealed yet")
    else:
        lines.append(
            f"sealed up to position {places.show(number, part['sealed'])}, {part['unsealed']:,} events are not yet; "
            f"{part['seals']:,} seals, the newest {_duration(part['newest_seal_seconds'])} ago: {part['newest_seal']}"
        )
    points = part["snapshots"]
    lines.append(
        f"{points['points']:,} snapshot points, the newest at position {places.show(number, points['newest'])}"
        if points["points"]
        else "no snapshot yet"
    )
    if part["streams"] is not None:
        held = [
            f"{name} {stream['first']}–{stream['last']} ({stream['events']:,})"
            for name, stream in part["streams"].items()
            if stream["events"]
        ]
        lines.append(f"Redis holds {', '.join(held) or 'none of it'}")
    for line in lines:
        say(line, 2)


def _duration(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10_000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.0f} TB"
