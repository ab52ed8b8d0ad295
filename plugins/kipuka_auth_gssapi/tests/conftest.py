"""What the tests stand on: a realm with a KDC of its own, one in a run, and servers that hold a key of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kipuka.testing.server import Deployment, RunningServer

from .kdc import KDC, PARTNER, PASSWORD, REALM, Tickets

_PATIENCE = 180

HOST = "host/web.example.com"
MACHINE = "WS42$"
STRANGE = r'we,ird+"na=me\@;<x>'
"""A principal's name with every character that means something in a distinguished name, as its text form has it."""

SERVICE = f"HTTP/localhost@{REALM}"
REKEYED = f"HTTP/rekeyed@{REALM}"
MAPPING = {
    f"bob@{REALM}": "CN=User,OU=People,DC=example,DC=com",
    "default_template": "CN={principal},OU=Users,DC=example,DC=com",
}


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that needs the KDC stays in one process (`--dist loadgroup`): one KDC a run."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("kerberos") is not None:
            item.add_marker(pytest.mark.xdist_group("kerberos"))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_PATIENCE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Realm:
    """The KDC with the principals that the tests speak of."""

    kdc: KDC
    keytab: Path
    stale: Tickets  # alice's, with a ticket for a key of `REKEYED` that is no more

    @property
    def server_environment(self) -> dict[str, str]:
        """What a server of this realm gets: the configuration, and a folder of the library's own replay cache."""
        return {"KRB5_CONFIG": str(self.kdc.directory / "krb5.conf"), "KRB5RCACHEDIR": str(self.kdc.directory)}

    def section(self, **changes: object) -> dict[str, object]:
        """`[gssapi]` as the chapter writes it, with changes; None takes a key out."""
        whole: dict[str, object] = {
            "keytab": str(self.keytab),
            "service_principal": [SERVICE, REKEYED],
            "principal_mapping": dict(MAPPING),
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}


@pytest.fixture(name="realm", scope="session")
def _realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    directory = tmp_path_factory.mktemp("kdc")
    with KDC(directory) as kdc:
        doubled = STRANGE.replace('"', '""')
        users = ("alice", "bob", "eve", HOST, MACHINE, f'"{doubled}"')
        services = ("HTTP/localhost", "HTTP/other", "HTTP/rekeyed", "HTTP/samekvno", "host/localhost")
        kdc.administer(
            *(f"addprinc -pw {PASSWORD} {user}" for user in users),
            *(f"addprinc -randkey {service}" for service in services),
        )
        kdc.administer(f"addprinc -pw {PASSWORD} carol", realm=PARTNER)
        keytab = kdc.keytab(directory / "kipuka.keytab", "HTTP/localhost", "host/localhost")
        stale = kdc.kinit("alice")
        stale.fetch(REKEYED)
        kdc.keytab(keytab, "HTTP/rekeyed")
        yield Realm(kdc=kdc, keytab=keytab, stale=stale)


@pytest.fixture(name="alice", scope="session")
def _alice(realm: Realm) -> Tickets:
    """A user's credential cache."""
    return realm.kdc.kinit("alice")


@pytest.fixture(name="in_realm")
def _in_realm(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> Realm:
    """The library in this very process is a server's."""
    for name, value in realm.server_environment.items():
        monkeypatch.setenv(name, value)
    return realm


@pytest.fixture(name="template", scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A deployment as `kipuka init` makes it, to be copied."""
    return Deployment.create(tmp_path_factory.mktemp("kerberos") / "template")


@pytest.fixture(name="deploy", scope="session")
def _deploy(template: Deployment, tmp_path_factory: pytest.TempPathFactory, realm: Realm) -> Callable[..., Deployment]:
    """Makes deployments that take tickets: `deploy(gssapi={...}, environ={...}, **other sections)`."""

    def make(
        *, gssapi: dict[str, object] | None = None, environ: dict[str, str] | None = None, **sections: object
    ) -> Deployment:
        directory = tmp_path_factory.mktemp("server") / "kipuka"
        made = template.copy(directory, environ=realm.server_environment | (environ or {}))
        patient = {"hash_algorithm": "sha256-hmac", "max_failures": 10000}
        made.configure({"gssapi": realm.section(**(gssapi or {})), "otp": patient, **sections})
        return made

    return make


Running = Callable[[Deployment], AbstractContextManager[RunningServer]]


@pytest.fixture(name="running", scope="session")
def _running(request: pytest.FixtureRequest) -> Running:
    """Runs a server, which at its end has logged no fault; where the suite around this one examines what servers leave, it is examined."""
    try:
        examine = request.getfixturevalue("kipuka_examine")
    except pytest.FixtureLookupError:
        examine = None

    @contextmanager
    def run(deployment: Deployment) -> Iterator[RunningServer]:
        with deployment.serve() as server:
            yield server
        assert not server.tracebacks(), server.stderr
        assert examine is None or examine(deployment) == []

    return run


@pytest.fixture(name="server", scope="session")
def _server(deploy: Callable[..., Deployment], running: Running) -> Iterator[RunningServer]:
    """A server with certificates, tickets and one-time passwords on, as the chapter has them; one in a run.

    It has one worker, whose half-finished exchanges can be counted.
    """
    with running(deploy(server={"workers": 1})) as server:
        yield server


@pytest.fixture(name="strict_server", scope="session")
def _strict_server(deploy: Callable[..., Deployment], realm: Realm, running: Running) -> Iterator[RunningServer]:
    """A server that demands channel bindings, lets another realm in, maps few, issues all names that they have, and has a keytab
    of its own.
    """
    keytab = realm.kdc.directory / "own.keytab"
    keytab.write_bytes(realm.keytab.read_bytes())
    keytab.chmod(0o600)
    mapping = {f"bob@{REALM}": "CN=User", f"carol@{PARTNER}": "CN=Carol,O=Partner"}
    gssapi = {
        "keytab": str(keytab),
        "principal_mapping": mapping,
        "host_template": "CN={host},OU=Hosts",
        "realms": [REALM, PARTNER],
        "channel_binding": "required",
    }
    profile = {"name": "default", "identity_sans": ["dns", "upn", "krb5"], "san_domains": ["example.com"]}
    with running(deploy(gssapi=gssapi, profile=[profile])) as server:
        yield server


@pytest.fixture(name="exact_server", scope="session")
def _exact_server(deploy: Callable[..., Deployment], realm: Realm, running: Running) -> Iterator[RunningServer]:
    """A server that allows for two seconds' difference of clocks, and has a header limit that is written."""
    exact = realm.kdc.configuration("exact-server.conf", clockskew=2)
    with running(deploy(environ={"KRB5_CONFIG": str(exact)}, server={"max_header_size": 16384})) as server:
        yield server
