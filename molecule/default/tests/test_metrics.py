# What the hosts answer Prometheus, and who else is answered.
import re

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Answer, Fleet, Member, ask, knock, serving, stranger

PORT = 8405
# The paths of the metrics of each service, and a metric of each.
SERVED = {
    "truthgraph_api": ("/metrics/api", "truthgraph_component_up"),
    "truthgraph_inference": ("/metrics/inference", "truthgraph_ml_ready"),
}


def having_metrics(fleet: Fleet) -> list[Member]:
    return [member for member in fleet.members.values() if {*SERVED} & {*member.variables["groups"]}]


def scrape(fleet: Fleet, member: Member, path: str = "/metrics") -> Answer:
    # The machine that the lab lies on is let in by the lab's inventory.
    return ask(fleet.control, f"http://{member.address}:{PORT}{path}")


def test_haproxy_answers_on_the_private_address_only(fleet: Fleet) -> None:
    for member in having_metrics(fleet):
        answer = scrape(fleet, member)
        assert answer.status == 200
        assert "haproxy_process_max_connections 10000" in answer.text
        assert member.host.socket(f"tcp://{member.address}:{PORT}").is_listening
        assert not member.host.socket(f"tcp://127.0.0.1:{PORT}").is_listening
        assert not member.host.socket(f"tcp://0.0.0.0:{PORT}").is_listening


def test_hosts_without_a_service_of_ours_answer_nobody(fleet: Fleet) -> None:
    for member in fleet.members.values():
        if member not in having_metrics(fleet):
            assert not member.host.socket(f"tcp://{member.address}:{PORT}").is_listening


def test_nobody_is_answered_but_whom_the_inventory_names(fleet: Fleet) -> None:
    for owner in having_metrics(fleet):
        found = {one.name: knock(one.host, owner.address, PORT) for one in fleet.members.values() if one is not owner}
        assert {**found, "stranger": stranger(fleet, owner.address, PORT)} == {
            **dict.fromkeys(found, "dropped"), "stranger": "dropped"}


@pytest.mark.parametrize("group", SERVED)
def test_what_serves_tells_its_own(fleet: Fleet, group: str) -> None:
    path, metric = SERVED[group]
    for member in fleet.of_group(group):
        answer = scrape(fleet, member, path)
        assert answer.status == 200
        # The model can encode, and each part answers.
        assert re.findall(rf"^{metric}\S* (\S+)$", answer.text, re.MULTILINE) in (["1"], ["1", "1"])


def test_requests_are_counted(fleet: Fleet, api: Member) -> None:
    def count() -> int:
        pattern = r'^http_request_duration_seconds_count\{handler="/api/v1/verify",code="200"\} (\d+)$'
        return sum(map(int, re.findall(pattern, scrape(fleet, api, "/metrics/api").text, re.MULTILINE)))

    before = count()
    answer = ask(api.host, "http://127.0.0.1:8000/api/v1/verify", {"claim": "Paris lies on the Seine."})
    assert answer.status == 200
    assert count() == before + 1


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics", "/metrics%0a", "/metrics/api"])
def test_clients_do_not_get_them(api: Member, path: str) -> None:
    assert ask(api.host, f"http://127.0.0.1:8000{path}").status == 404


def test_the_live_slot_is_known_by_the_metrics(fleet: Fleet, api: Member) -> None:
    # What the alert TruthGraphApiDown looks at.
    slot = serving(api.host, "api").rpartition("-")[2]
    assert f'haproxy_backend_active_servers{{proxy="api_{slot}"}} 1' in scrape(fleet, api).text
