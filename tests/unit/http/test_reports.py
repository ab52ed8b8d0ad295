"""What happens below HTTP is told in a bounded number of events."""

from __future__ import annotations

from kipuka.api import AuditEvent, HandshakeFailed, LimitReached
from kipuka.audit.sums import MOST_SUMS
from kipuka.http.reports import ONE_BY_ONE, Reports, open_reports
from kipuka.http.tls import HandshakeFailure
from kipuka.store.context import audit_context


class Book:
    def __init__(self) -> None:
        self.entries: list[tuple[str | None, AuditEvent]] = []

    async def record(self, event: AuditEvent) -> None:
        self.entries.append((audit_context.get().client_address, event))


def failure(address: str = "192.0.2.1", reason: str = "timeout") -> HandshakeFailure:
    return HandshakeFailure(listener="est", client_address=address, client_port=1, reason=reason, detail="")


async def test_the_first_failed_handshakes_are_told_one_by_one_and_the_rest_as_one() -> None:
    book = Book()
    reports = Reports(book.record)
    for _ in range(1000):
        reports.handshake_failed(failure())
    await reports.told()
    assert book.entries == [("192.0.2.1", HandshakeFailed(listener="est", reason="timeout", count=1))] * ONE_BY_ONE
    book.entries.clear()
    reports.sum_up()
    await reports.told()
    rest = HandshakeFailed(listener="est", reason="timeout", count=1000 - ONE_BY_ONE)
    assert book.entries == [("192.0.2.1", rest)]


async def test_each_address_and_reason_is_told_for_itself_and_each_interval_begins_anew() -> None:
    book = Book()
    reports = Reports(book.record)
    for _ in range(2):
        reports.handshake_failed(failure())
        reports.handshake_failed(failure(reason="not_tls"))
        reports.handshake_failed(failure("192.0.2.2"))
        reports.sum_up()
    await reports.told()
    assert [event.count for _address, event in book.entries if isinstance(event, HandshakeFailed)] == [1] * 6


async def test_a_limit_is_told_once_in_an_interval() -> None:
    book = Book()
    async with open_reports(book.record) as reports:
        for _ in range(50):
            reports.limit_reached("max_connections", "2001:db8::/64")
        await reports.told()
        assert book.entries == []
    assert book.entries == [
        (None, LimitReached(limit="max_connections", address="2001:db8::/64", count=50)),
    ]


async def test_a_flood_from_very_many_addresses_is_told_as_one() -> None:
    book = Book()
    async with open_reports(book.record) as reports:
        for number in range(5000):
            reports.limit_reached("max_connections", f"10.0.{number // 250}.{number % 250}")
            reports.handshake_failed(failure(f"10.0.{number // 250}.{number % 250}"))
    assert len(book.entries) == 2 * (MOST_SUMS + 1)
    together = [event for _address, event in book.entries if getattr(event, "count", 1) > 1]
    assert together == [
        HandshakeFailed(listener="est", reason="timeout", count=5000 - MOST_SUMS),
        LimitReached(limit="max_connections", address=None, count=5000 - MOST_SUMS),
    ]


async def test_a_client_without_an_address_is_told_too() -> None:
    """It was gone before its address could be asked."""
    book = Book()
    async with open_reports(book.record) as reports:
        reports.handshake_failed(failure(""))
    assert len(book.entries) == 1
