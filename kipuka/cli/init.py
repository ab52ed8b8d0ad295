"""`kipuka init`: a complete deployment in a new folder.

In the room: which files a deployment has, who may read them, and the order in which they come to be. Not in the room: the
text of the configuration (`kipuka.cli.deployment`), making a CA (the local backend's `CreatesCA`), and signing
(`kipuka.cli.server_certificate`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding

import kipuka
from kipuka.api import CAPlan, CreatedCA, CreatesCA
from kipuka.cli.audit_key import sign_now, write_key_pair
from kipuka.cli.deployment import Choices, configuration_text
from kipuka.cli.failures import Failure

__all__ = ["command"]

BACKEND = "local"
CA_ID = "main"
AUDIT_KEY = "audit.key"
ROOT_DAYS = 20 * 365
ISSUING_DAYS = 10 * 365
SERVER_VALIDITY = timedelta(days=825)  # the longest that common TLS clients accept
LONGEST_CA_NAME = 50  # a common name has 64 characters; the backend adds which of its two CAs it is

PRIVATE_FOLDER = 0o700
PRIVATE = 0o600
PUBLIC = 0o644


def _hosts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from kipuka.cli.server_certificate import host_name

    given = value or _own_names()
    for host in given:
        try:
            host_name(host)
        except ValueError as error:
            raise click.BadParameter(f"{host}: {error}", ctx, param) from error
    return tuple(dict.fromkeys(given))


def _own_names() -> tuple[str, ...]:
    """What a client on this machine or in its network may call it, without asking the network."""
    name = socket.gethostname().lower().rstrip(".")
    return ("localhost",) if name in {"", "localhost"} else (name, "localhost")


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from kipuka.config import Address

    if value is None:
        return None
    try:
        return str(Address.parse(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    callback=_hosts,
    metavar="NAME",
    help="A DNS name or IP address that clients use for this server; repeat it for more. Default: the machine's own name.",
)
@click.option(
    "--listen",
    default="0.0.0.0:8443",
    show_default=True,
    callback=_address,
    metavar="ADDR:PORT",
    help="Where the server listens.",
)
@click.option(
    "--admin-listen",
    callback=_address,
    metavar="ADDR:PORT",
    help="An address of its own for the admin API. Default: the same as --listen.",
)
@click.option(
    "--db",
    default="sqlite:///kipuka.db",
    show_default=True,
    metavar="URL",
    help="Where certificates and tokens are kept. A PostgreSQL database must be there already; env:NAME or file:PATH keep its password off the command line.",
)
def command(*, directory: Path, hosts: tuple[str, ...], listen: str, admin_listen: str | None, db: str) -> None:
    """Write a complete deployment into DIR, which must be new or empty.

    It asks nothing: configuration, root and issuing CA, the server's certificate, an administrator's token and the tables of the
    database are all there afterwards, readable by you alone.
    """
    made_here = not directory.exists()
    if not made_here and (not directory.is_dir() or any(directory.iterdir())):
        raise Failure(f"{directory} is there already and not empty; nothing was changed")
    directory.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    directory = directory.resolve()
    try:
        _deploy(directory, hosts=hosts, listen=listen, admin_listen=admin_listen, db=db)
    except BaseException:
        _undo(directory, folder_too=made_here)
        raise
    _explain(directory, hosts)


def _undo(directory: Path, *, folder_too: bool) -> None:
    """Half a deployment would only stand in the way of the next attempt."""
    if folder_too:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for item in directory.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """A new file with its permissions from the first byte on. Raises FileExistsError rather than overwrite."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _deploy(directory: Path, *, hosts: Sequence[str], listen: str, admin_listen: str | None, db: str) -> None:
    from kipuka import plugins as plugin_loading
    from kipuka.cli.host import run_as_operator
    from kipuka.config import ServerSection

    candidates = plugin_loading.discover()
    otp = any(candidate.name == "otp" for candidate in candidates)
    kinds = plugin_loading.load(candidates, {BACKEND: "kipuka init makes a CA with it"}).ca_backends
    directory.chmod(PRIVATE_FOLDER)
    for folder in ("ca", "tls"):
        (directory / folder).mkdir(mode=PRIVATE_FOLDER)
    ca = _create_ca(directory, kinds[BACKEND].creator, name=hosts[0])
    root, issuing = ca.chain.root, ca.chain.issuer
    _write(directory / "trust.pem", root.public_bytes(Encoding.PEM), mode=PUBLIC)
    _write(directory / "client-anchors.pem", issuing.public_bytes(Encoding.PEM), mode=PUBLIC)
    if otp:
        _write(directory / "otp.key", secrets.token_bytes(32), mode=PRIVATE)
    write_key_pair(directory / AUDIT_KEY)
    choices = Choices(
        version=kipuka.__version__,
        hosts=hosts,
        listen=listen,
        workers=ServerSection().workers,
        admin_listen=admin_listen,
        db=db,
        ca_id=CA_ID,
        ca_settings=_relative(ca.settings, directory),
        otp=otp,
        audit_key=AUDIT_KEY,
    )
    config = directory / "kipuka.toml"
    _write(config, configuration_text(choices).encode(), mode=PRIVATE)
    run_as_operator(_fill(directory, config, hosts, ca))


