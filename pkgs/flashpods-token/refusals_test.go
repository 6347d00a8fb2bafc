package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"flashpods.local/flashpods-token/internal/fake"
)

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
