"""The host's commands over the store: certificates, audit log, tokens, lock-outs, schema, CAs, plugins."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import shutil
import sqlite3
import tomllib
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kipuka.api import LockoutPolicy, RequestRejected
from kipuka.cli.output import printable
from kipuka.runtime import compose, open_admin_store
from kipuka.store import events as store_events
from kipuka.store.lockouts import StoreLockouts

ME = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


def in_store(deployment, work):
    """Run `work(store)` over the deployment's store."""

    async def opened():
        async with open_admin_store(compose(deployment.config_file, {})) as store:
            return await work(store)

    return asyncio.run(opened())


def events(kipuka, *words):
    """The audit log as `audit tail --json` prints it."""
    return [json.loads(line) for line in kipuka("audit", "tail", "-n", "1000", "--json", *words).stdout.splitlines()]


# --- certificates ---


def server_certificate(deployment):
    return x509.load_pem_x509_certificates((deployment.directory / "tls" / "server.pem").read_bytes())[0]


def test_a_certificate_is_found_by_fingerprint_by_ca_and_serial_and_by_serial(deployment, kipuka, kipuka_json):
    """RULES E4."""
    certificate = server_certificate(deployment)
    fingerprint, serial = certificate.fingerprint(SHA256()).hex(), f"{certificate.serial_number:x}"
    for name in (fingerprint, fingerprint.upper(), f"main/{serial}", serial):
        found = kipuka_json("cert", "show", name)
        assert (found["fingerprint"], found["names"]) == (fingerprint, ["DNS:localhost", "IP:127.0.0.1"])
    pem = kipuka("cert", "show", "--pem", serial).stdout
    assert x509.load_pem_x509_certificate(pem.encode()) == certificate
    assert ["fingerprint", fingerprint] in [line.split() for line in kipuka("cert", "show", serial).stdout.splitlines()]


def test_an_unknown_certificate_is_a_failure(deployment, kipuka):
    assert kipuka("cert", "show", "main/1", expect=1).stderr == "error: there is no certificate main/1\n"


