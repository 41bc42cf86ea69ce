# The services as clients, neighbours and the hosts' engines see them.
import json
import math
import pathlib
import re
import ssl
import typing as t
import urllib.error
import urllib.request

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.fleet import (
    EGRESS,
    Answer,
    Fleet,
    Member,
    ask,
    ask_many,
    inspect,
    query,
    serving,
)
from ansible_collections.truthgraph.platform.molecule.shared.image_checks import Secrets

# The lab publishes the API of these hosts here.
OUTSIDE = {"cpu1": "http://127.0.0.1:18001", "cpu2": "http://127.0.0.1:18002"}
SOURCE = "molecule"
SERVICES = {
    "truthgraph_registry": "registry",
    "truthgraph_postgres": "postgres",
    "truthgraph_inference": "inference",
    "truthgraph_api": "api",
}
REPOSITORIES = {"api": "core", "inference": "ml", "postgres": "base/postgres"}
TEXTS = ["The Eiffel Tower was completed in Paris in 1889.", "Photosynthesis turns sunlight into sugar."]


def services_of(member: Member) -> list[str]:
    return [service for group, service in SERVICES.items() if group in member.variables["groups"]]


@pytest.fixture(scope="session")
def stored(fleet: Fleet, control: testinfra.host.Host) -> t.Iterator[list[t.Any]]:
    # Stored through the first API; read through the second. What was stored is taken away again.
    answers = [ask(control, f"{OUTSIDE['cpu1']}/api/v1/evidence", {"text": text, "source": SOURCE}) for text in TEXTS]
    yield answers
    query(fleet.of_group("truthgraph_postgres")[0].host, f"DELETE FROM evidence WHERE source = '{SOURCE}'")


@pytest.fixture(scope="session")
def asking(fleet: Fleet) -> Member:
    # Only an API host is heard by the inference service.
    return fleet.of_group("truthgraph_api")[0]


@pytest.fixture(scope="session")
def embedded(fleet: Fleet, asking: Member) -> Answer:
    [member] = fleet.of_group("truthgraph_inference")
    texts = ["The sky is blue.", "The heavens are blue.", "Interest rates were raised in March."]
    return ask(asking.host, f"https://{member.address}:8001/embed", {"texts": texts}, tls=EGRESS)


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


# How they run.


def test_containers_of_the_host_are_those_of_its_groups(member: Member) -> None:
    names = member.host.check_output("docker ps --format '{{.Names}}'").split()
    assert sorted(names) == sorted(serving(member.host, service) for service in services_of(member))


def test_containers_run_and_are_healthy(member: Member) -> None:
    for service in services_of(member):
        state = inspect(member.host, serving(member.host, service))["State"]
        assert state["Status"] == "running", service
        # The registry has no health check; the deploy asks it instead.
        assert state.get("Health", {"Status": "healthy"})["Status"] == "healthy", service


def test_containers_run_by_digest_from_the_fleets_registry(fleet: Fleet, member: Member) -> None:
    for service in set(services_of(member)) - {"registry"}:
        reference = inspect(member.host, serving(member.host, service))["Config"]["Image"]
        pattern = rf"{re.escape(fleet.registry)}/truthgraph/{REPOSITORIES[service]}@sha256:[0-9a-f]{{64}}"
        assert re.fullmatch(pattern, reference), reference


def test_all_api_hosts_run_the_same_image(fleet: Fleet) -> None:
    members = fleet.of_group("truthgraph_api")
    assert len({inspect(member.host, serving(member.host, "api"))["Config"]["Image"] for member in members}) == 1


@pytest.mark.parametrize("service", ["api", "inference", "postgres", "registry"])
def test_container_is_hardened(fleet: Fleet, service: str) -> None:
    [group] = [group for group, name in SERVICES.items() if name == service]
    for member in fleet.of_group(group):
        facts = inspect(member.host, serving(member.host, service))
        options = facts["HostConfig"]
        assert options["ReadonlyRootfs"]
        assert options["CapDrop"] == ["ALL"]
        assert not options["CapAdd"]
        assert "no-new-privileges:true" in options["SecurityOpt"]
        assert not options["Privileged"]
        assert options["RestartPolicy"]["Name"] == "unless-stopped"
        assert facts["Config"]["User"].split(":")[0] not in ("", "0", "root")


def test_processes_in_containers_are_not_root(member: Member) -> None:
    for service in services_of(member):
        rows = member.host.check_output("docker top %s -eo pid,uid", serving(member.host, service)).splitlines()[1:]
        assert rows, service
        assert "0" not in [row.split()[1] for row in rows], service


def test_containers_are_labelled(member: Member) -> None:
    for service in services_of(member):
        labels = inspect(member.host, serving(member.host, service))["Config"]["Labels"]
        assert (labels["truthgraph.service"], labels["truthgraph.fleet"]) == (service, "lab")


# Secrets.


def test_no_secret_in_docker_inspect(member: Member, secrets: Secrets) -> None:
    for service in services_of(member):
        text = json.dumps(inspect(member.host, serving(member.host, service)))
        assert [name for name, secret in secrets.items() if secret in text] == [], service


