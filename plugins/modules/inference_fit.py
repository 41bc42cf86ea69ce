#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Try an image of the inference service on this host's cards, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inference_fit
short_description: Try an image of the inference service on this host's cards
version_added: 0.1.0
description:
  - Compares what the image needs (the CUDA version and the architectures of its torch, C(NVIDIA_REQUIRE_CUDA)) with what
    driver and cards have.
  - Then runs the image on each card as the slot would, waits until it is ready, and has it encode one sentence. What that
    takes of the card's memory is measured, and with it whether two copies find room there at the same time. The container is
    removed again; no request of a client goes there.
  - What was found is remembered for this image, configuration, card and driver, so a repeated run asks the card for its free
    memory only.
  - Where there is no room beside what serves, nothing is tried. The copy that serves is measured instead.
options:
  container:
    description: What a release says of the container, as the filter P(truthgraph.platform.release_plan#filter) answers it.
    type: dict
    required: true
  copies:
    description: The places of the slot's copies, each with C(card) and C(card_access), likewise.
    type: list
    elements: dict
    required: true
  ready:
    description: How readiness is asked for, likewise.
    type: dict
    required: true
  port:
    description: Port of the service in its container.
    type: int
    required: true
  smoke:
    description: The trial request, C(path) and C(body).
    type: dict
    default: {path: /embed, body: {texts: ["Can this card encode a sentence?"]}}
  host:
    description: What this host is called in messages.
    type: str
    required: true
  has_secrets:
    description: Whether the service has secrets. Then nothing is tried before they are on the host for the first time.
    type: bool
    default: false
  headroom:
    description: MiB of a card that stay free beside two copies.
    type: int
    default: 256
  map:
    description: HAProxy's map that says which slot serves.
    type: path
    default: /etc/truthgraph/proxy/traffic.map
  root:
    description: Directory in which the host remembers what was found.
    type: path
    default: /var/lib/truthgraph
attributes:
  check_mode:
    support: partial
    description: Nothing is run.
    details: What is remembered is compared, and the rest is said to be unknown.
  diff_mode:
    support: none
    description: Nothing is changed.
  idempotent:
    support: full
    description: Nothing is changed.
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Try the image on the cards
  truthgraph.platform.inference_fit:
    container: "{{ release_plan.hosts[inventory_hostname].inference.container }}"
    copies: "{{ release_plan.hosts[inventory_hostname].inference.copies }}"
    ready: "{{ release_plan.hosts[inventory_hostname].inference.ready }}"
    port: 8001
    host: "{{ inventory_hostname }}"
  become: true
"""

RETURN = r"""
needs:
  description: What the image says that it needs.
  returned: always
  type: dict
  sample: {cuda: "12.8", architectures: [sm_80, sm_90], require: ""}
cards:
  description: By card, its C(name), the MiB that a copy takes, those that are free now, and whether another copy finds room.
  returned: always
  type: dict
  sample: {"0": {name: NVIDIA L4, copy: 1480, free: 20100, room: true}}
room:
  description: Whether every card has room for another copy.
  returned: always
  type: bool
seconds:
  description: How long the image took until it was ready, the longest of the cards; V(0) if it was not tried.
  returned: always
  type: float
simulated:
  description: Whether a card is a simulated one.
  returned: always
  type: bool
problems:
  description: What does not fit; empty if everything does.
  returned: always
  type: list
  elements: str
"""

import json
import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils import card_fit, nvidia_smi, readiness, slots, traffic
from ansible_collections.truthgraph.platform.plugins.module_utils.docker_cli import DockerCli

TRIAL = "truthgraph-inference-trial"
# Images, configurations and cards of which is remembered how they went together.
REMEMBERED = 20


class Fit:
    """A host's cards, and an image that is to run on them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.parameters = module, module.params
        self.docker = DockerCli(module)
        self.memory_path = os.path.join(module.params["root"], "fit.json")
        self.memory: dict[str, t.Any] = traffic.read_json(self.memory_path) or {}
        self.program = module.get_bin_path(nvidia_smi.PROGRAM)
        self.smi = self.cards()
        self.seconds = 0.0

    def remember(self, key: str, value: t.Any) -> None:
        """Note what was found, and forget what is oldest."""
        self.memory.pop(key, None)
        self.memory = dict([*self.memory.items(), (key, value)][-REMEMBERED:])
        os.makedirs(self.parameters["root"], mode=0o700, exist_ok=True)
        traffic.write_atomically(self.memory_path, json.dumps(self.memory) + "\n")

    def cards(self) -> dict[str, t.Any]:
        """Return what the driver says of the cards now."""
        return nvidia_smi.inspect(self.program, nvidia_smi.TIMEOUT)

    def needs(self) -> dict[str, t.Any]:
        """Return what the image says that it needs; of its torch it is asked once."""
        image = self.parameters["container"]["image"]
        if image in self.memory or self.module.check_mode:
            known: dict[str, t.Any] = self.memory.get(image, {"cuda": "", "architectures": [], "require": ""})
            return known
        environment = json.loads(self.docker.run("image", "inspect", "--format", "{{json .Config.Env}}", image)) or []
        require = [value for name, _equals, value in (one.partition("=") for one in environment) if name == "NVIDIA_REQUIRE_CUDA"]
        said = self.docker.run(
            *("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--env", "CUDA_VISIBLE_DEVICES="),
            *("--entrypoint", "python3", image, "-c", card_fit.QUESTION),
        )
        needs = {**json.loads(said.splitlines()[-1]), "require": "".join(require)}
        self.remember(image, needs)
        return needs

    def card(self, place: dict[str, t.Any]) -> card_fit.Card | None:
        """Return the card of a place as it is now."""
        return card_fit.card_named(self.cards()["cards"], place["card"])

    def measure(self, place: dict[str, t.Any]) -> tuple[dict[str, t.Any], str]:
        """Return what a copy takes of its card and whether another one finds room, and what is wrong with it."""
        host = self.parameters["host"]
        card = self.card(place)
        if card is None:
            self.module.fail_json(msg=f"The card {place['card']} of {host} is not there any more.")
        key = slots.digest(
            [slots.run_digest(self.parameters["container"], {**place, "slot": "trial", "address": ""}), card["uuid"]]
            + [self.smi["driver_version"], card["memory_total"]]
        )
        found = self.memory.get(key)
        problem = ""
        if found is None and not self.module.check_mode:
            copy = self.copy_that_serves(place)
            if copy and not card_fit.has_room(card, copy, self.parameters["headroom"]):
                # Nothing can be tried beside it, and what serves is about as large.
                found = {"copy": copy}
            else:
                found, problem = self.trial(place, card)
                if not problem:
                    self.remember(key, found)
        copy = (found or {}).get("copy", 0)
        self.seconds = max(self.seconds, (found or {}).get("seconds", 0.0))
        room = card_fit.has_room(card, copy, self.parameters["headroom"])
        if not problem and (card["memory_free"] or copy) < copy and not self.copy_that_serves(place):
            problem = (
                f"The card {place['card']} of {host} has {card['memory_free']} MiB free, and a copy of the inference service "
                f"takes {copy}. End what else is on it (nvidia-smi lists it), or use another card (inference_cards)."
            )
        return {"name": card["name"], "copy": copy, "free": card["memory_free"], "room": room}, problem

    def copy_that_serves(self, place: dict[str, t.Any]) -> int:
        """Return the MiB that the copy takes which serves on this card now; 0 where there is none."""
        service, mine = place["service"], 0
        slot = traffic.front(traffic.read_map(self.parameters["map"]).get(service, ""))
        info = self.docker.inspect(slots.container_name(service, slot, place.get("copy", 0))) if slot else None
        if info and info["State"]["Status"] == "running":
            code, out, _err = self.docker.try_run("top", info["Id"], "-eo", "pid")
            pids = set(out.split()[1:]) if code == 0 else set()
            mine = sum(used for pid, used in nvidia_smi.processes(self.program, place["card"]) if str(pid) in pids)
        return mine

    def trial(self, place: dict[str, t.Any], card: card_fit.Card) -> tuple[dict[str, t.Any], str]:
        """Run the image on a card once, and return what it took; or what went wrong."""
        ready = self.parameters["ready"]
        own = {**place, "slot": "trial", "fleet": ""}
        # The slot's secrets are written when it starts; before the first time there are none to try it with.
        if not os.path.isdir(place["secrets"]):
            if self.parameters["has_secrets"]:
                return {"copy": 0, "seconds": 0.0}, ""
            own["secrets"] = ""
        if own["card_access"] == "auto":
            own["card_access"] = slots.card_access(self.docker)
        options = slots.run_options(self.parameters["container"], own)
        address = options.index("--ip")
        self.docker.try_run("rm", "--force", TRIAL)
        try:
            code, _out, err = self.docker.try_run(
                "run", "--detach", "--name", TRIAL, *options[:address], *options[address + 2 :]
            )
            if code != 0:
                where = f"The engine of {self.parameters['host']}"
                return {}, f"{where} cannot give a container the card {place['card']}: {err.strip()}"
            wanted = {
                **{"name": TRIAL, "network": place["network"], "port": self.parameters["port"], "path": ready["path"]},
                **{"passes": 1, "timeout": ready["timeout"], "expect": {}, "log_lines": 15},
                **{"request_timeout": 5.0, "interval": 0.2},
            }
            passed, result = readiness.watch(self.docker, wanted)
            if not passed:
                return {}, f"{readiness.failure(self.docker, wanted, result)[0]} (a trial on the card {place['card']})"
            smoke = self.parameters["smoke"]
            good, seen = readiness.ask(
                result["address"], self.parameters["port"], smoke["path"], 30.0, {}, smoke.get("body")
            )
            if not good:
                return {}, f"On the card {place['card']} the image was ready, but encoded no sentence: {seen}."
            after = self.card(place) or card
            # A card that shares the host's memory does not say how much of it is used.
            taken = (after["memory_used"] or 0) - (card["memory_used"] or 0)
            return {"copy": max(taken, 0), "seconds": result["seconds"]}, ""
        finally:
            self.docker.try_run("rm", "--force", TRIAL)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "dict", "required": True},
            "copies": {"type": "list", "elements": "dict", "required": True},
            "ready": {"type": "dict", "required": True},
            "port": {"type": "int", "required": True},
            "smoke": {
                "type": "dict",
                "default": {"path": "/embed", "body": {"texts": ["Can this card encode a sentence?"]}},
            },
            "host": {"type": "str", "required": True},
            "has_secrets": {"type": "bool", "default": False},
            "headroom": {"type": "int", "default": 256},
            "map": {"type": "path", "default": traffic.MAP},
            "root": {"type": "path", "default": traffic.ROOT},
        },
        supports_check_mode=True,
    )
    began = time.monotonic()
    fit = Fit(module)
    host, copies = module.params["host"], module.params["copies"]
    needs = fit.needs()
    problems = card_fit.selection_problems(fit.smi["cards"], [place["card"] for place in copies], host)
    cards: dict[str, t.Any] = {}
    if not problems:
        named = (card_fit.card_named(fit.smi["cards"], place["card"]) for place in copies)
        used = [card for card in named if card is not None]
        problems = card_fit.needs_problems(needs, fit.smi, used, host)
    for place in copies if not problems else []:
        cards[place["card"]], problem = fit.measure(place)
        problems += [problem] if problem else []
    module.exit_json(
        changed=False,
        needs=needs,
        cards=cards,
        room=all(card["room"] for card in cards.values()),
        seconds=fit.seconds,
        simulated=fit.smi["simulated"],
        problems=problems,
        took=round(time.monotonic() - began, 2),
    )


if __name__ == "__main__":
    main()
