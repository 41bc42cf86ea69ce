# The fixtures that the scenarios with rollouts share, and the table of what clients saw of each fault.
from ansible_collections.truthgraph.platform.molecule.shared.fixtures import fleet  # noqa: F401

SEEN = []


def pytest_terminal_summary(terminalreporter):
    if SEEN:
        terminalreporter.section("what clients saw")
        line = "{:46} {:>7} {:>7} {:>10} {:>9} {:>13} {:>5}"
        terminalreporter.write_line(line.format("fault", "sent", "failed", "longest s", "outage s", "acknowledged", "lost"))
        for row in SEEN:
            terminalreporter.write_line(line.format(*row))
