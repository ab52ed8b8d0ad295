"""What the library says of tokens, in words, against a real KDC. Each verdict names its cause."""

from __future__ import annotations

import time

import pytest
from gssapi import RequirementFlag
from kipuka_auth_gssapi.acceptor import Accepted, Acceptor, Failure, Unfinished

from .kdc import KERBEROS, PARTNER, REALM, SPNEGO

pytestmark = pytest.mark.kerberos

SERVICE = f"HTTP/localhost@{REALM}"
BOTH = pytest.mark.parametrize("mech", [KERBEROS, SPNEGO], ids=["raw", "SPNEGO"])
THREE_LEGS = (RequirementFlag.mutual_authentication, RequirementFlag.dce_style)
# SPNEGO that offers Kerberos without a token of it, and NTLM in SPNEGO: what a client sends that has no ticket.
OFFER = bytes.fromhex("601b06062b0601050502a011300fa00d300b06092a864886f712010202")
OFFER_NTLM = bytes.fromhex("601c06062b0601050502a0123010a00e300c060a2b06010401823702020a")
NTLM = b"NTLMSSP\0\x01\0\0\0\x97\x82\x08\xe2" + bytes(24)


@pytest.fixture(name="acceptor")
def _acceptor(in_realm, tmp_path):
    return Acceptor(
        keytab=in_realm.keytab,
        services=frozenset({SERVICE, f"HTTP/rekeyed@{REALM}"}),
        replay_cache=tmp_path / "replays",
    )


def step(acceptor, token, *, context=None, binding=None):
    return acceptor.step(token, context=context, binding=binding)


@BOTH
def test_a_good_ticket_is_accepted_and_the_server_proves_itself_in_turn(acceptor, alice, mech):
    """RFC 4559, 5: the client verifies the token that comes with the success."""
    client = alice.client(mech=mech)
    accepted = step(acceptor, alice.step(client))
    assert isinstance(accepted, Accepted)
    assert str(accepted.principal) == f"alice@{REALM}"
    assert not accepted.bound
    alice.step(client, accepted.token)
    assert client.complete


@BOTH
def test_a_token_is_accepted_once(acceptor, alice, mech):
    token = alice.token(mech=mech)
    assert isinstance(step(acceptor, token), Accepted)
    assert step(acceptor, token).reason == "replayed"


def test_the_environment_cannot_switch_the_replay_cache_off(in_realm, alice, monkeypatch):
    monkeypatch.setenv("KRB5RCACHENAME", "none:")
    monkeypatch.setenv("KRB5RCACHETYPE", "none")
    acceptor = Acceptor(keytab=in_realm.keytab, services=frozenset({SERVICE}))
    token = alice.token()
    assert isinstance(step(acceptor, token), Accepted)
    assert step(acceptor, token).reason == "replayed"


@BOTH
def test_an_exchange_of_three_legs_comes_to_its_end(acceptor, alice, mech):
    client = alice.client(mech=mech, flags=THREE_LEGS)
    first = step(acceptor, alice.step(client))
    assert isinstance(first, Unfinished)
    second = step(acceptor, alice.step(client, first.token), context=first.context)
    assert isinstance(second, Accepted)
    assert str(second.principal) == f"alice@{REALM}"


@BOTH
def test_no_principal_is_taken_from_an_exchange_that_goes_wrong_at_the_end(acceptor, alice, mech):
    """The initiator's name is known after the first leg already; it proves nothing before the last."""
    first = step(acceptor, alice.token(mech=mech, flags=THREE_LEGS))
    assert isinstance(first, Unfinished)
    assert isinstance(step(acceptor, b"garbage", context=first.context), Failure)


def refused(acceptor, token, reason, **more):
    failure = step(acceptor, token, **more)
    assert isinstance(failure, Failure), failure
    assert failure.reason == reason, failure
    assert failure.explanation
    return failure


@BOTH
def test_a_ticket_for_another_service_is_refused(acceptor, alice, mech):
    refused(acceptor, alice.token(f"HTTP/other@{REALM}", mech=mech), "unknown_service")


@BOTH
def test_a_ticket_under_another_key_of_the_keytab_is_refused(acceptor, alice, mech):
    """The keytab has a key of host/localhost, whose tickets any other program of this machine may get."""
    refused(acceptor, alice.token(f"host/localhost@{REALM}", mech=mech), "unknown_service")


def test_the_service_name_that_a_ticket_shows_in_clear_counts_for_nothing(acceptor, alice):
    token = alice.token(f"host/localhost@{REALM}", mech=KERBEROS)
    named = b"\x1b\x04host\x1b\x09localhost"
    assert token.count(named) == 1
    refused(acceptor, token.replace(named, b"\x1b\x04HTTP\x1b\x09localhost"), "unknown_service")


