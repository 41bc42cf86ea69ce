# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every image of TruthGraph has to be: the seed's checks, and what its Dockerfiles get wrong.

A test module of a scenario takes all of them, `from ...image_checks import *`, and has a fixture `image`.
"""

from __future__ import annotations

import json
import pathlib
import re
import urllib.parse

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.fleet import CHECKOUT, LAB, Fleet
from ansible_collections.truthgraph.platform.molecule.shared.image import Image

# What services have to finish their requests, and to end.
GRACE_SECONDS = 30

# Test directories that other modules of their package import, so that they are needed.
IMPORTED_TESTS = {"mpmath/tests", "scipy/special/tests"}

COMPILERS = ("gcc", "g++", "cc", "c++", "cpp", "clang", "clang++", "ld", "make", "rustc", "cargo")
INSTALLERS = ("pip", "pipx", "uv", "uvx", "poetry", "easy_install")
CACHES = ("/root/.cache", "/home", "/var/cache/uv", "/var/cache/apt/archives", "/var/lib/apt/lists", "/tmp", "/run/secrets")
[TREE_VERSION] = re.findall(
    r'^__version__ = "(.+)"$', (CHECKOUT / "files/app/truthgraph/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
)


class Secrets(dict[str, str]):
    # Passwords by name, which a failing test does not show.
    def __repr__(self) -> str:
        return f"<secrets {', '.join(self)}>"


@pytest.fixture(scope="session")
def deployed(pytestconfig: pytest.Config) -> Fleet:
    return Fleet(pytestconfig.getoption("ansible_inventory") or LAB)


@pytest.fixture(scope="session")
def ca(deployed: Fleet) -> str:
    return pathlib.Path(deployed.ca_file).read_text(encoding="ascii")


@pytest.fixture(scope="session")
def secrets(deployed: Fleet) -> Secrets:
    state = pathlib.Path(deployed.variables["state_dir"])
    known = Secrets((path.name, path.read_text(encoding="ascii").strip()) for path in (state / "passwords").iterdir())
    assert deployed.variables["database_password"] in known.values()
    return known


@pytest.fixture(scope="session")
def index_words(deployed: Fleet) -> list[str]:
    # Where the control node's packages come from, without what a URL may carry beside its host.
    index = deployed.variables["index"]
    urls = [index["index_url"], *index["extra_index_urls"], *index["find_links_urls"]]
    return sorted({urllib.parse.urlsplit(url).netloc.rpartition("@")[2] for url in urls if url} | set(index["find_links"]))


def test_no_tests_or_scripts_directory(image: Image) -> None:
    named = [path for path in image.directories if path.rpartition("/")[2] in ("tests", "scripts")]
    assert [path for path in named if path.startswith(("/app/", "/opt/models/"))] == []
    assert [path for path in named if path.rpartition("/")[0].endswith("/site-packages")] == []
    assert not image.python["found"]["tests"]
    assert not image.python["found"]["scripts"]


def test_no_package_brings_its_tests_unless_it_imports_them(image: Image) -> None:
    below = [path.partition("/site-packages/")[2] for path in image.directories if path.endswith(("/tests", "/test"))]
    assert {path for path in below if path and ".dist-info/" not in path} <= IMPORTED_TESTS


def test_pytest_is_not_importable(image: Image) -> None:
    assert not image.python["found"]["pytest"]


def test_version_is_that_of_the_tree(image: Image) -> None:
    assert image.python["version"] == TREE_VERSION
    assert image.python["package"] == "/app/truthgraph/__init__.py"


def test_no_compiler(image: Image) -> None:
    assert image.programs(COMPILERS) == []


def test_no_uv_and_no_pip(image: Image) -> None:
    assert image.programs(INSTALLERS) == []
    assert not image.python["found"]["pip"]
    assert not image.python["found"]["uv"]


def test_no_package_cache(image: Image) -> None:
    assert image.bytes_below(*CACHES) == 0
    assert [path for path in image.files if path.endswith((".whl", ".deb"))] == []


def test_the_source_is_compiled(image: Image) -> None:
    # No start compiles it again: nobody may write there.
    sources = {path for path in image.files if path.startswith("/app/") and path.endswith(".py")}
    compiled = {path for path in image.files if path.startswith("/app/") and path.endswith(".pyc")}
    assert len(sources) > 5
    assert {path.replace("/__pycache__", "").partition(".cpython-")[0] + ".py" for path in compiled} == sources


def test_runs_as_a_user_that_is_not_root(image: Image) -> None:
    assert image.facts["Config"]["User"] == "10001:10001"
    assert (image.python["uid"], image.python["gid"]) == (10001, 10001)


def test_nothing_of_ours_runs_with_the_rights_of_another(image: Image) -> None:
    # What the base brings lies elsewhere.
    assert [path for path in image.privileged if path.startswith(("/app/", "/opt/", "/usr/local/"))] == []


def test_nobody_may_write_outside_of_tmp(image: Image) -> None:
    assert [path for path in image.open_to_all if path != "/tmp" and not path.startswith("/tmp/")] == []


def test_it_stops_when_it_is_told_to(image: Image) -> None:
    # On a root that cannot be written, too. What is killed in the end has 137.
    code, seconds = image.stopped()
    assert code in (0, 143)
    assert seconds < GRACE_SECONDS


def test_command_is_in_exec_form(image: Image) -> None:
    command = image.facts["Config"]["Cmd"]
    assert command[0] == "uvicorn"
    assert "--reload" not in command
    assert image.facts["Config"]["Entrypoint"] == ["/usr/local/bin/truthgraph-entrypoint"]


def test_health_check_needs_no_curl(image: Image) -> None:
    assert image.facts["Config"]["Healthcheck"]["Test"][:2] == ["CMD", "python3"]


def test_no_password_in_the_layers(image: Image, secrets: Secrets) -> None:
    text = f"{image.history}\n{image.facts['Config']}"
    assert [name for name, secret in secrets.items() if secret in text] == []


def test_no_package_index_setting_in_the_layers(image: Image, index_words: list[str]) -> None:
    text = f"{image.history}\n{image.facts['Config']}"
    assert [word for word in index_words if word in text] == []
    assert image.holders == []
    names = {entry.partition("=")[0] for entry in image.facts["Config"]["Env"]}
    assert [name for name in names if re.match(r"(PIP|UV)_|.*_CA_BUNDLE$|SSL_CERT_", name)] == []
    assert [path for path in image.files if re.search(r"/(pip\.conf|uv\.toml|\.netrc|\.pypirc)$", path)] == []


def test_no_ca_of_the_control_node_in_the_layers(image: Image, ca: str) -> None:
    assert "BEGIN CERTIFICATE" not in image.history
    assert [path for path in image.files if re.search(r"^/(run/secrets|mnt)/|^/usr/local/share/ca-certificates/.", path)] == []
    assert ca.strip() not in image.host.check_output("docker image inspect %s", image.reference)


def test_labels_say_what_it_was_built_from(image: Image) -> None:
    labels = image.facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == TREE_VERSION
    assert re.fullmatch(r"[0-9a-f]{40}|content-[0-9a-f]{16}", labels["org.opencontainers.image.revision"])
    assert labels["truthgraph.key"]
    # The time of the commit, not of the build; what is no commit has none.
    created = labels.get("org.opencontainers.image.created", "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created) or labels[
        "org.opencontainers.image.revision"
    ].startswith("content-")


def test_the_bill_of_materials_lists_what_is_in_it(image: Image) -> None:
    digest = image.reference.rpartition("@")[2]
    path = f"/var/lib/truthgraph/sboms/{digest.replace(':', '-')}.cdx.json"
    bill = json.loads(image.host.check_output("cat %s", path))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["purl"].endswith(digest.replace(":", "%3A"))
    listed = {(one["name"], one["version"]) for one in bill["components"] if one["purl"].startswith("pkg:pypi/")}
    assert listed == {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in image.python["installed"]}
    assert any(one["purl"].startswith("pkg:deb/") for one in bill["components"])
