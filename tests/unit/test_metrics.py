"""The metrics: what a real HAProxy and the real applications answer Prometheus, who else is answered, and which alerts fire.

HAProxy and promtool are those of the machine; without them (Debian 13: haproxy, prometheus) what needs them is left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
RULES = ROLES / "metrics/files/rules.yml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
HAPROXY, PROMTOOL, PROMETHEUS = (shutil.which(name, path=PATH) or "" for name in ("haproxy", "promtool", "prometheus"))


def version_of_haproxy() -> tuple[int, ...]:
    said = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True, check=True).stdout if HAPROXY else ""
    found = re.search(r"version (\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


# What hosts have with Debian 12, the oldest that is meant to work.
OLDEST = (2, 6)
needs_haproxy = pytest.mark.skipif(version_of_haproxy() < OLDEST, reason="needs HAProxy 2.6 (Debian: haproxy)")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="needs promtool (Debian: prometheus)")


# The hosts of a fleet, all on this machine's loopback: an API, and an inference host with two cards.
SUBNET = "127.211.37"
ADDRESSES = {"api1": f"{SUBNET}.101", "gpu1": f"{SUBNET}.102"}
INVENTORY = {
    "truthgraph": {
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "children": {
            "truthgraph_registry": {"hosts": {"api1": {}}},
            "truthgraph_api": {"hosts": {"api1": {"fleet_private_address": ADDRESSES["api1"]}}},
            "truthgraph_inference": {
                "hosts": {"gpu1": {"fleet_private_address": ADDRESSES["gpu1"], "inference_cards": 2}}
            },
        },
    },
}
# Without running the roles, their variables as they would find them.
RENDER = f"""
- name: Render
  hosts: truthgraph
  gather_facts: false
  vars_files:
    - {ROLES}/fleet/defaults/main.yml
    - {ROLES}/fleet/vars/main.yml
    - {ROLES}/proxy/defaults/main.yml
    - {ROLES}/proxy/vars/main.yml
    - {ROLES}/firewall/defaults/main.yml
    - {ROLES}/firewall/vars/main.yml
  tasks:
    - name: Render
      ansible.builtin.template:
        src: "{ROLES}/{{{{ item.src }}}}"
        dest: "{{{{ rendered }}}}/{{{{ inventory_hostname }}}}.{{{{ item.kind }}}}"
        mode: "0600"
      loop:
        - {{src: proxy/templates/haproxy.cfg.j2, kind: cfg}}
        - {{src: firewall/templates/firewall.nft.j2, kind: nft}}
"""


def play(directory: Path, playbook: Path, options: t.Sequence[str] = (), **variables: t.Any) -> str:
    """Run a playbook for the hosts of the inventory, all of which are this machine; what it printed."""
    (directory / "inventory.yml").write_text(yaml.safe_dump(INVENTORY))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", f"{directory}/inventory.yml"]
    done = subprocess.run(
        [*command, str(playbook), *options, "-e", json.dumps({"fleet_state_dir": f"{directory}/state", **variables})],
        cwd=directory,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "default"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(directory: Path, **variables: t.Any) -> None:
    (directory / "render.yml").write_text(RENDER)
    shutil.copy(ROLES / "proxy/files/await_service.lua", directory)
    own = "{{ ADDRESSES[inventory_hostname] }}".replace("ADDRESSES", str(ADDRESSES))
    given = {
        "rendered": str(directory),
        "role_path": str(ROLES / "proxy"),
        "fleet_config_dir": f"{directory}/etc",
        "fleet_network_subnet": f"{SUBNET}.0/24",
        "fleet_private_address": own,
        "proxy_api_bind_address": own,
        "__proxy_await": f"{directory}/await_service.lua",
        "firewall_further_sources": {"metrics": ["10.0.0.9"]},
    }
    play(directory, directory / "render.yml", **{**given, **variables})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the configurations of both hosts, and the files that they name."""
    directory = tmp_path_factory.mktemp("fleet")
    render(directory)
    authority = Authority(name="truthgraph test CA")
    for name, use in (("egress", "client"), ("inference", "server")):
        place = directory / "etc/tls" / name
        certificate, key = authority.write(place, "gpu1", use=use)
        Path(certificate).rename(place / f"{name}.crt")
        Path(key).rename(place / f"{name}.key")
        (place / "ca.crt").write_text(authority.text)
    (directory / "etc/proxy").mkdir(parents=True)
    (directory / "etc/proxy/traffic.map").write_text("api blue\ninference blue\n")
    return directory


