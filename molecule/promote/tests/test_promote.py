# A release that was tried in staging goes to production by the same digests; nothing is built there. The tests run in their
# order, since each starts from what the one before has left.
import base64
import re
import typing as t

from ansible_collections.truthgraph.platform.molecule.shared.rollout import Fleet, Host, Run, header, play
from ansible_collections.truthgraph.platform.molecule.shared.sites import APIS, SITE, STAGING, Layouts
from ansible_collections.truthgraph.platform.plugins.module_utils.registry import Registry

UNKNOWN = "ffffffffffff"
STAGING_SERVICES = {"cpu1": "api", "cpu2": "api", "gpu1": "inference"}
SITE_SERVICES = {"eu-api1": "api", "eu-api2": "api", "eu-gpu1": "inference"}
# What production has served, by the ids that staging gave it.
SERVED: dict[str, str] = {}


def promote(production: Layouts, release: str, *options: str) -> Run:
    variables = {"promote_release": release} if release else {}
    return play("promote", variables, *production.options, *options, inventory=production.production, timeout=2400)


def good(run: Run) -> Run:
    assert run.code == 0, str(run)
    return run


def staging_registry(layouts: Layouts) -> Registry:
    authority = (layouts.lab_state / "ca" / "ca.crt").read_text()
    return Registry(f"{STAGING}:5000", "truthgraph", layouts.staging_password, authority)


def site_registry(layouts: Layouts) -> Registry:
    authority = (layouts.state / "ca" / "ca.crt").read_text()
    return Registry(f"{SITE['eu-build1']}:5000", "truthgraph", layouts.passwords["registry"], authority)


def digests(services: dict[str, str]) -> dict[str, set[str]]:
    """Of each service, the digests that its hosts run."""
    found: dict[str, set[str]] = {}
    for name, service in services.items():
        seen = Host(name).look()
        slot = seen.map[service].partition("_")[0]
        # A service with several cards numbers its containers.
        running = [one for key, one in seen.containers.items() if re.match(rf"truthgraph-{service}-{slot}\b", key)]
        assert running and all(one["state"] == "running" for one in running), f"{name}: {seen.containers}"
        found.setdefault(service, set()).update(one["image"].rpartition("@")[2] for one in running)
    return found


def served() -> str:
    [release] = {header(url) for url in APIS.values()}
    return release


def check_blank() -> None:
    for name in SITE:
        seen = Host(name).look()
        assert (seen.containers, seen.records, seen.lock) == ({}, {}, None), name
        assert not Host(name).run("sh", "-c", "ls /etc/truthgraph /var/lib/truthgraph-build 2>/dev/null; true"), name


def test_a_stable_release_has_its_name_in_stagings_registry(staging: Fleet, layouts: Layouts) -> None:
    registry, tag = staging_registry(layouts), f"release-{staging.release}"
    running = digests(STAGING_SERVICES)
    assert {registry.digest("truthgraph/core", tag)} == running["api"]
    assert {registry.digest("truthgraph/ml", tag)} == running["inference"]


def test_what_is_not_there_is_refused_with_what_is(staging: Fleet, production: Layouts) -> None:
    check_blank()
    for release, words in ((UNKNOWN, f"has no release {UNKNOWN}"), ("", "was asked for no release")):
        run = promote(production, release)
        assert run.code != 0 and words in run.last_words and staging.release in run.last_words, str(run)
        assert "-e promote_release=ID" in run.last_words and "Nothing was changed." in run.last_words, str(run)
        check_blank()


def test_check_mode_changes_nothing_on_fresh_hosts(staging: Fleet, production: Layouts) -> None:
    run = good(promote(production, staging.release, "--check"))
    check_blank()
    assert run.said.count("is to be copied from") == 2, run.said
    for digest in set().union(*digests(STAGING_SERVICES).values()):
        assert digest[7:19] in run.said, run.said


def test_the_same_digests_run_and_nothing_was_built(staging: Fleet, production: Layouts) -> None:
    run = good(promote(production, staging.release))
    print(f"promoted to blank hosts in {run.seconds:.0f} s")
    assert digests(SITE_SERVICES) == digests(STAGING_SERVICES)
    SERVED[staging.release] = served()
    # There is neither a tool nor a log of a build, and no image that one would begin with.
    build = Host("eu-build1")
    assert build.run("ls", "/var/lib/truthgraph-build").split() == ["inventories"]
    assert site_registry(production).tags("truthgraph/base/python") == []
    # Of each image, its bill of materials is with the release's record.
    for digest in set().union(*digests(SITE_SERVICES).values()):
        assert Host("eu-api1").run("ls", f"/var/lib/truthgraph/sboms/{digest.replace(':', '-')}.cdx.json")
    record = Host("eu-api1").look().records[served()]
    assert record["promoted"] == {"release": staging.release, "registry": f"{STAGING}:5000"}
    assert record["result"] == "stable" and record["version"] and record["revision"]
    # Nothing of staging's login is left.
    places = ["/root", "/etc", "/run", "/tmp", "/var/lib/truthgraph-build"]
    login = base64.b64encode(f"truthgraph:{production.staging_password}".encode()).decode()
    found = build.run("grep", "-rlFs", "-e", production.staging_password, "-e", login, *places, check=False)
    assert found == "" and build.run("ls", "/run/truthgraph-promote", check=False) == ""


def test_the_release_has_its_name_here_too(production: Layouts) -> None:
    registry = site_registry(production)
    assert {registry.digest("truthgraph/core", f"release-{served()}")} == digests(SITE_SERVICES)["api"]


def test_again_changes_nothing(staging: Fleet, production: Layouts) -> None:
    before = {name: Host(name).look().running for name in SITE}
    run = good(promote(production, staging.release))
    assert run.changed == {}, str(run.changed)
    assert {name: Host(name).look().running for name in SITE} == before


def test_status_says_which_release_it_is(staging: Fleet, production: Layouts) -> None:
    run = good(play("status", {}, *production.options, inventory=production.production))
    assert f"Release {served()} is release {staging.release} of {STAGING}:5000." in run.said, run.said


def test_a_newer_release_goes_over_it(staging: Fleet, production: Layouts) -> None:
    tree = staging.tree("promoted")
    good(play("deploy", tree, *production.options, inventory=production.staging, timeout=1800))
    newer = staging.release
    assert newer not in SERVED
    run = good(promote(production, newer))
    print(f"promoted over an earlier one in {run.seconds:.0f} s")
    # The ml image is another release's, too, and there already.
    copied = re.findall(r"truthgraph/(\w+)@\S+ is to be copied from", run.said)
    assert copied == ["core"], run.said
    assert digests(SITE_SERVICES) == digests(STAGING_SERVICES)
    SERVED[newer] = served()
    assert len(set(SERVED.values())) == 2
    assert good(promote(production, newer)).changed == {}


def rollback(production: Layouts, **variables: t.Any) -> Run:
    return good(play("rollback", variables, *production.options, inventory=production.production))


def test_a_rollback_in_production(staging: Fleet, production: Layouts) -> None:
    older, newer = SERVED.values()
    rollback(production)
    assert served() == older
    assert staging.release in SERVED and SERVED[staging.release] == newer, "staging was changed"
    # It may be promoted again, and nothing is copied for that.
    run = good(promote(production, staging.release))
    assert "is to be copied from" not in run.said and served() == newer, run.said
    rollback(production, release=older)
    assert served() == older
