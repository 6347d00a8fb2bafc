package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashpods.local/flashpods-token/internal/fake"
)

func TestEnvIsForAShell(t *testing.T) {
	workload := &fake.Workload{ID: agentID}
	tokens := &fake.Tokens{Body: `{"B":"it's $(touch /tmp/x) \\ \"\n;end","A":"","GONE":null}`}
	world(t, workload, tokens)
	got := call(t, "", "env")
	want := "export A=''\nexport B='it'\\''s $(touch /tmp/x) \\ \"\n;end'\n"
	if got != (result{0, want, ""}) {
		t.Fatalf("%+v", got)
	}
	shell := exec.Command("sh", "-c", got.out+`printf %s "$B"; echo "|${GONE-unset}"`)
	shell.Env = []string{}
	if out, err := shell.Output(); err != nil || string(out) != "it's $(touch /tmp/x) \\ \"\n;end|unset\n" {
		t.Fatalf("%q %v", out, err)
	}
	if asked := workload.Asked.Load().([]string); len(asked) != 1 || asked[0] != "flashpods-token-service" {
		t.Fatalf("audience %q", asked)
	}
	if bearer := tokens.Bearer.Load().(string); strings.Count(bearer, ".") != 2 {
		t.Fatalf("no JWT: %q", bearer)
	}
}

func TestGetPrintsOne(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: `{"GITHUB_TOKEN":"token","ANTHROPIC_API_KEY":null}`})
	if got := call(t, "", "get", "GITHUB_TOKEN"); got != (result{0, "token\n", ""}) {
		t.Fatalf("%+v", got)
	}
	for _, name := range []string{"ANTHROPIC_API_KEY", "ABSENT"} {
		got := call(t, "", "get", name)
		if code, _ := problem(t, got); got.code != exitNoToken || got.out != "" || code != "no_such_token" {
			t.Fatalf("%s: %+v", name, got)
		}
	}
}

func TestWhoamiNeverShowsTheJWT(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, nil)
	got := call(t, "", "whoami")
	words := strings.Fields(got.out)
	if got.code != 0 || len(words) != 2 || words[0] != agentID || strings.Contains(got.out, "eyJ") {
		t.Fatalf("%+v", got)
	}
	expiry, err := time.Parse(time.RFC3339, words[1])
	if left := time.Until(expiry); err != nil || left < 4*time.Minute || left > 5*time.Minute {
		t.Fatalf("%v %v", words[1], err)
	}
}

func TestExecSetsTheVariablesAndBecomesTheCommand(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: `{"GITHUB_TOKEN":"token","ANTHROPIC_API_KEY":null}`})
	script := `echo "$GITHUB_TOKEN ${ANTHROPIC_API_KEY-unset} $KEPT $0 $1"; ulimit -S -c; tr '\0' ' ' </proc/$$/cmdline; exit 7`
	environment := []string{"PATH=/usr/bin:/bin", "KEPT=kept", "GITHUB_TOKEN=old", "GITHUB_TOKEN=older"}
	got := child(t, environment, "exec", "--", "sh", "-c", script, "zero", "--timeout")
	if got.code != 7 || got.errors != "" || !strings.HasPrefix(got.out, "token unset kept zero --timeout\n0\nsh -c ") {
		t.Fatalf("%+v", got)
	}
	if strings.Contains(strings.SplitN(got.out, "\n", 3)[2], "older") {
		t.Fatalf("a token in an argument: %+v", got)
	}
}

func TestTheEnvironmentDivertsNothing(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: both})
	nowhere := "=http://127.0.0.1:1"
	environment := []string{"GRPC_GO_LOG_SEVERITY_LEVEL=info", "GRPC_GO_LOG_VERBOSITY_LEVEL=99"}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"} {
		environment = append(environment, name+nowhere)
	}
	if got := child(t, environment, "get", "GITHUB_TOKEN"); got != (result{0, "token\n", ""}) {
		t.Fatalf("%+v", got)
	}
}

func TestExecNeedsNeitherPathNorHome(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: both})
	if got := child(t, nil, "exec", "--", "true"); got != (result{0, "", ""}) {
		t.Fatalf("%+v", got)
	}
}

func TestExecOfNothingExecutableAsksForNoToken(t *testing.T) {
	tokens := &fake.Tokens{Body: both}
	world(t, &fake.Workload{ID: agentID}, tokens)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{plain: exitNotExecutable, "/absent": exitNotFound, "no-such-command": exitNotFound} {
		got := call(t, "", "exec", "--", path)
		if problem(t, got); got.code != want || tokens.Calls.Load() != 0 {
			t.Fatalf("%s: %+v", path, got)
		}
	}
}

func TestExecOfAFileThatIsNoProgram(t *testing.T) {
	world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: both})
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := child(t, nil, "exec", "--", junk)
	if code, _ := problem(t, got); got.code != exitNotExecutable || code != "not_executable" {
		t.Fatalf("%+v", got)
	}
}

func TestCommandLine(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"nonsense"}, {"env", "A"}, {"whoami", "A"}, {"get"}, {"get", "a"}, {"get", "A", "B"},
		{"get", "A;B"}, {"exec"}, {"exec", "--"}, {"exec", "true"}, {"git-credential"}, {"--unknown", "env"},
		{"--timeout"}, {"--timeout", "0", "env"}, {"--timeout", "-1s", "env"}, {"--timeout=11m", "env"},
		{"--timeout=NaN", "env"}, {"--timeout=1e300", "env"}, {"--timeout=soon", "env"}, {"--", "env"},
	} {
		got := call(t, "", arguments...)
		if code, _ := problem(t, got); got.code != exitUsage || got.out != "" || code != "usage" {
			t.Fatalf("%q: %+v", arguments, got)
		}
	}
	for _, arguments := range [][]string{{"--help"}, {"-h"}, {"help"}, {"env", "--help"}, {"exec", "-h"}} {
		if got := call(t, "", arguments...); got != (result{0, usage, ""}) {
			t.Fatalf("%q: %+v", arguments, got)
		}
	}
	for _, name := range []string{"SPIFFE_ENDPOINT_SOCKET", "FLASHPODS_TOKEN_SOCKET"} {
		t.Setenv(name, "tcp://127.0.0.1:1")
		if got := call(t, "", "env"); got.code != exitUsage || !strings.Contains(got.errors, name) {
			t.Fatalf("%+v", got)
		}
		os.Unsetenv(name)
	}
}

func TestOptionsStandOnEitherSide(t *testing.T) {
	for _, arguments := range [][]string{{"--timeout", "3", "get", "A"}, {"get", "A", "--timeout=3s"}, {"get", "--timeout", "3000ms", "A"}} {
		asked, err := parse(arguments)
		if err != nil || asked.timeout != 3*time.Second || asked.verb != "get" || len(asked.words) != 1 {
			t.Fatalf("%q: %+v %v", arguments, asked, err)
		}
	}
}

func TestDefaultSockets(t *testing.T) {
	found, err := socketsFrom(func(string) string { return "" })
	if err != nil || found != (sockets{"unix:///run/spire/sockets/agent.sock", "/run/flashpods/token.sock"}) {
		t.Fatalf("%+v %v", found, err)
	}
}
