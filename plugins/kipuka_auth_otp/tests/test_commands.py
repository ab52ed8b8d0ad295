"""`kipuka otp create|list|revoke`."""

from __future__ import annotations

import asyncio
import json
import re

import click
import pytest
from click.testing import CliRunner
from kipuka_auth_otp.plugin import kipuka_commands

from kipuka.api import Authenticated


class OpenedHost:
    """The host of a command whose plugin is open already."""

    def __init__(self, bench) -> None:
        self._bench = bench

    def run(self, fn):
        # Commands are synchronous and the test is not: its coroutines run in a thread's own loop.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, fn(self._bench.otp, self._bench.services)).result()


@pytest.fixture(name="otp")
def _otp(bench):
    group = click.Group("otp", commands={command.name: command for command in kipuka_commands()})

    def run(*arguments, status=0):
        result = CliRunner().invoke(group, list(arguments), obj=OpenedHost(bench))
        assert result.exit_code == status, result.output + repr(result.exception)
        return result

    return run


async def test_create_prints_the_token_alone_on_standard_output(otp, bench):
    result = otp("create", "--client-id", "workstation-42")
    assert re.fullmatch("[0-9A-Za-z]{20}\n", result.stdout)
    assert "for workstation-42, good for 1 certificate until 2026-06-25T10:15:00Z" in result.stderr
    assert result.stdout.strip() not in result.stderr
    assert isinstance(await bench.present(result.stdout.strip()), Authenticated)


@pytest.mark.parametrize(
    ("duration", "until"),
    [
        ("90s", "2026-06-24T10:16:30Z"),
        ("15m", "2026-06-24T10:30:00Z"),
        ("24h", "2026-06-25T10:15:00Z"),
        ("30d", "2026-07-24T10:15:00Z"),
    ],
)
async def test_create_takes_its_options(otp, bench, duration, until):
    result = otp(
        "create", "--client-id", "a", "--expires-in", duration, "--max-uses", "3", "--label", "lab", "--subject", "CN=b",
        "--san", "DNS:b.example", "--san", "IP:192.0.2.1", "--json",
    )  # fmt: skip
    made = json.loads(result.stdout)
    assert list(made) == ["id", "token", "client_id", "created_at", "expires_at", "max_uses"]
    assert (made["expires_at"], made["max_uses"]) == (until, 3)
    seen = await bench.otp.tokens.view(made["id"])
    assert (seen.label, seen.subject, seen.san) == ("lab", "CN=b", ["DNS:b.example", "IP:192.0.2.1"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--client-id", ""], "--client-id: it is empty"),
        (["--client-id", "a", "--expires-in", "1 day"], "a number and s, m, h, d or w are needed"),
        (["--client-id", "a", "--expires-in", "999999999w"], "more than ten years"),
        (["--client-id", "a", "--max-uses", "0"], "--max-uses:"),
        (["--client-id", "a", "--subject", "a"], "--subject: it is not a distinguished name"),
        (["--client-id", "a", "--san", "x:y"], "--san: 'x:y' is not DNS:"),
        ([], "--client-id"),
    ],
)
async def test_a_wrong_option_is_named(otp, arguments, complaint):
    assert complaint in otp("create", *arguments, status=2).stderr


async def test_list_shows_tokens_without_their_secrets(otp, bench):
    token, ref = await bench.token("a")
    await bench.token("b", label="lab")
    result = otp("list")
    assert result.stdout.splitlines()[0].split() == ["ID", "CLIENT", "STATE", "USED", "EXPIRES", "LABEL"]
    assert {line.split()[1] for line in result.stdout.splitlines()[1:]} == {"a", "b"}
    assert token not in result.output
    found = json.loads(otp("list", "--client-id", "a", "--state", "active", "--json").stdout)
    assert [item["id"] for item in found] == [ref]
    assert json.loads(otp("list", "--state", "spent", "--json").stdout) == []


async def test_list_goes_on_over_pages(otp, bench, services, monkeypatch):
    monkeypatch.setattr("kipuka_auth_otp.commands.PAGE_LIMIT", 2)
    for _ in range(5):
        services.clock.advance(1)
        await bench.token("a")
    assert len(json.loads(otp("list", "--json").stdout)) == 5


async def test_revoke_ends_a_token(otp, bench):
    token, ref = await bench.token("a")
    assert otp("revoke", ref).stderr == f"revoked {ref}, for a\n"
    assert (await bench.present(token)).reason == "token_revoked"