def test_the_firewall_lets_nobody_in_but_whom_it_is_told(rendered: Path) -> None:
    for host in ADDRESSES:
        rules = (rendered / f"{host}.nft").read_text()
        [chain] = re.findall(r"chain metrics \{(.*?)\n    \}", rules, re.DOTALL)
        assert re.findall(r"ip saddr \{ (.*) \}", chain) == ["10.0.0.9"]
        assert chain.split("\n")[-1].strip() == "counter drop"
        assert "tcp dport 8405 goto metrics" in rules


def test_nothing_is_left_of_metrics_that_are_turned_off(tmp_path: Path) -> None:
    render(tmp_path, fleet_metrics_port=0)
    for host in ADDRESSES:
        assert "metrics" not in (tmp_path / f"{host}.nft").read_text()
        assert not re.findall("^(?:frontend|backend) metrics", (tmp_path / f"{host}.cfg").read_text(), re.MULTILINE)


@needs_haproxy
@pytest.mark.parametrize("host", ADDRESSES)
def test_haproxy_finds_no_fault_in_it(rendered: Path, host: str) -> None:
    done = subprocess.run([HAPROXY, "-c", "-f", f"{rendered}/{host}.cfg"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "metrics" not in done.stderr, done.stderr


def get(url: str) -> tuple[int, str]:
    """The status and the text that a URL answers; urllib leaves its path as it is."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextlib.contextmanager
def running(command: list[str], ready: t.Callable[[], bool], log: Path, **options: t.Any) -> t.Iterator[None]:
    """Run a program until the end of the block."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, **options) as process:
        try:
            deadline = time.monotonic() + 30
            while not ready():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), 1).close()
        return True
    return False


# Stands for the model, which needs torch.
ML = """
import uvicorn, sys
from truthgraph.ml import app, service
class Stub:
    card, device, precision, agreement = None, "cpu", "float32", None
service.load = lambda settings, nodes_at: Stub()
uvicorn.run(app, host=sys.argv[1], port=8001, log_level="warning")
"""
API = "import uvicorn, sys; uvicorn.run('truthgraph.main:app', host=sys.argv[1], port=8000, log_level='warning')"


