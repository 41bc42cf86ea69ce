"""Write what the documentation takes from the code; `make docs` runs it.

    roles/*/README.md    the variables of the role, between the markers <!-- options --> and <!-- /options -->
    docs/variables.md    the variables of all roles, and the options of the playbooks
    docs/plugins.md      modules, filters, lookups and callbacks

A role's variables come from its meta/argument_specs.yml and defaults/main.yml, a playbook's options from the comment at
its top, and a plugin's purpose from its own documentation.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import yaml
from ansible.parsing.plugin_docs import read_docstring

ROOT = Path(__file__).resolve().parents[1]
NAME = "truthgraph.platform"
BEGIN, END = "<!-- options -->", "<!-- /options -->"
# A default that is longer would make its table hard to read.
LONGEST_DEFAULT = 60

# What people may call, by kind, and what it is called in a heading.
PLUGINS = {"modules": "module", "filter": "filter", "lookup": "lookup", "callback": "callback"}
HEADINGS = {"module": "Modules", "filter": "Filters", "lookup": "Lookups", "callback": "Callbacks"}

# An option of a playbook, as the comment at its top has it: "#   -e name=VALUE   meaning".
PLAYBOOK_OPTION = re.compile(r"^#   -e (?P<name>\w+)=(?P<value>\S+) {2,}(?P<meaning>.+)$", flags=re.MULTILINE)


class Variable(t.NamedTuple):
    """A variable of a role, as its specification and its defaults describe it."""

    name: str
    default: str
    type: str
    choices: tuple[str | int, ...]
    description: str

    @property
    def summary(self) -> str:
        """The first sentence of the description, and what can be chosen unless it says that."""
        sentence = re.split(r"(?<=\.) (?=[A-Z(`])", self.description, maxsplit=1)[0].removesuffix(".")
        return sentence if all(str(choice) in sentence for choice in self.choices) else f"{sentence}: {self.choice}"

    @property
    def choice(self) -> str:
        """What can be chosen, in a cell of a table."""
        return ", ".join(map(code, self.choices))


def document(path: Path) -> dict[str, t.Any]:
    """The one document of a YAML file; nothing where there is no such file."""
    found: dict[str, t.Any] | None = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found or {}


def markdown(text: str | list[str]) -> str:
    """A description of Ansible's as one line of Markdown."""
    whole = " ".join(" ".join([text] if isinstance(text, str) else text).split())
    return re.sub(r"\b[CVOEIPM]\(([^)#]*)(?:#\w+)?\)", r"`\1`", whole)


