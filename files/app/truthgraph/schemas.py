"""The bodies that the API takes and answers."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from truthgraph.settings import MAX_RESULTS, MAX_SOURCE_CHARACTERS, MAX_TEXT_CHARACTERS


def storable(value: str) -> str:
    """Refuse what PostgreSQL cannot store, and what says nothing."""
    if not value.strip():
        raise ValueError("must not be blank")
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    return value


# A constrained string also refuses half of a surrogate pair, which JSON can carry and UTF-8 cannot.
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS), AfterValidator(storable)]
Source = Annotated[str, StringConstraints(max_length=MAX_SOURCE_CHARACTERS), AfterValidator(storable)]


class Body(BaseModel):
    """A body of a request: a field that it does not know is a mistake of the caller."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EvidenceRequest(Body):
    """A text to store, and where it comes from."""

    text: Text
    source: Source | None = None


class EvidenceAnswer(BaseModel):
    """The id of the stored text."""

    id: UUID


class VerifyRequest(Body):
    """A claim, and how many pieces of evidence to answer at most."""

    claim: Text
    limit: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 10


class NearEvidence(BaseModel):
    """A stored text and its cosine similarity to the claim."""

    id: UUID
    text: str
    source: str | None
    similarity: float


class VerifyAnswer(BaseModel):
    """The nearest evidence, nearest first. Nearness is no verdict."""

    claim: str
    evidence: list[NearEvidence]


class Components(BaseModel):
    """The state of each part that the API needs."""

    database: Literal["ok", "unavailable", "unknown"]
    ml_service: Literal["ok", "unavailable", "unknown"]


class Health(BaseModel):
    """The API is up; degraded says that a part that it needs is not."""

    status: Literal["ok", "degraded"]
    version: str
    components: Components
