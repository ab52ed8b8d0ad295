"""What a listener asks of its clients in the handshake, for every pair of modes (RULES A1, A2)."""

from __future__ import annotations

import pytest

from kipuka.http.listeners import CertificateRequest, Purpose, certificate_request
from kipuka.testing.pki import make_root

EST_CA, ADMIN_CA, BOTH_CA = (make_root(name).certificate for name in ("EST", "Admin", "Both"))

NO_EST = Purpose(required=False, anchors=())
EST = Purpose(required=False, anchors=(EST_CA, BOTH_CA))
EST_REQUIRED = Purpose(required=True, anchors=(EST_CA, BOTH_CA))
NO_ADMIN = Purpose(required=False, anchors=())
ADMIN = Purpose(required=False, anchors=(BOTH_CA, ADMIN_CA))
ADMIN_REQUIRED = Purpose(required=True, anchors=(BOTH_CA, ADMIN_CA))
UNION = (EST_CA, BOTH_CA, ADMIN_CA)


@pytest.mark.parametrize(
    ("est", "admin", "wanted", "anchors"),
    [
        pytest.param(NO_EST, NO_ADMIN, "none", (), id="nobody has use for one"),
        pytest.param(EST, NO_ADMIN, "ask", EST.anchors, id="EST"),
        pytest.param(EST_REQUIRED, NO_ADMIN, "require", EST.anchors, id="EST demands it, also of administrators"),
        pytest.param(NO_EST, ADMIN, "ask", ADMIN.anchors, id="admin"),
        pytest.param(NO_EST, ADMIN_REQUIRED, "ask", ADMIN.anchors, id="a demand of admin is not one of EST"),
        pytest.param(EST, ADMIN, "ask", UNION, id="both"),
        pytest.param(EST, ADMIN_REQUIRED, "ask", UNION, id="newcomers still connect"),
        pytest.param(EST_REQUIRED, ADMIN, "require", UNION, id="an administrator's certificate is enough to connect"),
        pytest.param(EST_REQUIRED, ADMIN_REQUIRED, "require", UNION, id="both demand it"),
        pytest.param(EST, None, "ask", EST.anchors, id="EST without admin"),
        pytest.param(EST_REQUIRED, None, "require", EST.anchors, id="EST alone demands it"),
        pytest.param(NO_EST, None, "none", (), id="EST alone, no certificates"),
        pytest.param(None, ADMIN, "ask", ADMIN.anchors, id="admin alone"),
        pytest.param(None, ADMIN_REQUIRED, "require", ADMIN.anchors, id="admin alone demands it"),
        pytest.param(None, NO_ADMIN, "none", (), id="admin alone, bearer tokens"),
        pytest.param(Purpose(required=True, anchors=()), ADMIN, "ask", ADMIN.anchors, id="a demand nobody could meet"),
    ],
)
def test_a_listener_asks_for_what_its_requests_may_use(est, admin, wanted, anchors):
    assert certificate_request(est=est, admin=admin) == CertificateRequest(wanted=wanted, anchors=anchors)
