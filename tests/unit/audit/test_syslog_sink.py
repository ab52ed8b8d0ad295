"""The sink `syslog` against collectors on real sockets: each transport, outages, and what must not be believed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from pydantic import ValidationError

from kipuka.api import ServerStopped
from kipuka.audit.pipeline import OutboxPace, open_outbox
from kipuka.audit.syslog import transport
from kipuka.audit.syslog.settings import SyslogSettings, check_syslog
from kipuka.audit.syslog.sink import kipuka_audit_sinks, open_syslog
from kipuka.audit.verify import verify_lines
from kipuka.store import events
from kipuka.testing.pki import make_root
from kipuka.testing.server import wait_until

from .collectors import DatagramCollector, StreamCollector
from .rfc5424_abnf import parse

ROOT = make_root("Collectors")
PACE = OutboxPace(
    gather=timedelta(milliseconds=1),
    poll=timedelta(milliseconds=50),
    first_retry=timedelta(milliseconds=20),
    last_retry=timedelta(milliseconds=60),
)


@pytest.fixture
async def records(store):
    for number in range(6):
        await store.audit(ServerStopped(pid=number))
    return await store.read(partial(events.after, node="alpha", sequence=0, limit=10))


@pytest.fixture
def open_sink(services):
    return lambda settings: open_syslog(settings, services)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    (folder / "anchors.pem").write_bytes(ROOT.pem)
    (folder / "foreign.pem").write_bytes(make_root("Foreign").pem)
    for name, credential in (
        ("collector", ROOT.issue_server("localhost", "127.0.0.1")),
        ("other", ROOT.issue_server("elsewhere.example")),
        ("client", ROOT.issue_client()),
        ("stranger", make_root("Foreign").issue_client()),
    ):
        (folder / f"{name}.pem").write_bytes(credential.chain_pem)
        (folder / f"{name}.key").write_bytes(credential.key_pem(b"sesame" if name == "client" else None))
        (folder / f"{name}.key").chmod(0o600)
    return folder


def tls_collector(files, *, name="collector", clients=False, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    if clients:
        context.load_verify_locations(files / "anchors.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return StreamCollector(context=context)


def tls_settings(files, collector, *, host="localhost", anchors="anchors", **more):
    return SyslogSettings(transport="tls", address=f"{host}:{collector.port}", anchors=files / f"{anchors}.pem", **more)


@contextmanager
def reached_by(way, tmp_path, files):
    """A collector and the settings that lead to it."""
    path = tmp_path / "log"
    match way:
        case "udp":
            collector = DatagramCollector()
        case "unix datagram":
            collector = DatagramCollector(path=path)
        case "unix stream":
            collector = StreamCollector(path=path)
        case "tcp":
            collector = StreamCollector()
        case "tls":
            collector = tls_collector(files)
    with collector:
        match way:
            case "udp" | "tcp":
                settings = SyslogSettings(transport=way, address=f"127.0.0.1:{collector.port}")
            case "tls":
                settings = tls_settings(files, collector)
            case _:
                settings = SyslogSettings(address=str(path))
        yield collector, settings


WAYS = ["udp", "tcp", "tls", "unix datagram", "unix stream"]


def test_its_kind_is_named_as_its_type():
    """RULES K2."""
    [kind] = kipuka_audit_sinks()
    assert (kind.name, kind.config) == ("syslog", SyslogSettings)


@pytest.mark.parametrize("way", WAYS)
async def test_every_event_arrives_in_order_as_a_message_of_its_own(tmp_path, files, open_sink, records, way):
    with reached_by(way, tmp_path, files) as (collector, settings):
        async with open_sink(settings) as sink:
            await sink.write(records[:4])
            await sink.write(records[4:])
            collector.wait_for(6)
    assert collector.numbers == [0, 1, 2, 3, 4, 5]
    assert collector.connections == 1
    lines = [parse(message).msg.decode("ascii") for message in collector.messages]
    assert verify_lines(lines).intact


async def test_facility_severity_and_names_are_those_configured(open_sink, records):
    with DatagramCollector() as collector:
        settings = SyslogSettings(
            transport="udp",
            address=f"127.0.0.1:{collector.port}",
            facility="local3",
            severity_success="debug",
            app_name="est",
            hostname="est-1.example.com",
            enterprise_number=54321,
        )
        async with open_sink(settings) as sink:
            await sink.write(records[:1])
            collector.wait_for(1)
    (message,) = map(parse, collector.messages)
    assert (message.facility, message.severity, message.app_name) == (19, 7, "est")
    assert (message.hostname, list(message.data)) == ("est-1.example.com", ["kipuka@54321"])


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_opens_the_sink_while_its_collector_is_away_and_a_write_raises(
    tmp_path, files, open_sink, records, way
):
    with reached_by(way, tmp_path, files) as (collector, settings):
        collector.stop()
        if way.startswith("unix"):
            (tmp_path / "log").unlink()
        async with open_sink(settings) as sink:
            with pytest.raises(OSError):  # noqa: PT011 - the system's own words differ
                await sink.write(records[:1])
            collector.start()
            await sink.write(records)
            collector.wait_for(6)
    assert collector.numbers == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("way", ["tcp", "tls", "unix stream"])
async def test_after_an_outage_everything_arrives_in_order_without_a_gap(tmp_path, files, open_sink, store, way):
    """DESIGN guarantee 7: the collector dies in the middle, more than once; some come twice, none never."""
    with reached_by(way, tmp_path, files) as (collector, settings):
        number = 0
        async with open_sink(settings) as sink, open_outbox(store, {"syslog": sink}, pace=PACE) as outbox:
            for _ in range(3):
                for _ in range(40):
                    await store.audit(ServerStopped(pid=number))
                    number += 1
                await asyncio.to_thread(collector.stop)
                for _ in range(40):
                    await store.audit(ServerStopped(pid=number))
                    number += 1
                while outbox.states()["syslog"].problem is None:
                    await asyncio.sleep(0.01)
                collector.start()
                async with asyncio.timeout(60):
                    while outbox.states()["syslog"].sequence < number:
                        await asyncio.sleep(0.01)
        await asyncio.to_thread(collector.wait_for, number)
    assert first_times(collector.numbers) == list(range(number))


def first_times(numbers):
    """Each number where it stands for the first time: in order when nothing was skipped to come later."""
    return list(dict.fromkeys(numbers))


async def test_what_a_collector_had_taken_but_not_read_when_it_died_comes_again(open_sink, records):
    """TCP has no receipts: what lay in a buffer is sent once more."""
    with StreamCollector() as collector:
        settings = SyslogSettings(transport="tcp", address=f"127.0.0.1:{collector.port}")
        async with open_sink(settings) as sink:
            await sink.write(records[:1])
            collector.wait_for(1)
            collector.reading.clear()
            await sink.write(records[1:3])
            collector.messages.clear()
            collector.stop()
            collector.reading.set()
            collector.wait_for_the_end()
            collector.messages.clear()
            collector.start()
            await sink.write(records[3:])
            collector.wait_for(6)
    assert collector.numbers == [0, 1, 2, 3, 4, 5]


async def test_what_is_kept_for_that_is_bounded(monkeypatch):
    monkeypatch.setattr(transport, "KEPT_OCTETS", 1000)
    with StreamCollector() as collector:
        link = transport.Link(
            partial(transport.connect_tcp, "127.0.0.1", collector.port, 5), frame=transport.octet_counted, timeout=5
        )
        for _ in range(100):
            await asyncio.to_thread(link.send, [b"x" * 90])
        assert sum(map(len, link._kept)) <= 1000
        link.close()


async def test_a_connection_that_was_closed_while_nothing_was_to_send_is_noticed_before_the_next_event(
    open_sink, records
):
    with StreamCollector() as collector:
        settings = SyslogSettings(transport="tcp", address=f"127.0.0.1:{collector.port}")
        async with open_sink(settings) as sink:
            await sink.write(records[:3])
            collector.wait_for(3)
            collector.hang_up()
            await asyncio.sleep(0.05)
            await sink.write(records[3:])
            collector.wait_for(9)
    assert collector.numbers == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert collector.connections == 2


async def test_a_relay_that_takes_everything_and_hangs_up_is_not_believed(open_sink, records, monkeypatch):
    """A load balancer without a collector behind it: nothing is called delivered."""
    monkeypatch.setattr(transport, "SETTLING_SECONDS", 20)  # this relay may be slow, when the machine is busy
    listener = socket.create_server(("127.0.0.1", 0))

    def take_and_hang_up():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(10)
            connection.close()

    threading.Thread(target=take_and_hang_up, daemon=True).start()
    settings = SyslogSettings(transport="tcp", address=f"127.0.0.1:{listener.getsockname()[1]}")
    async with open_sink(settings) as sink:
        for _ in range(3):
            with pytest.raises(OSError, match=r"closed|reset|[Bb]roken"):
                await sink.write(records)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


async def test_a_collector_that_reads_nothing_any_more_is_given_up_in_time_and_with_its_connection(open_sink, records):
    with StreamCollector() as collector:
        collector.reading.clear()
        settings = SyslogSettings(
            transport="tcp", address=f"127.0.0.1:{collector.port}", write_timeout=timedelta(seconds=1)
        )
        async with open_sink(settings) as sink:
            with pytest.raises(OSError):  # noqa: PT011 - a time-out, or a reset where the kernel gives up first
                for _ in range(2000):
                    await sink.write(records)
            collector.reading.set()
            await sink.write(records)
            collector.wait_for(6)
            # nobody knows which part of a message went over the first
            wait_until(lambda: collector.connections == 2, what="a second connection")


# -- TLS (RFC 5425) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_collector_that_asks_for_a_certificate_is_shown_one(files, open_sink, records, version):
    with tls_collector(files, clients=True, version=version) as collector:
        settings = tls_settings(
            files, collector, cert=files / "client.pem", key=files / "client.key", key_password="sesame"
        )
        async with open_sink(settings) as sink:
            await sink.write(records)
            collector.wait_for(6)
    assert collector.numbers == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("collector", "changes"),
    [
        pytest.param({}, {"anchors": "foreign"}, id="signed by another CA"),
        pytest.param({"name": "other"}, {}, id="for another name"),
        pytest.param({}, {"server_name": "elsewhere.example"}, id="not for the server_name"),
        pytest.param({"name": "other"}, {"host": "127.0.0.1"}, id="not for the address"),
        pytest.param({"clients": True}, {}, id="a certificate is missing, TLS 1.3"),
        pytest.param({"clients": True, "version": ssl.TLSVersion.TLSv1_2}, {}, id="a certificate is missing, TLS 1.2"),
        pytest.param(
            {"clients": True}, {"cert": "stranger.pem", "key": "stranger.key"}, id="it does not like our certificate"
        ),
    ],
)
async def test_where_the_peers_do_not_trust_each_other_nothing_is_called_delivered(
    files, open_sink, records, monkeypatch, *, collector, changes
):
    """RFC 5425, 5.2; in TLS 1.3 a server says so only after its client has begun to send."""
    monkeypatch.setattr(transport, "SETTLING_SECONDS", 20)  # this server may be slow, when the machine is busy
    changes = {key: files / value if key in {"cert", "key"} else value for key, value in changes.items()}
    with tls_collector(files, **collector) as receiving:
        async with open_sink(tls_settings(files, receiving, **changes)) as sink:
            for _ in range(3):
                with pytest.raises(OSError):  # noqa: PT011 - OpenSSL's own words differ
                    await sink.write(records)
    assert receiving.messages == []


async def test_the_name_to_verify_may_be_another_than_that_to_connect_to(files, open_sink, records):
    with tls_collector(files, name="other") as collector:
        async with open_sink(tls_settings(files, collector, host="127.0.0.1", server_name="elsewhere.example")) as sink:
            await sink.write(records)
            collector.wait_for(6)


# -- datagrams ---------------------------------------------------------------------------------------------------------


async def test_a_datagram_is_no_longer_than_receivers_should_take(open_sink, store):
    """RFC 5424, 6.1."""
    await store.audit(ServerStopped(pid=int("9" * 15)))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=1))
    big = [replace(record, line="x" * 9000) for record in records]
    with DatagramCollector() as collector:
        settings = SyslogSettings(transport="udp", address=f"127.0.0.1:{collector.port}")
        async with open_sink(settings) as sink:
            await sink.write(big)
            collector.wait_for(1)
    assert len(collector.messages[0]) == 2048
    assert parse(collector.messages[0]).params("kipuka@32473")["truncated"] == "true"


async def test_a_message_that_a_local_socket_cannot_take_is_cut_rather_than_tried_forever(tmp_path):
    with DatagramCollector(path=tmp_path / "log") as collector:

        def connect():
            made = transport.connect_local(str(tmp_path / "log"), 5)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            return made

        link = transport.Link(connect, frame=transport.end_with_nul, timeout=5)
        link.send([b"a" * 60000, b"b"])
        collector.wait_for(2)
        link.close()
    assert [len(message) for message in collector.messages] == [transport.MIN_SIZE, 1]


# -- the keys of the item ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"transport": "tcp"}, "HOST:PORT", id="no address"),
        pytest.param({"transport": "udp", "address": "collector"}, "HOST:PORT", id="no port"),
        pytest.param({"transport": "udp", "address": "collector:70000"}, "HOST:PORT", id="no such port"),
        pytest.param({"transport": "udp", "address": "2001:db8::1:514"}, "HOST:PORT", id="IPv6 without brackets"),
        pytest.param({"transport": "tls", "address": "c:6514"}, "anchors", id="TLS without anchors"),
        pytest.param(
            {"transport": "tls", "address": "c:6514", "anchors": "a", "cert": "b"}, "go together", id="no key"
        ),
        pytest.param(
            {"transport": "tls", "address": "c:6514", "anchors": "a", "key_password": "x"}, "no use", id="no key for it"
        ),
        pytest.param({"transport": "tcp", "address": "c:514", "anchors": "a"}, "tls", id="anchors in the clear"),
        pytest.param({"address": "run/log"}, "absolute", id="a relative path"),
        pytest.param({"app_name": "a b"}, "printable", id="a space in a name"),
        pytest.param({"max_size": 480}, "1400", id="too small"),
        pytest.param({"facility": "local8"}, "local7", id="no such facility"),
        pytest.param({"colour": "red"}, "colour", id="unknown key"),
    ],
)
def test_what_does_not_fit_together_is_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        SyslogSettings.model_validate(values)


def test_an_ipv6_address_stands_in_brackets():
    assert SyslogSettings(transport="udp", address="[2001:db8::1]:514").address == "[2001:db8::1]:514"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"transport": "udp", "address": "127.0.0.1:514"}, [("warning", "transport")]),
        ({"transport": "tcp", "address": "192.0.2.1:514"}, [("warning", "transport")]),
        ({"transport": "tcp", "address": "localhost:514"}, []),
        ({"transport": "tcp", "address": "[::1]:514"}, []),
        ({"address": "/nobody/log"}, [("warning", "address")]),
        ({"transport": "tls", "address": "c:6514", "anchors": "anchors.pem"}, []),
        ({"transport": "tls", "address": "c:6514", "anchors": "none.pem"}, [("error", "anchors")]),
        ({"transport": "tls", "address": "c:6514", "anchors": "client.key"}, [("error", "anchors")]),
        (
            {
                "transport": "tls",
                "address": "c:6514",
                "anchors": "anchors.pem",
                "cert": "other.pem",
                "key": "stranger.key",
            },
            [("error", "cert")],
        ),
        (
            {
                "transport": "tls",
                "address": "c:6514",
                "anchors": "anchors.pem",
                "cert": "client.pem",
                "key": "client.key",
                "key_password": "wrong",
            },
            [("error", "cert")],
        ),
        (
            {
                "transport": "tls",
                "address": "c:6514",
                "anchors": "anchors.pem",
                "cert": "client.pem",
                "key": "client.key",
            },
            [("error", "cert")],
        ),
    ],
)
def test_the_check_says_what_is_permissive_and_what_cannot_work(files, values, found):
    settings = SyslogSettings.model_validate(values, context={"base": files})
    findings = list(check_syslog(settings))
    assert [(finding.severity, finding.key) for finding in findings] == found
    assert not [finding for finding in findings if "wrong" in finding.problem]


def test_a_key_that_others_may_read_is_warned_of(files):
    (files / "collector.key").chmod(0o644)
    settings = SyslogSettings.model_validate(
        {
            "transport": "tls",
            "address": "c:6514",
            "anchors": "anchors.pem",
            "cert": "collector.pem",
            "key": "collector.key",
        },
        context={"base": files},
    )
    (finding,) = check_syslog(settings)
    assert (finding.severity, finding.key) == ("warning", "key")
    (files / "collector.key").chmod(0o600)


def test_the_password_of_the_key_is_not_shown(files):
    """DESIGN guarantee 8."""
    settings = SyslogSettings.model_validate(
        {"transport": "tls", "address": "c:6514", "anchors": "a", "cert": "b", "key": "c", "key_password": "sesame"}
    )
    assert "sesame" not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"
