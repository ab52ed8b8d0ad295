"""A server of one's own in run/, with a fresh one-time password and the lines to enrol with: what `make run` does.

In the room: the first deployment, the printed lines, and the hand-over to `kipuka serve`. Not in the room: the
environment (`environment.py`), and everything a deployment consists of (`kipuka init`).
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KIPUKA = Path(sys.executable).parent / "kipuka"
FOLDER = Path("run")
CONFIG = FOLDER / "kipuka.toml"
CLIENT = FOLDER / "client"
DEVICE = "device-1"

LINES = """
kipuka is ready after {seconds:.1f} s. Paste these lines into a second terminal, in the folder {root}

# 1. the certificates of the CA (no password needed)
curl -sS --fail-with-body --cacert run/trust.pem -o run/client/cacerts.p7 {url}/cacerts
openssl base64 -d -in run/client/cacerts.p7 | openssl pkcs7 -inform DER -print_certs -noout

# 2. a key, a request, and the first certificate, with a password that is good for one certificate and 24 hours
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout run/client/device.key -subj /CN={device} -out run/client/device.csr
curl -sS --fail-with-body --cacert run/trust.pem -u :{token} -H "Content-Type: application/pkcs10" --data-binary @run/client/device.csr -o run/client/device.p7 {url}/simpleenroll
openssl base64 -d -in run/client/device.p7 | openssl pkcs7 -inform DER -print_certs -out run/client/device.pem
openssl x509 -in run/client/device.pem -noout -subject -issuer -dates

# 3. a new key and its certificate; the certificate of step 2 is the proof, no password any more
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout run/client/renewed.key -subj /CN={device} -out run/client/renewed.csr
curl -sS --fail-with-body --cacert run/trust.pem --cert run/client/device.pem --key run/client/device.key -H "Content-Type: application/pkcs10" --data-binary @run/client/renewed.csr -o run/client/renewed.p7 {url}/simplereenroll
openssl base64 -d -in run/client/renewed.p7 | openssl pkcs7 -inform DER -print_certs -out run/client/renewed.pem
openssl x509 -in run/client/renewed.pem -noout -subject -issuer -dates

Everything this server knows is in run/: configuration, CA, database, audit log. Ctrl-C stops it; make run starts it again.
"""


def kipuka(*arguments: str) -> str:
    """Run one command of kipuka and return what it printed; its complaint is the last word when it fails."""
    done = subprocess.run([str(KIPUKA), *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def port() -> int:
    """The port of the deployment, which may be older than this call's --port."""
    listen = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["server"]["listen"]
    return int(listen.rpartition(":")[2])


def answers(url: str) -> bool:
    """Whether the server speaks, by the way that a client would find out."""
    context = ssl.create_default_context(cafile=str(FOLDER / "trust.pem"))
    try:
        with urllib.request.urlopen(f"{url}/cacerts", context=context, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def announce(server: int, text: str, url: str, started: float) -> None:
    """In a process of its own: wait until the server answers, print the lines, end. Silent when the server is gone."""
    while not answers(url):
        time.sleep(0.1)
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return
    print(text.replace("{seconds:.1f}", f"{time.time() - started:.1f}"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a server of your own in run/.")
    parser.add_argument("--port", type=int, default=8443, help="the port, when run/ is made")
    parser.add_argument("--started", type=float, default=None, help="when it all began, in seconds since 1970")
    arguments = parser.parse_args()
    started = arguments.started or time.time()
    os.chdir(ROOT)
    if CONFIG.exists():
        print("using the deployment in run/", flush=True)
        kipuka("db", "upgrade", "-c", str(CONFIG))
    else:
        print("making a deployment in run/", flush=True)
        kipuka("init", str(FOLDER), "--host", "localhost", "--listen", f"127.0.0.1:{arguments.port}")
    CLIENT.mkdir(mode=0o700, exist_ok=True)
    created = json.loads(kipuka("otp", "create", "-c", str(CONFIG), "--client-id", DEVICE, "--json"))
    url = f"https://localhost:{port()}/.well-known/est"
    text = LINES.replace("{root}", str(ROOT)).replace("{url}", url).replace("{device}", DEVICE)
    text = text.replace("{token}", created["token"])
    # The server takes this process's place, so that it gets Ctrl-C first hand; what waits for it is nobody's child.
    server = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:
            announce(server, text, url, started)
        os._exit(0)
    os.wait()
    os.execv(KIPUKA, [str(KIPUKA), "serve", "-c", str(CONFIG)])


if __name__ == "__main__":
    main()
