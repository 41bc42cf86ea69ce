"""The ML service: sentences to unit vectors. It imports nothing of truthgraph but its version."""

from truthgraph.ml.service import app

__all__ = ["app"]
