"""What clients send that are broken or mean harm, as hypothesis strategies. For plugin authors too; needs `kipuka[testing]`.

In the room, one submodule each:

- `damage`: octets set, inserted, deleted and doubled, and lengths of DER put right afterwards;
- `requests`: certification requests and the bodies that carry them, from nearly good to random;
- `http`: Authorization fields, targets, header fields, framing and JSON, and whole requests made of them.

Not in the room: sockets. A strategy gives values; what becomes of them is the affair of whoever draws.
"""

from __future__ import annotations

__all__: list[str] = []