def code(value: t.Any) -> str:
    """A value as YAML writes it, in a cell of a table."""
    if isinstance(value, str) and (not value or re.search(r"[{}*#]", value)):
        written = value.strip() if "{{" in value else f'"{value}"'
    else:
        written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{written}`"


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def roles() -> list[Path]:
    """The directories of the roles, that of the variables which all of them share first."""
    found = (path for path in (ROOT / "roles").iterdir() if (path / "meta/main.yml").is_file())
    return sorted(found, key=lambda path: (path.name != "fleet", path.name))


def variables(role: Path) -> list[Variable]:
    """The variables of a role, in the order of its specification, each once."""
    defaults = document(role / "defaults/main.yml")
    found: dict[str, Variable] = {}
    for entry, specification in document(role / "meta/argument_specs.yml").get("argument_specs", {}).items():
        for name, option in specification.get("options", {}).items():
            # Nothing that an inventory has to say: whoever calls that entry point gives it.
            default = code(defaults[name]) if name in defaults else f"required by the entry point `{entry}`"
            if len(default) > LONGEST_DEFAULT or "\n" in default:
                default = ""
            choices = tuple(option.get("choices", []))
            found.setdefault(name, Variable(name, default, option["type"], choices, markdown(option["description"])))
    return list(found.values())


def role_table(role: Path) -> str:
    """The variables of a role for its own README: a line for each."""
    rows = [row(f"`{one.name}`", one.default or "[see there](defaults/main.yml)", one.summary) for one in variables(role)]
    return "\n".join([row("variable", "default", "meaning"), "|---|---|---|", *rows])


def readme(role: Path) -> str:
    """The README of a role, with its table written anew."""
    text = (role / "README.md").read_text(encoding="utf-8")
    if not variables(role):
        return text
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise SystemExit(f"roles/{role.name}/README.md has no lines {BEGIN} and {END}, between which its variables go.")
    return f"{before}{begin}{role_table(role)}\n{end}{after}"


def playbooks() -> dict[str, list[tuple[str, str, str]]]:
    """The options of each playbook that has any, by its name: name, value and meaning."""
    found = {}
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        head = path.read_text(encoding="utf-8").partition("\n- ")[0]
        found[path.name] = [(one["name"], one["value"], one["meaning"]) for one in PLAYBOOK_OPTION.finditer(head)]
    return {name: options for name, options in found.items() if options}


def variables_page() -> str:
    """The reference of all variables."""
    lines = [
        "# Variables",
        "",
        "Written by `make docs` from `meta/argument_specs.yml` and `defaults/main.yml` of each role, and the comments at the",
        "top of the playbooks. Set the variables of roles for the group `truthgraph` in your inventory. Those of [fleet](#fleet)",
        "are what all roles share. Where a default is long, the table points to it. What is required by an entry point is",
        "given by whoever calls that, and stands in no inventory.",
        "",
        "- [Options of the playbooks](#options-of-the-playbooks)",
    ]
    described = {role: variables(role) for role in roles()}
    described = {role: found for role, found in described.items() if found}
    for role in described:
        lines += [f"- [{role.name}](#{role.name}): {document(role / 'meta/main.yml')['galaxy_info']['description']}"]
    lines += ["", "## Options of the playbooks", ""]
    lines += ["Given for one run, by `-e`. What the playbooks do is in the [README](../README.md#playbooks).", ""]
    lines += [row("playbook", "option", "meaning"), "|---|---|---|"]
    for name, options in playbooks().items():
        lines += [row(f"[{name}](../playbooks/{name})", f"`{option}={value}`", meaning) for option, value, meaning in options]
    for role, found in described.items():
        place = f"../roles/{role.name}"
        lines += ["", f"## {role.name}", "", f"[README]({place}/README.md), [defaults]({place}/defaults/main.yml)", ""]
        lines += [row("variable", "type", "default", "meaning"), "|---|---|---|---|"]
        for one in found:
            kind = f"{one.type}: {one.choice}" if one.choices else one.type
            lines.append(row(f"`{one.name}`", kind, one.default or f"[see there]({place}/defaults/main.yml)", one.description))
    return "\n".join(lines) + "\n"


def plugins(directory: str) -> list[tuple[str, str, str]]:
    """What a directory of plugins has: name, file, and what each is for."""
    found = []
    for path in sorted((ROOT / "plugins" / directory).iterdir()):
        if path.suffix in (".py", ".yml"):
            # A file of Python may have several filters, which are described in files of their own then.
            text = read_docstring(str(path), verbose=False)["doc"]
            if text:
                found.append((text.get("module") or text["name"], path.name, markdown(text["short_description"])))
    return found


def plugins_page() -> str:
    """The list of what can be looked up by ansible-doc."""
    lines = [
        "# Plugins",
        "",
        "Written by `make docs` from the plugins themselves. Options, answers and examples of each are shown by `ansible-doc`:",
        "",
        "```console",
    ]
    lines += [f"$ .venv/bin/ansible-doc -t {kind} {NAME}.{plugins(directory)[0][0]}" for directory, kind in PLUGINS.items()]
    lines += ["```"]
    for directory, kind in PLUGINS.items():
        lines += ["", f"## {HEADINGS[kind]}", "", row(kind, "what it is for"), "|---|---|"]
        lines += [row(f"[{name}](../plugins/{directory}/{file})", what) for name, file, what in plugins(directory)]
    return "\n".join(lines) + "\n"


def written() -> dict[Path, str]:
    """Every file that is written, and what is in it."""
    return {
        **{role / "README.md": readme(role) for role in roles()},
        ROOT / "docs/variables.md": variables_page(),
        ROOT / "docs/plugins.md": plugins_page(),
    }


def main() -> None:
    """Write what has changed."""
    for path, text in written().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} was written anew.")


if __name__ == "__main__":
    main()
