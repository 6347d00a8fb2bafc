"""An artifact over loopback, beside nginx serving the same file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.bench.server import serving
from flashpods_dev.layout import free_port
from flashpods_dev.stack import MiniStack

MEGABYTES = 512

NGINX = """
daemon off; worker_processes 1; user root; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{}}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


def measure(stack: MiniStack, rounds: int) -> list[Result]:
    """Fetch the same file from both in turn with curl."""
    api = Api(stack)
    command = f"dd if=/dev/urandom of=/artifacts/blob bs=1M count={MEGABYTES} 2>/dev/null"
    job_id = api.run(command)
    job = api.until(job_id)
    if job["status"] != "completed":
        raise RuntimeError(f"the blob was not made: {job}")
    directory = stack.layout.root / "nginx"
    directory.mkdir(exist_ok=True)
    port = free_port()
    root = Path(stack.settings["paths"]["artifacts"]) / job_id
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(dir=directory, port=port, root=root))
    ours, theirs = [], []
    with serving(["nginx", "-c", str(config)], port):
        for _ in range(rounds):
            ours.append(_fetch(f"{stack.api_url}/jobs/{job_id}/artifacts/blob", api.token))
            theirs.append(_fetch(f"http://127.0.0.1:{port}/blob", api.token))
    return [
        Result(
            name=f"artifact download, {MEGABYTES} MB",
            unit="MB/s",
            ours=p50(ours),
            peer_name="nginx, sendfile",
            peer=p50(theirs),
            goal=0.5,
            at_most=False,
            note=f"curl over loopback, p50 of {rounds}",
        )
    ]


def _fetch(url: str, token: str) -> float:
    argv = ["curl", "-sSf", "-o", "/dev/null", "-w", "%{size_download} %{time_total}"]
    argv += ["-H", f"Authorization: Bearer {token}", url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    size, seconds = done.stdout.split()
    if int(size) != MEGABYTES * 1024**2:
        raise RuntimeError(f"{url}: {size} bytes")
    return int(size) / 1e6 / float(seconds)