def test_a_ticket_for_an_alias_is_good_under_the_key_of_the_account(acceptor, alice):
    """Active Directory: one account, one key, several service names; the keytab has one of them."""
    token = alice.token(SERVICE, mech=KERBEROS)
    accepted = step(acceptor, token.replace(b"\x1b\x09localhost", b"\x1b\x09alias-est"))
    assert isinstance(accepted, Accepted)


@BOTH
def test_a_ticket_under_a_key_that_was_changed_since_is_refused(acceptor, realm, mech):
    failure = refused(acceptor, realm.stale.token(f"HTTP/rekeyed@{REALM}", mech=mech), "wrong_key_version")
    assert "kvno" in failure.explanation


@BOTH
def test_a_clock_that_is_an_hour_off_is_refused(acceptor, realm, mech):
    early = realm.kdc.kinit("alice", lifetime="5h")
    early.fetch(SERVICE)
    early.shift_clock(3600)
    refused(acceptor, early.token(mech=mech), "clock_skew")


def test_an_expired_ticket_is_refused(acceptor, realm, monkeypatch):
    """A ticket of four seconds, at a server that allows for a second of difference."""
    short = realm.kdc.kinit("alice", lifetime="4s")
    token, raw = short.token(), short.token(mech=KERBEROS)
    monkeypatch.setenv("KRB5_CONFIG", str(realm.kdc.configuration("exact.conf", clockskew=1)))
    time.sleep(6)
    refused(acceptor, token, "ticket_expired")
    refused(acceptor, raw, "ticket_expired")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param(b"garbage", "malformed_token", id="garbage"),
        pytest.param(b"\x60\x00", "malformed_token", id="empty frame"),
        pytest.param(bytes(50_000), "malformed_token", id="zeros"),
        pytest.param(NTLM, "unsupported_mechanism", id="NTLM"),
        pytest.param(OFFER_NTLM, "unsupported_mechanism", id="NTLM in SPNEGO"),
    ],
)
def test_what_is_no_kerberos_token_is_refused(acceptor, token, reason):
    refused(acceptor, token, reason)


@BOTH
def test_a_truncated_token_is_refused_wherever_it_is_cut(acceptor, alice, mech):
    token = alice.token(mech=mech)
    for length in [*range(1, 40), *range(40, len(token), 37), len(token) - 1]:
        assert isinstance(step(acceptor, token[:length]), Failure | Unfinished), length


def test_a_token_with_any_bit_changed_proves_nothing(acceptor, alice):
    """Or it proves what it did before: not every bit of the frame counts."""
    token = alice.token()
    accepted = 0
    for place in range(0, len(token), 23):
        changed = bytearray(token)
        changed[place] ^= 0x10
        verdict = step(acceptor, bytes(changed))
        if isinstance(verdict, Accepted):
            assert str(verdict.principal) == f"alice@{REALM}"
            accepted += 1
    assert accepted <= 1  # the replay cache has seen it then


BINDING = b"tls-server-end-point:" + bytes(32)


@BOTH
@pytest.mark.parametrize(
    ("sent", "bound"), [pytest.param(BINDING, True, id="this connection's"), pytest.param(None, False, id="none")]
)
def test_channel_bindings_are_checked_where_they_are_sent(acceptor, alice, mech, sent, bound):
    """RFC 5929, 4."""
    accepted = step(acceptor, alice.token(mech=mech, bindings=sent), binding=BINDING)
    assert isinstance(accepted, Accepted)
    assert accepted.bound is bound


@BOTH
def test_the_bindings_of_another_connection_are_refused(acceptor, alice, mech):
    refused(acceptor, alice.token(mech=mech, bindings=b"other"), "wrong_channel_binding", binding=BINDING)


def test_a_principal_of_another_realm_is_named_with_its_realm(acceptor, realm):
    carol = realm.kdc.kinit(f"carol@{PARTNER}")
    assert str(step(acceptor, carol.token(SERVICE)).principal) == f"carol@{PARTNER}"


def test_a_keytab_that_is_gone_is_our_fault_and_a_new_one_counts_at_once(in_realm, alice, tmp_path):
    keytab = tmp_path / "new.keytab"
    acceptor = Acceptor(keytab=keytab, services=frozenset({SERVICE}))
    refused(acceptor, alice.token(), "keytab_unusable")
    keytab.write_bytes(in_realm.keytab.read_bytes())
    assert isinstance(step(acceptor, alice.token()), Accepted)


def test_a_replay_cache_that_cannot_be_written_is_our_fault(in_realm, alice, tmp_path):
    acceptor = Acceptor(
        keytab=in_realm.keytab, services=frozenset({SERVICE}), replay_cache=tmp_path / "no-folder" / "replays"
    )
    refused(acceptor, alice.token(), "kerberos_files_unusable")
