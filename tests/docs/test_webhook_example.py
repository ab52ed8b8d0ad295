"""The sink of docs/plugins/examples: its own tests, in its own folder, with what pip would put beside its package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .pages import ROOT

EXAMPLE = ROOT / "docs" / "plugins" / "examples" / "kipuka_audit_webhook"
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: kipuka-audit-webhook\nVersion: 0.1.0\n",
    "entry_points.txt": "[kipuka.plugins]\nwebhook = kipuka_audit_webhook.plugin\n",
}


@pytest.mark.server
@pytest.mark.timeout(300)
def test_its_own_tests_pass(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__"))
    info = project / "kipuka_audit_webhook-0.1.0.dist-info"
    info.mkdir()
    for name, text in INSTALLED.items():
        (info / name).write_text(text, encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(project), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
