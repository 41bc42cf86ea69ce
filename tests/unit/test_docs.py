"""What the documents say is what there is: links, names, commands and messages. Commands of the README are run as they stand."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2
import jinja2.nodes
import pytest
import yaml

from ansible_collections.truthgraph.platform.docs import generate

ROOT = Path(__file__).resolve().parents[2]
NAME = "truthgraph.platform"
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# A block of code, a span of it, and a link, which may go over several lines.
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# The name of a variable that is given on the command line.
GIVEN = re.compile(r"-e ['\"]?(\w+)=")


def documents() -> list[str]:
    """The documents of the checkout, by their paths."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


DOCUMENTS = documents()
# The changelog may speak of what is no more.
PRESENT = [name for name in DOCUMENTS if name != "CHANGELOG.md"]


@functools.cache
def read(name: str | Path) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """A document without its blocks of code."""
    return BLOCK.sub("", read(name))


def spans(name: str) -> list[str]:
    """What a document has between back quotes."""
    return SPAN.findall(prose(name))


def commands(name: str) -> list[str]:
    """The commands of a document's console blocks, each as one line without prompt and comment."""
    found = []
    for language, block in BLOCK.findall(read(name)):
        if language == "console":
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [re.sub(r"  +#.*$", "", line.strip()[2:]) for line in lines if line.strip().startswith("$ ")]
    return found


def anchors(path: Path) -> set[str]:
    """The names by which a document's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading)).lower().replace(" ", "-") for heading in headings}


# What is written by a program.


def test_what_the_code_says_is_written_down() -> None:
    behind = [path.relative_to(ROOT) for path, text in generate.written().items() if not path.is_file() or read(path) != text]
    assert not behind, f"run make docs: {', '.join(map(str, behind))}"


@pytest.mark.parametrize("role", ROLES)
def test_no_variable_of_a_role_has_a_second_table(role: str) -> None:
    """Its default stands in the table that is written; what else is said of a variable is prose, or has other columns."""
    text = re.sub(rf"{generate.BEGIN}.*{generate.END}", "", read(f"roles/{role}/README.md"), flags=re.DOTALL)
    assert not re.search(r"^\|.*\| default \|", text, flags=re.MULTILINE)


def test_every_plugin_is_listed() -> None:
    for directory in generate.PLUGINS:
        stems = {path.stem for path in (ROOT / "plugins" / directory).glob("*.*")} - {"__init__"}
        listed = {name for name, _file, _what in generate.plugins(directory)}
        assert listed <= stems, "a plugin is called otherwise than its file"
        # What describes itself in files beside it is no plugin of its own.
        described = {stem for stem in stems if "DOCUMENTATION" in "".join(read(path) for path in files_of(directory, stem))}
        assert listed == described


def files_of(directory: str, stem: str) -> list[Path]:
    return [path for path in (ROOT / "plugins" / directory).glob(f"{stem}.*") if path.suffix in (".py", ".yml")]


# Links.


def leads_somewhere(name: str, target: str) -> bool:
    """Say whether a link of a document leads to a file of the checkout, and to a heading of it if it names one."""
    path, _, anchor = target.partition("#")
    place = ((ROOT / name).parent / path).resolve() if path else ROOT / name
    document = place / "README.md" if place.is_dir() else place
    return place.is_relative_to(ROOT) and place.exists() and (not anchor or anchor in anchors(document))


def test_links_lead_somewhere() -> None:
    links = [(name, target) for name in DOCUMENTS for target in LINK.findall(prose(name)) if not re.match(r"[a-z]+:", target)]
    assert len(links) > 100
    assert not [f"{name}: {target}" for name, target in links if not leads_somewhere(name, target)]


def is_shipped(name: str | Path) -> bool:
    """Say whether a file or directory is in the archive that users install, as ansible-galaxy chooses what goes there."""
    ignored = generate.document(ROOT / "galaxy.yml")["build_ignore"]
    whole = [Path(name), *Path(name).parents][:-1]
    return not any(fnmatch.fnmatch(str(part), pattern) for part in whole for pattern in ignored)


def leads_out_of_the_archive(name: str, target: str) -> bool:
    """Say whether a link of a document that is shipped leads to what is not."""
    place = ((ROOT / name).parent / target.partition("#")[0]).resolve()
    return is_shipped(name) and place != ROOT and not is_shipped(place.relative_to(ROOT))


def test_links_of_what_is_shipped_lead_to_what_is_shipped() -> None:
    links = [(name, target) for name in DOCUMENTS for target in LINK.findall(prose(name)) if not re.match(r"[a-z]+:|#", target)]
    shipped = {name for name in DOCUMENTS if is_shipped(name)}
    assert {"README.md", "docs/images.md"} < shipped and "CONTRIBUTING.md" not in shipped
    assert leads_out_of_the_archive("docs/images.md", "../benchmarks/images.py")
    assert not [f"{name}: {target}" for name, target in links if leads_out_of_the_archive(name, target)]


def test_every_page_is_linked_to_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(read("README.md"))}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= linked


# Names.


@functools.cache
def role_variables(role: str) -> frozenset[str]:
    """The variables of a role that may be set."""
    specifications = generate.document(ROOT / "roles" / role / "meta/argument_specs.yml").get("argument_specs", {})
    options = {name for one in specifications.values() for name in one.get("options", {})}
    return frozenset(options | set(generate.document(ROOT / "roles" / role / "defaults/main.yml")))


@functools.cache
def role_text(role: str) -> str:
    """All YAML of a role."""
    return "\n".join(read(path) for path in sorted((ROOT / "roles" / role).rglob("*.yml")))


@functools.cache
def answered() -> frozenset[str]:
    """What roles answer: facts that their tasks set, and results that they keep."""
    found: set[str] = set()
    for role in ROLES:
        found |= set(re.findall(r"^ *register: (\w+)$", role_text(role), flags=re.MULTILINE))
        for facts in re.findall(r"ansible\.builtin\.set_fact:\n((?: {4,}.*\n)+)", role_text(role)):
            found |= set(re.findall(r"^ +(\w+):", facts, flags=re.MULTILINE))
    return frozenset(found)


def expressions(node: t.Any, bare: bool = False) -> t.Iterator[str]:
    """Yield what Jinja works out in a playbook, as templates."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from expressions(value, key in ("when", "that", "until", "failed_when"))
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value, bare)
    elif isinstance(node, str) and (bare or "{{" in node):
        yield node if "{{" in node else "{{ " + node + " }}"


