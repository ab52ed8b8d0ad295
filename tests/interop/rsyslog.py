"""rsyslog as a collector: takes events over TCP, UDP and a local socket, keeps them in files, and can be stopped, killed and started again.

In the room: `Rsyslog`. Not in the room: what has to arrive.
"""

from __future__ import annotations

import signal
import subprocess

from kipuka.testing.server import free_port, wait_until
from kipuka.testing.sink_file import read_records

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imtcp")
module(load="imudp")
module(load="imuxsock" SysSock.Use="off")
template(name="json" type="string" string="%msg%\\n")
template(name="facts" type="string" string="%pri% %app-name% %msgid% %structured-data%\\n")
ruleset(name="keep-tcp") {{
  action(type="omfile" file="{folder}/tcp.jsonl" template="json")
  action(type="omfile" file="{folder}/tcp.facts" template="facts")
}}
ruleset(name="keep-udp") {{ action(type="omfile" file="{folder}/udp.jsonl" template="json") }}
ruleset(name="keep-unix") {{ action(type="omfile" file="{folder}/unix.jsonl" template="json") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="keep-tcp")
input(type="imudp" address="127.0.0.1" port="{port}" ruleset="keep-udp")
input(type="imuxsock" Socket="{folder}/log" UseSpecialParser="off" Ruleset="keep-unix")
"""


class Rsyslog:
    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, free_port()
        self._process = None
        (folder / "rsyslog.conf").write_text(CONFIGURATION.format(folder=folder, port=self.port))

    def start(self):
        command = ["rsyslogd", "-n", "-f", str(self.folder / "rsyslog.conf"), "-i", str(self.folder / "rsyslog.pid")]
        with (self.folder / "rsyslog.err").open("ab") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        wait_until((self.folder / "rsyslog.pid").exists, what="rsyslog")

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None
            (self.folder / "rsyslog.pid").unlink(missing_ok=True)

    def freeze(self):
        """Connections stand, and what they bring is not read."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self):
        """As a crash: what it has in memory, or has not read, is gone."""
        self._process.kill()
        self._process.wait(60)
        self._process = None
        (self.folder / "rsyslog.pid").unlink(missing_ok=True)

    def copy(self, way):
        """A file of what there is, in whole lines: more may be on its way."""
        made = self.folder / f"{way}.copy"
        made.write_bytes((self.folder / f"{way}.jsonl").read_bytes().rpartition(b"\n")[0] + b"\n")
        return made

    def events(self, way):
        return read_records(self.folder / f"{way}.jsonl")
