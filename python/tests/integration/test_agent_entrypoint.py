"""The agent image's entrypoint, as a process: the ways in, the work, and every failure's code."""

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_rig import BOUND, CHECKOUT, ENTRYPOINT, KEY, TOKEN, Rig, rig

from flashpods.jobs.agent import ENTRYPOINT_ERRORS
from flashpods_dev import helper_build
from flashpods_dev.git_server import git
from flashpods_dev.helper_build import Programs

# The first one builds them; on a busy machine that takes longer than any test.
pytestmark = pytest.mark.timeout(helper_build.BUILD_SECONDS + 300)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return helper_build.ensure(CHECKOUT)


@pytest.fixture
def agent(tmp_path: Path, programs: Programs) -> Iterator[Rig]:
    with rig(tmp_path, programs) as made:
        yield made


def failed(agent: Rig, error: str, result: tuple[int, str]) -> None:
    """Assert that a run ended with an error of the entrypoint's, and says so everywhere."""
    code, out = result
    assert ENTRYPOINT_ERRORS.get(code) == error, out
    assert f"[flashpods] {error}: " in out
    if (agent.artifacts / "summary.md").is_file():
        assert f"- error: `{error}`" in agent.summary
    assert TOKEN not in out
    assert KEY not in out


def test_an_empty_tree_becomes_a_clone_and_the_work_a_pushed_branch(agent: Rig) -> None:
    code, out = agent.run(FLASHPODS_CONTEXT="It printed 1.")
    assert code == 0, out
    assert agent.branches() == ["fix/it", "main"]
    assert agent.remote("show", "fix/it:app.py") == "print(2)"
    assert agent.remote("show", "fix/it:new file") == "new"
    assert agent.remote("rev-list", "--count", "main..fix/it") == "1"
    message = agent.remote("log", "-1", "--format=%an|%B", "fix/it")
    assert message.startswith("Flashpods agent|Make it print 2\n\nFlashpods job 0123456789abcdef")
    assert (agent.root / "tokens").read_text() == f"{KEY}|{TOKEN}"
    prompt = (agent.root / "prompt").read_text()
    assert prompt.startswith("Make it print 2\n\nContext:\nIt printed 1.\n")
    assert agent.summary.startswith("I changed app.py.\n")
    pushed = agent.remote("rev-parse", "--short", "fix/it")
    assert (
        f"- branch: `fix/it`\n- exit code of the command: 0\n- pushed: {pushed}\n" in agent.summary
    )
    assert "app.py" in agent.summary


def test_the_patch_is_the_whole_change(agent: Rig, tmp_path: Path) -> None:
    assert agent.run()[0] == 0
    again = tmp_path / "again"
    git("clone", "--quiet", str(agent.server.root / "app.git"), str(again))
    git("-C", str(again), "apply", str(agent.artifacts / "changes.patch"))
    assert (again / "app.py").read_text() == "print(2)\n"
    assert (again / "new file").read_text() == "new\n"