def test_no_secret_in_container_logs(member: Member, secrets: Secrets) -> None:
    for service in services_of(member):
        text = member.host.check_output("docker logs %s 2>&1", serving(member.host, service))
        assert [name for name, secret in secrets.items() if secret in text] == [], service


def test_no_secret_in_process_lists(member: Member, secrets: Secrets) -> None:
    text = member.host.check_output("ps -eo args")
    assert [name for name, secret in secrets.items() if secret in text] == []


def test_api_gets_its_database_password_as_a_file(api: Member, secrets: Secrets) -> None:
    facts = inspect(api.host, serving(api.host, "api"))
    [mount] = [mount for mount in facts["Mounts"] if mount["Destination"] == "/run/secrets/truthgraph"]
    assert not mount["RW"]
    content = api.host.check_output("cat %s", f"{mount['Source']}/DATABASE_URL")
    assert f":{secrets['database']}@" in content


# Which ports are open.


def test_nothing_else_is_published_by_the_lab(control: testinfra.host.Host) -> None:
    published = control.check_output("docker ps --filter name=^truthgraph-lab- --format '{{.Ports}}'").split()
    assert sorted(entry.strip(",") for entry in published) == ["127.0.0.1:18001->8000/tcp", "127.0.0.1:18002->8000/tcp"]


@pytest.mark.parametrize(("service", "port"), [("inference", 8001), ("postgres", 5432), ("registry", 5000)])
def test_port_is_open_on_the_private_address_only(fleet: Fleet, service: str, port: int) -> None:
    [group] = [group for group, name in SERVICES.items() if name == service]
    for member in fleet.of_group(group):
        assert member.host.socket(f"tcp://{member.address}:{port}").is_listening
        assert not member.host.socket(f"tcp://127.0.0.1:{port}").is_listening
        assert not member.host.socket(f"tcp://0.0.0.0:{port}").is_listening


def test_api_is_open_on_its_port(api: Member) -> None:
    assert api.host.socket("tcp://0.0.0.0:8000").is_listening


@pytest.mark.parametrize("service", ["api", "inference"])
def test_slots_are_reached_through_the_proxy_only(fleet: Fleet, service: str) -> None:
    for member in fleet.of_group(f"truthgraph_{service}"):
        assert not inspect(member.host, serving(member.host, service))["HostConfig"]["PortBindings"]


# Health, from outside and between the hosts.


@pytest.mark.parametrize("name", OUTSIDE)
def test_health_from_outside(control: testinfra.host.Host, name: str) -> None:
    answer = ask(control, f"{OUTSIDE[name]}/health")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert answer.json["components"] == {"database": "ok", "ml_service": "ok"}
    assert answer.seconds < 1


@pytest.mark.parametrize("name", OUTSIDE)
def test_ready_from_outside(control: testinfra.host.Host, name: str) -> None:
    answer = ask(control, f"{OUTSIDE[name]}/ready")
    assert answer.status == 200
    assert answer.json["components"] == {"database": "ok", "ml_service": "ok"}


def test_inference_answers_the_api_hosts(fleet: Fleet, api: Member) -> None:
    for inference in fleet.of_group("truthgraph_inference"):
        answer = ask(api.host, f"https://{inference.address}:8001/health", tls=EGRESS)
        assert answer.status == 200
        assert (answer.json["status"], answer.json["dimension"]) == ("ok", 384)


def test_api_hosts_answer_each_other(fleet: Fleet, api: Member) -> None:
    for other in fleet.of_group("truthgraph_api"):
        assert ask(api.host, f"http://{other.address}:8000/health").status == 200


def test_postgres_is_reached_from_the_api_hosts(fleet: Fleet, api: Member) -> None:
    for database in fleet.of_group("truthgraph_postgres"):
        assert api.host.addr(database.address).port(5432).is_reachable


def test_inference_answers_from_inside_the_api_container(api: Member) -> None:
    script = "import os, urllib.request as u; print(u.urlopen(os.environ['ML_SERVICE_URL'] + '/health', timeout=5).status)"
    assert api.host.check_output("docker exec %s python3 -c %s", serving(api.host, "api"), script) == "200"


# What they answer.


def test_evidence_is_stored(stored: list[t.Any]) -> None:
    assert [answer.status for answer in stored] == [201, 201]
    assert len({answer.json["id"] for answer in stored}) == 2


def test_same_evidence_keeps_its_id(control: testinfra.host.Host, stored: list[t.Any]) -> None:
    again = ask(control, f"{OUTSIDE['cpu2']}/api/v1/evidence", {"text": TEXTS[0], "source": SOURCE})
    assert again.json["id"] == stored[0].json["id"]


def test_evidence_of_one_host_is_found_by_the_other(control: testinfra.host.Host, stored: list[t.Any]) -> None:
    claim = "The Eiffel Tower in Paris was finished in 1889."
    answer = ask(control, f"{OUTSIDE['cpu2']}/api/v1/verify", {"claim": claim})
    assert answer.status == 200
    assert answer.json["claim"] == claim
    nearest = answer.json["evidence"][0]
    assert nearest["id"] == stored[0].json["id"]
    assert nearest["text"] == TEXTS[0]
    assert 0.8 < nearest["similarity"] <= 1


