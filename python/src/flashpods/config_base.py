"""What the sections of the settings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class ConfigError(Exception):
    """The configuration can't be used; the message is one line for a person."""


class Section(BaseModel):
    """A part of the settings; frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Join pydantic's findings about the model to one line: key, value, what is allowed."""
    parts = []
    for finding in error.errors(include_url=False):
        key = ".".join(str(p) for p in finding["loc"]) or "settings"
        if finding["type"] == "default_factory_not_called":
            continue  # the key that this one follows is wrong, and named
        if finding["type"] == "extra_forbidden":
            parts.append(f"unknown key {key!r}{_meant(finding['loc'], model)}")
        else:
            shown = "" if finding["type"] == "value_error" else f" (is {finding['input']!r:.80})"
            parts.append(f"{key}: {finding['msg']}{shown}")
    return "; ".join(parts)


def _meant(place: Sequence[int | str], model: type[BaseModel]) -> str:
    """Return the known key that an unknown one is most like, as words to add; may be empty."""
    *sections, key = map(str, place)
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not isinstance(field.annotation, type):
            return ""
        if not issubclass(field.annotation, BaseModel):
            return ""
        model = field.annotation
    near = get_close_matches(key, model.model_fields, n=1)
    return f" (did you mean {'.'.join([*sections, near[0]])!r}?)" if near else ""
