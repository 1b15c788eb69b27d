"""`docs/proof.md`: what the long campaign has seen, as Markdown. A part that was not run is said to be missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from bahi.prove.lives import LivesReport, add_up
from bahi.prove.parts import SIZES, parts
from domain.values import HOUR

__all__ = ["failures", "lives_of", "proof"]

SEEDS: Final = 20_000
RATE: Final = 20
"""What the campaign is to reach: lives, and strategy-days a second."""


def lives_of(results: Mapping[str, Any], size: int | None = None) -> LivesReport:
    """The lives of so many strategies together, else all."""
    kind = "lives-" if size is None else f"lives-{size:02}-"
    chunks = [value["report"] for name, value in sorted(results.items()) if name.startswith(kind)]
    return add_up([msgspec.convert(each, LivesReport) for each in chunks])


def failures(results: Mapping[str, Any]) -> list[str]:
    """What was violated, survived or never happened, each in a line."""
    lives = lives_of(results)
    found = [f"{each.again}: {each.found[0]}" for each in lives.broken]
    if lives.lives:
        found += [f"the fault {name} never struck" for name, count in lives.fired.items() if not count]
    for name, result in sorted(results.items()):
        if not name.startswith("lives-") and not result.get("ok", not result.get("violations")):
            found.append(f"{name}: see its table")
    return found


def _group(name: str) -> str:
    return name.partition("-")[0]


def _of(results: Mapping[str, Any], name: str) -> list[Any]:
    """The results of a part, or of all the parts that it was parted into."""
    return [result for each, result in sorted(results.items()) if each == name or each.startswith(f"{name}-")]


def proof(results: Mapping[str, Any], found: Sequence[str], asked: str, violations: str) -> str:
    """The document. `asked` is the command that made it, `violations` the table of those that were found on the way."""
    lives = lives_of(results)
    text = [
        "# What was proven, and how",
        "",
        f"Written by `{asked}`. Every part can be run by itself: `bahi prove --help`; the story of a seed is told by "
        "`bahi simulate --seed N`.",
        "",
        *_missing(results),
        *_lives(lives, results),
        *_points(results),
        *_planted(results.get("planted")),
        *_real(results),
        "## Violations of this run",
        "",
        *((found and [f"- {each}" for each in found]) or ["None."]),
        "",
        "## Violations found on the way, and what they were",
        "",
        violations.strip(),
        "",
    ]
    return "\n".join(text)


def _missing(results: Mapping[str, Any]) -> list[str]:
    names = [part.name for part in parts(1, 0)]
    all_of = Counter(_group(name) for name in names)
    lacking = [
        group if count == all_of[group] else f"{count} of {all_of[group]} parts of {group}"
        for group, count in Counter(_group(name) for name in names if name not in results).items()
    ]
    if not lacking:
        return []
    return [f"**Not run in this campaign: {', '.join(lacking)}.** What stands here says nothing of them.", ""]


def _lives(lives: LivesReport, results: Mapping[str, Any]) -> list[str]:
    if not lives.lives:
        return []
    rates = []
    for size in sorted(set(SIZES)):
        if not (some := lives_of(results, size)).lives:
            continue
        rate = some.strategy_days / some.seconds if some.seconds else 0.0
        told = _against(rate, RATE, f"{rate:.1f}", f"{RATE}")
        rates.append((f"strategy-days a second in one process, lives of {size} strategies, as run", told))
    rows = [
        ("seeds", _against(lives.lives, SEEDS, f"{lives.lives:,}", f"{SEEDS:,}")),
        ("strategy-days", f"{lives.strategy_days:,}"),
        ("virtual hours", f"{lives.virtual / HOUR:,.0f}"),
        ("orders", f"{lives.orders:,}"),
        ("events", f"{lives.events:,}"),
        ("calls to Redis, PostgreSQL and the broker", f"{lives.calls:,}"),
        *rates,
        ("seeds with a violation", f"{len(lives.broken):,}"),
    ]
    return [
        "## Simulated lives",
        "",
        *_table(("what", "figure"), rows),
        "",
        "How often each fault struck. A row at zero fails the campaign.",
        "",
        *_table(("fault", "struck"), [(name, f"{count:,}") for name, count in lives.fired.items()]),
        "",
        "How often each event came about:",
        "",
        *_table(("event", "times"), [(name, f"{count:,}") for name, count in sorted(lives.types.items())]),
        "",
    ]


def _against(value: float, goal: float, told: str, goal_told: str) -> str:
    return f"{told} (goal {goal_told}{'' if value >= goal else ': **missed**'})"


def _points(results: Mapping[str, Any]) -> list[str]:
    text: list[str] = []
    for name, title in (("points", "Crash points"), ("doubles", "Two crash points in one run")):
        if not (found := _of(results, name)):
            continue
        rows = [
            (
                row["scenario"],
                row["kind"],
                "10 s" if row["persistent"] else "once",
                *(f"{row[each]:,}" for each in ("points", "fired", "otherwise", "violations")),
            )
            for result in found
            for row in result["rows"]
        ]
        text += [
            f"## {title}",
            "",
            "The n-th call out of the process fails, for n = 1, 2, … until none is left; then everything recovers and "
            "is checked. *otherwise*: the scenario ended in another way, for a reason that the log states.",
            "",
            *_table(("scenario", "kind", "lasts", "points", "fired", "otherwise", "violations"), rows),
            "",
        ]
    return text


def _planted(result: Any) -> list[str]:
    if result is None:
        return []
    rows = [
        (
            each["name"],
            each["what"],
            each["found_by"] or "**nobody**",
            str(each["seeds"] or "–"),
            (each["finding"] or each["why"]).splitlines()[0][:140].replace("|", "\\|"),
        )
        for each in result["results"]
    ]
    return [
        "## Planted defects",
        "",
        f"{result['defects']} defects were planted in the engine, one at a time; {len(result['survived'])} survived.",
        "",
        *_table(("defect", "what it is", "found by", "after seeds", "what the check said"), rows),
        "",
    ]


def _real(results: Mapping[str, Any]) -> list[str]:
    text = ["## Real processes and files", ""]
    if (result := results.get("processes")) is not None:
        names = ("seed", "strategies", "orders", "events", "acknowledged", "stops_hit", "epochs")
        rows = [(*(f"{run[name]:,}" for name in names), str(len(run["violations"]))) for run in result["runs"]]
        text += [
            "`bahi prove processes`: processes and servers are killed and stopped under load, replies are lost.",
            "",
            *_table((*(name.replace("_", " ") for name in names), "violations"), rows),
            "",
            *_table(("fault", "struck"), [(name, f"{count:,}") for name, count in result["fired"].items()]),
            "",
        ]
    if parts := _of(results, "aof"):
        run, violations = sum(each["run"] for each in parts), sum(len(each["violations"]) for each in parts)
        text += [
            f"`bahi prove aof`: {run:,} of {parts[0]['cuts']:,} cuts of an append-only file, after and within every "
            f"command; {violations} violations.",
            "",
        ]
    if (result := results.get("rolling")) is not None:
        text += [
            f"`bahi prove rolling`: {len(result['replaced'])} processes of version {result['old'][:12]} replaced by "
            f"{result['new'][:12]}, {len(result['taken_back'])} taken back; {result['orders']:,} orders, "
            f"{result['events']:,} events; {len(result['violations'])} violations.",
            "",
        ]
    if (result := results.get("histories")) is not None:
        events = sum(each["events"] for each in result["histories"])
        decisions = sum(each["decisions"] for each in result["histories"])
        text += [
            f"`bahi history check`: {len(result['histories'])} golden histories, {events:,} events, {decisions:,} "
            f"decisions; {'all the same' if result['ok'] else '**differences**'}.",
            "",
        ]
    return text if len(text) > 2 else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