def test_certificates_are_narrowed_and_limited(deployment, kipuka, kipuka_json):
    kipuka("tls", "renew")
    kipuka("tls", "renew", "--host", "other.example")
    assert len(kipuka_json("cert", "list")) == 3
    assert [item["subject"] for item in kipuka_json("cert", "list", "--subject", "OTHER")] == ["CN=other.example"]
    assert kipuka_json("cert", "list", "--state", "expired") == []
    serial = f"{server_certificate(deployment).serial_number:X}"
    assert len(kipuka_json("cert", "list", "--serial", serial)) == 1
    result = kipuka("cert", "list", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "there are more than 2" in result.stderr
    assert "hexadecimal" in kipuka("cert", "list", "--serial", "xyz", expect=2).stderr


# --- audit ---


def test_verify_names_the_place_of_a_change_and_fails(deployment, kipuka, kipuka_json):
    """RULES I1."""
    assert kipuka_json("audit", "verify")["intact"] is True
    with sqlite3.connect(deployment.database) as database:
        database.execute(
            "UPDATE audit_events SET line = replace(line, 'certificate', 'Certificate') WHERE sequence = 2"
        )
    result = kipuka("audit", "verify", expect=1)
    assert "sequence 2: the event was changed" in result.stderr
    assert result.stderr.startswith("error: ")
    assert kipuka_json("audit", "verify", expect=1)["findings"][0]["sequence"] == 2


def cut_the_end(deployment, *, last):
    """As who can write the database but has no key: the events after `last`, and the head with them."""
    with sqlite3.connect(deployment.database) as database:
        database.execute("DELETE FROM audit_events WHERE sequence > ?", (last,))
        database.execute(
            "UPDATE audit_heads SET sequence = ?, hash = (SELECT hash FROM audit_events WHERE sequence = ?)",
            (last, last),
        )


@pytest.mark.parametrize("form", ["whole", "without node", "head --json", "copy of a sink"])
def test_a_head_that_was_kept_shows_that_the_end_was_cut(deployment, kipuka, kipuka_json, form):
    """RULES I1: `audit verify --head`."""
    kipuka("admin", "token", "create", "--description", "one more")
    if form in {"whole", "without node"}:
        kept = kipuka_json("audit", "verify")["chains"][0]["head"]
        kept = kept if form == "whole" else kept.partition(":")[2]
        cut_to = 4
    else:
        kept = deployment.directory / "kept"
        command = ("audit", "head", "--json") if form == "head --json" else ("audit", "tail", "-n", "9", "--json")
        kept.write_text(kipuka(*command).stdout, encoding="utf-8")
        cut_to = 2
    kipuka("audit", "verify", "--head", kept)
    cut_the_end(deployment, last=cut_to)
    if cut_to == 4:
        kipuka("audit", "verify")  # what comes after the last signed head: nothing in the database itself tells
    assert "hash was noted is not there" in kipuka("audit", "verify", "--head", kept, expect=1).stderr


def test_a_head_is_a_place_or_a_file_with_signed_heads(deployment, kipuka):
    assert "NODE:SEQUENCE:HASH" in kipuka("audit", "verify", "--head", "x", expect=2).stderr
    assert "no signed head in" in kipuka("audit", "verify", "--head", "trust.pem", expect=2).stderr


def test_a_kept_head_that_no_trusted_key_signed_is_refused(deployment, kipuka, kipuka_json):
    head = kipuka_json("audit", "head")
    kept = deployment.directory / "kept.json"
    kept.write_text(json.dumps({**head, "sequence": 2}), encoding="utf-8")
    assert "its signature is wrong" in kipuka("audit", "verify", "--head", kept, expect=1).stderr


def test_the_newest_signed_head_is_printed(deployment, kipuka, kipuka_json):
    head = kipuka_json("audit", "head")
    assert head["sequence"] == 3
    place, signed = kipuka("audit", "head").stdout.splitlines()
    assert place == f"{head['node']}:3:{head['hash']}"
    assert head["key"] in signed


def test_an_auditor_elsewhere_has_the_public_key_and_a_file_alone(deployment, kipuka, tmp_path, monkeypatch):
    """RULES I1: no configuration, no database."""
    (tmp_path / "elsewhere").mkdir()
    file, key = tmp_path / "elsewhere" / "log.jsonl", tmp_path / "elsewhere" / "node.pub"
    file.write_text(kipuka("audit", "tail", "-n", "100", "--json").stdout, encoding="utf-8")
    key.write_text(kipuka("audit", "key", "public").stdout, encoding="utf-8")
    assert key.read_bytes() == (deployment.directory / "audit.pub").read_bytes()
    monkeypatch.chdir(file.parent)
    assert "signed up to sequence 3 at 2" in kipuka("audit", "verify", "--file", file, "--node-key", key).stdout
    assert "signatures were not checked" in kipuka("audit", "verify", "--file", file).stdout
    kipuka("audit", "key", "create", "-c", deployment.config_file, tmp_path / "elsewhere" / "other.key")
    stranger = file.with_name("other.pub")
    assert "not trusted here" in kipuka("audit", "verify", "--file", file, "--node-key", stranger, expect=1).stderr
    assert "NODE:SEQUENCE:HASH" in kipuka("audit", "verify", "--file", file, "--head", "1:" + "0" * 64, expect=1).stderr


def test_a_key_that_comes_later_signs_the_log_as_it_is(deployment, kipuka, kipuka_json):
    deployment.configure({"audit": {"node_key": "second.key", "trusted_keys": ["audit.pub"]}})
    assert "second.key: cannot be read" in kipuka("audit", "verify", expect=3).stderr
    kipuka("admin", "token", "create", "--description", "one more", env={"KIPUKA_AUDIT__NODE_KEY": "audit.key"})
    kipuka("audit", "key", "create")
    assert (deployment.directory / "second.key").stat().st_mode & 0o777 == 0o600
    kipuka("audit", "verify")
    head = kipuka_json("audit", "head")
    assert head["sequence"] == 5
    assert "is there already" in kipuka("audit", "key", "create", expect=1).stderr
    deployment.configure({"audit": {"trusted_keys": []}})
    assert "sequence 4: the signed head is not good" in kipuka("audit", "verify", expect=1).stderr


def test_without_a_key_in_the_configuration_the_command_says_what_to_write(deployment, kipuka, kipuka_json):
    deployment.configure({"audit": {"node_key": None}})
    assert "signatures were not checked" in kipuka("audit", "verify").stdout
    assert kipuka_json("audit", "verify")["signatures_checked"] is False
    (deployment.directory / "audit.key").unlink()
    (deployment.directory / "audit.pub").unlink()
    printed = kipuka("audit", "key", "create").stdout
    assert f'node_key = "{deployment.directory / "audit.key"}"' in printed
    assert "no key" in kipuka("audit", "key", "public", expect=1).stderr


def test_a_file_is_held_against_the_database(deployment, kipuka):
    file = deployment.directory / "copy.jsonl"
    file.write_text(kipuka("audit", "tail", "-n", "100", "--json").stdout, encoding="utf-8")
    kipuka("audit", "verify", "--file", file, "--against-database")
    assert "needs --file" in kipuka("audit", "verify", "--against-database", expect=2).stderr
    cut_the_end(deployment, last=3)
    found = kipuka("audit", "verify", "--file", file, "--against-database", expect=1).stderr
    assert "line 4, node" in found
    assert "sequence 4: the event is in the file, but not in the database" in found


def test_a_sinks_file_is_verified_without_a_database(deployment, kipuka):
    lines = kipuka("audit", "tail", "-n", "100", "--json").stdout
    file = deployment.directory / "copy.jsonl"
    file.write_text(lines, encoding="utf-8")
    deployment.database.unlink()
    assert "the audit log is intact" in kipuka("audit", "verify", "--file", file).stdout
    file.write_text(lines.replace("localhost", "elsewhere"), encoding="utf-8")
    assert "was changed" in kipuka("audit", "verify", "--file", file, expect=1).stderr


def feed_sink(deployment, sequence):
    """As the server does when the deployment's sink has had that event."""
    in_store(
        deployment,
        lambda store: store.write(partial(store_events.advance, node=store.node, sink="file", sequence=sequence)),
    )


def test_what_every_sink_has_had_is_pruned_and_the_rest_verified(deployment, kipuka, kipuka_json):
    copy = deployment.directory / "copy.jsonl"
    copy.write_text(kipuka("audit", "tail", "-n", "9", "--json").stdout, encoding="utf-8")
    head = deployment.directory / "head.json"
    head.write_text(kipuka("audit", "head", "--json").stdout, encoding="utf-8")
    assert "the sink file has had no more" in kipuka("audit", "prune", "--before", "2999-01-01").stdout
    feed_sink(deployment, 4)
    assert kipuka_json("audit", "prune", "--older-than", "1") == {"events": 0, "pruned_up_to": None, "held_by": None}
    printed = kipuka("audit", "prune", "--before", "2999-01-01").stdout
    assert "removed 2 events" in printed
    assert "up to sequence 2" in printed
    assert [event["sequence"] for event in events(kipuka)] == [3, 4, 5]
    assert events(kipuka)[-1]["identity"] == ME
    assert "pruned up to sequence 2 on " in kipuka("audit", "verify").stdout
    kipuka("audit", "verify", "--file", copy, "--against-database", "--head", head)
    assert len(kipuka_json("cert", "list")) == 1, "certificates stay"


def test_nothing_is_pruned_without_a_date_a_key_a_copy_or_from_a_broken_log(deployment, kipuka):
    assert "either" in kipuka("audit", "prune", expect=2).stderr
    assert "either" in kipuka("audit", "prune", "--before", "2030-01-01", "--older-than", "3", expect=2).stderr
    assert "neither a date" in kipuka("audit", "prune", "--before", "soon", expect=2).stderr
    late = ("audit", "prune", "--before", "2999-01-01")
    deployment.configure({"audit": {"sink": []}})
    assert "--without-copy" in kipuka(*late, expect=1).stderr
    with sqlite3.connect(deployment.database) as database:
        database.execute("UPDATE audit_events SET line = replace(line, 'localhost', 'elsewhere')")
    assert "the log is not intact" in kipuka(*late, "--without-copy", expect=1).stderr
    deployment.configure({"audit": {"node_key": None}})
    assert "no key" in kipuka(*late, "--without-copy", expect=1).stderr
    assert len(events(kipuka)) == 4


def test_tail_prints_the_last_events_oldest_first(deployment, kipuka):
    found = events(kipuka)
    assert [event["sequence"] for event in found] == [1, 2, 3, 4]
    assert [event["identity"] for event in found] == [ME] * 4
    assert [event["sequence"] for event in events(kipuka, "--event", "certificate_issued")] == [2]
    assert events(kipuka, "--node", "nobody") == []
    last = kipuka("audit", "tail", "-n", "1").stdout.splitlines()
    assert len(last) == 1
    assert "audit_head_signed  success" in last[0]


def test_tail_shows_no_control_character_of_a_client(deployment, kipuka):
    """Names come from clients; a terminal must not obey them. The record itself has them as octets already."""
    event = RequestRejected(method="GET", path="/\x1b[2J\u202e", status=404, reason="unknown_resource")
    in_store(deployment, lambda store: store.audit(event))
    text = kipuka("audit", "tail").stdout
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "path=/\\1B[2J\\E2\\80\\AE" in text


def test_what_is_printed_for_people_steers_no_terminal():
    """Whoever wrote it into the database."""
    assert printable("a\x1b[2J\u202e\r\nb") == "a\\x1b[2J\\u202e\\r\\nb"
    assert printable("Zoë, 日本") == "Zoë, 日本"


# --- tokens of administrators ---


def test_a_token_is_made_shown_once_listed_and_revoked(deployment, kipuka, kipuka_json):
    """RULES E3."""
    result = kipuka("admin", "token", "create", "--description", "CI")
    token = result.stdout.strip()
    assert token not in result.stderr
    listed = kipuka_json("admin", "token", "list")
    assert token not in json.dumps(listed)
    (made,) = [item for item in listed if item["description"] == "CI"]
    assert made["revoked_at"] is None
    digest = hashlib.sha256(token.encode()).hexdigest()
    with sqlite3.connect(deployment.database) as database:
        assert database.execute("SELECT id FROM admin_tokens WHERE sha256 = ?", (digest,)).fetchall() == [(made["id"],)]
    kipuka("admin", "token", "revoke", made["id"])
    assert "could be revoked" in kipuka("admin", "token", "revoke", made["id"], expect=1).stderr
    assert [event["event"] for event in events(kipuka)][-2:] == ["admin_token_created", "admin_token_revoked"]


@pytest.mark.parametrize("description", ["", "  ", "a\x1bb", "x" * 201])
def test_a_token_needs_a_description_that_can_be_read(deployment, kipuka, description):
    kipuka("admin", "token", "create", "--description", description, expect=2)


# --- lock-outs ---


def lock(deployment, address, counter="otp"):
    policy = LockoutPolicy(max_failures=1, window=timedelta(minutes=5), duration=timedelta(minutes=15))

    async def fail(store):
        lockouts = StoreLockouts(store, counter=counter, policy=policy)
        await lockouts.failure(address)
        await lockouts.failure(address)

    in_store(deployment, fail)


def test_locked_addresses_are_listed_and_released(deployment, kipuka, kipuka_json):
    """RULES C4: seen and released by administrators, each audited."""
    lock(deployment, "192.0.2.7")
    lock(deployment, "192.0.2.7", counter="admin")
    lock(deployment, "2001:db8::1:2:3:4")
    assert {(item["counter"], item["address"]) for item in kipuka_json("lockout", "list")} == {
        ("otp", "192.0.2.7"),
        ("admin", "192.0.2.7"),
        ("otp", "2001:db8::/64"),
    }
    assert (
        "is not locked in the count admin"
        in kipuka("lockout", "release", "--counter", "admin", "2001:db8::5", expect=1).stderr
    )
    kipuka("lockout", "release", "2001:db8::/64")
    kipuka("lockout", "release", "--counter", "otp", "192.0.2.7")
    assert [(item["counter"], item["address"]) for item in kipuka_json("lockout", "list")] == [("admin", "192.0.2.7")]
    assert kipuka("lockout", "release", "192.0.2.7").stderr == "released 192.0.2.7 (admin)\n"
    assert kipuka("lockout", "release", "192.0.2.7", expect=1).stderr == "error: 192.0.2.7 is not locked\n"
    assert "is not an IP address" in kipuka("lockout", "release", "nobody", expect=2).stderr
    names = [event["event"] for event in events(kipuka)]
    assert (names.count("lockouts_listed"), names.count("lockout_released")) == (2, 3)


# --- the schema ---


def test_a_database_that_was_not_upgraded_is_refused_and_can_be_upgraded(deployment, kipuka, kipuka_json):
    assert all(item["current"] == item["newest"] for item in kipuka_json("db", "status"))
    for file in deployment.directory.glob("kipuka.db*"):
        file.unlink()
    result = kipuka("cert", "list", expect=3)
    assert "kipuka db upgrade" in result.stderr
    assert [item["current"] for item in kipuka_json("db", "status", expect=3)] == [None, None]
    assert "kipuka: no tables -> " in kipuka("db", "upgrade").stdout
    assert "nothing to do" in kipuka("db", "upgrade").stdout
    kipuka("cert", "list")


def test_a_copy_of_the_database_is_one_to_go_on_with(deployment, kipuka):
    copy = deployment.directory / "copy.db"
    assert f"wrote {copy}, " in kipuka("db", "backup", str(copy)).stdout
    assert "is there already" in kipuka("db", "backup", str(copy), expect=1).stderr
    deployment.configure({"db": {"url": "sqlite:///copy.db"}})
    kipuka("audit", "verify")
    deployment.configure({"db": {"url": "postgresql:///kipuka"}})
    assert "pg_dump" in kipuka("db", "backup", "other.db", expect=1).stderr


# --- certification authorities ---


def test_a_new_ca_can_be_put_into_the_configuration_as_printed(deployment, kipuka):
    """RULES K2: a host command that asks the backend's ability."""
    result = kipuka("ca", "create", "printer-ca", "--id", "printers", "--key-type", "p384")
    (item,) = tomllib.loads(result.stdout)["ca"]
    assert (item["id"], item["backend"]) == ("printers", "local")
    deployment.configure({"ca": [*deployment.settings["ca"], item]})
    kipuka("check")
    assert [event["data"]["subject"] for event in events(kipuka, "--event", "ca_created")][
        -1
    ] == "CN=kipuka CA printers"
    assert "exist" in kipuka("ca", "create", "printer-ca", "--id", "printers", expect=1).stderr


def test_a_ca_with_a_passphrase_has_encrypted_keys(deployment, kipuka_json):
    passphrase = deployment.directory / "passphrase"
    passphrase.write_text("correct horse\n", encoding="utf-8")
    made = kipuka_json("ca", "create", "sealed", "--id", "sealed", "--passphrase-file", passphrase)
    assert made["settings"]["key_password"] == f"file:{passphrase}"
    key = (deployment.directory / "sealed" / "issuing.key").read_bytes()
    with pytest.raises(TypeError):
        load_pem_private_key(key, None)
    load_pem_private_key(key, b"correct horse")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        pytest.param(["module"], 1, "--set takes KEY=VALUE", id="no value"),
        pytest.param(["=8421"], 1, "--set takes KEY=VALUE", id="no key"),
        pytest.param(["pin=8421", "pin=8421"], 1, "--set pin is given twice", id="twice"),
        pytest.param(["pin=8421"], 3, "the plugin local has no option pin", id="nobody takes it"),
    ],
)
def test_an_option_that_no_backend_takes_is_refused_without_showing_its_value(deployment, kipuka, options, code, text):
    words = [word for option in options for word in ("--set", option)]
    result = kipuka("ca", "create", "optional", "--id", "optional", *words, expect=code)
    assert text in result.stderr
    assert "8421" not in result.output
    assert not (deployment.directory / "optional").exists()


