"""RULES H1: who is let in, and who has to go for it."""

from __future__ import annotations

import random

import pytest

from kipuka.http.connections import Connections


class Visitor:
    """A connection that goes at once when it is asked to, unless it is told to linger."""

    def __init__(self, address: str = "192.0.2.1", *, lingers: bool = False) -> None:
        self.address = address
        self.lingers = lingers
        self.dismissed = False

    def dismiss(self) -> bool:
        self.dismissed = True
        return not self.lingers


class House:
    def __init__(self, *, most: int = 100, most_per_address: int = 100) -> None:
        self.met: list[tuple[str, str]] = []
        self.connections: Connections[Visitor] = Connections(
            most=most,
            most_per_address=most_per_address,
            on_limit=lambda limit, address: self.met.append((limit, address)),
        )

    def let_in(self, address: str, number: int = 1, *, lingers: bool = False) -> list[Visitor]:
        visitors = [Visitor(address, lingers=lingers) for _ in range(number)]
        for visitor in visitors:
            assert self.connections.enter(visitor, address)
        return visitors

    def expect(self, number: int = 1) -> list[Visitor]:
        """Connections of a load balancer whose clients are not known yet."""
        visitors = [Visitor() for _ in range(number)]
        for visitor in visitors:
            assert self.connections.expect(visitor, "10.0.0.1")
        return visitors

    def enters(self, address: str) -> bool:
        return self.connections.enter(Visitor(address), address)


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", True, id="the same"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="IPv4 by address"),
        pytest.param("192.0.2.1", "::ffff:192.0.2.1", True, id="IPv4 within IPv6"),
        pytest.param("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True, id="IPv6 by /64"),
        pytest.param("2001:db8:0:1::1", "2001:db8:0:2::1", False, id="another /64"),
    ],
)
def test_connections_are_counted_by_address_as_lock_outs_are(first: str, second: str, are_one: bool) -> None:
    house = House(most_per_address=1)
    house.let_in(first)
    assert house.enters(second) is not are_one


def test_an_address_over_its_limit_is_refused_until_one_of_its_connections_ends() -> None:
    house = House(most_per_address=2)
    one, _two = house.let_in("192.0.2.1", 2)
    assert not house.enters("192.0.2.1")
    assert house.met == [("max_connections_per_address", "192.0.2.1")]
    assert not one.dismissed
    house.connections.leave(one)
    house.connections.leave(one)
    assert house.enters("192.0.2.1")


def test_when_all_places_are_taken_the_largest_address_loses_the_one_that_waits_longest() -> None:
    house = House(most=6)
    (small,) = house.let_in("192.0.2.9")
    first, second, third = house.let_in("192.0.2.1", 3)
    house.let_in("192.0.2.2", 2)
    house.connections.begin_request(first)
    assert house.enters("192.0.2.3")
    assert [visitor.dismissed for visitor in (small, first, second, third)] == [False, False, True, False]
    assert house.met == [("displaced", "192.0.2.1")]
    assert len(house.connections) == 6


def test_whoever_waits_again_waits_behind_the_others() -> None:
    house = House(most=2)
    first, second = house.let_in("192.0.2.1", 2)
    house.connections.begin_request(first)
    house.connections.end_request(first)
    assert house.enters("192.0.2.2")
    assert (first.dismissed, second.dismissed) == (False, True)


def test_among_addresses_with_as_many_the_one_that_waits_longest_goes() -> None:
    house = House(most=3)
    one, two, three = (house.let_in(f"192.0.2.{number}")[0] for number in (1, 2, 3))
    house.connections.begin_request(one)
    house.connections.end_request(one)
    assert house.enters("192.0.2.4")
    assert (one.dismissed, two.dismissed, three.dismissed) == (False, True, False)


def test_a_request_under_way_is_never_cut_off() -> None:
    house = House(most=2)
    visitors = house.let_in("192.0.2.1", 2)
    for visitor in visitors:
        house.connections.begin_request(visitor)
    assert not house.enters("192.0.2.2")
    assert house.met == [("max_connections", "192.0.2.2")]
    assert not any(visitor.dismissed for visitor in visitors)


def test_an_address_does_not_displace_one_that_has_fewer() -> None:
    """Else an attacker whose own connections are all busy would push out the others one by one."""
    house = House(most=3)
    for visitor in house.let_in("192.0.2.1", 2):
        house.connections.begin_request(visitor)
    (other,) = house.let_in("192.0.2.2")
    assert not house.enters("192.0.2.1")
    assert not other.dismissed
    assert house.enters("192.0.2.3")
    assert other.dismissed


