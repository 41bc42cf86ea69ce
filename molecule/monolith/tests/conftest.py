# The fixtures that the scenarios with rollouts share.
import pytest

pytest.register_assert_rewrite("ansible_collections.truthgraph.platform.molecule.shared.image_checks")

from ansible_collections.truthgraph.platform.molecule.shared.fixtures import *  # noqa: F403
