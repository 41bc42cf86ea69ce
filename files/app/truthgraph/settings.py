"""Settings, all from the environment, and the limits of what the API accepts."""

import os
from dataclasses import dataclass

MAX_TEXT_CHARACTERS = 8192
MAX_SOURCE_CHARACTERS = 2048
MAX_RESULTS = 50

# The vectors in the database are of this model. Answers of another one are refused: its space is another.
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
EMBEDDING_DIMENSION = 384
# Longer than the ML service lets a request wait, so that its own answer, which says when to come back, arrives first.
EMBED_SECONDS = 8


@dataclass(frozen=True)
class Settings:
    """Where the parts are. An empty address is a part that is not there yet: the API starts and says so.

    Without the ML service's address the API embeds by itself, where it can.
    """

    database_url: str
    ml_service_url: str
    environment: str
    # Seconds that a request waits for its embedding, with a retry.
    embed_seconds: float

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment now, so that importing the application needs none of it."""
        return cls(
            database_url=os.environ.get("DATABASE_URL", "").strip(),
            ml_service_url=os.environ.get("ML_SERVICE_URL", "").strip().rstrip("/"),
            environment=os.environ.get("PYTHON_ENV", "").strip() or "production",
            embed_seconds=seconds("TRUTHGRAPH_EMBED_SECONDS", EMBED_SECONDS),
        )


def seconds(name: str, default: float) -> float:
    """Read a time, and refuse what is none before the API starts."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number of seconds above 0, and is {text!r}")
    return value