def test_no_token_is_left_anywhere(agent: Rig) -> None:
    code, out = agent.run()
    assert code == 0
    shutil.copytree(agent.work, agent.artifacts / "work")
    (agent.artifacts / "out").write_text(out)
    found = subprocess.run(
        ["grep", "-rlaF", "-e", TOKEN, "-e", KEY, agent.artifacts, agent.root / "home"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
    assert agent.server.served > 0


def test_only_the_command_gets_the_tokens_in_its_environment(agent: Rig) -> None:
    command = agent.script("cat >/dev/null; tr '\\0' '\\n' </proc/$PPID/environ >{root}/parent")
    code, out = agent.run(FLASHPODS_AGENT_COMMAND=command, tokens="exported")
    assert code == 0, out
    parent = (agent.root / "parent").read_text()
    assert "FLASHPODS_TASK=" in parent
    assert TOKEN not in parent


def test_a_branch_that_is_there_is_continued(agent: Rig) -> None:
    assert agent.run()[0] == 0
    shutil.rmtree(agent.work)
    agent.work.mkdir()
    code, out = agent.run(FLASHPODS_AGENT_COMMAND=agent.script("cat >/dev/null; cat app.py >copy"))
    assert code == 0, out
    assert agent.remote("show", "fix/it:copy") == "print(2)"
    assert agent.remote("rev-list", "--count", "main..fix/it") == "2"
    assert "app.py" not in agent.patch, "the patch is what this job changed"


def test_a_pushed_repository_keeps_its_uncommitted_changes(agent: Rig) -> None:
    agent.push_tree()
    (agent.work / "README").write_text("from the laptop\n")
    (agent.work / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (agent.work / ".git" / "hooks" / "pre-commit").chmod(0o755)
    agent.local("config", "commit.gpgSign", "true")
    code, out = agent.run(FLASHPODS_GIT_URL=None)
    assert code == 0, out
    assert agent.remote("show", "fix/it:README") == "from the laptop"
    assert agent.remote("show", "fix/it:app.py") == "print(2)"
    assert "from the laptop" in agent.patch


def test_commits_that_were_not_pushed_yet_are(agent: Rig) -> None:
    agent.push_tree()
    agent.local("switch", "--quiet", "--create", "fix/it")
    agent.local("commit", "--quiet", "--allow-empty", "--message=mine")
    code, out = agent.run()
    assert code == 0, out
    subjects = agent.remote("log", "--format=%s", "main..fix/it").splitlines()
    assert subjects == ["Make it print 2", "mine"]


def test_a_branch_that_is_behind_is_brought_forward(agent: Rig) -> None:
    assert agent.run()[0] == 0
    shutil.rmtree(agent.work)
    agent.push_tree()
    agent.local("branch", "fix/it", "origin/main")
    code, out = agent.run(FLASHPODS_AGENT_COMMAND=agent.script("cat >/dev/null; touch third"))
    assert code == 0, out
    assert agent.remote("rev-list", "--count", "main..fix/it") == "2"


def test_an_origin_by_ssh_is_reached_by_the_token(agent: Rig) -> None:
    agent.push_tree()
    name = agent.server.host.removeprefix("http://")
    for url in (f"git@{name}:app.git", f"ssh://git@{name}/app.git"):
        agent.local("remote", "set-url", "origin", url)
        code, out = agent.run()
        assert code == 0, out
        assert agent.branches() == ["fix/it", "main"]


def test_a_tree_without_git_is_laid_over_the_branch(agent: Rig) -> None:
    (agent.work / "app.py").write_text("print(3)\n")
    (agent.work / "mine").write_text("mine\n")
    command = agent.script("cat >/dev/null; cat app.py README >seen")
    code, out = agent.run(FLASHPODS_AGENT_COMMAND=command)
    assert code == 0, out
    assert agent.remote("show", "fix/it:seen") == "print(3)\nhello"
    assert agent.remote("show", "fix/it:mine") == "mine"
    assert agent.remote("show", "fix/it:README") == "hello", "excluded from the push, not deleted"
    assert agent.remote("ls-tree", "--name-only", "fix/it").split() == [
        *("README", "app.py", "mine", "seen"),
    ]


@pytest.mark.parametrize("tree", [False, True])
def test_an_empty_repository_gets_its_first_commit(agent: Rig, tree: bool) -> None:
    agent.server.repository("empty", {})
    if tree:
        (agent.work / "mine").write_text("mine\n")
    code, out = agent.run(FLASHPODS_GIT_URL=f"{agent.server.host}/empty.git")
    assert code == 0, out
    names = git("-C", str(agent.server.root / "empty.git"), "ls-tree", "--name-only", "fix/it")
    assert "app.py" in names.splitlines()
    assert "new file" in agent.patch


def test_a_command_that_changes_nothing_makes_the_branch_and_an_empty_patch(agent: Rig) -> None:
    code, out = agent.run(FLASHPODS_AGENT_COMMAND="cat")
    assert code == 0, out
    assert agent.remote("rev-parse", "fix/it") == agent.remote("rev-parse", "main")
    assert agent.patch == ""


def test_a_long_task_that_the_command_does_not_read(agent: Rig) -> None:
    code, out = agent.run(
        FLASHPODS_TASK="x" * 100_000,
        FLASHPODS_CONTEXT="y" * 100_000,
        FLASHPODS_AGENT_COMMAND=agent.script("touch x"),
    )
    assert code == 0, out
    assert agent.remote("log", "-1", "--format=%s", "fix/it") == "Work of an agent"


def test_what_the_command_committed_itself_is_pushed(agent: Rig) -> None:
    command = agent.script("cat >/dev/null; git commit --quiet --allow-empty -m own && touch x")
    code, out = agent.run(FLASHPODS_AGENT_COMMAND=command)
    assert code == 0, out
    subjects = agent.remote("log", "--format=%s", "main..fix/it").splitlines()
    assert subjects == ["Make it print 2", "own"]


def test_a_host_without_identity_still_runs_agents(agent: Rig) -> None:
    url = f"file://{agent.server.root}/app.git"
    command = agent.script('cat >/dev/null; echo "${{GITHUB_TOKEN-none}}" >tokens')
    code, out = agent.run(
        FLASHPODS_TOKEN_SOCKET=None, FLASHPODS_GIT_URL=url, FLASHPODS_AGENT_COMMAND=command
    )
    assert code == 0, out
    assert "no identity" in out
    assert agent.remote("show", "fix/it:tokens") == "none"


def test_nothing_that_comes_from_outside_is_shell_code(agent: Rig) -> None:
    evil = f"$(touch {agent.root}/evil) `touch {agent.root}/evil`; touch {agent.root}/evil\n'\"\\ *"
    code, out = agent.run(
        FLASHPODS_TASK=evil,
        FLASHPODS_CONTEXT=evil,
        FLASHPODS_GIT_BRANCH="a;touch${IFS}evil;$(id)",
        FLASHPODS_AGENT_COMMAND="tee *;id $(touch evil) `id` ;",
    )
    assert code == 0, out
    assert not (agent.root / "evil").exists()
    assert "a;touch${IFS}evil;$(id)" in agent.branches()
    # Words of the command are its arguments, as they are: names of files that tee made.
    names = agent.remote("ls-tree", "--name-only", "a;touch${IFS}evil;$(id)").splitlines()
    assert {"*;id", "$(touch", "evil)", "`id`", ";"} <= set(names)
    assert agent.remote("show", "a;touch${IFS}evil;$(id):;").startswith(evil)


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"refuse": True}, "spire_attestation_timeout"),
        ({"status": 403}, "token_exchange_failed"),
    ],
)
def test_without_tokens_nothing_is_begun(
    tmp_path: Path, programs: Programs, options: dict[str, int], error: str
) -> None:
    with rig(tmp_path, programs, **options) as agent:  # type: ignore[arg-type]  # one of two flags
        failed(agent, error, agent.run())
        assert list(agent.work.iterdir()) == []
        assert agent.server.refused + agent.server.served == 0


