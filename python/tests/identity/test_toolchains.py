"""Ordinary toolchains under the seccomp profile: what a build does must go on working."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import support
from support import Connected

from flashpods_dev import image
from flashpods_dev.identity import go
from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

TOOLS = "localhost/flashpods/tools:dev"
PACKAGES = (
    *("gcc", "libc6-dev", "make", "git", "nodejs", "python3", "gdb", "strace", "procps"),
    *("cargo", "rustc"),
)


@pytest.fixture(scope="module")
def stack(machine: Machine) -> Iterator[MiniStack]:
    """A stack without identity: the profile is for every job."""
    key = image.key_of(Path("/etc/os-release").read_text(), *PACKAGES)
    archive = image.root_tree(machine, f"tools-{key}", PACKAGES)
    toolchain = Path(go.find(machine.dev).program).resolve().parents[1]
    mounts = {"podman": {"mounts": {"/opt/go": str(toolchain)}}}
    with support.stack_of(machine, mounts) as running:
        done = running.run_podman("import", str(archive), TOOLS, seconds=300)
        assert done.returncode == 0, done.stderr
        yield running


@pytest.fixture
async def host(stack: MiniStack) -> AsyncIterator[Connected]:
    async with support.connect(stack) as connected:
        yield connected


C_PROJECT = r"""
cd /tmp && mkdir c && cd c
for n in 1 2 3 4 5 6 7 8; do
  echo "int f$n(int x) { return x + $n; }" > f$n.c
done
cat > main.c <<'X'
#include <pthread.h>
#include <stdio.h>
int f1(int); int f8(int);
static void *work(void *x) { *(int *)x = f8(f1(0)); return 0; }
int main(void) { pthread_t t; int r = 0; pthread_create(&t, 0, work, &r); pthread_join(t, 0);
  printf("sum %d\n", r); return 0; }
X
printf 'main: main.o f1.o f2.o f3.o f4.o f5.o f6.o f7.o f8.o\n\tgcc -o $@ $^ -lpthread\n' > Makefile
make -j 4 CFLAGS=-O2 && ./main
"""
GO_PROJECT = r"""
export PATH=/opt/go/bin:$PATH GOCACHE=/tmp/go-cache GOPATH=/tmp/go-path GOTOOLCHAIN=local
cd /tmp && mkdir g && cd g
cat > go.mod <<'X'
module example.test/g
go 1.21
X
cat > main.go <<'X'
package main
import ("fmt"; "os/exec"; "sync")
func main() {
	var wg sync.WaitGroup
	for i := 0; i < 50; i++ {
		wg.Add(1)
		go func() { defer wg.Done(); exec.Command("true").Run() }()
	}
	wg.Wait()
	out, err := exec.Command("echo", "children ran").Output()
	fmt.Println(string(out), err)
}
X
go vet ./... && go run .
"""
CARGO_PROJECT = r"""
export CARGO_HOME=/tmp/cargo CARGO_NET_OFFLINE=true
cd /tmp && mkdir -p r/src r/tests && cd r
for n in 1 2 3 4; do
  mkdir -p leaf$n/src
  printf '[package]\nname = "leaf%s"\nversion = "0.1.0"\nedition = "2021"\n' $n > leaf$n/Cargo.toml
  echo "pub fn f(x: u32) -> u32 { x + $n }" > leaf$n/src/lib.rs
done
cat > Cargo.toml <<'X'
[package]
name = "r"
version = "0.1.0"
edition = "2021"
[workspace]
[dependencies]
leaf1 = { path = "leaf1" }
leaf2 = { path = "leaf2" }
leaf3 = { path = "leaf3" }
leaf4 = { path = "leaf4" }
X
cat > build.rs <<'X'
fn main() {
    assert!(std::process::Command::new("true").status().unwrap().success());
    println!("cargo:rustc-env=BUILT_BY=script");
}
X
cat > src/main.rs <<'X'
use std::process::Command;
use std::thread;
fn main() {
    let all: Vec<_> = (0..8)
        .map(|x| thread::spawn(move || leaf1::f(leaf2::f(leaf3::f(leaf4::f(x))))))
        .collect();
    let sum: u32 = all.into_iter().map(|t| t.join().unwrap()).sum();
    let said = Command::new("echo").arg("child").output().unwrap().stdout;
    println!("rust {} {} {}", sum, env!("BUILT_BY"), String::from_utf8(said).unwrap());
}
X
cat > tests/all.rs <<'X'
#[test]
fn adds() { assert_eq!(leaf4::f(1), 5); }
X
cargo build -j 4 2>&1 && cargo test 2>&1 && ./target/debug/r
"""
NODE = """
const { Worker } = require('worker_threads');
const { execFileSync } = require('child_process');
const fs = require('fs');
new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true })
  .on('message', async (m) => {
    await fs.promises.writeFile('/tmp/n', String(m));
    console.log('node', fs.readFileSync('/tmp/n', 'utf8'), String(execFileSync('echo', ['child'])));
  });
"""
PYTHON = """
import asyncio, multiprocessing, socket, sqlite3, tempfile
from concurrent import futures
from multiprocessing import shared_memory
def square(x):
    return x * x
if __name__ == "__main__":
    for how in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(how).Pool(3) as pool:
            assert sum(pool.map(square, range(100))) == 328350
    lock = multiprocessing.Lock()
    memory = shared_memory.SharedMemory(create=True, size=4096)
    memory.unlink()
    with futures.ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(square, range(10))) == 285
    async def run():
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait()
    assert asyncio.run(run()) == 0
    db = sqlite3.connect(tempfile.mktemp())
    db.execute("pragma journal_mode=wal")
    db.execute("create table t (x)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    print("python done")
"""
GIT = r"""
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
cd /tmp && git init -q --bare origin.git && git clone -q origin.git work 2>&1 && cd work
seq 1000 > n && git add n && git commit -qm one && git push -q origin HEAD:main
git checkout -qb side && seq 500 > n && git commit -qam two && git gc -q && git fsck --no-progress
git fetch -q && git diff --stat origin/main | tail -1
"""
DEBUG = r"""
cd /tmp && strace -f -o trace sh -c 'ls / | wc -l' && grep -c execve trace
echo 'int main(void){return 7;}' > d.c && gcc -g d.c -o d
gdb -batch -ex run -ex 'print 6*7' ./d 2>&1 | grep -E 'exited with code 07|= 42'
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (C_PROJECT, "sum 9"),
        (GO_PROJECT, "children ran"),
        (CARGO_PROJECT, "rust 108 script child"),
        (f"cat > /tmp/n.js <<'X'\n{NODE}X\nnode /tmp/n.js", "node 42 child"),
        (
            f"cat > /tmp/p.py <<'X'\n{PYTHON}X\npython3 -W error::UserWarning /tmp/p.py",
            "python done",
        ),
        (GIT, "1 file changed, 500 deletions"),
        (DEBUG, "$1 = 42"),
    ],
    ids=["make-j-gcc", "go", "cargo", "node", "python", "git", "gdb-strace"],
)
async def test_it_works_as_ever(host: Connected, command: str, expected: str) -> None:
    script = f"set -e\n{textwrap.dedent(command)}"
    row = await support.run(host.client, script, image=TOOLS, cpus=2, memory_gb=4)
    said = "\n".join(support.texts(await support.output(host.client, row["id"])))
    assert row["status"] == "completed", said
    assert expected in said
    assert "Operation not permitted" not in said
    assert "Function not implemented" not in said
