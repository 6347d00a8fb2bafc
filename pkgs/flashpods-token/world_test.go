package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashpods.local/flashpods-token/internal/fake"
)

const (
	agentID = "spiffe://flashpods.local/agent"
	both    = `{"ANTHROPIC_API_KEY":"key","GITHUB_TOKEN":"token"}`
	asChild = "FLASHPODS_TOKEN_TEST_MAIN"
)

// TestMain lets the test binary be the program itself, for what only a process of its own shows.
func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		os.Unsetenv(asChild)
		main()
	}
	os.Exit(m.Run())
}

// world is a job's surroundings: the two sockets, served as the test wants; nil is not there.
func world(t *testing.T, workload *fake.Workload, tokens *fake.Tokens) {
	t.Helper()
	directory, err := os.MkdirTemp("/tmp", "fpt") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	agent, service := filepath.Join(directory, "agent.sock"), filepath.Join(directory, "token.sock")
	if workload != nil {
		server := workload.Serve(listen(t, agent))
		t.Cleanup(server.Stop)
	}
	if tokens != nil {
		server := tokens.Serve(listen(t, service))
		t.Cleanup(func() { server.Close() })
	}
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix://"+agent)
	t.Setenv("FLASHPODS_TOKEN_SOCKET", service)
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

type result struct {
	code        int
	out, errors string
}

func call(t *testing.T, input string, arguments ...string) result {
	t.Helper()
	var out, errors bytes.Buffer
	code := run(arguments, strings.NewReader(input), &out, &errors)
	return result{code, out.String(), errors.String()}
}

// within gives the program a quarter of a second, and more as long as the answer is not what it is
// with enough time: a busy machine may need seconds for what comes before.
func within(t *testing.T, enough func(result) bool, arguments ...string) result {
	t.Helper()
	for timeout := 250 * time.Millisecond; ; timeout *= 4 {
		began := time.Now()
		got := call(t, "", append([]string{"--timeout", timeout.String()}, arguments...)...)
		if took := time.Since(began); took > timeout+10*time.Second {
			t.Fatalf("%v: %v with a timeout of %v", arguments, took, timeout)
		}
		if enough(got) || timeout > 10*time.Second {
			return got
		}
	}
}

func exchanged(got result) bool { return got.code != exitAttestation }

// child runs the program as a process, with nothing in its environment but what is given.
func child(t *testing.T, environment []string, arguments ...string) result {
	t.Helper()
	command := exec.Command(os.Args[0], arguments...)
	command.Env = append(environment, asChild+"=1")
	for _, name := range []string{"SPIFFE_ENDPOINT_SOCKET", "FLASHPODS_TOKEN_SOCKET"} {
		command.Env = append(command.Env, name+"="+os.Getenv(name))
	}
	var out, errors bytes.Buffer
	command.Stdout, command.Stderr = &out, &errors
	command.Dir = "/"
	if err := command.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return result{command.ProcessState.ExitCode(), out.String(), errors.String()}
}

// problem reads the one line of JSON that a failure is.
func problem(t *testing.T, got result) (code string, details map[string]any) {
	t.Helper()
	if strings.Count(got.errors, "\n") != 1 || !strings.HasSuffix(got.errors, "\n") {
		t.Fatalf("not one line: %q", got.errors)
	}
	var parsed struct {
		Error, Message string
		Details        map[string]any
	}
	decoder := json.NewDecoder(strings.NewReader(got.errors))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&parsed); err != nil || parsed.Message == "" {
		t.Fatalf("%q: %v", got.errors, err)
	}
	return parsed.Error, parsed.Details
}
