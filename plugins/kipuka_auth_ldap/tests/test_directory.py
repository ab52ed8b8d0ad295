"""The authenticator over a true directory: who is let in, who is not and by which word, and servers that do not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack

import pytest
from cryptography import x509
from kipuka_auth_ldap.authenticator import AWAY, INVALID, NOT_HERE, LDAPAuthenticator
from kipuka_auth_ldap.plugin import kipuka_authenticators

from kipuka.api import Authenticated, DenialKind, Denied
from kipuka.testing.harness import OpenedAuthenticator, open_authenticator
from kipuka.testing.pki import make_root
from kipuka.testing.server import free_port

from .slapd import GROUP, PASSWORD, PEOPLE, ROOT, SERVICE, STRANGE, SUFFIX, Slapd, Stall
from .test_contract import presenting

pytestmark = pytest.mark.interop


class Bench:
    """The plugin opened over the directory, and shorthands."""

    def __init__(self, opened: OpenedAuthenticator) -> None:
        self.opened = opened
        assert isinstance(opened.authenticator, LDAPAuthenticator)
        self.ldap = opened.authenticator

    async def ask(self, user: str, password: str = PASSWORD):
        return await self.ldap.authenticate(presenting(user, password))

    async def let_in(self, user: str, password: str = PASSWORD) -> Authenticated:
        outcome = await self.ask(user, password)
        assert isinstance(outcome, Authenticated), outcome
        return outcome

    async def refused(self, user: str, password: str = PASSWORD) -> Denied:
        outcome = await self.ask(user, password)
        assert isinstance(outcome, Denied), outcome
        return outcome

    def troubles(self) -> list[tuple[str, str]]:
        entries = [json.loads(line) for line in self.opened.log]
        return [(entry["server"], entry["reason"]) for entry in entries if entry["event"] == "ldap_server_trouble"]


@pytest.fixture(name="bench")
async def _bench(slapd: Slapd, tmp_path) -> AsyncGenerator[Callable[..., object], None]:
    async with AsyncExitStack() as stack:

        async def make(**changes: object) -> Bench:
            directory = tmp_path / f"bench-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            opening = open_authenticator(kipuka_authenticators()[0], slapd.section(**changes), directory=directory)
            return Bench(await stack.enter_async_context(opening))

        yield make


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("alice", "alice"),
        ("ALICE", "alice"),
        ("jürgen", "jürgen"),
        (STRANGE, STRANGE),
    ],
)
async def test_the_right_password_lets_in_under_the_directorys_own_name(bench, user, name):
    identity = (await (await bench()).let_in(user)).identity
    assert (identity.method, identity.name) == ("ldap", name)
    assert identity.subject == x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    assert identity.host_name is None


@pytest.mark.parametrize(
    "user", ["*", "ali*", "alice)(uid=*", "*)(objectClass=*", "alice\\00", "\\2a", "a)(|(uid=alice"]
)
async def test_a_name_made_to_change_the_filter_is_nobodys_name(bench, user):
    denied = await (await bench()).refused(user)
    assert (denied.detail, denied.reason) == (INVALID, "unknown_user")


async def test_the_name_of_an_entry_without_a_search(bench):
    ready = await bench(user_base=None, user_dn=f"uid={{user}},{PEOPLE}")
    for user in ("alice", STRANGE, "jürgen"):
        assert (await ready.let_in(user)).identity.name == user
    for user in ("nobody", f"alice,{PEOPLE}", "alice+cn=Alice Adams", "x,ou=services"):
        assert (await ready.refused(user)).reason == "wrong_password"
    alone = await bench(user_base=None, user_dn=f"uid={{user}},{PEOPLE}", bind_dn=None, bind_password=None)
    assert (await alone.let_in("alice")).identity.name == "alice"


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("alice", "wrong", "wrong_password"),
        ("nobody", PASSWORD, "unknown_user"),
        ("locked", PASSWORD, "account_locked"),
        ("expired", PASSWORD, "password_expired"),
        ("graceful", PASSWORD, "password_expired"),
        ("reset", PASSWORD, "password_must_change"),
        ("alice", "", "empty_password"),
        ("", PASSWORD, "no_user_name"),
    ],
)
async def test_every_refusal_has_one_text_and_its_own_reason(bench, user, password, reason):
    denied = await (await bench()).refused(user, password)
    assert (denied.kind, denied.detail, denied.reason) == (DenialKind.WRONG, INVALID, reason)


async def test_the_directorys_own_lock_out_is_told_to_the_auditor_alone(bench, slapd):
    ready = await bench()
    assert [(await ready.refused("guessed", "wrong")).reason for _ in range(3)][-1] == "account_locked"
    right = await ready.refused("guessed")
    assert (right.detail, right.reason) == (INVALID, "account_locked")


async def test_two_entries_are_nobody(bench):
    denied = await (await bench(user_filter="(employeeNumber={user})")).refused("7")
    assert (denied.detail, denied.reason) == (INVALID, "ambiguous_user")
    many = await (await bench(user_filter="(|(cn={user})(objectClass=person))")).refused("x")
    assert many.reason == "ambiguous_user"


async def test_an_unknown_user_costs_a_bind_like_a_known_one(bench, slapd):
    """No user enumeration in the work done either: as many connections and requests to the directory."""
    with Stall(slapd.port) as proxy:
        ready = await bench(servers=[f"ldap://127.0.0.1:{proxy.port}"], allow_plaintext=True, ca_file=None)
        await ready.refused("alice", "wrong")
        known, proxy.requests[:] = list(proxy.requests), []
        await ready.refused("nobody", "wrong")
        assert [tag for tag in known if tag] == [tag for tag in proxy.requests if tag]
        assert len(known) >= 3  # two binds and a search


async def test_an_empty_password_never_reaches_the_directory(bench, slapd):
    """RFC 4513, 5.1.2."""
    with Stall(slapd.tls_port) as proxy:
        ready = await bench(servers=[f"ldaps://127.0.0.1:{proxy.port}"])
        assert (await ready.refused("alice", "")).reason == "empty_password"
        assert proxy.connections == 0
        await ready.let_in("alice")
        assert proxy.connections == 1


@pytest.mark.parametrize(
    ("group", "inside", "outside"),
    [
        (GROUP, "alice", "bob"),
        (f"cn=posix,ou=groups,{SUFFIX}", "bob", "alice"),
        ("(mail=*@example.com)", "alice", "bob"),
        (f"cn=absent,ou=groups,{SUFFIX}", None, "alice"),
    ],
)
async def test_who_is_not_in_the_group_is_told_so_once_the_password_is_right(bench, group, inside, outside):
    ready = await bench(require_group=group)
    if inside is not None:
        await ready.let_in(inside)
    denied = await ready.refused(outside)
    assert (denied.kind, denied.detail, denied.reason) == (DenialKind.NOT_PERMITTED, NOT_HERE, "not_in_group")
    wrong = await ready.refused(outside, "wrong")
    assert (wrong.kind, wrong.detail) == (DenialKind.WRONG, INVALID)


async def test_the_subject_and_the_alternative_names_are_the_entrys(bench):
    ready = await bench(
        subject="CN={cn},O=Example",
        email_attribute="mail",
        dns_attribute="dNSHostName",
        upn_attribute="userPrincipalName",
    )
    alice = (await ready.let_in("alice")).identity
    assert alice.subject is not None
    assert alice.subject.rfc4514_string() == "CN=Alice Adams,O=Example"
    assert [type(name).__name__ for name in alice.permitted_names] == ["RFC822Name", "OtherName"]
    machine = (await ready.let_in("ws42")).identity
    assert machine.permitted_names == (x509.DNSName("ws42.example.com"),)
    two = await ready.refused("bob")
    assert (two.kind, two.reason) == (DenialKind.NOT_PERMITTED, "ambiguous_attribute")


async def test_a_disabled_account_is_out_with_the_next_request(bench, slapd):
    ready = await bench()
    await ready.let_in("ws42")
    dn = f"uid=ws42,{PEOPLE}"
    slapd.modify(dn, "replace userPassword another-one")
    try:
        assert (await ready.refused("ws42")).reason == "wrong_password"
    finally:
        slapd.modify(dn, f"replace userPassword {PASSWORD}")
    await ready.let_in("ws42")


# -- servers that do not do what they should -----------------------------------------------------------------------------


async def test_start_tls_encrypts_before_anything_is_said(bench, slapd):
    with Stall(slapd.port) as proxy:
        ready = await bench(servers=[f"ldap://127.0.0.1:{proxy.port}"])
        await ready.let_in("alice")
        sent = b"".join(proxy.sent)
        assert b"1.3.6.1.4.1.1466.20037" in sent  # RFC 4511, 4.14.1
        assert PASSWORD.encode() not in sent
        assert b"alice" not in sent


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
async def test_a_server_with_another_cas_certificate_is_told_nothing(bench, slapd, tmp_path, scheme):
    other = tmp_path / "other.pem"
    other.write_bytes(make_root("Somebody Else").pem)
    port = slapd.tls_port if scheme == "ldaps" else slapd.port
    with Stall(port) as proxy:
        ready = await bench(servers=[f"{scheme}://127.0.0.1:{proxy.port}"], ca_file=str(other))
        denied = await ready.refused("alice")
        assert (denied.kind, denied.detail) == (DenialKind.BUSY, AWAY)
        assert PASSWORD.encode() not in b"".join(proxy.sent)
    assert "server" in str(await ready.ldap.health())


async def test_a_server_of_another_name_is_told_nothing(bench, slapd):
    ready = await bench(servers=[f"ldaps://127.0.0.2:{slapd.tls_port}"], connect_timeout=1)
    assert (await ready.refused("alice")).kind is DenialKind.BUSY
    with Stall(slapd.tls_port, address="127.0.0.3") as proxy:
        ready = await bench(servers=[f"ldaps://127.0.0.3:{proxy.port}"])
        assert (await ready.refused("alice")).kind is DenialKind.BUSY
        assert proxy.connections == 1


async def test_a_server_that_is_down_is_passed_over_and_then_asked_last(bench, slapd):
    dead = f"ldaps://127.0.0.1:{free_port()}"
    ready = await bench(servers=[dead, slapd.encrypted])
    await ready.let_in("alice")
    await ready.let_in("alice")
    assert ready.troubles() == [(dead, "server_down")]
    assert await ready.ldap.health() is None


async def test_a_server_that_stalls_leaves_time_for_the_next_one(bench, slapd):
    with Stall(slapd.port) as proxy:
        proxy.stalled.set()
        servers = [f"ldap://127.0.0.1:{proxy.port}", slapd.plain]
        ready = await bench(servers=servers, timeout=4, allow_plaintext=True, ca_file=None)
        await ready.let_in("alice")
        assert ready.troubles() == [(servers[0], "timed_out")]


@pytest.mark.parametrize("stage", ["handshake", "start_tls", "handshake after start_tls", "search"])
async def test_a_server_that_stalls_at_any_stage_is_a_busy_denial_in_time(bench, slapd, stage):
    """Time limits hold for the handshake, for the answer to StartTLS, and for every answer after it."""
    port = slapd.tls_port if stage == "handshake" else slapd.port
    swallowed = {"search": b"\x04\x05alice", "handshake after start_tls": b"\x16\x03\x01"}.get(stage, b"")
    with Stall(port, after=swallowed) as proxy:
        proxy.stalled.set()
        scheme = "ldaps" if stage == "handshake" else "ldap"
        plain = {"allow_plaintext": True, "ca_file": None} if stage == "search" else {}
        ready = await bench(servers=[f"{scheme}://127.0.0.1:{proxy.port}"], timeout=3, connect_timeout=1.5, **plain)
        denied = await ready.refused("alice")
        assert (denied.kind, denied.detail) == (DenialKind.BUSY, AWAY)
        assert (denied.reason, denied.explanation is not None) == (
            "directory_timed_out",
            True,
        )  # the thread is free again
        assert proxy.connections == 1
        proxy.stalled.clear()
        proxy.after = b""
        await ready.let_in("alice")


async def test_a_full_queue_is_a_busy_denial_and_otherwise_nothing_waits_for_it(bench, slapd):
    with Stall(slapd.tls_port) as proxy:
        proxy.stalled.set()
        ready = await bench(servers=[f"ldaps://127.0.0.1:{proxy.port}"], pool_size=1, timeout=2, connect_timeout=2)
        many = [asyncio.ensure_future(ready.ask("alice")) for _ in range(20)]
        await asyncio.sleep(0)
        assert await ready.opened.services.run_blocking(lambda: 7) == 7  # the host's pool is free
        reasons = [(await one).reason for one in many]
        assert reasons.count("directory_queue_full") == 20 - 9
        assert reasons.count("directory_timed_out") == 9
        assert proxy.connections < 9  # whoever waited too long for a thread is not asked for any more
        proxy.stalled.clear()
        await ready.let_in("alice")
        assert len(ready.troubles()) == proxy.connections - 1  # nor is that the server's fault


async def test_the_servers_own_account_out_is_no_clients_failure(bench):
    ready = await bench(bind_password="changed-meanwhile", max_failures=1)
    for _ in range(3):
        denied = await ready.refused("alice")
        assert (denied.kind, denied.reason) == (DenialKind.BUSY, "directory_service_bind_failed")
        assert "changed-meanwhile" not in repr(denied)
    assert "service_bind_failed" in str(await ready.ldap.health())


async def test_who_asks_for_health_does_not_lock_the_servers_own_account(bench, slapd):
    """Anybody may ask for `/readyz`."""
    with Stall(slapd.tls_port) as proxy:
        ready = await bench(servers=[f"ldaps://127.0.0.1:{proxy.port}"], bind_password="changed-meanwhile")
        said = [await ready.ldap.health() for _ in range(5)]
        assert set(said) == {said[0]}
        assert "service_bind_failed" in str(said[0])
        assert proxy.connections == 1


async def test_what_comes_before_tls_is_no_answer(bench, slapd):
    """A stranger on the way cannot add a success to the answer to StartTLS, to be taken for the one to a bind."""
    forged = bytes.fromhex("300c02010261070a010004000400") + bytes.fromhex("300c02010161070a010004000400")
    with Stall(slapd.port, forged=forged) as proxy:
        ready = await bench(
            servers=[f"ldap://127.0.0.1:{proxy.port}"], user_base=None, user_dn=f"uid={{user}},{PEOPLE}"
        )
        denied = await ready.refused("alice", "wrong")
        assert denied.reason in {"wrong_password", "directory_server_down"}
        assert proxy.forgeries == 1
        assert PASSWORD.encode() not in b"".join(proxy.sent)


async def test_a_base_that_is_not_there_is_trouble(bench):
    ready = await bench(user_base=f"ou=absent,{SUFFIX}", bind_dn=ROOT, bind_password=PASSWORD)
    denied = await ready.refused("alice")
    assert (denied.kind, denied.reason) == (DenialKind.BUSY, "directory_search_failed")


async def test_an_entry_that_nobody_may_read_is_trouble_and_not_a_wrong_password(bench):
    ready = await bench(user_base=None, user_dn=f"cn={{user}},ou=services,{SUFFIX}")
    assert isinstance(await ready.ask("kipuka"), Denied)
    assert SERVICE.startswith("cn=kipuka")


async def test_failures_lock_the_address_and_a_success_takes_none_off(bench):
    ready = await bench(max_failures=2)
    for password in ("wrong", PASSWORD, "wrong", PASSWORD):
        await ready.ask("alice", password)
    locked = await ready.refused("alice", "wrong")
    assert (locked.kind, locked.reason) == (DenialKind.LOCKED, "locked_out")
    assert (await ready.refused("alice")).kind is DenialKind.LOCKED


@pytest.mark.parametrize("user", ["expired", "reset"])
async def test_who_has_the_right_password_is_not_guessing(bench, user):
    ready = await bench(max_failures=1)
    for _ in range(3):
        assert (await ready.refused(user)).kind is DenialKind.WRONG
    await ready.let_in("alice")
