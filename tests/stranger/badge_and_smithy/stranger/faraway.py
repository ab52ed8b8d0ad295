"""The same smithy at the end of a wire: an order may have been taken although no answer came back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from kipuka.api import CABackendKind, Issued, hookimpl
from stranger.smithy import Smithy, SmithySettings

KIPUKA_API = "1.0"


class Faraway(Smithy):
    """Remembers its orders in a directory, and can be asked what became of one (`FindsOrders`, `CollectsPending`)."""

    def __init__(self, settings):
        super().__init__(settings)
        self._taken = {}

    async def issue(self, order):
        behaviour = self.behaviour()
        if behaviour == "hang":  # signed, but the answer is lost on its way
            self._taken[order.id] = self.forge(order, behaviour)
            await asyncio.Event().wait()
        if behaviour == "pending":
            self._taken[order.id] = self.forge(order, behaviour)
        return await super().issue(order)

    async def find(self, order_id):
        taken = self._taken.get(order_id)
        return None if taken is None else Issued(certificate=taken)

    async def collect(self, ref):
        if self.behaviour() == "pending":
            return self.pending(ref)
        return Issued(certificate=self._taken[ref])


@asynccontextmanager
async def open_faraway(settings, services):
    yield Faraway(settings)


KIND = CABackendKind(name="faraway", config=SmithySettings, open=open_faraway, remote=True)


@hookimpl
def kipuka_ca_backends():
    return [KIND]
