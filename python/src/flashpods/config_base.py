"""What the sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class ConfigError(Exception):
    """The configuration can't be used; the message is one line for a person."""


class Section(BaseModel):
    """A part of the settings; frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