def _relative(settings: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Paths inside the deployment as the configuration writes them, so that the folder can be moved."""
    prefix = f"{directory}/"
    return {key: value.removeprefix(prefix) for key, value in settings.items()}


def _create_ca(directory: Path, creator: CreatesCA | None, *, name: str) -> CreatedCA:
    if creator is None:
        raise Failure(f"the plugin {BACKEND} cannot make a CA")
    plan = CAPlan(
        id=CA_ID,
        directory=directory / "ca",
        common_name=f"kipuka CA of {name}"[:LONGEST_CA_NAME],
        key_type="p256",
        root_days=ROOT_DAYS,
        issuing_days=ISSUING_DAYS,
    )
    return creator.create(plan)


async def _fill(directory: Path, config: Path, hosts: Sequence[str], ca: CreatedCA) -> None:
    """What needs the configuration: the database, the server's certificate, the administrator's token, the first signature of the log."""
    from kipuka.cli.admin import create_token
    from kipuka.cli.ca import created_event
    from kipuka.cli.host import open_ca
    from kipuka.cli.server_certificate import issue_server_certificate
    from kipuka.runtime import compose, node_keys
    from kipuka.store.schema import upgrade

    # Variables that override settings are for the server that runs later, not for what is written here.
    composition = compose(config, {})
    await asyncio.to_thread(upgrade, composition.settings.db.url, composition.plugins.storages)
    async with open_ca(composition, CA_ID) as (store, backend):
        await store.audit(created_event(BACKEND, ca))
        server = await issue_server_certificate(store, backend, ca=CA_ID, hosts=hosts, validity=SERVER_VALIDITY)
        _write(directory / "tls" / "server.key", server.key, mode=PRIVATE)
        _write(directory / "tls" / "server.pem", server.chain, mode=PUBLIC)
        token = await create_token(store, description="made by kipuka init")
        own, trusted = node_keys(composition.settings.audit)
        if own is not None:
            await sign_now(store, own, trusted)
    _write(directory / "admin.token", f"{token.secret}\n".encode(), mode=PRIVATE)


def _explain(directory: Path, hosts: Sequence[str]) -> None:
    config = directory / "kipuka.toml"
    click.echo(f"wrote a deployment for {', '.join(hosts)} into {directory}")
    click.echo(f"  {config}  the configuration; every setting has a comment")
    click.echo(f"  {directory / 'trust.pem'}  give this to clients: it is what they trust (curl --cacert)")
    click.echo(f"  {directory / 'admin.token'}  a bearer token for the admin API")
    click.echo(f"  {directory / 'audit.pub'}  give this to auditors: the audit log is signed with {AUDIT_KEY}")
    click.echo(f"start it:       kipuka serve -c {config}")
    click.echo(f"a first device: kipuka otp create -c {config} --client-id NAME")
    click.echo(
        f"The root's key is needed again only for another issuing CA: keep it off this machine ({directory / 'ca'})."
    )