@pytest.fixture(scope="module")
def fleet(rendered: Path) -> t.Iterator[dict[str, str]]:
    """Both hosts' HAProxy with the reference application behind it, on the loopback; the metrics' URL by host."""
    if version_of_haproxy() < OLDEST:
        pytest.skip("needs HAProxy 2.6 (Debian: haproxy)")
    environment = {"PATH": PATH, "PYTHONPATH": f"{ROOT}/files/app", "PYTHONDONTWRITEBYTECODE": "1"}
    with contextlib.ExitStack() as stack:
        for code, port, ends in ((API, 8000, (10,)), (ML, 8001, (20, 22))):
            for address in (f"{SUBNET}.{end}" for end in ends):
                command, log = [sys.executable, "-c", code, address], rendered / f"{address}.log"
                stack.enter_context(running(command, functools.partial(listens, address, port), log, env=environment))
        for host, address in ADDRESSES.items():
            text = (rendered / f"{host}.cfg").read_text()
            # As whoever runs the test, and without what is at fixed places of a real host.
            text = re.sub(r"^    (chroot|user|group|stats socket|log /dev/log) .*\n", "", text, flags=re.MULTILINE)
            config = rendered / f"{host}.run.cfg"
            config.write_text(text)
            command, log = [HAPROXY, "-db", "-f", str(config)], rendered / f"{host}.log"
            stack.enter_context(running(command, functools.partial(listens, address, 8405), log))
        urls = {host: f"http://{address}:8405/metrics" for host, address in ADDRESSES.items()}
        deadline = time.monotonic() + 20
        while any(get(url)[0] != 200 for url in (f"{urls['api1']}/api", f"{urls['gpu1']}/inference")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        # There is no database, so it is refused; and counted.
        body = urllib.request.Request(f"http://{ADDRESSES['api1']}:8000/api/v1/verify", b'{"claim": "Paris"}')
        body.add_header("Content-Type", "application/json")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(body, timeout=10)
        yield urls


def test_each_application_answers_behind_the_metrics_port(fleet: dict[str, str]) -> None:
    assert "truthgraph_component_up" in get(f"{fleet['api1']}/api")[1]
    assert "truthgraph_ml_ready 1" in get(f"{fleet['gpu1']}/inference")[1]
    assert "truthgraph_ml_ready 1" in get(f"{fleet['gpu1']}/inference_1")[1]
    assert [get(f"{fleet[host]}{path}")[0] for host, path in
            (("api1", "/inference"), ("gpu1", "/api"), ("gpu1", "/inference_2"), ("api1", "/../health"))] == [404] * 4


def test_a_scrape_asks_the_copy_that_it_names(fleet: dict[str, str], rendered: Path) -> None:
    # Each is asked as often as it is named, or its counters would be mixed with those of the other.
    before = served(fleet["gpu1"])
    for _ in range(4):
        get(f"{fleet['gpu1']}/inference_1")
    after = served(fleet["gpu1"])
    assert {server: after[server] - before[server] for server in after if server.startswith("inference_blue")} == {
        "inference_blue": 0, "inference_blue_1": 4}


def served(url: str) -> dict[str, int]:
    pattern = r'haproxy_server_http_responses_total\{proxy="metrics_\w+",server="(\w+)",code="2xx"\} (\d+)'
    return {server: int(count) for server, count in re.findall(pattern, get(url)[1])}


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "/metrics?x", "//metrics", "/%6detrics", "/metrics%0a", "/%6Detrics%0A", "/metrics/api",
     "/metrics%2f", "/metrics%3f", "/metrics;x"],
)
def test_no_client_gets_the_metrics(fleet: dict[str, str], path: str) -> None:
    status, text = get(f"http://{ADDRESSES['api1']}:8000{path}")
    assert (status, text) == (404, "Not found.\n")


def test_other_paths_reach_the_application(fleet: dict[str, str]) -> None:
    assert get(f"http://{ADDRESSES['api1']}:8000/health")[0] == 200
    # Answered by the application, which has no such page.
    for path in ("/metrics-of-mine", "/metricsx", "/api/metrics"):
        assert get(f"http://{ADDRESSES['api1']}:8000{path}") == (404, '{"detail":"Not Found"}'), path


def test_every_metric_of_the_rules_exists(fleet: dict[str, str]) -> None:
    exported = "".join(get(url)[1] for host in fleet.values() for url in (host, f"{host}/api", f"{host}/inference"))
    # Whether it could be scraped is said by Prometheus itself.
    there = {*re.findall(r"^(\w+)[{ ]", exported, re.MULTILINE), "up"}
    for alert in ALERTS:
        used = set(re.findall(r"\b([a-z][a-z_]+)\{", alert["expr"]))
        assert used and used <= there, (alert["alert"], used - there)


def test_every_label_value_of_the_rules_exists(fleet: dict[str, str]) -> None:
    exported = "".join(get(url)[1] for host in fleet.values() for url in (host, f"{host}/api", f"{host}/inference"))
    for alert in ALERTS:
        for name, matchers in re.findall(r"\b([a-z][a-z_]+)\{(.*?)\}", alert["expr"], re.DOTALL):
            wanted = re.findall(r'(proxy|code|state|handler)=(~?)"(.*?)"', matchers)
            lines = re.findall(rf"^{name}\{{(.*)\}} ", exported, re.MULTILINE)
            found = [dict(re.findall(r'(\w+)="(.*?)"', line)) for line in lines]
            for label, _, pattern in wanted:
                assert any(re.fullmatch(pattern, labels.get(label, "")) for labels in found), (alert["alert"], label)


