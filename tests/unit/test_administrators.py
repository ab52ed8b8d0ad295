"""RULES E2: the start is refused where every device that we certify could administer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kipuka.administrators import Administrators, check_own_authorities
from kipuka.api import BackendUnavailable, CertificateChain, StartupError
from kipuka.testing.pki import make_root
from kipuka.x509.path import AnchorSet
from kipuka.x509.patterns import parse_certificate_pattern

ROOT = make_root("Root")
ISSUING = ROOT.issue_ca("Issuing")
OTHER = make_root("Administrators")


class Backend:
    """A CA that says who it is, or why it does not."""

    def __init__(self, answer):
        self.answer = answer

    async def ca_certificates(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def start(*backends, anchors=(OTHER,), allow=()):
    administrators = Administrators(
        mode="optional",
        anchors=None if anchors is None else AnchorSet(tuple(anchor.certificate for anchor in anchors)),
        allow=tuple(parse_certificate_pattern(text) for text in allow),
        tokens=None,
        records=None,
        clock=lambda: datetime.now(UTC),
    )
    opened = {f"ca{number}": backend for number, backend in enumerate(backends)}
    await check_own_authorities(administrators, opened, patience=timedelta(seconds=5))


OURS = Backend(CertificateChain((ISSUING.certificate, ROOT.certificate)))


async def test_anchors_of_somebody_else_are_no_matter():
    await start(OURS)


@pytest.mark.parametrize("anchor", [ISSUING, ROOT], ids=["issuing", "root"])
@pytest.mark.parametrize(
    "allow", [(), ("CN=*",), ("CN=alice", "dns:*")], ids=["none", "anything", "anything among others"]
)
async def test_a_ca_of_ours_below_an_anchor_is_refused(anchor, allow):
    with pytest.raises(
        StartupError, match=r"the CA ca1 is below the admin anchor CN=.*: every device could administer; "
    ):
        await start(Backend(CertificateChain((OTHER.issue_ca("x").certificate,))), OURS, anchors=(anchor,), allow=allow)


async def test_patterns_make_it_good():
    await start(OURS, anchors=(ROOT,), allow=("CN=boss",))


async def test_without_certificates_there_is_nothing_to_refuse():
    await start(OURS, anchors=None)


@pytest.mark.parametrize("fault", [BackendUnavailable("away"), TimeoutError()])
async def test_a_ca_that_does_not_say_who_it_is_could_be_below_an_anchor(fault):
    with pytest.raises(StartupError, match=r"the CA ca0 does not say .* start again when the CA is there"):
        await start(Backend(fault))
    await start(Backend(fault), allow=("CN=boss",))
