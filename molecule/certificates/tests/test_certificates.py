# A certificate as shipped: the fleet's authority on the control node signs it, and its key never leaves its host.
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.x509 import certificate, check_pair, days, names, usage

DIRECTORY = "/etc/truthgraph/tls/search"
CERTIFICATE, KEY, CA = f"{DIRECTORY}/search.crt", f"{DIRECTORY}/search.key", f"{DIRECTORY}/ca.crt"


def test_the_authority_has_signed_it(host: testinfra.host.Host) -> None:
    # Strictly, as a library of TLS would, and for what it is for.
    host.check_output("openssl verify -x509_strict -purpose sslserver -CAfile %s %s", CA, CERTIFICATE)


def test_it_is_for_the_host(host: testinfra.host.Host) -> None:
    found = certificate(host, CERTIFICATE)
    assert found.subject.rfc4514_string() == "CN=search"
    assert names(found) == {"10.203.77.171", "role1"}
    assert usage(found) == {"serverAuth"}
    assert days(found) == 397


def test_the_key_belongs_to_it_and_is_roots(host: testinfra.host.Host) -> None:
    check_pair(host, CERTIFICATE, KEY)
    modes = host.check_output(f"stat --format '%n %a %U:%G' {DIRECTORY} {KEY} {CERTIFICATE} {CA}")
    assert modes.split("\n") == [
        f"{DIRECTORY} 750 root:root",
        f"{KEY} 600 root:root",
        f"{CERTIFICATE} 644 root:root",
        f"{CA} 644 root:root",
    ]


def test_the_authority_is_on_the_control_node(
    host: testinfra.host.Host, control: testinfra.host.Host, state: pathlib.Path
) -> None:
    authority = state / "ca"
    assert [oct(control.file(str(path)).mode) for path in (authority, authority / "ca.key")] == ["0o700", "0o600"]
    check_pair(control, str(authority / "ca.crt"), str(authority / "ca.key"))
    found = certificate(control, str(authority / "ca.crt"))
    assert found.subject.rfc4514_string() == "CN=truthgraph truthgraph CA"
    assert days(found) == 3650
    assert host.file(CA).content == control.file(str(authority / "ca.crt")).content


def test_neither_key_is_where_it_does_not_belong(
    host: testinfra.host.Host, control: testinfra.host.Host, state: pathlib.Path
) -> None:
    def body(text: str) -> str:
        return text.splitlines()[1]

    assert host.run("grep -rlF %s /etc/truthgraph", body(control.file(str(state / "ca" / "ca.key")).content_string)).rc == 1
    assert control.run("grep -rlF %s %s", body(host.file(KEY).content_string), str(state)).rc == 1
