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

	"google.golang.org/grpc/codes"

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

func TestNoIdentityInTime(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	cases := map[string]struct {
		workload *fake.Workload
		says     string
	}{
		"no socket":      {nil, "Unavailable"},
		"not registered": {&fake.Workload{ID: agentID, Refusals: -1}, "no identity issued"},
		"silent":         {&fake.Workload{ID: agentID, Hang: hang}, "DeadlineExceeded"},
		"junk":           {&fake.Workload{ID: agentID, Token: "a.b.c"}, "no identity"},
		"away":           {&fake.Workload{ID: agentID, Fatal: codes.Unavailable}, "Unavailable"},
		"huge":           {&fake.Workload{ID: agentID, Token: strings.Repeat("x", 2<<20)}, "no identity"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tokens := &fake.Tokens{Body: both}
			world(t, c.workload, tokens)
			for _, arguments := range [][]string{{"env"}, {"get", "A"}, {"whoami"}, {"exec", "--", "true"}} {
				says := func(got result) bool { return strings.Contains(got.errors, c.says) }
				got := within(t, says, arguments...)
				code, _ := problem(t, got)
				if got.code != exitAttestation || got.out != "" || code != "spire_attestation_timeout" {
					t.Fatalf("%v: %+v", arguments, got)
				}
				if !strings.Contains(got.errors, c.says) || len(got.errors) > 1000 {
					t.Fatalf("%v: %q", arguments, got.errors)
				}
			}
			if tokens.Calls.Load() != 0 {
				t.Fatal("the token service was asked without an identity")
			}
		})
	}
}

func TestAHopelessRefusalIsNotRepeated(t *testing.T) {
	workload := &fake.Workload{ID: agentID, Fatal: codes.Unimplemented}
	world(t, workload, nil)
	if got := call(t, "", "whoami"); got.code != exitAttestation || workload.Calls.Load() != 1 {
		t.Fatalf("%+v, %d calls", got, workload.Calls.Load())
	}
}

func TestAttestationRaceIsWaitedOut(t *testing.T) {
	workload := &fake.Workload{ID: agentID, Refusals: 3}
	world(t, workload, &fake.Tokens{Body: both})
	if got := call(t, "", "get", "GITHUB_TOKEN"); got != (result{0, "token\n", ""}) || workload.Calls.Load() != 4 {
		t.Fatalf("%+v, %d calls", got, workload.Calls.Load())
	}
}

func TestASocketThatAppearsIsFound(t *testing.T) {
	world(t, nil, &fake.Tokens{Body: both})
	path := strings.TrimPrefix(os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "unix://")
	done := make(chan result)
	go func() { done <- call(t, "", "get", "GITHUB_TOKEN") }()
	server := (&fake.Workload{ID: agentID}).Serve(listen(t, path))
	t.Cleanup(server.Stop)
	if got := <-done; got != (result{0, "token\n", ""}) {
		t.Fatalf("%+v", got)
	}
}