def playbooks_of(playbook: str) -> list[t.Any]:
    """The plays of a playbook and of those that it imports."""
    plays: list[t.Any] = yaml.safe_load(read(f"playbooks/{playbook}"))
    named = [play["ansible.builtin.import_playbook"] for play in plays if "ansible.builtin.import_playbook" in play]
    # One that is chosen by a variable names all that it may be.
    imported = [f"{one}.yml" for name in named for one in re.findall(r"'(\w+)'", name) or [name.removesuffix(".yml")]]
    return plays + [play for name in dict.fromkeys(imported) for play in playbooks_of(name)]


@functools.cache
def read_by(playbook: str) -> frozenset[str]:
    """The variables that a playbook reads, or that belong to a role which it reaches."""
    plays = playbooks_of(playbook)
    environment = jinja2.Environment()
    names = {node.name for text in expressions(plays) for node in environment.parse(text).find_all(jinja2.nodes.Name)}
    reached: set[str] = set()
    waiting = re.findall(rf"{re.escape(NAME)}\.(\w+)", str(plays))
    while waiting:
        role = waiting.pop()
        if role in ROLES and role not in reached:
            reached.add(role)
            waiting += re.findall(rf"{re.escape(NAME)}\.(\w+)", role_text(role))
    return frozenset(names.union(*(role_variables(role) for role in reached)))


def playbook_of(words: list[str]) -> list[str]:
    """The playbooks of this collection that a command runs, by their files or by their names."""
    names = [word.removeprefix("playbooks/") for word in words if word.startswith("playbooks/")]
    return names + [f"{word.removeprefix(f'{NAME}.')}.yml" for word in words if word.startswith(f"{NAME}.")]


def test_commands_give_what_their_playbook_reads() -> None:
    runs = [(name, command) for name in PRESENT for command in commands(name) if "ansible-playbook " in command]
    assert len(runs) > 20
    for name, command in runs:
        (playbook,) = playbook_of(shlex.split(command))
        assert playbook in PLAYBOOKS, f"{name}: {command}"
        assert set(GIVEN.findall(command)) <= read_by(playbook), f"{name}: {command}"


