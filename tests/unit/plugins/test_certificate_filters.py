"""Filters for certificates and the registry's password file."""

import bcrypt
import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.truthgraph.platform.plugins.filter.htpasswd import htpasswd
from ansible_collections.truthgraph.platform.plugins.filter.subject_alt_names import subject_alt_names


def test_addresses_and_names() -> None:
    subjects = ["192.0.2.1", "Build1", "192.0.2.1", "", "[2001:db8::1]"]
    assert subject_alt_names(subjects) == ["IP:192.0.2.1", "DNS:build1", "IP:2001:db8::1"]
    with pytest.raises(AnsibleFilterError, match="wants a list"):
        subject_alt_names("192.0.2.1")


def test_password_is_hashed_with_bcrypt() -> None:
    user, _separator, hashed = htpasswd("", "user", "secret", 4).strip().partition(":")
    assert user == "user"
    assert hashed.startswith("$2y$04$")
    assert bcrypt.checkpw(b"secret", hashed.encode())


def test_hash_is_kept_while_the_password_matches() -> None:
    first = htpasswd("", "user", "secret", 4)
    assert htpasswd(first, "user", "secret", 4) == first
    assert htpasswd(first, "user", "other", 4) != first
    assert htpasswd(first, "someone", "secret", 4).startswith("someone:")


@pytest.mark.parametrize("current", ["user:nonsense\n", "garbage", "a:b\nc:d\n"])
def test_damaged_file_is_replaced(current: str) -> None:
    assert htpasswd(current, "user", "secret", 4).startswith("user:$2y$")


def test_other_users_are_not_kept() -> None:
    both = htpasswd("", "user", "secret", 4) + htpasswd("", "old", "x", 4)
    assert htpasswd(both, "user", "secret", 4).count("\n") == 1


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("a:b", "x"), ("a", ""), ("a", "x" * 73)])
def test_what_bcrypt_or_the_format_cannot_hold_is_refused(user: str, password: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        htpasswd("", user, password)
    assert not password or password not in str(caught.value)
