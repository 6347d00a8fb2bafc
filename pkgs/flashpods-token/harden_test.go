package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"flashpods.local/flashpods-token/internal/fake"
)

// A process that is not dumpable is root's in /proc, and its own user may not look into it.
func TestTheJobsOtherProcessesCantLookIntoIt(t *testing.T) {
	workload := &fake.Workload{ID: agentID, Hang: make(chan struct{}), Arrived: make(chan struct{}, 1)}
	world(t, workload, nil)
	command := exec.Command(os.Args[0], "--timeout", "20s", "whoami")
	command.Env = append(os.Environ(), asChild+"=1")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer command.Wait() //nolint:errcheck // its answer does not matter
	defer close(workload.Hang)
	select {
	case <-workload.Arrived:
	case <-time.After(20 * time.Second):
		t.Fatal("it never asked")
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(limits), "\n") {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] != "0" {
			t.Fatal(line)
		}
	}
	look := []string{"cat", fmt.Sprintf("/proc/%d/environ", command.Process.Pid)}
	if os.Geteuid() == 0 { // root without capabilities is a user like another
		look = append([]string{"setpriv", "--bounding-set=-all", "--inh-caps=-all"}, look...)
	}
	if out, err := exec.Command(look[0], look[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Fatalf("%q %v", out, err)
	}
}