def test_whatever_is_to_be_given_is_read_by_some_playbook() -> None:
    known = set().union(*map(read_by, PLAYBOOKS))
    assert not {name: unknown for name in PRESENT if (unknown := set(GIVEN.findall(read(name))) - known)}


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_reads_what_the_comment_at_its_top_says(playbook: str) -> None:
    head = read(f"playbooks/{playbook}").partition("\n- ")[0]
    given = set(GIVEN.findall(head))
    assert given <= read_by(playbook)
    # What is written in the way that the reference of variables is made from.
    listed = {option for option, _value, _meaning in generate.playbooks().get(playbook, [])}
    assert {one for one in given if re.search(rf"^#   -e {one}=", head, flags=re.MULTILINE)} == listed


def test_variables_that_are_named_are_there() -> None:
    """Whatever begins with the name of a role: a variable, an answer, or a plugin."""
    known = answered().union(*map(role_variables, ROLES), *map(read_by, PLAYBOOKS), ROLES)
    known |= {name for playbook in PLAYBOOKS for play in playbooks_of(playbook) for name in play.get("vars", {})}
    known |= {path.stem for path in (ROOT / "plugins").rglob("*.*")}
    of_roles = "\n".join(map(role_text, ROLES))
    # Those that begin so are a role's own.
    known |= {f"__{name}" for name in re.findall(r"^__(\w+):", of_roles, flags=re.MULTILINE)}
    prefixes = tuple(f"{mark}{role}_" for role in ROLES for mark in ("", "__"))
    wrong = [
        f"{name}: {word}"
        for name in PRESENT
        for span in spans(name)
        for word in re.findall(r"(?<![\w/.-])[a-z_]\w*(?![\w/-])", span)
        if word.startswith(prefixes) and word not in known
    ]
    assert not wrong


def test_targets_of_make_are_there() -> None:
    targets = {
        target
        for name in DOCUMENTS
        for one in spans(name) + commands(name)
        for found in re.findall(r"^make ((?:[a-z-]+ ?)+)", one)
        for target in found.split()
    }
    assert "deploy" in targets
    assert not [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)]


def test_playbooks_that_are_named_are_there() -> None:
    """A name alone may be that of another file, also of one that a template makes."""
    parts = ("inventories", "playbooks", "roles", "tests")
    files = {path.name.removesuffix(".j2") for part in parts for path in (ROOT / part).rglob("*.yml*")}
    wrong = []
    for name in PRESENT:
        for span in spans(name):
            wrong += [f"{name}: {found}" for found in re.findall(r"\bplaybooks/([a-z_]+\.yml)", span) if found not in PLAYBOOKS]
            if re.fullmatch(r"[a-z_]+\.yml", span) and span not in files and not (ROOT / span).is_file():
                wrong.append(f"{name}: {span}")
    assert not wrong


def test_files_that_are_named_are_there() -> None:
    path = re.compile(r"(?:docs|files|inventories/(?!mine)|meta|molecule|playbooks|plugins|roles|tests)/[a-z\d_./*-]+")
    named = [(name, span) for name in PRESENT for span in spans(name) if path.fullmatch(span)]
    assert len(named) > 20
    # Such as a role has them, too.
    assert not [f"{name}: {span}" for name, span in named if not any({*ROOT.glob(span), *ROOT.glob(f"roles/*/{span}")})]


def test_every_playbook_is_in_the_table_of_the_readme() -> None:
    table = re.findall(r"^\| `([a-z_]+\.yml)` \|", read("README.md"), flags=re.MULTILINE)
    assert sorted(table) == PLAYBOOKS


def test_examples_are_yaml_and_call_what_there_is() -> None:
    blocks = [block for name in DOCUMENTS for language, block in BLOCK.findall(read(name)) if language == "yaml"]
    assert blocks and all(yaml.safe_load(block) for block in blocks)
    called = re.findall(rf"(?:name|role): {re.escape(NAME)}\.(\w+)\n(?:\s+tasks_from: (\w+))?", "\n".join(blocks))
    assert len(called) > 10
    assert not [call for call in called if not (ROOT / "roles" / call[0] / "tasks" / f"{call[1] or 'main'}.yml").is_file()]


# The runbook.


