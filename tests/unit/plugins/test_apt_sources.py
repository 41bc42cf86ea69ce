"""apt's sources: both formats, which of them are Debian's own, and the same mirror for another suite."""

from ansible_collections.truthgraph.platform.plugins.module_utils import apt_sources

STANZAS = """\
# The archive
Types: deb deb-src
URIs: http://mirror.example.org/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: trixie-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 debian-archive bytes
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: trixie
Components: main
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIST = f"""\
deb [arch=amd64 signed-by={KEYRING}] https://user:pw@apt.corp.example/debian bookworm main # ours
deb-src http://mirror.example.org/debian bookworm main
deb http://mirror.example.org/debian-security bookworm-security main
deb https://download.example.com/linux/debian bookworm stable
deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example.com bookworm main
deb cdrom:[Debian]/ bookworm main
nonsense
"""


def test_stanzas_with_inline_key_and_disabled_one() -> None:
    entries = apt_sources.parse_deb822(STANZAS)
    assert [entry["uris"] for entry in entries] == [
        ["http://mirror.example.org/debian"],
        ["http://mirror.example.org/debian-security"],
    ]
    assert "BEGIN PGP" in entries[1]["signed_by"]


def test_one_line_format_with_options_and_comments() -> None:
    entries = apt_sources.parse_one_line(LIST)
    assert entries[0]["signed_by"] == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert entries[0]["options"] == {"arch": "amd64"}
    assert entries[0]["components"] == ["main"]
    assert entries[1]["types"] == ["deb-src"]


def test_third_parties_and_unusable_ones_are_left_out() -> None:
    sources = apt_sources.sources_for(apt_sources.parse_one_line(LIST), "bookworm", "bookworm")
    assert [source["uris"][0] for source in sources] == [
        "https://user:pw@apt.corp.example/debian",
        "http://mirror.example.org/debian-security",
    ]


def test_origin_that_apt_has_seen_decides_over_the_key() -> None:
    entries = apt_sources.parse_one_line(LIST)
    vendor = "https://vendor.example.com"
    found = apt_sources.sources_for(entries, "bookworm", "bookworm", {(vendor, "bookworm"): "Debian"})
    assert vendor in [source["uris"][0] for source in found]
    none = apt_sources.sources_for(
        entries, "bookworm", "bookworm", {("http://mirror.example.org/debian-security", "bookworm-security"): "Vendor"}
    )
    assert "http://mirror.example.org/debian-security" not in [source["uris"][0] for source in none]


def test_same_mirror_for_another_suite_keeps_pockets() -> None:
    sources = apt_sources.sources_for(apt_sources.parse_deb822(STANZAS), "trixie", "bookworm")
    assert [source["suites"] for source in sources] == [["bookworm", "bookworm-updates"], ["bookworm-security"]]


def test_alias_of_the_release_is_understood() -> None:
    entries = apt_sources.parse_one_line("deb http://mirror.example.org/debian stable main\n")
    assert apt_sources.sources_for(entries, "trixie", "trixie")[0]["suites"] == ["trixie"]


def test_backports_and_other_releases_are_not_taken() -> None:
    entries = apt_sources.parse_one_line(
        "deb http://mirror.example.org/debian trixie-backports main\ndeb http://mirror.example.org/debian sid main\n"
    )
    assert apt_sources.sources_for(entries, "trixie", "trixie") == []


def test_rendered_sources_are_read_back_the_same() -> None:
    sources = apt_sources.sources_for(apt_sources.parse_deb822(STANZAS), "trixie", "trixie")
    again = apt_sources.sources_for(apt_sources.parse_deb822(apt_sources.render(sources)), "trixie", "trixie")
    assert again == sources


def test_only_transport_options_are_kept() -> None:
    dump = (
        'Acquire "";\nAcquire::http::Proxy "http://proxy.example.org:3128";\nAcquire::http "";\n'
        'Acquire::Check-Valid-Until "false";\nAPT::Install-Recommends "0";\nAcquire::Languages "none";\n'
        'Acquire::https::Verify-Peer "true";\nDPkg::Post-Invoke:: "rm -f /x";\n'
    )
    assert apt_sources.transport_options(dump) == [
        'Acquire::http::Proxy "http://proxy.example.org:3128";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::https::Verify-Peer "true";',
    ]


def test_names_of_fetched_indexes() -> None:
    prefix = apt_sources.release_file_prefix("http://u:p@mirror.example.org/debian/", "trixie")
    assert prefix == "mirror.example.org_debian_dists_trixie"


def test_credentials_are_cut_from_addresses() -> None:
    assert apt_sources.without_credentials("https://u:p@h.example/debian") == "https://h.example/debian"
