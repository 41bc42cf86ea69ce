"""The control node's package index settings."""

from __future__ import annotations

import pathlib

import pytest
from ansible.errors import AnsibleError

from ansible_collections.truthgraph.platform.plugins.lookup.package_index import package_index, pip_files


@pytest.fixture(name="home")
def fixture_home(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "ca.pem").write_text("x")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "more wheels").mkdir()
    return tmp_path


def conf(home: pathlib.Path, name: str, text: str) -> pathlib.Path:
    path = home / name
    path.write_text(text)
    return path


def test_nothing_set_is_the_public_index() -> None:
    assert package_index({}, []) == {
        "index_url": "",
        "extra_index_urls": [],
        "find_links": [],
        "find_links_urls": [],
        "ca_bundle": "",
        "timeout": 0,
        "dropped": [],
    }


def test_pip_file_is_read(home: pathlib.Path) -> None:
    file = conf(
        home,
        "pip.conf",
        f"""[global]
index-url = https://user:p%40ss@index.example/simple
extra_index_url = https://one.example/simple
    file:///srv/simple
find-links = {home}/wheels
cert = {home}/ca.pem
timeout = 30
""",
    )
    found = package_index({}, [file])
    assert found["index_url"] == "https://user:p%40ss@index.example/simple"
    assert found["extra_index_urls"] == ["https://one.example/simple"]
    assert found["dropped"] == ["file:///srv/simple"]
    assert found["find_links"] == [f"{home}/wheels"]
    assert found["ca_bundle"] == f"{home}/ca.pem"
    assert found["timeout"] == 30


def test_install_counts_before_global_and_later_files_before_earlier(home: pathlib.Path) -> None:
    first = conf(home, "a.conf", "[global]\nindex-url = https://a.example\n[install]\ntimeout = 1\n")
    second = conf(home, "b.conf", "[global]\nindex-url = https://b.example\ntimeout = 2\n")
    found = package_index({}, [first, second])
    assert (found["index_url"], found["timeout"]) == ("https://b.example", 1)


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        ({"PIP_INDEX_URL": "https://pip.example"}, "https://pip.example"),
        ({"PIP_INDEX_URL": "https://pip.example", "UV_INDEX_URL": "https://uv.example"}, "https://uv.example"),
        ({"UV_INDEX_URL": "https://old.example", "UV_DEFAULT_INDEX": "corp=https://uv.example"}, "https://uv.example"),
        ({"PIP_INDEX_URL": " "}, "https://file.example"),
    ],
)
def test_the_environment_counts_before_the_files(home: pathlib.Path, environment: dict[str, str], index: str) -> None:
    file = conf(home, "pip.conf", "[global]\nindex-url = https://file.example\n")
    assert package_index(environment, [file])["index_url"] == index


def test_a_url_with_an_equals_sign_is_no_name() -> None:
    url = "https://index.example/simple?token=x"
    assert package_index({"UV_DEFAULT_INDEX": url}, [])["index_url"] == url


def test_an_index_in_files_is_dropped() -> None:
    found = package_index({"PIP_INDEX_URL": "file:///srv/simple"}, [])
    assert (found["index_url"], found["dropped"]) == ("", ["file:///srv/simple"])


def test_find_links_forms(home: pathlib.Path) -> None:
    environment = {"PIP_FIND_LINKS": f"file://{home}/more%20wheels https://links.example/x {home}/absent"}
    found = package_index(environment, [])
    assert found["find_links"] == [f"{home}/more wheels"]
    assert found["find_links_urls"] == ["https://links.example/x"]
    assert found["dropped"] == [f"{home}/absent"]


def test_several_find_links_directories(home: pathlib.Path) -> None:
    (home / "two").mkdir()
    assert package_index({"UV_FIND_LINKS": f"{home}/wheels,{home}/two"}, [])["find_links"] == [
        f"{home}/wheels",
        f"{home}/two",
    ]


def test_the_ca_bundle_has_to_exist(home: pathlib.Path) -> None:
    assert package_index({"SSL_CERT_FILE": f"{home}/ca.pem"}, [])["ca_bundle"] == f"{home}/ca.pem"
    found = package_index({"SSL_CERT_FILE": f"{home}/absent.pem"}, [])
    assert (found["ca_bundle"], found["dropped"]) == ("", [f"{home}/absent.pem"])


def test_a_broken_pip_file_is_named(home: pathlib.Path) -> None:
    file = conf(home, "pip.conf", "index-url = x\n")
    with pytest.raises(AnsibleError, match=str(file)):
        package_index({}, [file])


def test_pip_files_end_with_the_strongest(home: pathlib.Path) -> None:
    files = pip_files({"HOME": str(home), "PIP_CONFIG_FILE": "/x/pip.conf"})
    assert str(files[-1]) == "/x/pip.conf"
    assert str(files[-2]) == f"{home}/.config/pip/pip.conf"
    assert pip_files({"PIP_CONFIG_FILE": "/dev/null"}) == []
