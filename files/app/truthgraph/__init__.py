"""TruthGraph: an evidence store that answers a claim with its nearest evidence."""

__version__ = "0.1.0"