def test_nearer_evidence_comes_first(control: testinfra.host.Host, stored: list[t.Any]) -> None:
    answer = ask(control, f"{OUTSIDE['cpu1']}/api/v1/verify", {"claim": "Plants make sugar from light.", "limit": 50})
    similarities = [found["similarity"] for found in answer.json["evidence"]]
    assert similarities == sorted(similarities, reverse=True)
    by_id = {found["id"]: found["similarity"] for found in answer.json["evidence"]}
    assert by_id[stored[1].json["id"]] > by_id[stored[0].json["id"]] + 0.3


def test_embeddings_are_unit_vectors_of_384_dimensions(embedded: Answer) -> None:
    assert embedded.status == 200
    vectors = embedded.json["embeddings"]
    assert [len(vector) for vector in vectors] == [384] * 3
    assert all(math.isclose(cosine(vector, vector), 1, abs_tol=1e-4) for vector in vectors)


def test_embeddings_of_like_texts_are_near(embedded: Answer) -> None:
    sky, heavens, rates = embedded.json["embeddings"]
    assert cosine(sky, heavens) > 0.6 > 0.3 > cosine(sky, rates)


def test_concurrent_embeddings_are_all_answered_and_right(inference: Member, asking: Member) -> None:
    texts = [f"Sentence number {number} is about the number {number}." for number in range(24)]
    url = f"https://{inference.address}:8001/embed"
    together = ask_many(asking.host, url, [{"texts": [text]} for text in texts], tls=EGRESS)
    assert [answer.status for answer in together] == [200] * len(texts)
    one_request = ask(asking.host, url, {"texts": texts}, tls=EGRESS).json["embeddings"]
    for answer, expected in zip(together, one_request, strict=True):
        assert cosine(answer.json["embeddings"][0], expected) > 0.9999


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/evidence", {}),
        ("/api/v1/evidence", {"text": ""}),
        ("/api/v1/evidence", {"text": 7}),
        ("/api/v1/evidence", {"text": "nul \0 inside"}),
        ("/api/v1/evidence", {"text": "fine", "unknown": 1}),
        ("/api/v1/evidence", "{no json"),
        ("/api/v1/verify", {"claim": "   "}),
        ("/api/v1/verify", {"claim": "fine", "limit": 0}),
        ("/api/v1/verify", []),
    ],
)
def test_invalid_body_is_refused(control: testinfra.host.Host, path: str, body: t.Any) -> None:
    assert ask(control, f"{OUTSIDE['cpu1']}{path}", body).status == 422


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": [""]}, {"texts": "one"}, {"texts": ["x"] * 257}, "{"])
def test_invalid_body_is_refused_by_inference(inference: Member, asking: Member, body: t.Any) -> None:
    assert ask(asking.host, f"https://{inference.address}:8001/embed", body, tls=EGRESS).status == 422


def test_description_of_the_api_is_not_public(control: testinfra.host.Host) -> None:
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert ask(control, f"{OUTSIDE['cpu1']}{path}").status == 404


# The registry.


def asked_registry(
    fleet: Fleet, path: str, password: str | None = None, ca_file: pathlib.Path | None = None
) -> tuple[int, t.Any]:
    request = urllib.request.Request(f"https://{fleet.registry}/v2/{path}")
    if password is not None:
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, request.full_url, "truthgraph", password, is_authenticated=True)
        handlers = [urllib.request.HTTPBasicAuthHandler(manager)]
    else:
        handlers = []
    context = ssl.create_default_context(cafile=ca_file)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), *handlers
    )
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def test_registry_lists_the_images(fleet: Fleet, secrets: Secrets) -> None:
    status, answer = asked_registry(fleet, "_catalog", secrets["registry"], fleet.ca_file)
    assert status == 200
    assert {f"truthgraph/{name}" for name in REPOSITORIES.values()} <= set(answer["repositories"])


def test_registry_refuses_without_credentials(fleet: Fleet) -> None:
    assert asked_registry(fleet, "", None, fleet.ca_file)[0] == 401


def test_registry_refuses_a_wrong_password(fleet: Fleet) -> None:
    assert asked_registry(fleet, "", "wrong", fleet.ca_file)[0] == 401


def test_registry_certificate_is_of_the_fleets_own_ca(fleet: Fleet) -> None:
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        asked_registry(fleet, "")


def test_registry_does_not_serve_without_tls(fleet: Fleet, control: testinfra.host.Host) -> None:
    assert ask(control, f"http://{fleet.registry}/v2/").status in (0, 400)


def test_registry_keeps_its_images_in_its_volume(registry: Member) -> None:
    mounts = inspect(registry.host, "truthgraph-registry")["Mounts"]
    assert ("truthgraph-registry", "/var/lib/registry") in [(mount.get("Name"), mount["Destination"]) for mount in mounts]
