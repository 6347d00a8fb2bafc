"""Artifacts that are closed to their owner, or another user's."""

import os
import textwrap

from namespace_lab import place, run_as_flashpods

CLOSED = textwrap.dedent(
    """
    import asyncio, os, sys
    from datetime import datetime, UTC
    from pathlib import Path
    from flashpods.adapters.files.artifacts import FileArtifactStore
    async def main():
        root = Path(sys.argv[1])
        store = FileArtifactStore(root, file_bytes=2**20, job_bytes=2**24, max_files=200)
        store.check()
        staging = await store.prepare("0123456789abcdef")
        (staging / "closed").write_text("mine")
        (staging / "closed").chmod(0)
        (staging / "d" / "e").mkdir(parents=True)
        (staging / "d" / "e" / "f").write_text("deep")
        for path in (staging / "d" / "e", staging / "d", staging):
            path.chmod(0)
        collected = await store.collect("0123456789abcdef", at=datetime.now(UTC))
        print([(a.name, a.size_bytes) for a in collected.artifacts], collected.error,
              collected.warnings, staging.exists())
        (root / "0123456789abcdef" / "d" / "e").chmod(0)
        (root / "0123456789abcdef").chmod(0o500)
        await store.delete("0123456789abcdef")
        print(await store.stored(), sorted(os.listdir(root)))
    asyncio.run(main())
    """
)


def test_what_is_closed_to_its_owner_is_taken_and_deleted() -> None:
    with place() as where:
        (where / "a").mkdir()
        os.chown(where / "a", 64900, 64900)
        out = run_as_flashpods(where, CLOSED, str(where / "a"))
    assert out.splitlines() == [
        "[('closed', 4), ('d', 4)] None [] False",
        "[] ['.collecting', '.manifests', '.staging']",
    ]


FOREIGN = textwrap.dedent(
    """
    import asyncio, os, sys
    from datetime import datetime, UTC
    from pathlib import Path
    from flashpods.adapters.files.artifacts import FileArtifactStore
    async def main():
        root = Path(sys.argv[1])
        store = FileArtifactStore(root, file_bytes=2**20, job_bytes=2**24, max_files=200)
        collected = await store.collect("0123456789abcdef", at=datetime.now(UTC))
        print([(a.name, a.size_bytes) for a in collected.artifacts], collected.error,
              collected.warnings)
        await store.delete("0123456789abcdef")
        print(await store.stored())
    asyncio.run(main())
    """
)


def test_files_of_a_subordinate_id_are_copied_or_named_and_deleted() -> None:
    with place() as where:
        staging = where / "a" / ".staging" / "0123456789abcdef"
        (staging / "d" / "e").mkdir(parents=True)
        (staging / "open").write_text("open")
        (staging / "closed").write_text("closed")
        (staging / "closed").chmod(0o600)
        for path in (where / "a", staging.parent, staging):
            os.chown(path, 64900, 64900)
        for path in (staging / "open", staging / "closed", staging / "d", staging / "d" / "e"):
            os.chown(path, 700_123, 700_123)
        out = run_as_flashpods(where, FOREIGN, str(where / "a"))
    assert out.splitlines() == [
        "[('d', 0), ('open', 4)] artifact_copy_permission [\"artifacts: not readable: 'closed'\"]",
        "[]",
    ]
