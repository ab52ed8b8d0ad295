"""The examples in deploy/: that their parts fit together, and that what they promise can be read off them.

That servers start with their configurations is in `tests/server/test_deployments.py`.
"""

from __future__ import annotations

import configparser
import ipaddress
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from kipuka.http.supervisor import STOP_MARGIN
from kipuka.readiness import ReadinessPace

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SERVERS = ("est-1", "est-2")
ACCOUNT = 10001


def configuration(folder):
    return tomllib.loads((DEPLOY / folder / "kipuka.toml").read_text())


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def longest_stop(folder):
    """Seconds that a server with this configuration may take to stop by itself."""
    server = configuration(folder)["server"]
    return server.get("drain_delay", 0) + server.get("shutdown_timeout", 30) + STOP_MARGIN


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def files_of(configuration):
    """Every absolute path that a configuration names, as it is written."""
    found = []

    def look(value):
        match value:
            case dict():
                for item in value.values():
                    look(item)
            case list():
                for item in value:
                    look(item)
            case str() if value.startswith("/"):
                found.append(value)
            case str() if value.startswith("file:/"):
                found.append(value.removeprefix("file:"))

    look(configuration)
    return found


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_manifest_is_yaml(file):
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text()))


def test_what_has_to_be_the_same_is_the_same_everywhere():
    """A key that one of them lacks would be forgotten when it changes."""
    compose, kubernetes = configuration("compose"), configuration("kubernetes")
    assert compose.keys() == kubernetes.keys() == configuration("systemd").keys()
    for section in ("tls", "ca", "est", "otp", "admin"):
        assert compose[section] == kubernetes[section]


# --- systemd ---


def unit():
    """The unit; of a key that stands there twice, the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str
    parser.read(DEPLOY / "systemd" / "kipuka.service")
    return parser


def exposure_is_below(file, threshold):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={threshold}", str(file)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert "Overall exposure level" in done.stdout, done.stderr
    return done.returncode == 0


@pytest.mark.needs("systemd-analyze")
def test_the_unit_leaves_little_open(tmp_path):
    """systemd's own measure, from 0 to 10, times ten."""
    file = DEPLOY / "systemd" / "kipuka.service"
    assert exposure_is_below(file, 20)
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nType=notify\nUser=kipuka\nExecStart=/opt/kipuka/bin/kipuka serve\n")
    assert not exposure_is_below(bare, 20)  # it can tell


def test_the_unit_says_how_the_server_is_told_things():
    service = unit()["Service"]
    assert (service["Type"], service["ExecReload"]) == ("notify", "/bin/kill -HUP $MAINPID")
    assert service["ExecStart"] == "/opt/kipuka/bin/kipuka serve -c /etc/kipuka/kipuka.toml"
    assert service["User"] == "kipuka"
    assert int(service["TimeoutStopSec"]) > longest_stop("systemd")
    assert "KillMode" not in service
    assert "MemoryDenyWriteExecute" not in service  # see test_deployments


def test_the_unit_lets_the_server_write_where_its_configuration_says():
    """ProtectSystem=strict: nothing outside the state folder."""
    service = unit()["Service"]
    assert (service["ProtectSystem"], service["StateDirectory"]) == ("strict", "kipuka")
    written = [item["path"] for item in configuration("systemd")["audit"]["sink"]]
    written.append(configuration("systemd")["db"]["url"].removeprefix("sqlite:///"))
    assert all(path.startswith("/var/lib/kipuka/") for path in written)


# --- Compose ---


def test_two_servers_have_a_name_each_and_all_else_in_common():
    first, second = (dict(COMPOSE["services"][name]) for name in SERVERS)
    names = [one.pop("environment")["KIPUKA_SERVER__NODE"] for one in (first, second)]
    assert names == list(SERVERS)
    own = [[mount for mount in one.pop("volumes") if not mount.startswith("./")] for one in (first, second)]
    assert own == [[f"{name}:/var/lib/kipuka"] for name in SERVERS]
    assert first == second
    assert "node" not in configuration("compose")["server"]


