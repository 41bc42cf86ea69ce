"""When certificates end, read from real ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ansible_collections.truthgraph.platform.molecule.shared.authority import Authority
from ansible_collections.truthgraph.platform.plugins.module_utils import certificate, seal

DAY = 86400


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


# 40000 days from now the year has four digits in the encoding, too.
@pytest.mark.parametrize("days", [-3, 1, 90, 40000])
def test_the_end_is_that_of_the_first_certificate(authority: Authority, tmp_path: Path, days: float) -> None:
    path, _ = authority.write(tmp_path, "service.example.org", days)
    text = f"a comment\n{Path(path).read_text()}{authority.text}"
    assert certificate.ends(text) == pytest.approx(time.time() + days * DAY, abs=5)


@pytest.mark.parametrize("cut", [0, 60, 200, 420])
def test_what_is_no_certificate_is_said(authority: Authority, cut: int) -> None:
    text = authority.text
    with pytest.raises(ValueError, match="no certificate"):
        certificate.ends(text[:cut] + "\n-----END CERTIFICATE-----\n" if cut else "")


@pytest.mark.parametrize(("days", "breaks"), [(29, True), (31, False), (-1, True)])
def test_a_certificate_that_ends_soon_breaks_the_seal(
    authority: Authority, tmp_path: Path, days: float, breaks: bool
) -> None:
    path, _ = authority.write(tmp_path / "new", "cpu1", days)
    own = tmp_path / "config" / "tls" / "egress"
    own.mkdir(parents=True)
    (own / "egress.crt").write_text(Path(path).read_text())
    # The authority's own is looked after where it lies.
    (own / "ca.crt").write_text("no certificate")
    sealed = {"files": seal.files(str(tmp_path / "config"))}
    found = seal.drift(sealed, str(tmp_path / "config"), {})
    assert found == ([f"{own}/egress.crt ends soon"] if breaks else [])


def test_one_that_cannot_be_read_breaks_the_seal(tmp_path: Path) -> None:
    own = tmp_path / "tls" / "api"
    own.mkdir(parents=True)
    (own / "api.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert seal.certificates(str(tmp_path)) == {f"{own}/api.crt": None}
