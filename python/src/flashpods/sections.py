"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MB = 1024**2
GB = 1024**3

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Bytes = Annotated[int, Field(gt=0, le=1024 * GB)]


class Section(BaseModel):
    """A part of the settings; frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