@pytest.mark.parametrize("name", [*SERVERS, "upgrade", "operator", "balancer"])
def test_a_container_has_no_rights(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert name == "balancer" or service["user"] == f"{ACCOUNT}:{ACCOUNT}"


def test_a_container_is_given_the_time_to_stop():
    for name in SERVERS:
        assert seconds(COMPOSE["services"][name]["stop_grace_period"]) > longest_stop("compose")


def test_what_is_mounted_is_here_or_made_by_the_reader():
    readme = (DEPLOY / "README.md").read_text()
    sources = [
        mount.partition(":")[0]
        for service in COMPOSE["services"].values()
        for mount in service.get("volumes", [])
        if mount.startswith("./")
    ]
    sources += [secret["file"] for secret in COMPOSE["secrets"].values()]
    made = {"pki", "secrets"}  # by the commands of the README; never to be committed
    assert {f"/deploy/compose/{folder}/" for folder in made} <= set((DEPLOY.parent / ".gitignore").read_text().split())
    assert "mkdir -p pki secrets" in readme
    for source in sources:
        folder, _, name = source.removeprefix("./").partition("/")
        if folder not in made:
            assert (DEPLOY / "compose" / source).is_file(), source
        elif folder == "secrets":
            assert f"> secrets/{name}" in readme


def test_every_file_of_the_configuration_is_in_the_container():
    for name in SERVERS:
        service = COMPOSE["services"][name]
        mounts = [mount.split(":")[1] for mount in service["volumes"]]
        places = [*mounts, *(f"/run/secrets/{secret}" for secret in service["secrets"])]
        for file in files_of(configuration("compose")):
            assert any(file == place or file.startswith(f"{place}/") for place in places), file
        assert "/etc/kipuka/kipuka.toml" in mounts


def test_the_servers_believe_the_balancer_and_nobody_else():
    """RULES C4."""
    (believed,) = configuration("compose")["server"]["proxy_protocol_from"]
    balancer = COMPOSE["services"]["balancer"]["networks"]["inside"]["ipv4_address"]
    assert believed == balancer
    (network,) = COMPOSE["networks"]["inside"]["ipam"]["config"]
    assert ipaddress.ip_address(balancer) in ipaddress.ip_network(network["subnet"])
    assert ipaddress.ip_address(balancer) not in ipaddress.ip_network(network["ip_range"])  # nobody else gets it
    assert "send-proxy-v2" in HAPROXY


HAPROXY = (DEPLOY / "compose" / "haproxy.cfg").read_text()


def test_the_balancer_notices_a_server_that_drains_in_time():
    """RULES H3."""
    interval, failures = re.search(r"inter (\d+)s fall (\d+)", HAPROXY).groups()
    (patience,) = re.search(r"timeout check (\d+)s", HAPROXY).groups()
    noticed = int(failures) * max(int(interval), int(patience))
    assert configuration("compose")["server"]["drain_delay"] > noticed
    assert int(patience) > ReadinessPace().patience.total_seconds()


@pytest.mark.needs("haproxy")
def test_haproxy_accepts_its_configuration(tmp_path, kipuka_template):
    file, trust = tmp_path / "haproxy.cfg", tmp_path / "trust.pem"
    trust.write_bytes(kipuka_template.trust)
    text = HAPROXY.replace("/usr/local/etc/haproxy/trust.pem", str(trust))
    for name in SERVERS:
        assert f"server {name} {name}:8443" in text
        text = text.replace(f"{name}:8443", "127.0.0.1:8443")  # there is nobody here who knows the names
    file.write_text(text)
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(file)], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr


# --- Kubernetes ---


def statefulset():
    (found,) = documents("statefulset.yaml")
    return found


def pods():
    """The two that run kipuka: servers and the upgrade."""
    (job,) = documents("upgrade.yaml")
    return [statefulset()["spec"]["template"]["spec"], job["spec"]["template"]["spec"]]


