#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take one phase of a rollout on one host: prepare the idle slots, switch to them, settle, or undo."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slot
short_description: Take one phase of a rollout on one host
version_added: 0.1.0
description:
  - Each service has two slots on a host, containers with fixed names and addresses. HAProxy sends its requests to one of
    them, as a map file says.
  - One call takes one phase of a rollout for all services of a host. Each phase may be repeated, and continues what an
    interrupted run has left.
options:
  state:
    description:
      - V(prepared) starts the containers of the idle slots and waits until each has proved itself. No request goes there
        yet. If one does not, the module fails; V(undone) removes them.
      - V(committed) arms the host's self-undo, lets the prepared slots serve, and watches them for O(bake) seconds. If
        they make errors, the host switches back at once and the module fails.
      - V(settled) confirms the switch, lets the earlier slots finish their requests, and stops them. They are kept.
      - V(undone) returns to what served before, and removes the slots of the release O(release).
    type: str
    choices: [prepared, committed, settled, undone]
    required: true
  release:
    description: The release. What is called undone is this one.
    type: str
    required: true
  services:
    description:
      - The services of this host by name (C(api), C(inference)), as the filter P(truthgraph.platform.release_plan#filter)
        answers them.
      - For V(undone) the names are enough.
    type: dict
    required: true
  secrets:
    description:
      - By service, C(release), the secrets that belong to the release, and C(current), which are never rolled back, such
        as the password of the database. Both by the names of their environment variables.
      - Without C(release) the host uses what it kept of that release.
    type: dict
    default: {}
  fence:
    description: Fencing number of the lock that the rollout holds. A host refuses a lower one than it has seen.
    type: int
    required: true
  records:
    description: The ledger's records to write, before V(prepared) does anything and after the other phases.
    type: list
    elements: dict
    default: []
  journal:
    description: Entries for the ledger's journal, likewise.
    type: list
    elements: dict
    default: []
  bake:
    description: Seconds for which a switched slot is watched before the phase ends.
    type: float
    default: 10
  bake_errors:
    description: How many failed requests of the new slot make the host switch back.
    type: int
    default: 3
  bake_error_percent:
    description: And which part of its requests they must be, in percent.
    type: float
    default: 1
  makes_room:
    description:
      - For V(prepared), whether the earlier slot of the inference service ends before the new one starts, since the card has
        no room for both. With V(pool) it goes out of the pool first, while other hosts serve. With V(alone) there is no
        other host, so that requests wait until the new slot serves, which then answers for both releases.
      - V(undone) starts again what made room.
    type: str
    choices: ["", pool, alone]
    default: ""
  undo_after:
    description: Seconds after which a host switches back by itself if nobody confirms the switch.
    type: float
    default: 120
  standby:
    description: The services whose earlier slot V(settled) lets run on, without requests, so that a return needs no start.
    type: list
    elements: str
    default: []
  up_timeout:
    description: Seconds that HAProxy's own check may take to find a prepared slot up.
    type: float
    default: 10
  notes:
    description:
      - File on the control node to which a line of JSON is appended that says when the phase began and ended there, and
        what it did. M(truthgraph.platform.release_report) reads it. Empty for none.
    type: str
    default: ""
extends_documentation_fragment:
  - truthgraph.platform.host_state
  - truthgraph.platform.host_state.traffic
attributes:
  check_mode:
    support: full
    description: Does nothing. What would be done is the plan.
  diff_mode:
    support: none
    description: RV(actions) lists what was done.
  idempotent:
    support: full
    description: A phase that is reached already is left alone.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Switch
  truthgraph.platform.slot:
    state: committed
    release: 3f9c2a7b1c04
    fence: "{{ release_lock.fence }}"
    services: "{{ release_plan.hosts[inventory_hostname] }}"
"""

RETURN = r"""
actions:
  description: What was done, in words.
  returned: always
  type: list
  elements: str
seconds:
  description: How long the phase took.
  returned: always
  type: float
switched_at:
  description: When the traffic was switched, in seconds since the epoch.
  returned: V(committed), if it was
  type: float
watched:
  description: What the new slot of the API answered during the bake, and how much of it failed.
  returned: V(committed), if it was switched
  type: dict
  sample: {requests: 2012, errors: 0, seconds: 10.0}
serves:
  description:
    - Which C(slot) serves each of the services now, and as what (C(release)), which for the inference service is the name by
      which APIs ask for it. Both are empty where none does.
  returned: not in check mode, if the map could be read
  type: dict
  sample: {api: {slot: green, release: 3f9c2a7b1c04}}
"""

import contextlib
import http.client
import json
import os
import shutil
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import readiness, secret_files, slots, traffic
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli
from ansible_collections.truthgraph.platform.plugins.module_utils.ledger import Ledger, Outdated, accept_fence

POLL = 0.1
# For a trial request, unless it says how long it may take.
TRIAL_SECONDS = 15
# While the map has this key, HAProxy lets requests for the inference service wait instead of answering that there is none.
WAITING = "waiting"
# Of the map, too: by it a host tells the API's proxies that it leaves the pool, and for how long it serves on meanwhile. They
# ask every second; a proxy that has not heard it would ask again the very host that answers "not here" the fastest.
LEAVING = "leaving"
LEAVE_SECONDS = 2.5
# Seconds that a slot that made room may take until it serves again, where its own limit is not known.
BACK_TIMEOUT = 300
RELEASE_HEADER = "X-TruthGraph-Release"


class Failed(Exception):
    """A phase that cannot be completed, with the reason for the operator."""


class Host:
    """One host and what this run has done to it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.parameters = module.params
        self.docker = DockerCli(module)
        self.proxy = traffic.Proxy(module.params["socket"])
        self.actions: list[str] = []
        self.answers: dict[str, t.Any] = {}

    # The order in which they start: the API is proved against the inference service. They end in the other order.
    @property
    def services(self) -> list[tuple[str, dict[str, t.Any]]]:
        """Return the services of this host with their plans, inference first."""
        wanted = self.parameters["services"]
        return [(name, wanted[name]) for name in slots.SERVICES if name in wanted]

    def map(self) -> dict[str, str]:
        """Return which slot serves, as the file says."""
        return traffic.read_map(self.parameters["map"])

    def publish(self, entries: dict[str, str], what: str) -> None:
        """Make a map the truth, if it differs from what is."""
        wanted = {key: value for key, value in entries.items() if value}
        if wanted == self.map() and (not self.proxy.answers or wanted == self.in_memory()):
            return
        traffic.publish(wanted, self.parameters["map"], self.proxy)
        self.actions.append(what)

    def serving(self) -> dict[str, dict[str, str]]:
        """Return slot and release that serve each service of this call."""
        entries, found = self.map(), {}
        for name in self.parameters["services"]:
            slot = traffic.front(entries.get(name, ""))
            names = [entries.get(f"api_{slot}", "")] if name == "api" else sorted(self.keys_of(entries, slot))
            found[name] = {"slot": slot, "release": ", ".join(names)}
        return found

    def in_memory(self) -> dict[str, str]:
        """Return which slot serves, as HAProxy has it."""
        return traffic.in_memory(self.parameters["map"], self.proxy)

    def remember(self) -> None:
        """Write what is to be remembered of this rollout."""
        ledger = Ledger(self.parameters["root"])
        ledger.set_aside_damaged()
        for record in self.parameters["records"]:
            ledger.write({**record, "written_at": time.time()})
        for entry in self.parameters["journal"]:
            ledger.append({"time": time.time(), **entry})

    # Prepare.

    def prepare(self) -> None:
        """Start what is to serve, and wait until it has proved itself."""
        starting = []
        staying = [(name, plan) for name, plan in self.services if plan["action"] != "retire"]
        for name, plan in staying:
            own = self.keep_secrets(name)
            if plan["action"] != "keep":
                changed = self.write_secrets(name, plan["slot"], own)
                if self.makes_room(name, plan):
                    self.displace(name, plan)
                self.start(name, plan, changed)
                starting.append((name, plan))
        entries = {key: value for _service, plan in staying for key, value in plan["map"].items()}
        self.publish({**self.map(), **entries}, "the proxy knows the new slots")
        for name, plan in starting:
            for place in plan["copies"]:
                self.prove(plan, place)
            if self.makes_room(name, plan):
                self.take_place(name, plan)

    def keep_secrets(self, service: str) -> dict[str, bytes]:
        """Keep the release's own secrets of a service on this host and return them, or those that it has kept."""
        given = self.parameters["secrets"].get(service) or {}
        kept = slots.release_secrets_directory(self.parameters["config"], self.parameters["release"], service)
        if given.get("release") is not None:
            own = secret_files.checked(given["release"])
            secret_files.write(kept, own, 0)
            return own
        if given and not os.path.isdir(kept):
            raise Failed(f"This host has not kept the secrets of {service} of the release. Deploy its source again.")
        return secret_files.read(kept)

    def write_secrets(self, service: str, slot: str, own: dict[str, bytes]) -> bool:
        """Write the secrets of a slot, a directory without any where there are none; return whether they have changed."""
        current = secret_files.checked((self.parameters["secrets"].get(service) or {}).get("current") or {})
        directory = slots.secrets_directory(self.parameters["config"], service, slot)
        wanted, earlier = {**own, **current}, secret_files.read(directory)
        secret_files.write(directory, wanted, self.parameters["gid"])
        return earlier != wanted

    def names(self, service: str, slot: str) -> list[str]:
        """Return the names of a slot's containers that there are, whatever they are."""
        there = self.docker.run("ps", "--all", "--format", "{{.Names}}").split()
        return sorted(name for name in there if slots.copy_of(name, service, slot) is not None)

    def start(self, service: str, plan: dict[str, t.Any], secrets_changed: bool) -> None:
        """Run the containers of a slot, those that are kept there if they are the same."""
        wanted = [slots.container_of(place) for place in plan["copies"]]
        for name in self.names(service, plan["slot"]):
            if name not in wanted:
                self.docker.run("rm", "--force", name)
                self.actions.append(f"{name} removed")
        for place in plan["copies"]:
            self.start_copy(plan, place, secrets_changed)

    def start_copy(self, plan: dict[str, t.Any], place: dict[str, t.Any], secrets_changed: bool) -> None:
        """Run one container of a slot."""
        name = slots.container_of(place)
        info = self.docker.inspect(name)
        found = slots.describe(info) if info else {}
        same = found and found["identity"] == plan["identity"]
        same = same and found["run"] == slots.run_digest(plan["container"], place)
        running = found.get("state") == "running" and found["health"] != "unhealthy"
        if same and running and not secrets_changed:
            return
        if info and not same:
            self.docker.run("rm", "--force", name)
        if not same:
            access = slots.card_access(self.docker) if place.get("card") else ""
            self.docker.run(*slots.create_command(plan["container"], place, plan["identity"], access))
        elif found["state"] == "running":
            self.docker.run("stop", name)
        self.docker.run("start", name)
        self.actions.append(f"{name} started" if same else f"{name} created and started")

    def prove(self, plan: dict[str, t.Any], place: dict[str, t.Any]) -> None:
        """Wait until a container has proved itself, or say why it has not."""
        name, ready = slots.container_of(place), plan["ready"]
        wanted = {
            **{"name": name, "network": place["network"], "port": plan["port"], "path": ready["path"]},
            **{"passes": ready["passes"], "timeout": ready["timeout"], "expect": {}, "log_lines": 30},
            **{"request_timeout": 5.0, "interval": 0.1},
        }
        passed, result = readiness.watch(self.docker, wanted)
        problem = "" if passed else readiness.failure(self.docker, wanted, result)[0]
        smoke = plan.get("smoke")
        if passed and smoke:
            good, seen = readiness.ask(
                place["address"], plan["port"], smoke["path"], smoke.get("timeout", TRIAL_SECONDS), {}, smoke.get("body")
            )
            if not good:
                lines = readiness.log_without_questions(self.docker, name, ready["path"], 30)
                problem = f"The container {name} was ready, but its trial request failed: {seen}. "
                problem += "Last lines of its log:\n" + "\n".join(lines)
        if problem:
            raise Failed(problem)
        if plan["action"] != "await":
            self.actions.append(f"{name} ready after {result['seconds']} s")

    # Where two copies find no room, the earlier slot makes room before the new one starts.

    def makes_room(self, service: str, plan: dict[str, t.Any]) -> bool:
        """Say whether a service's earlier slot has to end first."""
        return bool(self.parameters["makes_room"]) and service == "inference" and plan["action"] == "replace"

    def displace(self, service: str, plan: dict[str, t.Any]) -> None:
        """Take the serving slot out of the pool, or have its requests wait if it is the only one, and stop it.

        What has to be brought back by an undo is written down first.
        """
        live, entries = plan["live"], self.map()
        if not live or traffic.read_json(self.displaced_path):
            return
        own = {key: value for key, value in entries.items() if value == live and key.startswith(service)}
        traffic.write_atomically(self.displaced_path, json.dumps({"slot": live, "entries": own}) + "\n")
        if self.parameters["makes_room"] == "alone":
            self.publish({**entries, WAITING: "yes"}, f"requests for {service} wait")
        else:
            self.publish({**entries, LEAVING: "yes"}, f"{service} leaves the pool")
            time.sleep(LEAVE_SECONDS)
            self.publish({key: value for key, value in entries.items() if key not in own}, f"{service} is out of the pool")
        self.retire(service, live, plan.get("drain", 30))

    def take_place(self, service: str, plan: dict[str, t.Any]) -> None:
        """Let requests go to the new slot: on an only host also those of who still asks for the earlier one."""
        self.await_up(f"{service}_{plan['slot']}", len(plan["copies"]))
        if self.parameters["makes_room"] == "alone":
            own = (traffic.read_json(self.displaced_path) or {}).get("entries", {})
            entries = {key: value for key, value in self.map().items() if key != WAITING}
            self.publish({**entries, **dict.fromkeys(own, plan["slot"])}, f"{service} answers again")

    def bring_back(self, service: str, plan: dict[str, t.Any]) -> None:
        """Start again what made room for what is undone, and let requests go there."""
        note = traffic.read_json(self.displaced_path)
        if service != "inference" or not note:
            return
        names = self.names(service, note["slot"])
        self.docker.run("update", *slots.SERVING, *names)
        self.docker.run("start", *names)
        self.actions += [f"{name} started again" for name in names]
        self.await_up(f"{service}_{note['slot']}", len(names), plan.get("ready", {}).get("timeout", BACK_TIMEOUT))
        entries = {key: value for key, value in self.map().items() if key not in (WAITING, LEAVING)}
        self.publish({**entries, **note["entries"]}, f"{service} is back in {note['slot']}")
        os.unlink(self.displaced_path)

    @property
    def displaced_path(self) -> str:
        """Return where it is written down which slot made room."""
        return os.path.join(self.parameters["root"], "displaced.json")

    # Commit.

    def commit(self) -> None:
        """Switch to what was prepared, and watch it."""
        # What is retired serves until the switch is confirmed.
        switching = [(name, plan) for name, plan in self.services if plan["action"] not in ("keep", "retire")]
        for name, plan in switching:
            self.await_up(f"{name}_{plan['slot']}", len(plan["copies"]))
        before = self.map()
        entries = dict(before)
        for name, plan in switching:
            behind = plan["live"] if name == "api" and plan["action"] == "replace" and plan["behind"] else ""
            entries[name] = f"{plan['slot']}_{behind}" if behind else plan["slot"]
            self.docker.run("update", *slots.SERVING, *map(slots.container_of, plan["copies"]))
        if entries != before:
            restore = {name: traffic.front(before.get(name, "")) for name, _plan in switching}
            with traffic.only_one(self.parameters["root"]):
                traffic.arm(
                    restore,
                    self.parameters["release"],
                    self.parameters["fence"],
                    self.parameters["undo_after"],
                    self.parameters["root"],
                )
            counters = self.counters(entries)
            self.publish(entries, "switched")
            self.answers["switched_at"] = time.time()
            if "api" in dict(switching):
                self.bake(entries["api"], counters, dict(switching)["api"])

    def await_up(self, slot: str, copies: int, timeout: float = 0) -> None:
        """Wait until HAProxy's own check has found a slot; a switch before that would make requests wait."""
        deadline = time.monotonic() + (timeout or self.parameters["up_timeout"])
        while not self.proxy.up(slot, copies):
            if time.monotonic() > deadline:
                raise Failed(
                    f"HAProxy does not find {slot} up, although it is ready. Look at 'show stat' of {self.proxy.path}."
                )
            time.sleep(POLL)

    def counters(self, entries: dict[str, str]) -> tuple[int, int]:
        """Return how many requests the API's serving slot has had in its backend, and how many of them failed."""
        value = entries.get("api", "")
        row = self.proxy.servers().get((f"api_{value}", f"api_{traffic.front(value)}"), {})
        total = int(row.get("stot") or 0)
        # What was repeated on the other slot counts as much as what a client saw.
        failed = sum(int(row.get(field) or 0) for field in ("hrsp_5xx", "econ", "eresp", "wredis"))
        return total, failed

    def bake(self, value: str, start: tuple[int, int], plan: dict[str, t.Any]) -> None:
        """Watch the slot that serves since now, and return to the earlier one at once if it makes errors."""
        began = time.monotonic()
        problem = self.release_answers(plan)
        requests = errors = 0
        while not problem:
            try:
                total, failed = self.counters({"api": value})
                up = self.proxy.up(f"api_{plan['slot']}")
            except OSError as error:
                problem = f"HAProxy does not answer ({error})"
                break
            requests, errors = total - start[0], failed - start[1]
            percent = 100 * errors / max(requests, 1)
            if errors >= self.parameters["bake_errors"] and percent >= self.parameters["bake_error_percent"]:
                problem = f"{errors} of {requests} requests failed on it"
            elif not up:
                problem = "HAProxy's check of it fails"
            if time.monotonic() - began >= self.parameters["bake"]:
                break
            time.sleep(POLL)
        seconds = round(time.monotonic() - began, 2)
        self.answers["watched"] = {"requests": requests, "errors": errors, "seconds": seconds}
        if problem:
            try:
                traffic.undo(problem, self.parameters["root"], self.parameters["map"], self.proxy)
                self.actions.append("switched back")
            except OSError as error:
                problem += f"; and it could not be switched back at once ({error}), so the host tries again by itself"
            name = slots.container_name("api", plan["slot"])
            lines = readiness.log_without_questions(self.docker, name, plan["ready"]["path"], 30)
            log = "\n".join(lines) or "(it wrote nothing)"
            raise Failed(
                f"The new slot {name} was taken back {seconds} s after the switch: {problem}. Last lines of its log:\n{log}"
            )

    def release_answers(self, plan: dict[str, t.Any]) -> str:
        """Ask the public path which release answers; return what is wrong, if anything."""
        connection = http.client.HTTPConnection(plan["public"]["address"], plan["public"]["port"], timeout=5)
        try:
            connection.request("GET", plan["public"]["path"], headers={"Connection": "close"})
            answer = connection.getresponse()
            found = answer.getheader(RELEASE_HEADER, "nothing")
        except (OSError, http.client.HTTPException) as error:
            return f"the public path does not answer ({error or type(error).__name__})"
        finally:
            connection.close()
        return "" if found == plan["identity"] else f"the public path answers the release {found}"

    # Settle.

    def settle(self) -> None:
        """Confirm, drain and stop what served before."""
        if traffic.disarm(self.parameters["root"]):
            self.actions.append("confirmed")
        traffic.forget(self.parameters["root"])
        for name, plan in reversed(self.services):
            entries = self.map()
            slot = traffic.front(entries.get(name, ""))
            if plan.get("action") == "retire":
                self.retire_all(name, plan)
                continue
            idle = traffic.other(slot)
            keys = [f"api_{idle}", f"egress_{idle}"] if name == "api" else self.keys_of(entries, idle)
            self.publish({**entries, name: slot}, f"{name} is served by {slot} alone")
            self.retire(name, idle, plan.get("drain", 30))
            self.publish({key: value for key, value in self.map().items() if key not in keys}, f"{idle} is idle")
            if name == "inference":
                self.forget_displaced(plan)

    def forget_displaced(self, plan: dict[str, t.Any]) -> None:
        """Drop what was noted of a slot that made room, and the names by which the release before asked for it."""
        note = traffic.read_json(self.displaced_path)
        if note:
            entries = self.map()
            spare = [key for key in note["entries"] if key.startswith("inference_") and key not in plan.get("map", {})]
            self.publish({key: value for key, value in entries.items() if key not in spare}, "the earlier release is over")
            os.unlink(self.displaced_path)

    def retire_all(self, service: str, plan: dict[str, t.Any]) -> None:
        """Stop both slots of a service that the release has no more; their containers are kept."""
        for slot in traffic.SLOTS:
            self.retire(service, slot, plan.get("drain", 30))
        entries = {key: value for key, value in self.map().items() if key != service and not key.startswith(f"{service}_")}
        self.publish(entries, f"{service} is retired")

    @staticmethod
    def keys_of(entries: dict[str, str], slot: str) -> list[str]:
        """Return which inference keys lead to a slot."""
        return [key for key, value in entries.items() if key.startswith("inference_") and value == slot]

    def retire(self, service: str, slot: str, timeout: float) -> None:
        """Let a slot finish its requests, then stop it or have it stand by. Its containers are kept."""
        stands_by = service in self.parameters["standby"]
        found = [info for name in self.names(service, slot) if (info := self.docker.inspect(name))]
        serving = [one for one in map(slots.describe, found) if one["state"] == "running"]
        names = [one["name"] for one in serving if not (stands_by and one["standby"])]
        if not names:
            return
        began = time.monotonic()
        while self.proxy.answers and self.proxy.sessions(f"{service}_{slot}") and time.monotonic() - began < timeout:
            time.sleep(POLL)
        self.docker.run("update", *(slots.STANDBY if stands_by else slots.STARTING), *names)
        if not stands_by:
            self.docker.run("stop", *names)
        self.actions += [f"{name} {'stands by' if stands_by else 'stopped'}" for name in names]

    # Undo.

    def undo(self) -> None:
        """Return to what served before, and remove what did not come to stay."""
        if not self.docker.present:
            # A new host that did not come that far.
            return
        note = traffic.read_json(traffic.pending_path(self.parameters["root"]))
        if traffic.undo("the rollout failed", self.parameters["root"], self.parameters["map"], self.proxy):
            self.actions.append("switched back")
        traffic.forget(self.parameters["root"])
        for name, plan in reversed(self.services):
            entries = self.map()
            slot = traffic.front((note or {}).get("restore", {}).get(name, "") or entries.get(name, ""))
            displaced = (traffic.read_json(self.displaced_path) or {}) if name == "inference" else {}
            slot = displaced.get("slot", slot)
            if plan.get("action") in ("keep", "retire"):
                continue
            asked = [key for key in displaced.get("entries", {}) if key.startswith("inference_")]
            if WAITING not in entries and any(entries.get(key) for key in asked):
                # It is the only host, and the new slot has its requests until the earlier one is back.
                self.publish({**entries, WAITING: "yes"}, f"requests for {name} wait")
            for idle in traffic.SLOTS:
                if idle != slot:
                    self.discard(name, idle, plan)
            entries = {**self.map(), name: slot}
            idle = traffic.other(slot)
            keys = [f"api_{idle}", f"egress_{idle}"] if name == "api" else self.keys_of(entries, idle)
            self.publish({k: v for k, v in entries.items() if k not in keys}, f"{name} is served by {slot or 'nothing'}")
            self.bring_back(name, plan)

    def discard(self, service: str, slot: str, plan: dict[str, t.Any]) -> None:
        """Remove an idle slot's containers if they belong to what is undone or run; kept ones stay."""
        names = []
        for name in self.names(service, slot):
            info = self.docker.inspect(name)
            found = slots.describe(info) if info else {}
            kept = not found or found["state"] in ("exited", "created") or found["standby"]
            if found and (not kept or found["identity"] in (plan.get("identity"), self.parameters["release"])):
                names.append(name)
        if not names:
            return
        deadline = time.monotonic() + plan.get("drain", 30)
        while self.proxy.answers and self.proxy.sessions(f"{service}_{slot}") and time.monotonic() < deadline:
            time.sleep(POLL)
        self.docker.run("rm", "--force", *names)
        shutil.rmtree(slots.secrets_directory(self.parameters["config"], service, slot), ignore_errors=True)
        self.actions += [f"{name} removed" for name in names]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["prepared", "committed", "settled", "undone"], "required": True},
            "release": {"type": "str", "required": True},
            "services": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "fence": {"type": "int", "required": True},
            "records": {"type": "list", "elements": "dict", "default": []},
            "journal": {"type": "list", "elements": "dict", "default": []},
            "bake": {"type": "float", "default": 10},
            "bake_errors": {"type": "int", "default": 3},
            "bake_error_percent": {"type": "float", "default": 1},
            "undo_after": {"type": "float", "default": 120},
            "standby": {"type": "list", "elements": "str", "default": []},
            "makes_room": {"type": "str", "choices": ["", "pool", "alone"], "default": ""},
            "up_timeout": {"type": "float", "default": 10},
            "notes": {"type": "str", "default": ""},
            "root": {"type": "path", "default": "/var/lib/truthgraph"},
            "config": {"type": "path", "default": "/etc/truthgraph"},
            "map": {"type": "path", "default": "/etc/truthgraph/proxy/traffic.map"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "gid": {"type": "int", "default": 10001},
        },
        supports_check_mode=True,
    )
    began = time.monotonic()
    host = Host(module)
    state = module.params["state"]
    problem = ""
    if not module.check_mode:
        os.makedirs(module.params["root"], mode=0o700, exist_ok=True)
        phases = {"prepared": host.prepare, "committed": host.commit, "settled": host.settle, "undone": host.undo}
        try:
            accept_fence(module.params["root"], module.params["fence"])
            if state == "prepared":
                host.remember()
            phases[state]()
            if state != "prepared":
                host.remember()
        except Outdated as error:
            problem = f"This run's lock is outdated: {error}. Another run has taken over; let it finish."
        except (Failed, OSError, ValueError) as error:
            problem = str(error)
        with contextlib.suppress(OSError, ValueError):
            # What is wrong with the map was said above, if it is of any account.
            host.answers["serves"] = host.serving()
    seconds = round(time.monotonic() - began, 2)
    if problem:
        module.fail_json(msg=problem, actions=host.actions, seconds=seconds, **host.answers)
    module.exit_json(changed=bool(host.actions), actions=host.actions, seconds=seconds, **host.answers)


if __name__ == "__main__":
    main()