@functools.cache
def all_code() -> str:
    """What roles, playbooks and plugins say, with every space one space and broken texts joined."""
    files = [path for part in ("roles", "playbooks", "plugins") for path in (ROOT / part).rglob("*")]
    texts = [read(path) for path in sorted(files) if path.suffix in (".yml", ".py") and path.is_file()]
    # A text of Python goes on in the next line, and one in Jinja behind a tilde.
    joined = re.sub(r"\"\s*\n\s*f?\"|'\s*\n\s*~ '", "", "\n".join(texts))
    return " ".join(joined.split())


def test_the_runbook_has_the_words_that_the_code_says() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", read("docs/runbook.md"), flags=re.MULTILINE)
    messages = [span for row in rows for span in SPAN.findall(row)]
    messages = [message for message in messages if not re.fullmatch(r"[\w.]+\.yml", message)]
    assert len(messages) > 60
    for message in messages:
        for part in message.split("…"):
            assert part.strip() in all_code(), message


def test_the_runbook_leads_to_every_alert() -> None:
    alerts = re.findall(r"^ *- alert: (\w+)", read("roles/metrics/files/rules.yml"), flags=re.MULTILINE)
    assert alerts
    for alert in alerts:
        assert f"(alerts.md#{alert.lower()})" in read("docs/runbook.md"), alert


def test_the_runbook_knows_every_state_that_tests_kill_runs_in() -> None:
    steps = re.findall(r'^    "(\w+)": \(\[', read("molecule/crash/tests/test_crash.py"), flags=re.MULTILINE)
    table = read("docs/runbook.md").partition("## A run was killed")[2].partition("\n## ")[0]
    words = {"lock": "the lock", "bake": "the timer armed"}
    assert {"lock", "prepare", "bake", "commit", "settle"} == set(steps)
    for step in steps:
        assert words.get(step, f"| {step}") in table, step


# Commands.

# What needs a fleet, a network, or the archive, which test_collection.py builds and installs.
ELSEWHERE = ("curl ", "ssh-keygen ", "ansible-galaxy ", "cp -r ~/.ansible", "ansible-playbook -i mine ")
# These run as they stand; a playbook ends after its syntax was checked, with inventory, vault and all variables.
HERE = {
    **{".venv/bin/ansible-playbook": " --syntax-check", ".venv/bin/ansible-doc": ""},
    **{"make": "", "printf": ""},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository, as far as commands see it, with an inventory of one's own, which is that of staging."""
    directory = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("inventories", ".git", ".venv"):
            (directory / path.name).symlink_to(path)
    (directory / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "inventories", directory / "inventories")
    shutil.copytree(ROOT / "inventories/staging", directory / "inventories/mine")
    (directory / "home").mkdir()
    (directory / "password").write_text("secret\n")
    return directory


def run(command: str, checkout: Path) -> None:
    """Run a command as it stands in a document."""
    words = shlex.split(command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MAKE"))}
    environment |= {"HOME": str(checkout / "home"), "ANSIBLE_VAULT_PASSWORD_FILE": str(checkout / "password"), "EDITOR": "true"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command + HERE[words[0]]],
        cwd=checkout,
        env=environment,
        # Whoever asks for a password gets it: there is no terminal from which it could be read.
        input="secret\n",
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    # What ansible-doc does not know is a warning to it, and no error.
    assert not words[0].endswith("ansible-doc") or words[-1] in done.stdout, f"{command}\n{done.stderr}"


def test_commands_of_the_readme_do_what_they_say(checkout: Path) -> None:
    written = [command for command in commands("README.md") if not command.startswith(ELSEWHERE)]
    # Those within a sentence, too.
    written += [span for span in spans("README.md") if span.startswith((".venv/bin/", "make help"))]
    assert {shlex.split(command)[0] for command in written} == set(HERE)
    first = [command for command in written if "ansible-vault" in command]
    for command in first:
        run(command, checkout)
    published = ROOT / "inventories/staging/group_vars/truthgraph/vault.yml"
    made = checkout / "inventories/mine/group_vars/truthgraph/vault.yml"
    assert made.read_text().startswith("$ANSIBLE_VAULT;") and made.read_text() != published.read_text()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda command: run(command, checkout), [command for command in written if command not in first]))


def test_every_command_is_one_that_is_run_or_named_here() -> None:
    for command in commands("README.md"):
        assert command.startswith((*HERE, *ELSEWHERE)), command