def test_two_servers_are_named_by_their_pods():
    spec = statefulset()["spec"]
    assert spec["replicas"] == 2
    (container,) = spec["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable == {"name": "KIPUKA_SERVER__NODE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert "node" not in configuration("kubernetes")["server"]


def test_selectors_find_the_pods():
    labels = statefulset()["spec"]["template"]["metadata"]["labels"]
    outside, nodes = documents("services.yaml")
    (budget,) = documents("poddisruptionbudget.yaml")
    assert statefulset()["spec"]["selector"]["matchLabels"] == labels
    assert outside["spec"]["selector"] == nodes["spec"]["selector"] == labels
    assert (budget["spec"]["selector"]["matchLabels"], budget["spec"]["minAvailable"]) == (labels, 1)
    assert statefulset()["spec"]["serviceName"] == nodes["metadata"]["name"]
    assert (outside["spec"]["type"], outside["spec"]["externalTrafficPolicy"]) == ("LoadBalancer", "Local")


def test_probes_ask_over_https_and_wait_long_enough():
    (container,) = statefulset()["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listen = configuration("kubernetes")["server"]["listen"]
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for name, path in paths.items():
        asked = container[name]["httpGet"]
        assert (asked["scheme"], asked["path"]) == ("HTTPS", path)
        assert listen.endswith(f":{ports[asked['port']]}")
        assert container[name]["timeoutSeconds"] > ReadinessPace().patience.total_seconds()
    ready = container["readinessProbe"]
    assert configuration("kubernetes")["server"]["drain_delay"] > ready["periodSeconds"] * ready["failureThreshold"]


@pytest.mark.parametrize("pod", pods(), ids=["servers", "upgrade"])
def test_a_pod_has_no_rights(pod):
    assert pod["automountServiceAccountToken"] is False
    account = pod["securityContext"]
    assert account["runAsNonRoot"] is True
    assert account["runAsUser"] == account["runAsGroup"] == account["fsGroup"] == ACCOUNT
    assert account["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("pod", pods(), ids=["servers", "upgrade"])
def test_every_file_of_the_configuration_is_in_the_pod(pod):
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    there = []
    for mount in container["volumeMounts"]:
        secret = volumes[mount["name"]].get("secret")
        if secret is not None:
            assert secret["defaultMode"] == 0o440
            there += [f"{mount['mountPath']}/{item['path']}" for item in secret["items"]]
    assert set(files_of(configuration("kubernetes"))) <= set(there)
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/etc/kipuka"}


def test_the_reader_makes_every_key_of_the_secrets():
    readme = (DEPLOY / "README.md").read_text()
    for pod in pods():
        for volume in pod["volumes"]:
            for item in volume.get("secret", {}).get("items", []):
                assert f"--from-file={item['key']}=" in readme, item
            if "secret" in volume:
                assert f"create secret generic {volume['secret']['secretName']}" in readme


def test_a_pod_is_given_the_time_to_stop():
    spec = statefulset()["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > longest_stop("kubernetes")


def test_kustomize_has_every_manifest_and_the_image_that_the_upgrade_has():
    (kustomization,) = documents("kustomization.yaml")
    here = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert {*kustomization["resources"], "kustomization.yaml", "upgrade.yaml"} == here
    (generated,) = kustomization["configMapGenerator"]
    assert generated == {"name": "kipuka", "files": ["kipuka.toml"]}
    (image,) = kustomization["images"]
    (job,) = documents("upgrade.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
    assert job["metadata"]["namespace"] == kustomization["namespace"]
    assert statefulset()["spec"]["template"]["spec"]["containers"][0]["image"] == image["name"]


# --- the image ---


def instructions():
    """The Containerfile's instructions: word and rest, continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_what_is_copied_is_here_and_passes_the_list_of_what_goes_into_a_build():
    allowed = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    sources = [source for group in copied for source in group]
    assert {"kipuka", "requirements/run.txt", "plugins/kipuka_ca_local", "plugins/kipuka_auth_otp"} <= set(sources)
    for source in sources:
        assert (DEPLOY.parent / source).exists(), source
        assert f"!{source}" in allowed
    assert "*" in allowed


def test_the_image_runs_as_the_account_of_the_manifests_and_starts_kipuka():
    last = [word for word, _ in instructions()].index("FROM", 1)
    final = instructions()[last:]
    assert ("USER", f"{ACCOUNT}:{ACCOUNT}") in final
    assert any(word == "RUN" and f"useradd --uid {ACCOUNT} --gid {ACCOUNT} " in rest for word, rest in final)
    assert ("ENTRYPOINT", '["kipuka"]') in final
    assert [word for word, _ in final][-2:] == ["ENTRYPOINT", "CMD"]
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(bases)) == 1  # what was compiled for one is run on the same
    assert "slim" in bases[0]


def test_dependencies_come_by_their_hashes():
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert "pip install --require-hashes -r requirements/run.txt" in runs
    assert "pip wheel --require-hashes" in runs
