package main

import (
	"io"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/grpclog"
)

// harden keeps what this process holds from the job's other processes: no core dump, no ptrace, no
// /proc/<pid>/mem or environ. All of it is best effort: a sandbox may forbid it, and the job may go
// on. Only the soft limit goes to 0, so that a command run by exec can raise it again.
func harden() {
	// gRPC logs to standard error if the environment says so; that is for one line of ours.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit)
	}
}
