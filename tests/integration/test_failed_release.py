# A release that never becomes healthy fails the deploy, and clients see none of it: the earlier one serves before, during and
# after. These tests change the lab and leave it as it was; they run last (conftest.py).
import threading
import time
import urllib.error
import urllib.request

import pytest

APIS = {"cpu1": "http://127.0.0.1:18001", "cpu2": "http://127.0.0.1:18002"}
LAST_WORDS = "this release was broken on purpose"


class Client(threading.Thread):
    """Asks an API all the time, and notes every answer that is not 200."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url = url
        self.answered = 0
        self.failures = []
        self.longest = 0.0
        self.ended = threading.Event()

    def run(self):
        while not self.ended.is_set():
            start = time.monotonic()
            try:
                with urllib.request.urlopen(self.url, timeout=10) as answer:
                    answer.read()
                self.answered += 1
            except OSError as error:
                self.failures.append(str(error))
            self.longest = max(self.longest, time.monotonic() - start)
            self.ended.wait(0.1)

    def stop(self):
        self.ended.set()
        self.join(15)


@pytest.fixture
def clients():
    running = [Client(f"{url}/{path}") for url in APIS.values() for path in ("health", "ready")]
    for client in running:
        client.start()
    yield running
    for client in running:
        client.stop()


def serving(fleet):
    look = "docker ps --no-trunc --format '{{.ID}} {{.Image}} {{.Names}}' | sort"
    return {name: member.host.check_output(look).splitlines() for name, member in fleet.members.items()}


def containers(fleet):
    look = "docker ps --all --format '{{.Names}}'"
    return {name: sorted(member.host.check_output(look).split()) for name, member in fleet.members.items()}


def never_ready(tree):
    # Starts, says so, and answers 503 whatever its parts say.
    path = tree / "truthgraph" / "main.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("status_code=503 if failures else 200", "status_code=503").replace(
            "    settings = Settings.from_environment()\n    database",
            f'    log = logging.getLogger("truthgraph")\n    log.error("{LAST_WORDS}")\n'
            "    settings = Settings.from_environment()\n    database",
        ),
        encoding="utf-8",
    )
    compare = path.read_text(encoding="utf-8")
    assert LAST_WORDS in compare and "status_code=503)" in compare


def ends_at_once(tree):
    path = tree / "truthgraph" / "main.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("    database = Database(", f'    raise SystemExit("{LAST_WORDS}")\n    database = Database('))
    assert LAST_WORDS in path.read_text(encoding="utf-8")


def model_never_loads(tree):
    path = tree / "truthgraph" / "ml" / "service.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("embedder = await asyncio.to_thread(Embedder, self.settings)", f'raise OSError("{LAST_WORDS}")')
    )
    assert LAST_WORDS in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "service", "hosts"),
    [
        (never_ready, "api", {"cpu1", "cpu2"}),
        (ends_at_once, "api", {"cpu1", "cpu2"}),
        (model_never_loads, "inference", {"gpu1"}),
    ],
)
def test_release_that_never_becomes_healthy(fleet, deploy, tree, clients, spoil, service, hosts):
    before, all_before = serving(fleet), containers(fleet)
    spoil(tree)
    variables = {"image_build_source": str(tree), "api_ready_timeout": 20, "inference_ready_timeout": 60}
    result = deploy(variables, timeout=600)

    # It fails, and says of which service on which host, why, and what the container said last.
    assert result.code != 0, str(result)
    last = [message for _, _, message in result.failures][-1]
    named = {host for host in fleet.members if f"{service} on {host}" in last}
    assert named and named <= hosts, str(result)
    assert LAST_WORDS in last, str(result)
    assert f"truthgraph-{service}-candidate" in last, str(result)

    # The earlier release serves: the same containers, and none beside them.
    assert serving(fleet) == before
    assert containers(fleet) == all_before
    time.sleep(1)
    for client in clients:
        client.stop()
        assert client.failures == [], client.url
        assert client.answered > 20, client.url


def test_next_good_deploy_works_and_replaces_nothing(fleet, deploy, clients):
    before = serving(fleet)
    result = deploy({}, timeout=600)
    assert result.code == 0, str(result)
    assert serving(fleet) == before
    assert result.changed == {}, str(result)
    for client in clients:
        client.stop()
        assert client.failures == [], client.url
