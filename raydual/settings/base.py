"""What groups of settings are made of: their base, numbers and lists with bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from raydual.errors import shown

LARGEST = 2**63
"""What whole numbers stay below: Parquet's columns hold no larger ones."""

Count = Annotated[int, Field(strict=True, gt=0, lt=2**31)]
Index = Annotated[int, Field(strict=True, ge=0, lt=LARGEST)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1e38, allow_inf_nan=False)]
Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


def distinct(values: tuple) -> tuple:
    """The values; an error if one is there twice."""
    if len(set(values)) != len(values):
        raise ValueError("the same value is listed twice")
    return values


def growing(values: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The values; an error if one is no larger than that before it."""
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must grow, found {shown(list(values))}")
    return values


class Settings(BaseModel):
    """A group of settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
