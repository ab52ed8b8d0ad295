"""The test kit of kipuka: stable, and for the authors of plugins as much as for kipuka's own suite.

In the room, one submodule each:

- `pki`: throwaway keys, certificates (good ones, and bad ones of every sort) and certification requests;
- `der`: a writer of DER that is small enough to write wrong DER with;
- `clock`: a clock that moves only when a test moves it;
- `client`: an EST client over a true TLS socket, that shows statuses, headers and channel bindings as they were sent;
- `obedient`: the request of a client that does what `csrattrs` asks for;
- `disobedient`: requests that break one rule of a profile, and no other;
- `peer`: a TLS client that does one step at a time, for what no client should do;
- `http2`: the same over HTTP/2, with several requests on one connection;
- `server`: a real `kipuka serve` in a process of its own;
- `inprocess`: the same server inside the test's process, that can be stopped at each step of an enrolment;
- `harness`: one plugin's object, opened over a real store without a server;
- `hostile`: hypothesis strategies of what broken and hostile clients send;
- `measure`: what a server's processes cost in time, memory and files;
- `orders`, `records`: what a CA backend and an audit sink are given;
- `contract`: the promises of each kind of plugin, as pytest classes to derive from;
- `fixtures`: all of it as pytest fixtures: `pytest_plugins = ["kipuka.testing.fixtures"]`.

Not in the room: mocks. What is under test here is real: sockets, processes, databases, signatures.
"""

from __future__ import annotations

__all__: list[str] = []
