"""podman-py in threads: what it costs nobody."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path


def test_a_call_under_way_does_not_keep_the_process(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from flashpods.adapters.podman.library import Library\n"
        "from flashpods.config import Podman\n"
        "async def main():\n"
        "    library = Library(Podman(socket=Path(sys.argv[1]), call_seconds=600))\n"
        "    task = asyncio.create_task(library.trim_images(1))\n"
        "    await asyncio.to_thread(sys.stdin.readline)\n"
        "    assert not task.done()\n"
        "    task.cancel()\n"
        "asyncio.run(main())\nprint('over')"
    )
    path = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(path))
        silent.listen()
        silent.settimeout(60)
        with (
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as child,
            closing(silent.accept()[0]),
        ):  # the call is under way
            said, _ = child.communicate("go\n", timeout=60)
    assert (child.returncode, said) == (0, "over\n")
