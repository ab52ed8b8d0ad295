"""The server: sockets, TLS, HTTP/1.1 and HTTP/2, the routes, and the processes that serve them.

In the house: one connection (`tls`, `http1`, `http2`, `frames`, `body`, `targets`), all of them (`server`, `connections`,
`limits`, `rates`, `memory`, `listeners`), what is asked and answered (`door`, `est`, `admin` and the other routes, `responses`), and
the processes (`supervisor`, `worker`, `forking`, `messages`, `generations`). Not in the house: who may enrol and what is issued
(`kipuka.enrolment`), who is who (`kipuka.authentication`), commands (`kipuka.cli`).
"""

from __future__ import annotations
