# The fixtures that the scenarios with rollouts share.
from ansible_collections.truthgraph.platform.molecule.shared.fixtures import *  # noqa: F403