@needs_promtool
def test_promtool_finds_no_fault_in_what_is_exported(fleet: dict[str, str]) -> None:
    for url in (f"{fleet['api1']}/api", f"{fleet['gpu1']}/inference"):
        command = [PROMTOOL, "check", "metrics"]
        done = subprocess.run(command, input=get(url)[1], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


# What playbooks/metrics.yml writes.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("written")
    said = play(directory, ROOT / "playbooks/metrics.yml")
    return directory / "state/prometheus", said


def test_targets_are_those_of_the_inventory(written: tuple[Path, str]) -> None:
    targets = yaml.safe_load((written[0] / "targets.yml").read_text())
    assert {
        (one["targets"][0], one["labels"]["host"], one["labels"]["service"], one["labels"]["__metrics_path__"])
        for one in targets
    } == {
        (f"{ADDRESSES['api1']}:8405", "api1", "proxy", "/metrics"),
        (f"{ADDRESSES['api1']}:8405", "api1", "api", "/metrics/api"),
        (f"{ADDRESSES['gpu1']}:8405", "gpu1", "proxy", "/metrics"),
        (f"{ADDRESSES['gpu1']}:8405", "gpu1", "inference", "/metrics/inference"),
        (f"{ADDRESSES['gpu1']}:8405", "gpu1", "inference", "/metrics/inference_1"),
    }
    # Prometheus tells targets apart by their labels, and would mix the series of two that have the same.
    own = [json.dumps({key: value for key, value in one["labels"].items() if key[0] != "_"}) for one in targets]
    assert len(own) == len(set(own))
    assert "Nobody can scrape the hosts yet" in " ".join(written[1].split())


def test_writing_again_changes_nothing(written: tuple[Path, str]) -> None:
    assert "changed=0" in play(written[0].parent.parent, ROOT / "playbooks/metrics.yml").split("api1")[-1]


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    play(tmp_path, ROOT / "playbooks/metrics.yml", options=["--check"])
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("variables", [{"fleet_topology": "monolith"}, {"metrics_of_application": False}])
def test_targets_of_what_is_not_there_are_left_out(tmp_path: Path, variables: dict[str, t.Any]) -> None:
    play(tmp_path, ROOT / "playbooks/metrics.yml", **variables)
    targets = yaml.safe_load((tmp_path / "state/prometheus/targets.yml").read_text())
    services = sorted(one["labels"]["service"] for one in targets)
    assert services == (["api", "proxy", "proxy"] if "fleet_topology" in variables else ["proxy", "proxy"])


@needs_promtool
def test_promtool_takes_the_configuration(written: tuple[Path, str]) -> None:
    command = [PROMTOOL, "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=written[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.skipif(not PROMETHEUS, reason="needs Prometheus (Debian: prometheus)")
def test_a_prometheus_scrapes_every_target_and_works_every_rule_out(
    fleet: dict[str, str], written: tuple[Path, str], tmp_path: Path
) -> None:
    for name in ("targets.yml", "rules.yml", "prometheus.yml"):
        (tmp_path / name).write_text((written[0] / name).read_text().replace("interval: 15s", "interval: 1s"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [PROMETHEUS, "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]

    def asked(path: str) -> t.Any:
        return json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}")[1])["data"]

    def ready() -> bool:
        return listens("127.0.0.1", port) and get(f"http://127.0.0.1:{port}/-/ready")[0] == 200

    with running(command, ready, tmp_path / "log", cwd=tmp_path):
        deadline = time.monotonic() + 60
        while True:
            targets = asked("targets")["activeTargets"]
            rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
            health = {one["scrapeUrl"]: one["health"] for one in targets}, {one["name"]: one["health"] for one in rules}
            if all(set(one.values()) == {"ok" if "TruthGraphApiDown" in one else "up"} for one in health):
                break
            assert time.monotonic() < deadline, health
            time.sleep(0.5)
        assert len(targets) == 5 and len(rules) == len(ALERTS)
        # The API has no database here, and no inference service that is called as its slot would call it.
        firing = {one["name"] for one in rules if one["state"] != "inactive"}
    assert firing <= {"TruthGraphComponentDown", "TruthGraphApiErrors", "TruthGraphInferenceUnreachable"}, firing


# The alerts.


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    text = (ROOT / "docs/alerts.md").read_text()
    anchors = [heading.strip().lower() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    for alert in ALERTS:
        assert alert["annotations"]["summary"].endswith("."), alert["alert"]
        document, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert document == "docs/alerts.md" and anchor == alert["alert"].lower() and anchor in anchors, alert["alert"]
    assert len([anchor for anchor in anchors if anchor.startswith("truthgraph")]) == len(ALERTS)


def series(name: str, **labels: str) -> str:
    given = {"job": "truthgraph", "fleet": "f", **labels}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in given.items()) + "}"


def on_api(name: str, **labels: str) -> str:
    return series(name, host="api1", topology="split", service="proxy", **labels)


def on_gpu(name: str, **labels: str) -> str:
    return series(name, host="gpu1", topology="split", service="proxy", **labels)


ACTIVE, STATUS = "haproxy_backend_active_servers", "haproxy_server_status"
RESPONSES, REQUESTS = "haproxy_frontend_http_responses_total", "haproxy_frontend_http_requests_total"
TIME, BACKEND = "haproxy_backend_response_time_average_seconds", "haproxy_backend_http_requests_total"
BUCKET = "http_request_duration_seconds_bucket"
VERIFY = {"host": "api1", "service": "api", "handler": "/api/v1/verify", "code": "200"}

# What a healthy fleet exports, a sample a minute: blue serves, the green slots are stopped.
HEALTHY = {
    on_api("up"): "1x90",
    on_gpu("up"): "1x90",
    series("up", host="api1", service="api"): "1x90",
    series("up", host="gpu1", service="inference"): "1x90",
    on_api(ACTIVE, proxy="api_blue"): "1x90",
    on_api(ACTIVE, proxy="api_green"): "0x90",
    on_api(ACTIVE, proxy="egress_blue"): "1x90",
    on_api(ACTIVE, proxy="egress_green"): "0x90",
    on_gpu(ACTIVE, proxy="inference_blue"): "2x90",
    on_gpu(ACTIVE, proxy="inference_green"): "0x90",
    on_gpu(STATUS, proxy="inference_blue", server="inference_blue", state="DOWN"): "0x90",
    on_gpu(STATUS, proxy="inference_green", server="inference_green", state="DOWN"): "1x90",
    on_api(STATUS, proxy="egress_blue", server="gpu1", state="NOLB"): "0x90",
    # Of 600 requests a minute one fails.
    on_api(REQUESTS, proxy="api"): "0+600x90",
    on_api(RESPONSES, proxy="api", code="5xx"): "0+1x90",
    on_api(TIME, proxy="api_blue"): "0.05x90",
    # What it was when green last served, a long time ago.
    on_api(TIME, proxy="api_green"): "9x90",
    on_api(BACKEND, proxy="api_blue"): "0+600x90",
    on_api(BACKEND, proxy="api_green"): "1000x90",
    on_api(BACKEND, proxy="api_green_blue"): "0+600x5 3000x85",
    on_api("haproxy_process_current_connections"): "50x90",
    on_api("haproxy_process_max_connections"): "10000x90",
    series(BUCKET, le="0.5", **VERIFY): "0+580x90",
    series(BUCKET, le="2.5", **VERIFY): "0+590x90",
    series(BUCKET, le="10.0", **VERIFY): "0+600x90",
    series(BUCKET, le="+Inf", **VERIFY): "0+600x90",
    series("truthgraph_component_up", host="api1", component="database"): "1x90",
    series("truthgraph_component_up", host="api1", component="ml_service"): "1x90",
    series("truthgraph_ml_refused_total", host="gpu1"): "3x90",
}
# By alert: what is different then, from the thirtieth minute on, the minute at which the alert fires, the last one before
# that at which it does not, and its labels.
FIRES: dict[str, tuple[dict[str, str], int, int, dict[str, str]]] = {
    "TruthGraphApiDown": ({on_api(ACTIVE, proxy="api_blue"): "0"}, 31, 30, {"host": "api1"}),
    "TruthGraphProxyDown": (
        {on_gpu("up"): "0", series("up", host="gpu1", service="inference"): "0"}, 32, 31,
        {"host": "gpu1", "job": "truthgraph", "service": "proxy", "topology": "split"},
    ),
    "TruthGraphApiErrors": ({on_api(RESPONSES, proxy="api", code="5xx"): "+60"}, 37, 34, {"host": "api1"}),
    "TruthGraphComponentDown": (
        {series("truthgraph_component_up", host="api1", component="database"): "0"}, 31, 30,
        {"host": "api1", "component": "database"},
    ),
    "TruthGraphInferenceUnreachable": ({on_api(ACTIVE, proxy="egress_blue"): "0"}, 31, 30, {"host": "api1"}),
    "TruthGraphApiSlow": ({on_api(TIME, proxy="api_blue"): "1.5"}, 40, 39, {"host": "api1"}),
    "TruthGraphApiTailSlow": (
        {series(BUCKET, le="0.5", **VERIFY): "+0", series(BUCKET, le="2.5", **VERIFY): "+100"}, 45, 39, {},
    ),
    "TruthGraphInferenceHostOut": ({on_gpu(ACTIVE, proxy="inference_blue"): "0"}, 35, 34, {"host": "gpu1"}),
    "TruthGraphInferenceCopyOut": (
        {on_gpu(STATUS, proxy="inference_blue", server="inference_blue", state="DOWN"): "1"}, 35, 34,
        {"host": "gpu1", "proxy": "inference_blue"},
    ),
    "TruthGraphInferenceOverloaded": (
        {series("truthgraph_ml_refused_total", host="gpu1"): "+5"}, 36, 34, {"host": "gpu1"}),
    "TruthGraphProxyFull": ({on_api("haproxy_process_current_connections"): "8500"}, 35, 34, {"host": "api1"}),
    "TruthGraphReleaseUnsettled": ({on_api(BACKEND, proxy="api_green_blue"): "+600"}, 46, 44, {"host": "api1"}),
    "TruthGraphInferenceDraining": (
        {on_api(STATUS, proxy="egress_blue", server="gpu1", state="NOLB"): "1"}, 45, 44,
        {"host": "api1", "server": "gpu1"},
    ),
    "TruthGraphMetricsMissing": (
        {series("up", host="gpu1", service="inference"): "0"}, 45, 44, {"host": "gpu1", "service": "inference"}),
}


def samples(values: str, afterwards: str | None) -> str:
    """Values in promtool's notation; `afterwards` is what a gauge is from minute 30 on, or what a counter grows by."""
    if afterwards is None:
        return values
    start = re.split(r"[+x ]", values)[0]
    grows = re.match(r"\d+\+(\d+)", values) if " " not in values else None
    step = grows[1] if grows else "0"
    if afterwards.startswith("+"):
        reached = int(start) + 29 * int(step)
        return f"{start}+{step}x29 {reached + int(afterwards)}{afterwards}x60"
    return f"{start}x29 {afterwards}x60"


def have_promtool_test(tmp_path: Path, differing: dict[str, str], expected: dict[int, dict[str, dict[str, str]]]) -> None:
    """Have promtool say whether at each minute the alerts that fire are those expected, by name and labels, and no other."""
    assert set(differing) <= set(HEALTHY)
    found = [{"series": key, "values": samples(values, differing.get(key))} for key, values in HEALTHY.items()]
    checks = []
    for minute, firing in expected.items():
        for alert in ALERTS:
            name, one = alert["alert"], {"eval_time": f"{minute}m", "alertname": alert["alert"], "exp_alerts": []}
            if name in firing:
                one["exp_alerts"] = [{"exp_labels": {**alert["labels"], "fleet": "f", **firing[name]}}]
            checks.append(one)
    rules = yaml.safe_load(RULES.read_text())
    # promtool would compare what they say, too.
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    test = {"interval": "1m", "input_series": found, "alert_rule_test": checks}
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_no_alert_fires_in_a_healthy_fleet(tmp_path: Path) -> None:
    have_promtool_test(tmp_path, {}, {minute: {} for minute in (5, 30, 60, 90)})


@needs_promtool
@pytest.mark.parametrize("name", [alert["alert"] for alert in ALERTS])
def test_an_alert_fires_in_its_time_and_no_other_does(tmp_path: Path, name: str) -> None:
    differing, fires, not_yet, labels = FIRES[name]
    have_promtool_test(tmp_path, differing, {not_yet: {}, fires: {name: labels}})


@needs_promtool
def test_in_a_monolith_nobody_misses_the_inference_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = {key.replace('topology="split"', 'topology="monolith"'): value for key, value in HEALTHY.items()}
    for key in healthy:
        if ACTIVE in key and ("egress" in key or "inference" in key):
            healthy[key] = "0x90"
    monkeypatch.setattr(sys.modules[__name__], "HEALTHY", healthy)
    have_promtool_test(tmp_path, {}, {60: {}})


@needs_promtool
def test_promtool_finds_no_fault_in_the_rules() -> None:
    done = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
