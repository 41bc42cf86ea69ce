# Certificates with every variable other than as shipped, and one that an operator brings.
import os
import pathlib

import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.role.x509 import certificate, check_pair, days, names, usage

AUTHORITY = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "authority" / "ca"
BROUGHT = AUTHORITY.parents[1] / "brought"


def test_the_authority_lies_where_it_is_wanted(control: testinfra.host.Host, state: pathlib.Path) -> None:
    found = certificate(control, str(AUTHORITY / "ca.crt"))
    assert found.subject.rfc4514_string() == "CN=The authority of an example"
    assert days(found) == 900
    assert oct(control.file(str(AUTHORITY / "ca.key")).mode) == "0o600"
    assert not (state / "ca").exists()


def test_it_has_signed_a_certificate_of_a_client(host: testinfra.host.Host) -> None:
    verify = "openssl verify -x509_strict -purpose %s -CAfile /srv/keys/ca.crt /srv/keys/reader.crt"
    host.check_output(verify, "sslclient")
    assert host.run(verify, "sslserver").rc
    found = certificate(host, "/srv/keys/reader.crt")
    assert names(found) == {"reader.example.org", "192.0.2.7"}
    assert usage(found) == {"clientAuth"}


def test_one_that_ended_soon_was_replaced(host: testinfra.host.Host) -> None:
    # It had 40 days, and no certificate may have less than 90.
    assert days(certificate(host, "/srv/keys/reader.crt")) == 200


def test_the_key_is_whose_it_should_be(host: testinfra.host.Host) -> None:
    check_pair(host, "/srv/keys/reader.crt", "/srv/keys/reader.key")
    modes = host.check_output("stat --format '%n %a %u:%g' /srv/keys /srv/keys/reader.key /srv/keys/reader.crt")
    assert modes.split("\n") == [
        "/srv/keys 711 0:12",
        "/srv/keys/reader.key 640 1:12",
        "/srv/keys/reader.crt 644 0:12",
    ]


def test_what_was_brought_is_installed_as_it_is(host: testinfra.host.Host, control: testinfra.host.Host) -> None:
    directory = "/etc/truthgraph/tls/claims"
    for installed, brought in {"claims.crt": "claims.crt", "claims.key": "claims.key", "ca.crt": "signer.crt"}.items():
        assert host.file(f"{directory}/{installed}").content == control.file(str(BROUGHT / brought)).content
    host.check_output(f"openssl verify -CAfile {directory}/ca.crt {directory}/claims.crt")
    assert oct(host.file(f"{directory}/claims.key").mode) == "0o600"
