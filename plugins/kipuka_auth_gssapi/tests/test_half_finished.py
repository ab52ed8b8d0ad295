"""Anybody can begin an exchange and leave it, without a ticket: what that may cost a server is bounded."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from gssapi import RequirementFlag
from kipuka_auth_gssapi.exchanges import LIFETIME, MOST
from kipuka_auth_gssapi.plugin import kipuka_authenticators

from kipuka.api import Authorization, Continue
from kipuka.testing import der
from kipuka.testing.clock import FakeClock
from kipuka.testing.harness import credentials, open_authenticator
from kipuka.testing.measure import resident_octets
from kipuka.testing.pki import make_csr

from .kdc import negotiate

pytestmark = pytest.mark.kerberos

THREE_LEGS = (RequirementFlag.mutual_authentication, RequirementFlag.dce_style)
MECHANISMS = 3600  # 43 KB, of which base64 makes 58: nearly all that a header may have (RULES H1)


def costly_offer() -> bytes:
    """SPNEGO that offers Kerberos, and after it as much else as fits, without a token of any of it (RFC 4178, 4.2.1).

    The library keeps the list until the exchange ends.
    """
    kerberos = der.object_identifier("1.2.840.113554.1.2.2")
    others = b"".join(der.object_identifier(f"1.3.6.1.4.1.99999.{1000 + number}") for number in range(MECHANISMS))
    offer = der.context(0, der.sequence(der.context(0, der.sequence(kerberos, others))))
    return der.tlv(0x60, der.object_identifier("1.3.6.1.5.5.2") + offer)


@pytest.mark.server
@pytest.mark.slow
def test_four_hundred_more_half_finished_exchanges_cost_no_memory(deploy, alice):
    """The first two hundred fill the room that there is for them; those after them take their places."""
    offer, csr = costly_offer(), make_csr()

    def begin(server, count):
        for number in range(count):
            token = alice.token(flags=THREE_LEGS) if number % 4 == 0 else offer
            answer = server.client().enroll(csr, authorization=negotiate(token))
            (challenge,) = answer.all("WWW-Authenticate")
            assert (answer.status, challenge.split()[0], len(challenge.split())) == (401, "Negotiate", 2)

    with deploy(server={"workers": 1}).serve() as server:
        (worker,) = server.wait_for_workers(1)
        begin(server, 200)
        before = resident_octets([worker])
        begin(server, 400)
        after = resident_octets([worker])
        assert not server.tracebacks(), server.stderr
    assert after < 1.1 * before, (before, after)


async def test_no_more_exchanges_wait_than_there_is_room_for_and_none_for_ever(in_realm, alice, tmp_path):
    """The objects of the Kerberos library themselves, counted where they are kept."""
    (kind,) = kipuka_authenticators()
    clock = FakeClock(datetime(2026, 6, 24, tzinfo=UTC))
    token = base64.b64encode(costly_offer()).decode()

    async def begin(opened, number):
        presented = credentials(authorization=Authorization(scheme="negotiate", parameters=token))
        connection = replace(presented.connection, id=str(number))
        outcome = await opened.authenticator.authenticate(replace(presented, connection=connection))
        assert isinstance(outcome, Continue)

    async with open_authenticator(kind, in_realm.section(), directory=tmp_path, clock=clock) as opened:
        waiting = opened.authenticator.exchanges
        for number in range(MOST):
            await begin(opened, number)
            assert len(waiting) == number + 1
        for number in range(MOST, 600):
            await begin(opened, number)
            assert len(waiting) == MOST
        clock.advance(LIFETIME)
        await begin(opened, 600)
        assert len(waiting) == 1
