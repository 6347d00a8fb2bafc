"""The system calls that a job may make, as rules; ``seccomp.json`` beside it is what they render.

A call that no rule names fails with ENOSYS, so a library takes its way round it: io_uring, and
clone3, whose flags a filter can't see. What is denied by name are doors that a build does not need
and an attacker does: new namespaces and mounts, by which a process forges what SPIRE reads about
it; the kernel's crypto sockets, key rings, BPF, perf and userfaultfd, by which containers were left
before. Write the file anew with ``python -m flashpods.adapters.podman.seccomp``; a test compares
the two.

Programs of 32 bits are killed: their socketcall hides the family of a socket from every filter,
and libseccomp widens a rule about ``socket`` to all of it.

Sources: seccomp(2), clone(2), Documentation/userspace-api/seccomp_filter.rst, and the OCI runtime
specification's ``linux.seccomp``.
"""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path
from typing import Any, Final

ALLOWED: Final = {
    "files: names": """
        access chdir chmod chown creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown
        fchownat getcwd lchown link linkat mkdir mkdirat mknod mknodat name_to_handle_at open openat
        openat2 readlink readlinkat rename renameat renameat2 rmdir symlink symlinkat umask unlink
        unlinkat""",
    "files: what they are": """
        fstat fstatfs futimesat lstat newfstatat stat statfs statx utime utimensat utimes""",
    "files: extended attributes": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr
        listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr
        setxattrat""",
    "files: contents": """
        cachestat copy_file_range fadvise64 fallocate fdatasync fsync ftruncate lseek pread64 preadv
        preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile splice sync sync_file_range
        syncfs tee truncate write writev""",
    "files: directories, locks, watches": """
        flock getdents getdents64 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch""",
    "descriptors": """
        close close_range dup dup2 dup3 eventfd eventfd2 fcntl ioctl memfd_create pipe pipe2
        signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime""",
    "waiting for descriptors": """
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
        epoll_wait_old poll ppoll pselect6 select""",
    "asynchronous reads and writes, as databases use them": """
        io_cancel io_destroy io_getevents io_setup io_submit""",
    "memory": """
        brk get_mempolicy madvise mbind membarrier memfd_secret mincore mlock mlock2 mlockall mmap
        mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
        process_mrelease remap_file_pages set_mempolicy set_mempolicy_home_node""",
    "processes": """
        execve execveat exit exit_group fork getpgid getpgrp getpid getppid getpriority getsid
        gettid pidfd_getfd pidfd_open pidfd_send_signal prctl process_vm_readv process_vm_writev
        ptrace seccomp setpgid setpriority setsid vfork wait4 waitid""",
    "processes: who they are": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
        setgid setgroups setregid setresgid setresuid setreuid setuid""",
    "processes: limits and figures": """
        getcpu getrlimit getrusage ioprio_get ioprio_set prlimit64 setrlimit sysinfo times
        uname""",
    "scheduling": """
        sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield""",
    "threads": """
        futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list get_thread_area
        restart_syscall rseq set_robust_list set_thread_area set_tid_address""",
    "signals": """
        alarm kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
        rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack tgkill tkill""",
    "time": """
        clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time
        timer_create timer_delete timer_getoverrun timer_gettime timer_settime""",
    "network": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg
        recvmsg sendmmsg sendmsg sendto setsockopt shutdown""",
    "queues, semaphores, shared memory": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv
        msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget""",
    "sandboxes of a job's own": "landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    "of one architecture": "arch_prctl",
    "odds and ends": "getrandom",
}
"""Subject → names. A name that this architecture does not have is let be by libseccomp."""

REFUSED: Final = {
    "namespaces": "setns unshare",
    "mounts": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
        open_tree_attr pivot_root umount2""",
    "files by handle, which knows no mount": "open_by_handle_at",
    "the kernel's key rings, which know no container": "add_key keyctl request_key",
    "kernel programs and probes": "bpf perf_event_open",
    "page faults handled in user space": "userfaultfd",
    "the machine": """
        acct adjtimex clock_adjtime clock_settime delete_module fanotify_init finit_module
        init_module ioperm iopl kexec_file_load kexec_load lookup_dcookie modify_ldt quotactl
        quotactl_fd reboot setdomainname sethostname settimeofday swapoff swapon syslog vhangup""",
}
"""Subject → names that fail with EPERM, as for a process without privileges."""

NAMESPACE_FLAGS: Final = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}, clone(2)."""

FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""All that a job may open; the rest, AF_ALG and AF_VSOCK among them, is kernel code by itself."""
KNOWN_FAMILIES: Final = 46  # AF_MAX of Linux 6.x

PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, its 32-bit view, UNAME26, and the question which one it is."""


def names(groups: dict[str, str]) -> list[str]:
    """Return all names of the groups, sorted."""
    return sorted(name for group in groups.values() for name in group.split())


def profile() -> dict[str, Any]:
    """Return the profile as Podman reads it."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        # Nothing but the 64-bit calls; one of another kind kills the process.
        "archMap": [
            {"architecture": name, "subArchitectures": []}
            for name in ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
        ],
        "syscalls": [
            _rule(names(ALLOWED)),
            _rule(names(REFUSED), refuse=errno.EPERM),
            _rule(["clone"], (0, "SCMP_CMP_MASKED_EQ", NAMESPACE_FLAGS)),
            *(_rule(["personality"], (0, "SCMP_CMP_EQ", value)) for value in PERSONALITIES),
            *_sockets(),
        ],
    }


def _sockets() -> list[dict[str, Any]]:
    """Return the rules of socket and socketpair: a list of what may be, not of what may not.

    A filter compares 64 bits where the kernel takes 32, so a list of the forbidden has a way
    round. What matches neither list has ENOSYS.
    """
    both = ["socket", "socketpair"]
    others = [family for family in range(KNOWN_FAMILIES) if family not in FAMILIES]
    return [
        *(_rule(both, (0, "SCMP_CMP_EQ", int(family))) for family in FAMILIES),
        *(_rule(both, (0, "SCMP_CMP_EQ", f), refuse=errno.EAFNOSUPPORT) for f in others),
    ]


def _rule(
    calls: list[str], argument: tuple[int, str, int] | None = None, *, refuse: int = 0
) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "names": calls,
        "action": "SCMP_ACT_ERRNO" if refuse else "SCMP_ACT_ALLOW",
    }
    if refuse:
        rule["errnoRet"] = refuse
    if argument:
        index, operator, value = argument
        rule["args"] = [{"index": index, "op": operator, "value": value, "valueTwo": 0}]
    return rule


def render() -> str:
    """Return the file's text."""
    return json.dumps(profile(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(render())
