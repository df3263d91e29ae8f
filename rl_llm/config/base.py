"""What the sections of a recipe are made of: kinds of numbers, and the classes that they derive
from."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """Base of all recipe sections: frozen, strict, finite numbers, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class OpenSection(Section):
    """A section whose further keys are the options of the part that it names."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the schema does not know."""
        return dict(self.model_extra or {})


class NamedPart(OpenSection):
    """A built-in part or a class of your own, with its options as further keys."""

    name: str
    """A built-in name, or `path/to/file.py:Class`."""
