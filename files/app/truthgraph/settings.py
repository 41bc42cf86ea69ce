"""Settings, all from the environment, and the limits of what the API accepts."""

import os
from dataclasses import dataclass

MAX_TEXT_CHARACTERS = 8192
MAX_SOURCE_CHARACTERS = 2048
MAX_RESULTS = 50

# The vectors in the database are of this model. Answers of another one are refused: its space is another.
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
EMBEDDING_DIMENSION = 384


@dataclass(frozen=True)
class Settings:
    """Where the parts are. An empty address is a part that is not there yet: the API starts and says so.

    Without the ML service's address the API embeds by itself, where it can.
    """

    database_url: str
    ml_service_url: str
    environment: str

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment now, so that importing the application needs none of it."""
        return cls(
            database_url=os.environ.get("DATABASE_URL", "").strip(),
            ml_service_url=os.environ.get("ML_SERVICE_URL", "").strip().rstrip("/"),
            environment=os.environ.get("PYTHON_ENV", "").strip() or "production",
        )
