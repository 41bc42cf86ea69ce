# The host that Molecule has made.
from ansible_collections.truthgraph.platform.molecule.shared.role.fixtures import *  # noqa: F403