func TestRefusalsOfTheTokenService(t *testing.T) {
	cases := []struct {
		status int
		body   string
		code   string
	}{
		{403, `{"error":"unknown_identity","message":"m","details":{}}`, "unknown_identity"},
		{401, `{"error":"invalid_jwt"}`, "invalid_jwt"},
		{500, `{"error":"secrets_unavailable"}`, "secrets_unavailable"},
		{503, `{"error":"draining"}`, "draining"},
		{302, ``, "unknown"},
		{500, `<html>`, "unknown"},
		{403, `{"error":"Not A Code\u001b[31m"}`, "unknown"},
		{403, `{"error":7}`, "unknown"},
		{403, `{"error":"` + strings.Repeat("x", 2<<20) + `"}`, "unknown"},
		{200, ``, "invalid_answer"},
		{200, `null`, "invalid_answer"},
		{200, `[]`, "invalid_answer"},
		{200, `{"A":1}`, "invalid_answer"},
		{200, `{"A":{"B":"c"}}`, "invalid_answer"},
		{200, `{"A":"b"} {"A":"b"}`, "invalid_answer"},
		{200, `{"A;id":"b"}`, "invalid_answer"},
		{200, `{"lower":"b"}`, "invalid_answer"},
		{200, `{"A\nB":"b"}`, "invalid_answer"},
		{200, `{"":"b"}`, "invalid_answer"},
		{200, `{"A":"b\u0000"}`, "invalid_answer"},
		{200, `{"A":"` + strings.Repeat("x", mostValue+1) + `"}`, "invalid_answer"},
		{200, `{"A":"` + strings.Repeat("x", mostAnswer) + `"}`, "invalid_answer"},
		{200, manyNames(mostTokens + 1), "invalid_answer"},
	}
	for _, c := range cases {
		tokens := &fake.Tokens{Status: c.status, Body: c.body}
		world(t, &fake.Workload{ID: agentID}, tokens)
		for _, verb := range []string{"env", "exec"} {
			arguments := []string{verb}
			if verb == "exec" {
				arguments = append(arguments, "--", "true")
			}
			says := func(got result) bool { return strings.Contains(got.errors, `"code":"`+c.code+`"`) }
			got := within(t, says, arguments...)
			code, details := problem(t, got)
			if got.code != exitExchange || got.out != "" || code != "token_exchange_failed" {
				t.Fatalf("%d %.40q: %+v", c.status, c.body, got)
			}
			if details["code"] != c.code || details["status"] != float64(c.status) {
				t.Fatalf("%d %.40q: %v", c.status, c.body, details)
			}
			if bearer := tokens.Bearer.Load().(string); strings.Contains(got.errors, bearer) {
				t.Fatalf("the JWT is in the error: %q", got.errors)
			}
		}
	}
}

func TestARefusalIsNotAskedAgain(t *testing.T) {
	tokens := &fake.Tokens{Status: 403, Body: `{"error":"unknown_identity"}`}
	world(t, &fake.Workload{ID: agentID}, tokens)
	if got := call(t, "", "env"); got.code != exitExchange || tokens.Calls.Load() != 1 {
		t.Fatalf("%+v, asked %d times", got, tokens.Calls.Load())
	}
}

func manyNames(count int) string {
	names := map[string]string{}
	for len(names) < count {
		names["N"+strings.Repeat("X", len(names)%60)+string(rune('A'+len(names)/60))] = "v"
	}
	text, _ := json.Marshal(names)
	return string(text)
}

func TestATokenServiceThatRestartsIsWaitedFor(t *testing.T) {
	tokens := &fake.Tokens{Body: both, Absent: 2}
	world(t, &fake.Workload{ID: agentID}, tokens)
	if got := call(t, "", "get", "GITHUB_TOKEN"); got != (result{0, "token\n", ""}) || tokens.Calls.Load() != 3 {
		t.Fatalf("%+v, %d calls", got, tokens.Calls.Load())
	}
}

func TestATokenServiceThatIsAwayEndsInTime(t *testing.T) {
	for name, tokens := range map[string]*fake.Tokens{"no socket": nil, "closes": {Absent: -1}} {
		world(t, &fake.Workload{ID: agentID}, tokens)
		got := within(t, exchanged, "env")
		code, details := problem(t, got)
		if got.code != exitExchange || code != "token_exchange_failed" || details["code"] != "unreachable" {
			t.Fatalf("%s: %+v", name, got)
		}
	}
}

func TestATokenServiceThatSaysNothingOrTooMuchEndsInTime(t *testing.T) {
	for _, flood := range []bool{false, true} {
		world(t, &fake.Workload{ID: agentID}, nil)
		listener := listen(t, os.Getenv("FLASHPODS_TOKEN_SOCKET"))
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer connection.Close()
					connection.Write([]byte("HTTP/1.1 200 OK\r\n"))
					for flood {
						if _, err := connection.Write([]byte("X-Filler: " + strings.Repeat("x", 4096) + "\r\n")); err != nil {
							return
						}
					}
					connection.Read(make([]byte, 1<<20))
					connection.Read(make([]byte, 1)) // until the other side goes
				}()
			}
		}()
		got := within(t, exchanged, "env")
		if _, details := problem(t, got); got.code != exitExchange || details["code"] != "unreachable" {
			t.Fatalf("flood %v: %+v", flood, got)
		}
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
