"""Options that several commands share: declared once, as the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, get_type_hints

__all__ = ["takes"]

PARAMETER: Final = "options"


def takes(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the fields of ``kind`` as options behind its own.

    Args:
        kind: a dataclass; its fields are annotated as typer's options are, and have defaults.

    The command has a parameter ``options``, in which it gets them as one ``kind``.
    """
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own[PARAMETER]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            options = kind(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            command(**given, **{PARAMETER: options})

        # What typer reads the command line's options from.
        called.__signature__ = inspect.Signature([*own.values(), *shared])  # type: ignore[attr-defined] # PEP 362
        return called

    return decorate