def test_the_largest_address_makes_room_for_its_own() -> None:
    house = House(most=3)
    first, _second = house.let_in("192.0.2.1", 2)
    house.let_in("192.0.2.2")
    assert house.enters("192.0.2.1")
    assert first.dismissed


def test_idle_connections_of_an_attacker_never_shut_out_a_client_with_few() -> None:
    house = House(most=50, most_per_address=10)
    for number in range(2, 40):
        for _ in range(12):
            house.enters(f"127.0.0.{number}")
    for _ in range(200):
        (good,) = house.let_in("192.0.2.1")
        house.enters("127.0.0.2")
        house.connections.begin_request(good)
        assert not good.dismissed
        house.connections.leave(good)


def test_the_displaced_that_still_send_are_bounded() -> None:
    """Each holds a file."""
    house = House(most=100)
    house.let_in("192.0.2.1", 100, lingers=True)
    admitted = sum(house.enters("192.0.2.2") for _ in range(40))
    admitted += sum(house.enters("192.0.2.3") for _ in range(40))
    assert admitted == 64
    assert len(house.connections) == 164


def test_a_lingering_one_is_not_counted_as_waiting_again() -> None:
    house = House(most=1)
    (visitor,) = house.let_in("192.0.2.1", lingers=True)
    assert house.enters("192.0.2.2")
    house.connections.end_request(visitor)
    house.connections.leave(visitor)
    assert house.enters("192.0.2.3")
    assert len(house.connections) == 1


# --- behind a load balancer ---


def test_the_balancer_has_no_limit_and_its_clients_have_theirs() -> None:
    house = House(most_per_address=2)
    first, second, third, other = house.expect(4)
    assert house.connections.enter(first, "192.0.2.1")
    assert house.connections.enter(second, "192.0.2.1")
    assert not house.connections.enter(third, "192.0.2.1")
    assert house.connections.enter(other, "192.0.2.2")
    house.connections.leave(third)
    assert len(house.connections) == 3
    assert house.met == [("max_connections_per_address", "192.0.2.1")]


def test_one_that_is_expected_makes_no_room_and_takes_none_until_it_is_known() -> None:
    house = House(most=3)
    inside = house.let_in("192.0.2.1", 2) + house.let_in("192.0.2.2")
    (newcomer,) = house.expect()
    assert not any(visitor.dismissed for visitor in inside)
    assert house.enters("192.0.2.3")
    assert not newcomer.dismissed
    assert [visitor.dismissed for visitor in inside] == [True, False, False]
    assert house.connections.enter(newcomer, "192.0.2.3")
    assert [visitor.dismissed for visitor in inside] == [True, False, False], "of its own address one had to go"


def test_those_that_are_expected_are_bounded_and_counted() -> None:
    house = House(most=10)
    expected = house.expect(74)
    assert len(house.connections) == 74
    assert set(house.connections) == set(expected)
    assert not house.connections.expect(Visitor(), "10.0.0.1")
    assert house.met == [("max_connections", "10.0.0.1")]
    assert house.connections.take_peak() == 74
    for visitor in expected:
        house.connections.leave(visitor)
    assert len(house.connections) == 0
    house.expect(74)


def test_whatever_happens_the_limits_hold_and_nothing_is_left() -> None:
    chance = random.Random(4)
    house = House(most=20, most_per_address=7)
    inside: list[Visitor] = []
    for _ in range(5000):
        inside = [visitor for visitor in inside if not visitor.dismissed]
        match chance.randrange(4):
            case 0 | 1:
                visitor = Visitor(f"192.0.2.{chance.randrange(9)}")
                if chance.random() < 0.5:
                    assert house.connections.expect(visitor, "10.0.0.1")
                if house.connections.enter(visitor, visitor.address):
                    inside.append(visitor)
                else:
                    house.connections.leave(visitor)
            case 2 if inside:
                house.connections.leave(inside.pop(chance.randrange(len(inside))))
            case _ if inside:
                act = chance.choice([house.connections.begin_request, house.connections.end_request])
                act(chance.choice(inside))
        assert len(house.connections) <= 20
        assert set(house.connections) == {visitor for visitor in inside if not visitor.dismissed}
        counts = [visitor.address for visitor in house.connections]
        assert max((counts.count(address) for address in counts), default=0) <= 7
    for visitor in tuple(house.connections):
        house.connections.leave(visitor)
    assert house.connections._groups == {}
    assert house.connections._ranks == {}