def test_a_missing_helper_is_a_failed_exchange(agent: Rig) -> None:
    failed(agent, "token_exchange_failed", agent.run(FLASHPODS_HELPER="/nonexistent"))


def no_repository(agent: Rig) -> dict[str, str | None]:
    return {"FLASHPODS_GIT_URL": None}


def no_such_repository(agent: Rig) -> dict[str, str | None]:
    return {"FLASHPODS_GIT_URL": f"{agent.server.host}/absent.git"}


def no_server(agent: Rig) -> dict[str, str | None]:
    return {"FLASHPODS_GIT_URL": "http://127.0.0.1:1/app.git"}


def an_option_for_a_url(agent: Rig) -> dict[str, str | None]:
    return {"FLASHPODS_GIT_URL": "--upload-pack=touch evil"}


def another_host(agent: Rig) -> dict[str, str | None]:
    return {"FLASHPODS_GIT_HOSTS": "https://github.com"}


def a_broken_repository(agent: Rig) -> dict[str, str | None]:
    (agent.work / ".git").write_text("gitdir: /home/somebody/.git/worktrees/x\n")
    return {}


def a_repository_without_origin(agent: Rig) -> dict[str, str | None]:
    git("init", "--quiet", str(agent.work))
    return {"FLASHPODS_GIT_URL": None}


@pytest.mark.parametrize(
    "wrong",
    [
        no_repository,
        no_such_repository,
        no_server,
        an_option_for_a_url,
        another_host,
        a_broken_repository,
        a_repository_without_origin,
    ],
)
def test_without_a_repository_the_command_does_not_run(
    agent: Rig, wrong: Callable[[Rig], dict[str, str | None]]
) -> None:
    failed(agent, "git_clone_failed", agent.run(**wrong(agent)))
    if wrong is another_host:
        assert agent.server.served == 0, "the token went to a host that is not on the list"
    assert not (agent.root / "prompt").exists()
    assert agent.branches() == ["main"]


