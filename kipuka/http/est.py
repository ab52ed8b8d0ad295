"""The EST resources (RFC 7030, 3.2.2): parse, call, render, and nothing else.

In the room: paths, methods, media types and the form of answers. Not in the room: authentication and issuance
(`kipuka.enrolment`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from quart import Request, Response

from kipuka.api import Credentials, MethodNotAllowed, Operation, UnknownResource
from kipuka.enrolment import Enrolled, Enrolment, EnrolmentRequest, LabelService, Postponed
from kipuka.est.cms import certs_only
from kipuka.est.keygen import KEY_AND_CERTIFICATE, KeyPart, key_and_certificate
from kipuka.est.wire import CA_CERTS, CERTS_ONLY, PKCS10, Base64Lines, encode_response, one_line
from kipuka.http.door import Visit, authorization_of, check_body, refuse_cross_site, require_media_type
from kipuka.http.responses import no_content, seconds

__all__ = ["EstResources"]

METHODS: Mapping[Operation, str] = {
    Operation.CACERTS: "GET",
    Operation.CSRATTRS: "GET",
    Operation.SIMPLEENROLL: "POST",
    Operation.SIMPLEREENROLL: "POST",
    Operation.SERVERKEYGEN: "POST",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EstResources:
    """Serves every label's operations."""

    labels: Mapping[str | None, LabelService]
    enrolment: Enrolment
    base64_lines: Base64Lines
    checkpoint: Callable[[str], Awaitable[None]] | None = None

    async def serve(self, request: Request, visit: Visit, segments: tuple[str, ...]) -> Response:
        """Answer the request for the path segments below the base path."""
        service, operation = self._resource(segments)
        method = METHODS[operation]
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if request.method not in allowed:
            raise MethodNotAllowed(f"{operation.value} takes {method} only", allowed=allowed)
        if method == "POST":
            require_media_type(request, PKCS10)
            refuse_cross_site(request)
        check_body(request)
        match operation:
            case Operation.CACERTS:
                return await self._ca_certificates(request, service)
            case Operation.CSRATTRS:
                return no_content()  # RFC 8951, 4: no attributes are asked for
            case _:
                return await self._enrol(request, visit, service, operation)

    def _resource(self, segments: tuple[str, ...]) -> tuple[LabelService, Operation]:
        """RFC 7030, 3.2.2: an optional label before the operation."""
        label, name = (None, segments[0]) if len(segments) == 1 else (segments[0], segments[1])
        known = {operation.value: operation for operation in METHODS}
        if name not in known:
            raise UnknownResource("there is no such EST operation here", reason="unknown_operation")
        if label not in self.labels:
            raise UnknownResource("there is no such EST label", reason="unknown_label")
        service, operation = self.labels[label], known[name]
        if operation not in service.operations:
            raise UnknownResource(f"{name} is off at this path", reason="operation_off")
        if operation is Operation.SERVERKEYGEN and not service.serverkeygen:
            detail = "no private keys are made here: make one, and use simpleenroll"
            raise UnknownResource(detail, reason="serverkeygen_off")
        return service, operation

    async def _ca_certificates(self, request: Request, service: LabelService) -> Response:
        """RFC 7030, 4.1.3: the issuing certificate and its chain up to the root."""
        chain = await self.enrolment.ca_certificates(service)
        return self._base64(request, certs_only(chain.certificates), content_type=CA_CERTS)

    async def _enrol(self, request: Request, visit: Visit, service: LabelService, operation: Operation) -> Response:
        """RFC 7030, 4.2 and 4.4."""
        await self._step("receive")
        outcome = await self.enrolment.enrol(
            EnrolmentRequest(
                service=service,
                credentials=Credentials(
                    connection=visit.connection,
                    operation=operation,
                    label=service.name,
                    authorization=authorization_of(request),
                ),
                path_cache=visit.path_cache,
                body=cast("bytes", await request.get_data(as_text=False)),
            )
        )
        await self._step("answer")
        match outcome:
            case Postponed():
                response = postponed(outcome.retry_after)
            case Enrolled():
                certificate = certs_only([outcome.certificate])
                if outcome.key is None:
                    response = self._base64(request, certificate, content_type=CERTS_ONLY)
                else:
                    response = _with_key(outcome.key, certificate)
                if outcome.challenge is not None:
                    response.headers.add("WWW-Authenticate", outcome.challenge)
        if outcome.close_connection:
            response.headers["Connection"] = "close"
        return response

    def _base64(self, request: Request, der: bytes, *, content_type: str) -> Response:
        body = encode_response(der, one_line=one_line(self.base64_lines, request.headers.get("User-Agent")))
        response = Response(body, status=200, content_type=content_type)
        # RFC 8951 tells receivers to ignore this field, but some clients decode the body only where it stands.
        response.headers["Content-Transfer-Encoding"] = "base64"
        return response

    async def _step(self, name: str) -> None:
        if self.checkpoint is not None:
            await self.checkpoint(name)


def _with_key(key: KeyPart, certificate: bytes) -> Response:
    """RFC 7030, 4.4.2: the private key, and the certificate as simpleenroll answers it; nobody is to keep a copy."""
    response = Response(key_and_certificate(key, certificate), status=200, content_type=KEY_AND_CERTIFICATE)
    response.headers["Cache-Control"] = "no-store"
    return response


def postponed(retry_after: timedelta) -> Response:
    """RFC 7030, 4.2.3: 202 with Retry-After. No text: BouncyCastle does not read one, and takes what is left for a fault."""
    response = Response(b"", status=202, content_type="text/plain; charset=utf-8")
    response.headers["Retry-After"] = seconds(retry_after)
    return response
