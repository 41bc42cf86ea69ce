"""Secrets as files, on real directories."""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.plugins.module_utils import secret_files

SECRET = "s3cr3t-which-must-not-show"
GID = os.getgid()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "slots" / "api-blue"


def write(place: Path, secrets: dict[str, object], gid: int = GID) -> bool:
    return secret_files.write(str(place), secret_files.checked(secrets), gid)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_written_for_their_group_alone(place: Path) -> None:
    assert write(place, {"TOKEN": SECRET, "OTHER": "another"})
    assert (place / "TOKEN").read_text() == SECRET and sorted(os.listdir(place)) == ["OTHER", "TOKEN"]
    assert (mode(place), mode(place / "TOKEN"), mode(place.parent)) == (0o750, 0o440, 0o700)
    assert place.stat().st_gid == (place / "TOKEN").stat().st_gid == GID
    assert secret_files.read(str(place)) == {"TOKEN": SECRET.encode(), "OTHER": b"another"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another group")
def test_another_group(place: Path) -> None:
    assert write(place, {"TOKEN": SECRET}, 10001)
    assert (place / "TOKEN").stat().st_gid == 10001 and (place / "TOKEN").stat().st_uid == 0
    assert write(place, {"TOKEN": SECRET}, 10002) and place.stat().st_gid == 10002


def test_the_umask_does_not_matter(place: Path) -> None:
    before = os.umask(0o077)
    try:
        write(place, {"TOKEN": SECRET})
    finally:
        os.umask(before)
    assert (mode(place), mode(place / "TOKEN")) == (0o750, 0o440)


def test_the_same_secrets_change_nothing(place: Path) -> None:
    write(place, {"TOKEN": SECRET})
    inode = place.stat().st_ino
    assert not write(place, {"TOKEN": SECRET}) and place.stat().st_ino == inode


@pytest.mark.parametrize("secrets", [{"TOKEN": "other"}, {"TOKEN": SECRET, "MORE": "value"}, {"RENAMED": SECRET}, {}])
def test_other_secrets_replace_all(place: Path, secrets: dict[str, object]) -> None:
    write(place, {"TOKEN": SECRET})
    assert write(place, secrets)
    assert secret_files.read(str(place)) == secret_files.checked(secrets)
    assert os.listdir(place.parent) == ["api-blue"]


def spoil_mode(place: Path) -> None:
    (place / "TOKEN").chmod(0o444)


def spoil_directory(place: Path) -> None:
    place.chmod(0o755)


def spoil_file(place: Path) -> None:
    (place / "MORE").write_text("x")


def spoil_link(place: Path) -> None:
    elsewhere = place.parent.parent / "elsewhere"
    (place / "TOKEN").rename(elsewhere)
    (place / "TOKEN").symlink_to(elsewhere)


def spoil_kind(place: Path) -> None:
    (place / "TOKEN").unlink()
    (place / "TOKEN").mkdir()
    (place / "TOKEN").chmod(0o440)


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_directory, spoil_file, spoil_link, spoil_kind])
def test_what_was_changed_by_hand_is_put_right(place: Path, spoil: t.Callable[[Path], None]) -> None:
    write(place, {"TOKEN": SECRET})
    spoil(place)
    wanted = secret_files.checked({"TOKEN": SECRET})
    assert not secret_files.holds(str(place), wanted, GID)
    assert write(place, {"TOKEN": SECRET}) and secret_files.holds(str(place), wanted, GID)
    assert (place / "TOKEN").is_file() and not (place / "TOKEN").is_symlink()


def test_holds_compares_group_names_and_values(place: Path) -> None:
    write(place, {"TOKEN": SECRET})
    wanted = secret_files.checked({"TOKEN": SECRET})
    assert secret_files.holds(str(place), wanted, GID)
    assert not secret_files.holds(str(place), wanted, GID + 1)
    assert not secret_files.holds(str(place), {"TOKEN": b"other"}, GID)
    assert not secret_files.holds(str(place), {}, GID)
    assert not secret_files.holds(str(place.parent / "none"), {}, GID)


def test_reading_what_is_not_there(place: Path) -> None:
    assert secret_files.read(str(place)) == {}


def test_an_interrupted_run_leaves_the_earlier_secrets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, {"TOKEN": SECRET, "OTHER": "value"})
    calls = []

    def crash(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            write(place, {"TOKEN": "new", "OTHER": "new"})
    assert secret_files.read(str(place)) == {"TOKEN": SECRET.encode(), "OTHER": b"value"}
    # And the next run takes away what was left, even if it has nothing to write.
    assert any(name.startswith(secret_files.UNFINISHED) for name in os.listdir(place.parent))
    assert not write(place, {"TOKEN": SECRET, "OTHER": "value"})
    assert os.listdir(place.parent) == ["api-blue"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_crash_while_they_are_exchanged_leaves_both_whole(
    place: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write(place, {"TOKEN": SECRET, "OTHER": "value"})
    calls = []

    def crash(source: str, target: str, rename: t.Callable[[str, str], None] = os.rename) -> None:
        calls.append(source)
        if len(calls) == step:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            write(place, {"TOKEN": "new"})
    there = [secret_files.read(str(directory)) for directory in place.parent.iterdir()]
    assert {"TOKEN": SECRET.encode(), "OTHER": b"value"} in there and {"TOKEN": b"new"} in there
    # A reader finds the earlier ones, or for a moment none, and never some of them.
    assert secret_files.read(str(place)) == ({"TOKEN": SECRET.encode(), "OTHER": b"value"} if step == 1 else {})
    assert write(place, {"TOKEN": "new"}) and os.listdir(place.parent) == ["api-blue"]


def test_what_is_being_written_is_readable_by_nobody_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(path: str, *arguments: t.Any) -> None:
        seen.append(mode(Path(path)))

    monkeypatch.setattr(os, "chown", look)
    write(place, {"TOKEN": SECRET})
    assert seen == [0o700]


@pytest.mark.parametrize("name", ["../TOKEN", "A/B", "", ".hidden", "1ST", "WITH SPACE", "TOKEN\n", "-x", "é"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a secret") as caught:
        secret_files.checked({name: SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_secret_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="The secret TOKEN is empty") as caught:
        secret_files.checked({"OTHER": SECRET, "TOKEN": value})
    assert SECRET not in str(caught.value)


def test_values_are_taken_as_they_are() -> None:
    found = secret_files.checked({"A": 0, "_b2": " é\n", "C": "x=y"})
    assert found == {"A": b"0", "_b2": " é\n".encode(), "C": b"x=y"}


def test_a_value_that_is_no_text_is_not_shown() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        secret_files.checked({"TOKEN": f"{SECRET}\udc80"})
    assert SECRET not in str(caught.value)