@pytest.mark.parametrize("name", ["", "-x", "--force", "a b", "a..b", "HEAD", "refs/heads/"])
def test_a_branch_that_git_refuses(agent: Rig, name: str) -> None:
    failed(agent, "git_branch_failed", agent.run(FLASHPODS_GIT_BRANCH=name))
    assert not (agent.root / "prompt").exists()
    assert agent.branches() == ["main"]


def test_a_branch_that_went_another_way(agent: Rig) -> None:
    assert agent.run()[0] == 0
    shutil.rmtree(agent.work)
    agent.push_tree()
    agent.local("switch", "--quiet", "--create", "fix/it", "origin/main")
    agent.local("commit", "--quiet", "--allow-empty", "--message=mine")
    before = agent.remote("rev-parse", "fix/it")
    failed(agent, "git_branch_failed", agent.run())
    assert agent.remote("rev-parse", "fix/it") == before


def test_changes_that_the_branch_can_not_take(agent: Rig) -> None:
    assert agent.run()[0] == 0
    shutil.rmtree(agent.work)
    agent.push_tree()
    (agent.work / "app.py").write_text("print(9)\n")
    failed(agent, "git_branch_failed", agent.run())
    assert (agent.work / "app.py").read_text() == "print(9)\n"


def test_a_refused_push_leaves_the_work_in_the_patch(agent: Rig) -> None:
    agent.server.refuse_pushes = True
    failed(agent, "git_push_failed", agent.run())
    assert "print(2)" in agent.patch
    assert agent.branches() == ["main"]
    assert agent.summary.startswith("I changed app.py.\n")


def test_a_repository_that_the_command_destroyed(agent: Rig) -> None:
    command = agent.script("cat >/dev/null; rm -rf .git")
    failed(agent, "git_commit_failed", agent.run(FLASHPODS_AGENT_COMMAND=command))
    assert agent.branches() == ["main"]


@pytest.mark.parametrize("name", ["summary.md", "changes.patch"])
def test_artifacts_that_can_not_be_written(agent: Rig, name: str) -> None:
    command = agent.script(f"cat >/dev/null; touch x; mkdir {{artifacts}}/{name}")
    failed(agent, "agent_report_failed", agent.run(FLASHPODS_AGENT_COMMAND=command))
    assert agent.branches() == ["fix/it", "main"]


@pytest.mark.parametrize(
    ("code", "ends"), [(1, 1), (3, 3), (137, 137), (201, 1), (207, 1), (208, 208)]
)
def test_a_failed_command_gives_its_code_and_leaves_a_patch(
    agent: Rig, code: int, ends: int
) -> None:
    command = agent.script(f"cat >/dev/null; echo half >half; exit {code}")
    got, out = agent.run(FLASHPODS_AGENT_COMMAND=command)
    assert got == ends, out
    assert "half" in agent.patch
    assert "- error: `agent_command_failed`" in agent.summary
    assert f"- exit code of the command: {ends}\n" in agent.summary
    assert agent.branches() == ["main"]


def test_a_command_that_is_not_there(agent: Rig) -> None:
    code, out = agent.run(FLASHPODS_AGENT_COMMAND="no-such-command -p")
    assert code == 127, out
    assert "no-such-command" in out
    assert "agent_command_failed" in agent.summary


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_stopped_job_leaves_what_there_is(agent: Rig, stubborn: bool) -> None:
    trap = "trap '' TERM; " if stubborn else ""
    command = agent.script(
        f"{trap}cat >/dev/null; echo half >half; echo ready; while :; do sleep 0.1; done"
    )
    (patience,) = re.findall(r"^patience=(\d+)", ENTRYPOINT.read_text(), re.MULTILINE)
    assert int(patience) <= 5
    with agent.start(FLASHPODS_AGENT_COMMAND=command) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "ready" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            process.send_signal(signal.SIGTERM)
            # So it leaves half of the host's 10 seconds to git, whose time is the machine's.
            out, _ = process.communicate(timeout=BOUND)
        finally:
            process.kill()
    assert process.returncode == 143, out
    assert "half" in agent.patch
    assert "not pushed: the job was stopped" in agent.summary
    assert agent.branches() == ["main"]
