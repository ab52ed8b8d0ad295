"""What the tests stand on: an HSM in software of the test's own, and authorities whose key is on it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from kipuka_ca_pkcs11.backend import open_pkcs11_ca
from kipuka_ca_pkcs11.config import PKCS11CASettings

from kipuka.api import Order
from kipuka.testing.clock import FakeClock
from kipuka.testing.harness import lent_threads
from kipuka.testing.orders import make_order
from kipuka.testing.pki import Credential, make_root

from .softhsm import MODULE, SoftHSM

_PATIENCE = 180


def pytest_runtest_setup() -> None:
    """Without SoftHSM nothing here can be told; where `make test` or the CI has all tools, that is a failure."""
    if shutil.which("softhsm2-util") and MODULE.exists():
        return
    reason = "softhsm2-util not found; as root run: apt install softhsm2"
    if os.environ.get("KIPUKA_TEST_TOOLS") == "all" or os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module of tests over a real server stays in one process (`--dist loadgroup`)."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("server") is not None:
            item.add_marker(pytest.mark.xdist_group(f"pkcs11-{item.path.name}"))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_PATIENCE))


class Lent:
    """The services that this backend asks for."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = structlog.get_logger("pkcs11")
        self.open_threads = lent_threads


@pytest.fixture(name="services")
def _services() -> Lent:
    return Lent()


@pytest.fixture(name="hsm")
def _hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHSM:
    """An HSM with the token `kipuka`; the library of this process uses it from its next start on."""
    hsm = SoftHSM(directory=tmp_path / "hsm")
    for name, value in hsm.environ.items():
        monkeypatch.setenv(name, value)
    hsm.make_token()
    return hsm


@pytest.fixture(name="item")
def _item(hsm: SoftHSM, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The keys of a [[ca]] item for a credential whose key is brought onto the token; changes are laid over, None takes one out."""

    def make(issuing: Credential, **changes: Any) -> dict[str, Any]:
        hsm.bring(issuing)
        above = [] if issuing.issuer is None else [*issuing.chain, issuing.root]
        (tmp_path / "ca.pem").write_bytes(issuing.pem + b"".join(one.pem for one in above))
        whole = {
            "cert": str(tmp_path / "ca.pem"),
            "module": str(MODULE),
            "token": "kipuka",
            "key_label": "issuing",
            "pin": hsm.pin,
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}

    return make


@pytest.fixture(name="open_ca")
async def _open_ca(services: Lent) -> Any:
    """Open the CA of a [[ca]] item; all are closed at the end."""
    async with AsyncExitStack() as stack:

        async def open_it(item: dict[str, Any]) -> Any:
            settings = PKCS11CASettings.model_validate(item)
            return await stack.enter_async_context(open_pkcs11_ca(settings, services))

        yield open_it


@pytest.fixture(name="issuing")
def _issuing() -> Credential:
    return make_root().issue_ca("Issuing CA")


@pytest.fixture(name="make_order")
def _make_order(services: Lent) -> Callable[..., Order]:
    return partial(make_order, clock=services.clock)


@pytest.fixture(name="issue_until_it_works")
def _issue_until_it_works() -> Callable[..., Any]:
    """What a client does that hears 503: it comes again."""

    async def issue(authority: Any, order: Order, *, patience: float = 20) -> x509.Certificate:
        from kipuka.api import BackendUnavailable

        async with asyncio.timeout(patience):
            while True:
                try:
                    return (await authority.issue(order)).certificate
                except BackendUnavailable:
                    await asyncio.sleep(0.05)

    return issue
