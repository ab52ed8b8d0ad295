"""Where RSA keys are made: one thread behind everything else, and a queue that ends (RULES J1)."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import timedelta

import pytest

from kipuka import key_workshop
from kipuka.api import BackendUnavailable
from kipuka.key_workshop import open_key_workshop
from kipuka.x509.generate import KeyKind

RSA = KeyKind(name="rsa", bits=2048)


@pytest.fixture
async def workshop(monkeypatch):
    monkeypatch.setattr(key_workshop, "QUEUE", 2)
    monkeypatch.setattr(key_workshop, "NICENESS", 19)
    async with open_key_workshop() as opened:
        yield opened


def niceness(_kind):
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_its_thread_stands_behind_the_rest_of_the_process(workshop, monkeypatch):
    monkeypatch.setattr(key_workshop, "generate", niceness)
    here = niceness(RSA)
    assert await workshop.make(RSA) == 19
    assert niceness(RSA) == here


async def test_where_the_kernel_forbids_that_keys_are_made_all_the_same(workshop, monkeypatch):
    """systemd's SystemCallFilter=~@resources has setpriority in it."""

    def forbid(*_arguments):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    assert (await workshop.make(RSA)).key_size == 2048


async def test_one_key_is_made_at_a_time_and_a_full_queue_refuses(workshop, monkeypatch):
    """Of five at once one is served, two wait, two are refused; the places come back."""
    at_work, most, go = [], [], threading.Event()

    def make(kind):
        at_work.append(kind)
        most.append(len(at_work))
        go.wait(20)
        at_work.pop()
        return kind

    monkeypatch.setattr(key_workshop, "generate", make)
    asked = [asyncio.create_task(workshop.make(RSA)) for _ in range(5)]
    for task in asked[3:]:
        with pytest.raises(BackendUnavailable) as full:
            await task
        assert full.value.reason == "pool_full"
    go.set()
    assert await asyncio.gather(*asked[:3]) == [RSA] * 3
    assert max(most) == 1
    assert await workshop.make(RSA) == RSA


async def test_whoever_waits_too_long_is_told_so(workshop, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(key_workshop, "generate", lambda kind: go.wait(20) and kind)
    monkeypatch.setattr(key_workshop, "TIMEOUT", timedelta(seconds=0.05))
    with pytest.raises(BackendUnavailable) as late:
        await workshop.make(RSA)
    assert late.value.reason == "key_timeout"
    go.set()
