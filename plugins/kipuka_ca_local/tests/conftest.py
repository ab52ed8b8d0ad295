"""What the tests stand on: authorities in files, orders, and services that run here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kipuka_ca_local.backend import open_local_ca
from kipuka_ca_local.config import LocalCASettings

from kipuka.api import Order
from kipuka.testing.clock import FakeClock
from kipuka.testing.orders import make_order
from kipuka.testing.pki import Credential, make_root


class DirectServices:
    """The two services that this backend asks for; `blocking` counts what ran in the pool."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.blocking = 0

    async def run_blocking(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.blocking += 1
        return await asyncio.to_thread(fn, *args, **kwargs)


@pytest.fixture(name="services")
def _services() -> DirectServices:
    return DirectServices()


@pytest.fixture(name="write_authority")
def _write_authority(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Write an issuing CA with its key and chain, and answer the keys of a [[ca]] item."""

    def write(
        issuing: Credential, *, password: bytes | None = None, chain: list[Credential] | None = None
    ) -> dict[str, str]:
        above = [] if issuing.issuer is None else [*issuing.chain, issuing.root]
        (tmp_path / "ca.pem").write_bytes(issuing.pem)
        (tmp_path / "ca.key").write_bytes(issuing.key_pem(password))
        (tmp_path / "ca.key").chmod(0o600)
        values = {"cert": str(tmp_path / "ca.pem"), "key": str(tmp_path / "ca.key")}
        bundle = above if chain is None else chain
        if bundle:
            (tmp_path / "chain.pem").write_bytes(b"".join(one.pem for one in bundle))
            values["chain"] = str(tmp_path / "chain.pem")
        return values

    return write


@pytest.fixture(name="open_ca")
async def _open_ca(write_authority: Callable[..., Any], services: DirectServices) -> Any:
    """Open a CA over a credential, or over the keys of a [[ca]] item."""
    async with AsyncExitStack() as stack:

        async def open_it(issuing: Credential | dict[str, str] | None = None) -> Any:
            if issuing is None:
                issuing = make_root().issue_ca("Issuing CA")
            values = issuing if isinstance(issuing, dict) else write_authority(issuing)
            settings = LocalCASettings.model_validate(values)
            return await stack.enter_async_context(open_local_ca(settings, services))

        yield open_it


@pytest.fixture(name="make_order")
def _make_order(services: DirectServices) -> Callable[..., Order]:
    return partial(make_order, clock=services.clock)
