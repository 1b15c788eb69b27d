"""The published schemas are true, and no change goes unnoticed that could not read old events."""

import datetime as dt
import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from msgspec import Struct
from referencing import Registry, Resource
from typer.testing import CliRunner

from bahi.schema import Problem, check, export
from bahi.schema.cli import app
from bahi.schema.compatibility import narrowings
from bahi.schema.event import event_schema, shape, streams_of
from bahi.schema.history import load
from bahi.schema.samples import Unsampled, samples
from domain.events import EVENT_TYPES, Event
from domain.values import Kind, Priority
from eventstore.envelope import FORMAT, Raw, decode
from eventstore.export.cloudevents import Source, as_line, stored
from eventstore.upcasts import Upcasts
from tests.export.history import history

COMMITTED = Path(__file__).parents[2] / "schemas"
FORMATS = FormatChecker()


@FORMATS.checks("decimal", raises=InvalidOperation)
def _is_decimal(text: object) -> bool:
    return isinstance(text, str) and Decimal(text).is_finite()


@FORMATS.checks("time-local", raises=ValueError)
def _is_time(text: object) -> bool:
    return isinstance(text, str) and dt.time.fromisoformat(text).tzinfo is None


def no_api() -> dict[str, Any]:
    return {"openapi": "3.1.0"}


# --- the published files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    export(folder)
    return folder


def test_the_committed_event_schemas_are_those_of_the_code_and_old_events_are_read() -> None:
    committed_api = json.loads((COMMITTED / "openapi.json").read_text())
    assert check(COMMITTED, openapi=lambda: committed_api) == []


def test_an_export_checks_clean_and_a_second_one_changes_nothing(exported: Path) -> None:
    before = {path: path.read_bytes() for path in exported.rglob("*.json")}
    assert check(exported) == []
    again = export(exported)
    assert (again.written, again.removed, again.problems) == ([], [], [])
    assert {path: path.read_bytes() for path in exported.rglob("*.json")} == before
    assert all(content.endswith(b"}\n") for content in before.values())


def test_every_file_is_a_valid_schema_of_its_dialect(exported: Path) -> None:
    files = [*exported.glob("events/*"), *exported.glob("history/*"), exported / "envelope.json"]
    assert len(files) >= 2 * len(EVENT_TYPES) + 1
    for path in files:
        schema = json.loads(path.read_bytes())
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(schema)


def test_an_event_schema_says_what_the_log_does_with_it() -> None:
    stop = event_schema(EVENT_TYPES["STOPLOSS_TRIGGERED"])
    assert stop["title"] == "STOPLOSS_TRIGGERED"
    about = {key: value for key, value in stop.items() if key.startswith("x-")}
    assert about == {
        "x-catalogue-id": "M2",
        "x-class": "critical",
        "x-streams": ["events:critical"],
        "x-versioned": True,
        "x-wakes": True,
    }
    assert event_schema(EVENT_TYPES["USER_HALTED"])["x-versioned"] is False
    assert event_schema(EVENT_TYPES["PRICE_TICK"])["x-class"] == "market"


def test_descriptions_come_from_the_docstrings_of_classes_and_fields() -> None:
    assert event_schema(EVENT_TYPES["STRATEGY_STARTED"])["description"].startswith("A run begins")
    assert event_schema(EVENT_TYPES["EXECUTE_BUY"])["description"].startswith("What EXECUTE_* have in common")
    assert "description" not in event_schema(EVENT_TYPES["BUY_TRIGGERED"])
    parked = event_schema(EVENT_TYPES["EVENT_PARKED"])["properties"]["parked"]
    assert parked["description"] == "The stream and the position of the parked entry, `critical/17`."


def test_wall_clock_times_are_told_from_other_strings() -> None:
    config = shape(EVENT_TYPES["STRATEGY_CREATED"])["$defs"]["Config"]["properties"]
    assert config["buy_time"] == {"type": "string", "format": "time-local"}
    assert config["symbol"] == {"type": "string"}


# --- every event fits its schema --------------------------------------------------------------------------------------


