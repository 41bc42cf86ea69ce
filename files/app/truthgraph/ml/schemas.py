"""The bodies that the ML service takes and answers."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from truthgraph.ml.settings import MAX_TEXT_CHARACTERS, MAX_TEXTS


def not_blank(value: str) -> str:
    """Refuse what says nothing."""
    if not value.strip():
        raise ValueError("must not be blank")
    return value


# A constrained string also refuses half of a surrogate pair, which JSON can carry and UTF-8 cannot.
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS), AfterValidator(not_blank)]


class EmbedRequest(BaseModel):
    """Texts to encode."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