def test_a_ca_can_be_made_before_there_is_a_configuration(kipuka, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIPUKA_CONFIG", raising=False)
    assert "nothing was recorded" in kipuka("ca", "create", "ca", "--id", "one").stderr
    assert (tmp_path / "ca" / "issuing.pem").exists()


def test_a_broken_configuration_is_told_before_a_ca_is_made(deployment, kipuka):
    deployment.configure({"server": {"listen": "nowhere"}})
    assert "server.listen" in kipuka("ca", "create", "ca2", "--id", "two", expect=3).stderr
    assert not (deployment.directory / "ca2").exists()


@pytest.mark.parametrize("backend", ["otp", "nobody"])
def test_a_plugin_that_cannot_make_a_ca_says_so(deployment, kipuka, backend):
    result = kipuka("ca", "create", "x", "--id", "x", "--backend", backend, expect=1 if backend == "otp" else 3)
    assert result.stderr.startswith("error: ")
    assert backend in result.stderr


# --- the server's certificate ---


def test_the_servers_certificate_is_renewed_with_its_names_and_recorded(deployment, kipuka, kipuka_json):
    before = server_certificate(deployment)
    kipuka("tls", "renew", "--days", "30")
    after = server_certificate(deployment)
    assert after.serial_number != before.serial_number
    key = load_pem_private_key((deployment.directory / "tls" / "server.key").read_bytes(), None)
    assert key.public_key() == after.public_key()
    assert key.public_key() != before.public_key()
    assert (deployment.directory / "tls" / "server.key").stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in (deployment.directory / "tls").iterdir()) == ["server.key", "server.pem"]
    assert kipuka_json("cert", "show", f"{after.serial_number:x}")["names"] == ["DNS:localhost", "IP:127.0.0.1"]
    kipuka("check")


