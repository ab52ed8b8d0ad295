"""The hook of the plugin: the module that the entry point `webhook` names."""

from __future__ import annotations

from kipuka.api import AuditSinkKind, hookimpl
from kipuka_audit_webhook.sink import WebhookSettings, check_webhook, open_webhook

__all__ = ["KIPUKA_API", "kipuka_audit_sinks"]

KIPUKA_API = "1.0"


@hookimpl
def kipuka_audit_sinks() -> list[AuditSinkKind[WebhookSettings]]:
    """A sink, `type = "webhook"`."""
    return [AuditSinkKind(name="webhook", config=WebhookSettings, open=open_webhook, check=check_webhook)]
