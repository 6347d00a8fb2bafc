"""The host's own store and adapters, opened beside the live services for one command.

The store is the one that the services use: one writer a process, ``BEGIN IMMEDIATE``, only the
transitions of the table. Whoever is root acts as the database's owner meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flashpods.adapters.sqlite import copies
from flashpods.adapters.sqlite.migrations import STEPS, SchemaError
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin.command import AdminError
from flashpods.admin.privileges import as_owner_of, become_owner_of
from flashpods.bootstrap import Adapters
from flashpods.config import Settings
from flashpods.errors import FlashpodsError

__all__ = ["with_adapters", "with_store"]

T = TypeVar("T")


def with_store(settings: Settings, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """Run ``work`` with the database open, and nothing else.

    Raises:
        AdminError: ``no_database``, ``schema_differs``, ``database_unusable``; or what the store
            refused, by its own code.
    """

    async def opened() -> T:
        async with await SqliteStore.open(settings.paths.database) as store:
            return await work(store)

    return _run(settings, opened, as_owner_of)


def with_adapters(settings: Settings, work: Callable[[Adapters], Awaitable[T]]) -> T:
    """Run ``work`` with all adapters open; the engine may be away. Root is given up for good.

    Raises:
        AdminError: as :func:`with_store`.
        ConfigError: a directory can't be used.
    """

    async def opened() -> T:
        adapters = await Adapters.open(settings)
        try:
            return await work(adapters)
        finally:
            await adapters.close()

    return _run(settings, opened, _for_good)


@contextmanager
def _for_good(database: Path) -> Iterator[None]:
    become_owner_of(database)
    yield


def _run(
    settings: Settings,
    opened: Callable[[], Coroutine[Any, Any, T]],
    acting: Callable[[Path], AbstractContextManager[None]],
) -> T:
    database = settings.paths.database
    if not database.exists():
        raise AdminError(
            f"there is no database {database}; is paths.database right, has the API ever run?",
            code="no_database",
        )
    try:
        schema = copies.schema_of(database)
        if 0 < schema < len(STEPS):
            # Not a command's business: the services of the older version may still run on it.
            raise AdminError(
                f"database {database} has schema {schema}, this version has {len(STEPS)}: start "
                f"this version's flashpods-api, which upgrades it",
                code="schema_differs",
            )
        with acting(database):
            return asyncio.run(opened())
    except copies.CopyError as e:
        raise AdminError(str(e), code="database_unusable") from e
    except SchemaError as e:
        raise AdminError(str(e), code="database_unusable") from e
    except FlashpodsError as e:
        raise AdminError(e.message, code=e.code) from e
