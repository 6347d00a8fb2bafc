package main

import (
	"strings"
	"testing"

	"flashpods.local/flashpods-token/internal/fake"
)

const answer = "username=x-access-token\npassword=token\n"

func TestGitGetsTheTokenForItsHostsOnly(t *testing.T) {
	cases := []struct {
		hosts, question string
		allowed         bool
	}{
		{"https://github.com", "protocol=https\nhost=github.com\n", true},
		{"https://github.com", "capability[]=authtype\nwwwauth[]=Basic realm=\"GitHub\"\nprotocol=https\nhost=github.com\npath=a/b.git\n\n", true},
		{"https://github.com", "protocol=https\nhost=GitHub.com\nusername=somebody\n\n", true},
		{"https://github.com", "protocol=https\nhost=github.com:443\n\n", true},
		{"github.com", "protocol=https\nhost=github.com\n\n", true},
		{"https://a.example https://github.com/", "protocol=https\nhost=github.com\n\n", true},
		{"https://git.example:8443", "protocol=https\nhost=git.example:8443\n\n", true},
		{"http://127.0.0.1:8080", "protocol=http\nhost=127.0.0.1:8080\n\n", true},
		{"http://[::1]:8080", "protocol=http\nhost=[::1]:8080\n\n", true},
		{"https://github.com", "protocol=http\nhost=github.com\n\n", false},
		{"github.com", "protocol=http\nhost=github.com\n\n", false},
		{"http://127.0.0.1:8080", "protocol=https\nhost=127.0.0.1:8080\n\n", false},
		{"http://127.0.0.1:8080", "protocol=http\nhost=127.0.0.1\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com:8443\n\n", false},
		{"https://git.example:8443", "protocol=https\nhost=git.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com.evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=notgithub.com\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com@evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=evil.example/github.com\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com#.evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com?.evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com\nhost=evil.example\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com \n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com\r\n\n", false},
		{"https://github.com", "protocol=https\nhost=git\x00hub.com\n\n", false},
		{"https://github.com", "protocol=https\n\nhost=github.com\n\n", false},
		{"https://github.com", "protocol=ssh\nhost=github.com\n\n", false},
		{"https://github.com", "protocol=ftp\nhost=github.com\n\n", false},
		{"https://github.com", "host=github.com\n\n", false},
		{"https://github.com", "protocol=https\n\n", false},
		{"https://github.com", "url=https://github.com\n\n", false},
		{"https://github.com", "", false},
		{"", "protocol=https\nhost=github.com\n\n", false},
		{"*", "protocol=https\nhost=github.com\n\n", false},
		{"https://", "protocol=https\nhost=github.com\n\n", false},
		{"https://user@github.com", "protocol=https\nhost=github.com\n\n", false},
		{"https://github.com/path", "protocol=https\nhost=github.com\n\n", false},
		{"https://github.com", "protocol=https\nhost=github.com\n" + strings.Repeat("x=y\n", mostRequest/4), false},
	}
	for _, c := range cases {
		tokens := &fake.Tokens{Body: both}
		world(t, &fake.Workload{ID: agentID}, tokens)
		t.Setenv("FLASHPODS_GIT_HOSTS", c.hosts)
		want := result{}
		if c.allowed {
			want.out = answer
		}
		if got := call(t, c.question, "git-credential", "get"); got != want {
			t.Fatalf("%q %q: %+v", c.hosts, c.question, got)
		}
		if asked := tokens.Calls.Load() != 0; asked != c.allowed {
			t.Fatalf("%q %q: asked the token service: %v", c.hosts, c.question, asked)
		}
	}
}

func TestGitMayStoreAndEraseWithoutEffect(t *testing.T) {
	tokens := &fake.Tokens{Body: both}
	world(t, &fake.Workload{ID: agentID}, tokens)
	t.Setenv("FLASHPODS_GIT_HOSTS", "https://github.com")
	for _, action := range []string{"store", "erase", "capability", "anything"} {
		got := call(t, "protocol=https\nhost=github.com\n\n", "git-credential", action)
		if got != (result{}) || tokens.Calls.Load() != 0 {
			t.Fatalf("%s: %+v", action, got)
		}
	}
}

func TestGitFailuresGiveItNothing(t *testing.T) {
	question := "protocol=https\nhost=github.com\n\n"
	for body, want := range map[string]int{
		`{"GITHUB_TOKEN":null}`: 0,
		`{}`:                    0,
		`{"GITHUB_TOKEN":""}`:   exitExchange,
		`{"GITHUB_TOKEN":"token\nquit=0\nhost=e.org"}`: exitExchange,
		`{"GITHUB_TOKEN":"token\r"}`:                   exitExchange,
		`nonsense`:                                     exitExchange,
	} {
		world(t, &fake.Workload{ID: agentID}, &fake.Tokens{Body: body})
		t.Setenv("FLASHPODS_GIT_HOSTS", "https://github.com")
		if got := call(t, question, "git-credential", "get"); got.code != want || got.out != "" {
			t.Fatalf("%s: %+v", body, got)
		}
	}
	world(t, nil, nil)
	if got := call(t, question, "git-credential", "get", "--timeout=200ms"); got.code != exitAttestation || got.out != "" {
		t.Fatalf("%+v", got)
	}
}
