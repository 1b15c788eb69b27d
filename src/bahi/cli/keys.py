"""`bahi keys`: the keys that seal the history, and the rotation of these and of the installation's secrets."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from bahi.cli.common import Home, Json, fail, load_settings, out, print_json, run_async, say, show, table, until_closed

__all__ = ["app"]

app = typer.Typer(help="The keys that seal the history, and the rotation of all keys.", no_args_is_help=True)


class What(StrEnum):
    """What to rotate."""

    ALL = "all"
    SEAL = "seal"
    SECRETS = "secrets"


@app.callback()
def _keys() -> None: ...


@app.command("show")
def show_keys(
    public: Annotated[
        bool, typer.Option("--public", help="Only the newest public key, as PEM: for `bahi verify --public-key`.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """The keys that seal the history: since when, which seals each made, and the public keys. No private one is shown.

    Give the newest public key to whoever shall check the history later: the keys vouch for each other.
    """
    keys = run_async(_load(load_settings(home)))
    with until_closed():
        if json:
            print_json({"keys": keys})
        elif public:
            if not keys:
                fail("there is no seal key yet: the archive makes one when it starts")
            sys.stdout.write(keys[-1]["pem"])
        else:
            _show(keys)


def _show(keys: list[dict[str, Any]]) -> None:
    if not keys:
        out.print("There is no seal key yet: the archive makes one when it starts.")
        return
    shown = table("", "number", "id", "since", "seals", "opens", right=("number", "seals"))
    for key in keys:
        shown.add_row(
            str(key["number"]), key["id"], key["since"], f"{key['seals']:,}", "no" if key["closed"] else "yes"
        )
    show(shown)
    for key in keys:
        if key["closed"]:
            say(key["closed"])
    out.print("The newest public key:")
    out.print(keys[-1]["pem"], markup=False, end="")


async def _load(settings: Any) -> list[dict[str, Any]]:
    from sqlalchemy import func, select

    from bahi.cli.reader import open_reader
    from bahi.seal_keys import open_keys
    from eventstore.archive_tables import seal_keys, seals
    from eventstore.seal_trust import public_pem

    async with open_reader(settings) as reader, reader.database.connect() as connection:
        opened = await open_keys(connection, box_of(settings))
        counted = select(seals.c.key_id, func.count().label("made")).group_by(seals.c.key_id)
        made = {row.key_id: row.made for row in await connection.execute(counted)}
        created = select(seal_keys.c.id, seal_keys.c.created_at)
        since = {row.id: row.created_at for row in await connection.execute(created)}
        return [
            {
                "number": key.number,
                "id": key.id,
                "since": since[key.id].astimezone(settings.zone).isoformat(timespec="seconds"),
                "seals": made.get(key.id, 0),
                "closed": opened.closed.get(key.id),
                "public_key": key.public_key.hex(),
                "pem": public_pem(key.public_key),
            }
            for key in opened.keys
        ]


@app.command()
def rotate(
    what: Annotated[
        What, typer.Argument(help="seal: the key of the seals; secrets: what is stored sealed.")
    ] = What.ALL,
    unvouched: Annotated[
        bool, typer.Option("--unvouched", help="The seal key before cannot be opened: let trust begin anew.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """A new key for the seals, and everything that is stored sealed under the newest of BAHI_SECRET_KEYS.

    Put the new secret key first in BAHI_SECRET_KEYS, the older ones behind it, and restart the processes; then rotate,
    while they run; then take the older ones out. Seals that were made stay valid.
    """
    if unvouched and what is not What.SEAL:
        fail("--unvouched is for `bahi keys rotate seal` alone")
    done = run_async(_rotate(load_settings(home), what, unvouched))
    if json:
        print_json(done)
        return
    if done["seal_key"]:
        word = "nobody vouches for it: hand out its public key" if unvouched else "the one before vouches for it"
        say(f"seal key {done['seal_key']} seals from now on; {word}")
    if done["secrets"] is not None:
        say(f"{done['secrets']:,} broker accounts and {done['private_keys']:,} seal keys sealed anew")


async def _rotate(settings: Any, what: What, unvouched: bool) -> dict[str, Any]:
    from api.security.box import SealBroken
    from api.security.keys import UnknownKey
    from bahi.cli.reader import open_reader
    from bahi.database.accounts import rotate_secrets
    from bahi.seal_keys import reseal_keys, rotate_key
    from bahi.telemetry.logging import configure_logging
    from eventstore.sealing import SealingStopped

    configure_logging("ERROR")
    box = box_of(settings)
    if box is None:
        fail("there are no secret keys: set BAHI_SECRET_KEYS, newest first")
    done: dict[str, Any] = {"seal_key": None, "secrets": None, "private_keys": None}
    async with open_reader(settings) as reader:
        try:
            if what is not What.SEAL:
                done["secrets"] = await rotate_secrets(reader.database, box)
                done["private_keys"] = await reseal_keys(reader.database, box)
            if what is not What.SECRETS:
                done["seal_key"] = (await rotate_key(reader.database, box, vouched=not unvouched)).id
        except (SealBroken, UnknownKey, SealingStopped) as error:
            fail(str(error))
    return done


def box_of(settings: Any) -> Any:
    """What opens the private keys; None when the installation has no secret keys. None are made."""
    from api.security.box import SecretBox
    from api.security.keys import SecretKeys

    if not settings.secret_keys and not (settings.home.expanduser() / "secret-keys").exists():
        return None
    return SecretBox(SecretKeys(key.get_secret_value() for key in settings.key_ring()))