def test_an_encrypted_key_stays_encrypted(deployment, kipuka):
    deployment.configure({"tls": {"key_password": "correct horse"}})
    kipuka("tls", "renew")
    key = (deployment.directory / "tls" / "server.key").read_bytes()
    load_pem_private_key(key, b"correct horse")
    kipuka("check")


def test_an_unknown_ca_is_a_failure_and_changes_nothing(deployment, kipuka):
    before = server_certificate(deployment)
    assert "no [[ca]] item" in kipuka("tls", "renew", "--ca", "nobody", expect=1).stderr
    assert "a b" in kipuka("tls", "renew", "--host", "a b", expect=2).stderr
    assert server_certificate(deployment) == before


# --- plugins, and the configuration file ---


def test_plugins_are_listed_with_their_state(deployment, kipuka, kipuka_json):
    states = {row["name"]: row["state"] for row in kipuka_json("plugins")}
    assert {**states, "local": "used", "otp": "used", "mtls": "used", "file": "used", "stdout": "unused"} == states
    assert "kipuka-auth-otp" in kipuka("plugins").stdout


def test_plugins_are_listed_when_there_is_no_configuration_to_read(kipuka, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = kipuka("plugins", "-c", "none.toml")
    assert "otp" in result.stdout
    assert result.stderr.startswith("warning: no configuration is read")


def test_a_missing_plugin_is_listed_as_broken(deployment, kipuka, kipuka_json):
    ca = deployment.settings["ca"]
    deployment.configure({"ca": [*ca, {"id": "x", "backend": "nobody"}]})
    rows = {row["name"]: row for row in kipuka_json("plugins", expect=3)}
    assert rows["nobody"]["state"] == "broken"
    assert "error: plugin nobody (not installed)" in kipuka("plugins", expect=3).stderr


def test_the_configuration_file_is_the_option_then_the_variable_then_the_one_here(
    deployment, kipuka, tmp_path, monkeypatch
):
    """RULES K6."""
    other = tmp_path / "other"
    shutil.copytree(deployment.directory, other)
    shutil.rmtree(other / "tls")
    kipuka("check")
    kipuka("check", env={"KIPUKA_CONFIG": str(other / "kipuka.toml")}, expect=3)
    kipuka("check", "-c", deployment.config_file, env={"KIPUKA_CONFIG": str(other / "kipuka.toml")})
    monkeypatch.chdir(tmp_path)
    assert "there is no such file" in kipuka("cert", "list", expect=3).stderr


def test_check_fails_for_a_warning_only_when_it_is_told_to(deployment, kipuka):
    deployment.configure({"tls": {"client_auth": {"mode": "none"}}})
    assert "0 errors" in kipuka("check").stdout
    kipuka("check", "--strict", expect=1)


@pytest.mark.needs("postgres")
def test_a_move_to_postgresql_says_what_is_in_the_way_and_never_the_url(deployment, kipuka, kipuka_postgresql):
    target = kipuka_postgresql.create_database()
    assert "DB_URL is not set" in kipuka("db", "migrate-to", "env:DB_URL", expect=2).stderr
    assert "PostgreSQL only" in kipuka("db", "migrate-to", "sqlite:///other.db", expect=1).stderr
    assert not (deployment.directory / "other.db").exists()
    with sqlite3.connect(deployment.database) as database:
        database.execute("CREATE TABLE mine (id INTEGER)")
    refused = kipuka("db", "migrate-to", target.url, expect=1).stderr
    assert "no plugin in use owns mine" in refused
    assert "nothing was moved" in refused
    with sqlite3.connect(deployment.database) as database:
        database.execute("DROP TABLE mine")
    (deployment.directory / "db.url").write_text(f"{target.url}\n", encoding="utf-8")
    told = kipuka("db", "migrate-to", "file:db.url")
    assert 'url = "file:db.url"' in told.stdout
    assert target.url not in told.output
    deployment.configure({"db": {"url": "file:db.url"}})
    assert "the audit log is intact" in kipuka("audit", "verify").stdout
    assert "is PostgreSQL's already" in kipuka("db", "migrate-to", target.url, expect=1).stderr