def structs(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Instances of a Struct, every field drawn from its type; an event keeps its schema number."""
    hints = get_type_hints(cls)
    names = [
        field.name for field in msgspec.structs.fields(cls) if not (issubclass(cls, Event) and field.name == "schema")
    ]
    return st.builds(cls, **{name: st.from_type(hints[name]) for name in names})


st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))
st.register_type_strategy(Decimal, st.decimals(allow_nan=False, allow_infinity=False))
st.register_type_strategy(dt.time, st.times())
st.register_type_strategy(Struct, structs)

VALIDATORS = {
    name: Draft202012Validator(event_schema(cls), format_checker=FORMATS) for name, cls in EVENT_TYPES.items()
}
A_FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", EVENT_TYPES)
@given(data=st.data())
@A_FEW
def test_any_event_as_json_fits_its_schema_and_goes_to_a_stream_that_it_names(name: str, data: st.DataObject) -> None:
    event = data.draw(structs(EVENT_TYPES[name]))
    written = json.loads(msgspec.json.encode(event))
    VALIDATORS[name].validate(written)
    assert msgspec.convert(written, EVENT_TYPES[name]) == event
    assert name == "PRICE_TICK" or f"events:{event.priority}" in streams_of(type(event))


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_samples_fit_the_schema_and_cover_every_choice(name: str) -> None:
    all_samples = samples(event_schema(EVENT_TYPES[name]))
    for sample in all_samples:
        VALIDATORS[name].validate(sample)
    for field in shape(EVENT_TYPES[name])["properties"]:
        assert any(field in sample for sample in all_samples)


def test_the_class_of_an_event_that_depends_on_its_fields_names_every_stream() -> None:
    assert streams_of(EVENT_TYPES["LOCK_ACQUIRED"]) == ("events:critical", "events:high")
    assert streams_of(EVENT_TYPES["ORDER_RETRY_REQUIRED"]) == ("events:critical", "events:high")
    assert streams_of(EVENT_TYPES["EXECUTE_BUY"]) == ("events:high",)
    assert streams_of(EVENT_TYPES["PRICE_TICK"]) == ("market:ticks",)


def test_a_sample_of_something_unheard_of_is_refused() -> None:
    with pytest.raises(Unsampled, match="hostname"):
        samples({"type": "string", "format": "hostname"})
    with pytest.raises(Unsampled):
        samples({"type": "string", "pattern": "^never$"})


# --- the envelope -----------------------------------------------------------------------------------------------------


def envelope_validator(folder: Path) -> Draft202012Validator:
    def retrieve(uri: str) -> Resource[Any]:
        return Resource.from_contents(json.loads((folder / uri).read_bytes()))

    registry: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]
    return Draft202012Validator(json.loads((folder / "envelope.json").read_bytes()), registry=registry)


EXPORTED = {
    "specversion": "1.0",
    "id": "w1-7",
    "source": "/logs/A1B2/partitions/0",
    "type": "BUY_TRIGGERED",
    "time": "2024-02-29T09:20:00.000123+05:30",
    "subject": "strategy/42",
    "datacontenttype": "application/json",
    "data": {"type": "BUY_TRIGGERED", "schema": 1, "run": 3, "due_at": 1709178600000000},
    "position": "17",
    "version": 5,
    "strategyid": "42",
    "userid": "7",
    "correlationid": "w1-7",
    "causationid": "s1-3",
    "writer": "w1",
    "stream": "high",
    "recordedat": "1709178600000123",
    "envelope": "mAE=",
}


def test_an_exported_event_has_the_attributes_of_cloudevents(exported: Path) -> None:
    validator = envelope_validator(exported)
    validator.validate(EXPORTED)
    validator.validate({**EXPORTED, "position": "3-17"})
    bare = ("specversion", "id", "source", "position", "version", "stream", "recordedat", "envelope")
    validator.validate({"type": "bahi.corrupt", **{name: EXPORTED[name] for name in bare}})
    attributes = json.loads((exported / "envelope.json").read_bytes())["properties"]
    assert all(name.isascii() and name.isalnum() and name == name.lower() and len(name) <= 20 for name in attributes)


def test_what_is_exported_fits_the_schema(exported: Path) -> None:
    validator, source = envelope_validator(exported), Source("A1B2")
    for raw in [*history(60), Raw(61, "low", 0, 10**18, b"odd")]:
        validator.validate(json.loads(as_line(raw, source, stored(raw.envelope))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"specversion": "0.3"},
        {"position": "0"},
        {"position": 17},
        {"version": -1},
        {"type": "SELL_TRIGGERED"},
        {"data": {"type": "BUY_TRIGGERED", "schema": 1}},
        {"password": "hunter2"},
        {"type": "BUY_TRIGERED"},
        {"type": "bahi.corrupt"},
        {"envelope": None},
    ],
    ids=str,
)
def test_an_exported_event_that_is_wrong_does_not_fit(exported: Path, wrong: dict[str, Any]) -> None:
    assert not envelope_validator(exported).is_valid({**EXPORTED, **wrong})


# --- the AsyncAPI and OpenAPI documents -------------------------------------------------------------------------------


def test_the_asyncapi_document_has_the_structure_of_version_3(exported: Path) -> None:
    document = json.loads((exported / "asyncapi.json").read_bytes())
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    known = {"asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components", "id"}
    assert document.keys() <= known
    assert all({"host", "protocol"} <= server.keys() for server in document["servers"].values())
    for channel in document["channels"].values():
        assert channel["address"]
        assert channel["messages"]
        for name, message in channel["messages"].items():
            assert message == {"$ref": f"#/components/messages/{name}"}
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        # The specification wants an operation's messages to be references into its own channel.
        inside = operation["channel"]["$ref"] + "/messages/"
        assert operation["messages"]
        assert all(message["$ref"].startswith(inside) for message in operation["messages"])
    for ref in references(document):
        if ref.startswith("#/"):
            there = document
            for part in ref[2:].split("/"):
                there = there[part]
        else:
            assert (exported / ref).is_file()


def test_the_asyncapi_channels_carry_every_event_in_its_streams(exported: Path) -> None:
    document = json.loads((exported / "asyncapi.json").read_bytes())
    addresses = {channel["address"]: set(channel["messages"]) for channel in document["channels"].values()}
    assert addresses.keys() == {*(f"events:{each}" for each in Priority), "market:ticks"}
    for name, cls in EVENT_TYPES.items():
        assert {address for address, names in addresses.items() if name in names} == set(streams_of(cls))
    both_ways = {(each["action"], each["channel"]["$ref"]) for each in document["operations"].values()}
    assert len(both_ways) == 2 * len(addresses)
    payloads = {name: each["payload"]["$ref"] for name, each in document["components"]["messages"].items()}
    assert payloads == {name: f"events/{name}.json" for name in EVENT_TYPES}


def test_the_openapi_document_is_that_of_the_application(exported: Path) -> None:
    document = json.loads((exported / "openapi.json").read_bytes())
    assert document["openapi"].startswith("3.1")
    assert {"/auth/register", "/healthz"} <= document["paths"].keys()


def references(it: Any) -> list[str]:
    if isinstance(it, dict):
        return [it["$ref"]] if "$ref" in it else [ref for value in it.values() for ref in references(value)]
    return [ref for value in it for ref in references(value)] if isinstance(it, list) else []


# --- changes that would not read old events ---------------------------------------------------------------------------


def event(*fields: Any, schema: int = 1, name: str = "CHANGED") -> type[Event]:
    """An event class of this shape, as the code would have it after a change."""
    extra = [("schema", int, schema)] if schema != 1 else []
    made = msgspec.defstruct("Changed", [*fields, *extra], bases=(Event,), tag=name, frozen=True, kw_only=True)
    assert issubclass(made, Event)
    return made


class Part(Struct, frozen=True, kw_only=True):
    a: int
    b: str = "x"


class PartWithout(Struct, frozen=True, kw_only=True):
    b: str = "x"


def types(*classes: type[Event]) -> dict[str, type[Event]]:
    """A catalogue of these and one that never changes."""
    return {"USER_REGISTERED": EVENT_TYPES["USER_REGISTERED"]} | {str(c.__struct_config__.tag): c for c in classes}


def problems_after(
    folder: Path, before: type[Event], *after: type[Event], upcasts: Upcasts | None = None
) -> list[Problem]:
    """Publish one shape, change the code, publish again as a developer would, and check."""
    assert export(folder, types=types(before), openapi=no_api).problems == []
    assert check(folder, types=types(before), upcasts={}, openapi=no_api) == []
    export(folder, types=types(*after), upcasts=upcasts or {}, openapi=no_api)
    return check(folder, types=types(*after), upcasts=upcasts or {}, openapi=no_api)


BREAKING = {
    "a field removed": ([("n", int), ("m", int)], [("n", int)], "m was removed or renamed"),
    "a field renamed": ([("n", int)], [("number", int, 0)], "n was removed or renamed"),
    "a new field without default": ([("n", int)], [("n", int), ("m", int)], "m is new and has no default"),
    "a default taken away": ([("n", int, 0)], [("n", int)], "n became required"),
    "a default changed": ([("n", int, 0)], [("n", int, 1)], "the default of n went from 0 to 1"),
    "a type narrowed": ([("n", int | None)], [("n", int)], "n went from null to integer"),
    "a type changed": ([("n", int)], [("n", str)], "n went from integer to string"),
    "a form narrowed": ([("n", str)], [("n", Decimal)], "n went from no format to format decimal"),
    "a time made a date": ([("n", dt.time)], [("n", dt.date)], "n went from format time-local to format date"),
    "a text made an enum": ([("n", str)], [("n", Kind)], "n went from string to one of BUY"),
    "words removed from an enum": (
        [("n", Kind)],
        [("n", Literal["BUY", "SELL"])],
        "n lost the words STOPLOSS, SURFACED",
    ),
    "a bound added": ([("n", int)], [("n", Annotated[int, msgspec.Meta(ge=0)])], "minimum 0"),
    "items narrowed": ([("n", list[int | str])], [("n", list[int])], "n[] went from string to integer"),
    "values narrowed": ([("n", dict[str, str])], [("n", dict[str, int])], "n.* went from string to integer"),
    "a part's field removed": ([("n", Part)], [("n", PartWithout)], "n.a was removed or renamed"),
    "a part's field removed, in a list": ([("n", list[Part])], [("n", list[PartWithout])], "n[].a was removed"),
}


@pytest.mark.parametrize(("before", "after", "said"), BREAKING.values(), ids=BREAKING)
def test_a_change_that_would_not_read_old_events_fails(
    tmp_path: Path, before: list[Any], after: list[Any], said: str
) -> None:
    problems = problems_after(tmp_path, event(*before), event(*after))
    assert {problem.file for problem in problems} == {"history/CHANGED.v1.json"}
    assert any(said in problem.what for problem in problems), problems
    assert all("set the `schema` of Changed to 2 and register UPCASTS" in problem.todo for problem in problems)


def test_an_export_says_so_and_keeps_the_snapshot_of_the_old_shape(tmp_path: Path) -> None:
    export(tmp_path, types=types(event(("n", int), ("m", int))), openapi=no_api)
    before = (tmp_path / "history/CHANGED.v1.json").read_bytes()
    done = export(tmp_path, types=types(event(("n", int))), openapi=no_api)
    assert [problem.what for problem in done.problems] == ["field m was removed or renamed"]
    assert "events/CHANGED.json" in done.written
    assert (tmp_path / "history/CHANGED.v1.json").read_bytes() == before


HARMLESS = {
    "a new field with a default": ([("n", int)], [("n", int), ("m", int | None, None)]),
    "a new part with defaults": (
        [("n", int)],
        [("n", int), ("p", PartWithout, msgspec.field(default_factory=PartWithout))],
    ),
    "a field made optional": ([("n", int)], [("n", int, 0)]),
    "None allowed": ([("n", int)], [("n", int | None)]),
    "a wider type": ([("n", int)], [("n", int | str)]),
    "words added to an enum": ([("n", Literal["BUY", "SELL"])], [("n", Kind)]),
    "a bound taken away": ([("n", Annotated[int, msgspec.Meta(ge=0)])], [("n", int)]),
    "a bound widened": (
        [("n", Annotated[int, msgspec.Meta(ge=0, le=9)])],
        [("n", Annotated[int, msgspec.Meta(ge=-1, le=10)])],
    ),
    "another description": ([("n", str)], [("n", Annotated[str, msgspec.Meta(description="words")])]),
}


@pytest.mark.parametrize(("before", "after"), HARMLESS.values(), ids=HARMLESS)
def test_a_change_that_reads_old_events_passes_once_it_is_exported(
    tmp_path: Path, before: list[Any], after: list[Any]
) -> None:
    assert problems_after(tmp_path, event(*before), event(*after)) == []


def test_a_field_that_was_added_is_held_to_from_then_on(tmp_path: Path) -> None:
    first, second = event(("n", int)), event(("n", int), ("m", int, 0))
    export(tmp_path, types=types(first), openapi=no_api)
    stale = check(tmp_path, types=types(second), openapi=no_api)
    assert ("history/CHANGED.v1.json", "is stale: the shape has grown since") in {(p.file, p.what) for p in stale}
    assert problems_after(tmp_path, second, first) != []


def test_a_raised_schema_with_an_upcast_reads_old_events(tmp_path: Path) -> None:
    upcasts: Upcasts = {"CHANGED": {1: lambda old: {**old, "m": str(old["n"])}}}
    after = event(("m", str), schema=2)
    assert problems_after(tmp_path, event(("n", int)), after, upcasts=upcasts) == []
    assert {path.name for path in tmp_path.glob("history/CHANGED*")} == {"CHANGED.v1.json", "CHANGED.v2.json"}


def test_a_raised_schema_without_an_upcast_fails(tmp_path: Path) -> None:
    (problem,) = problems_after(tmp_path, event(("n", int)), event(("m", str), schema=2))
    assert problem.what == "CHANGED went from schema 1 to 2, and no upcast is registered"
    assert problem.todo.startswith("register UPCASTS['CHANGED'][1]")


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda old: old, "missing required field `m`"),
        (lambda old: {**old, "m": old["absent"]}, "KeyError: 'absent'"),
        (lambda old: {**old, "m": "1", "schema": 3}, "it ends as schema 3 of CHANGED, and today's is 2"),
    ],
)
def test_an_upcast_that_does_not_make_todays_event_fails(tmp_path: Path, step: Any, why: str) -> None:
    after = event(("m", str), schema=2)
    (problem,) = problems_after(tmp_path, event(("n", int)), after, upcasts={"CHANGED": {1: step}})
    assert '"n":' in problem.what
    assert why in problem.why
    assert problem.todo == "correct the steps of UPCASTS['CHANGED'] from 1 on"


def test_an_upcast_that_only_fails_for_some_events_is_found(tmp_path: Path) -> None:
    upcasts: Upcasts = {"CHANGED": {1: lambda old: {**old, "m": {1: "x"}[old["n"]]}}}
    before = event(("n", Literal[1] | None))
    (problem,) = problems_after(tmp_path, before, event(("m", str), schema=2), upcasts=upcasts)
    assert '"n":null' in problem.what


def test_a_removed_event_fails_unless_its_old_ones_become_another(tmp_path: Path) -> None:
    (problem,) = problems_after(tmp_path, event(("n", int)))
    assert problem.what == "CHANGED was removed, and no upcast is registered"
    assert "bring its class back" in problem.todo
    upcasts: Upcasts = {"CHANGED": {1: lambda old: {"type": "USER_REGISTERED", "schema": 1}}}
    assert check(tmp_path, types=types(), upcasts=upcasts, openapi=no_api) == []


def test_a_schema_number_that_goes_back_fails(tmp_path: Path) -> None:
    for cls in (event(("n", int)), event(("n", int), schema=2)):
        export(tmp_path, types=types(cls), openapi=no_api)
    problems = check(tmp_path, types=types(event(("n", int))), openapi=no_api)
    assert ("history/CHANGED.v2.json", "CHANGED went back from schema 2 to 1") in {(p.file, p.what) for p in problems}


def test_a_history_with_a_hole_fails(tmp_path: Path) -> None:
    cls = event(("n", int), schema=3)
    export(tmp_path, types=types(cls), openapi=no_api)
    problems = check(tmp_path, types=types(cls), openapi=no_api)
    assert [problem.file for problem in problems] == ["history/CHANGED.v1.json", "history/CHANGED.v2.json"]


def test_narrowings_of_arrays_by_place() -> None:
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}
    assert narrowings(pair, pair) == []
    (lost,) = narrowings(pair, {"type": "array", "prefixItems": [{"type": "integer"}]})
    assert lost.what == "the event lost its last 1 places"
    (changed,) = narrowings(pair, {"type": "array", "prefixItems": [{"type": "number"}, {"type": "integer"}]})
    assert changed.what == "field [1] went from string to integer"


def test_the_log_itself_reads_a_sample_of_every_shape_in_history() -> None:
    snapshots, unreadable = load(COMMITTED)
    assert (unreadable, {each.type for each in snapshots}) == ([], set(EVENT_TYPES))
    for snapshot in snapshots:
        for sample in samples(snapshot.shape):
            envelope = msgspec.msgpack.encode([FORMAT, "w-1", 42, 7, "w-1", "", "w", sample])
            decode(Raw(1, "events:low", 1, 0, envelope))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    export(tmp_path, types=types(), openapi=no_api)
    return tmp_path


def found(folder: Path) -> list[tuple[str, str]]:
    return [(each.file, each.what) for each in check(folder, types=types(), openapi=no_api)]


def test_a_missing_file_is_named(small: Path) -> None:
    (small / "events/USER_REGISTERED.json").unlink()
    (small / "history/USER_REGISTERED.v1.json").unlink()
    assert found(small) == [
        ("events/USER_REGISTERED.json", "is missing"),
        ("history/USER_REGISTERED.v1.json", "is missing"),
    ]


@pytest.mark.parametrize("content", [b"{}\n", b"", b"\xff"])
def test_a_file_changed_by_hand_is_stale(small: Path, content: bytes) -> None:
    (small / "asyncapi.json").write_bytes(content)
    assert [file for file, _ in found(small)] == ["asyncapi.json"]
    assert export(small, types=types(), openapi=no_api).written == ["asyncapi.json"]
    assert found(small) == []


def test_an_extra_file_is_named_and_an_export_removes_only_what_it_wrote_itself(small: Path) -> None:
    (small / "events/GONE.json").write_text("{}")
    (small / "notes.txt").write_text("mine")
    assert found(small) == [("events/GONE.json", "is extra"), ("notes.txt", "is extra")]
    assert export(small, types=types(), openapi=no_api).removed == ["events/GONE.json"]
    assert found(small) == [("notes.txt", "is extra")]


def test_what_is_no_snapshot_is_named(small: Path) -> None:
    (small / "history/USER_REGISTERED.v01.json").write_text("{}")
    (small / "history/USER_REGISTERED.v1.json").write_text("{not json")
    what = dict(found(small))
    assert what["history/USER_REGISTERED.v01.json"] == "is no snapshot: its name is not TYPE.vNUMBER.json"
    assert what["history/USER_REGISTERED.v1.json"].startswith("is")


# --- the command ------------------------------------------------------------------------------------------------------

RUN = CliRunner()


def test_export_then_check_exit_with_0(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    first = RUN.invoke(app, ["export", "--folder", folder, "--json"])
    assert first.exit_code == 0
    assert len(json.loads(first.stdout)["written"]) == 2 * len(EVENT_TYPES) + 3
    assert RUN.invoke(app, ["export", "--folder", folder]).stdout.rstrip().endswith("unchanged")
    assert RUN.invoke(app, ["check", "--folder", folder]).exit_code == 0
    assert json.loads(RUN.invoke(app, ["check", "--folder", folder, "--json"]).stdout)["ok"] is True


def test_a_failed_check_exits_with_1_and_says_what_to_do(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "events/BUY_TRIGGERED.json").unlink()
    table = RUN.invoke(app, ["check", "--folder", str(tmp_path)])
    assert table.exit_code == 1
    assert "schema export" in " ".join(table.stdout.split())
    as_json = RUN.invoke(app, ["check", "--folder", str(tmp_path), "--json"])
    assert as_json.exit_code == 1
    (problem,) = json.loads(as_json.stdout)["problems"]
    assert problem.keys() == {"file", "what", "why", "todo"}


def test_an_export_that_would_lose_old_events_exits_with_1(tmp_path: Path) -> None:
    export(tmp_path)
    snapshot = tmp_path / "history/BUY_TRIGGERED.v1.json"
    shape_of_before = json.loads(snapshot.read_bytes())
    shape_of_before["properties"]["gone"] = {"type": "string"}
    snapshot.write_text(json.dumps(shape_of_before))
    for command in ("export", "check"):
        result = RUN.invoke(app, [command, "--folder", str(tmp_path), "--json"])
        assert (result.exit_code, "gone was removed" in result.stdout) == (1, True)


@pytest.mark.parametrize("arguments", [["check", "--folder", "nowhere"], ["check", "--what"], []])
def test_a_call_that_makes_no_sense_exits_with_2(arguments: list[str]) -> None:
    assert RUN.invoke(app, arguments).exit_code == 2
