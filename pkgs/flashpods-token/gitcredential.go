package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
)

const (
	gitToken    = "GITHUB_TOKEN"
	gitUser     = "x-access-token"
	mostRequest = 64 << 10 // bytes of git's question
)

// place is what a token may be sent to.
type place struct{ scheme, host, port string }

// gitCredential speaks gitcredentials(7). It answers only for the hosts it was given: git asks for
// whatever a repository's submodules name, and a hostile one would collect the token.
func gitCredential(ctx context.Context, places sockets, action, hosts string, in io.Reader, out io.Writer) error {
	request, err := io.ReadAll(io.LimitReader(in, mostRequest+1))
	if err != nil {
		return err
	}
	if action != "get" || len(request) > mostRequest || !allowed(string(request), hosts) {
		return nil
	}
	tokens, err := exchange(ctx, places)
	if err != nil {
		return err
	}
	token, ok := tokens[gitToken]
	if !ok {
		return nil
	}
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return refused("invalid_answer", gitToken+" is empty or holds a line break, which git can't take", 0)
	}
	_, err = fmt.Fprintf(out, "username=%s\npassword=%s\n", gitUser, token)
	return err
}

// allowed compares the question's protocol, host and port with the list.
func allowed(request, hosts string) bool {
	protocol, host := "", ""
	for _, line := range strings.Split(request, "\n") {
		if line == "" {
			break
		}
		switch key, value, _ := strings.Cut(line, "="); key {
		case "protocol":
			protocol = value
		case "host":
			host = value
		}
	}
	asked, ok := parsePlace(protocol + "://" + host)
	if !ok || protocol == "" {
		return false
	}
	for _, word := range strings.Fields(hosts) {
		if !strings.Contains(word, "://") {
			word = "https://" + word
		}
		if entry, ok := parsePlace(word); ok && entry == asked {
			return true
		}
	}
	return false
}

// parsePlace reads scheme://host[:port] and nothing more.
func parsePlace(text string) (place, bool) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Hostname() == "" || parsed.User != nil || parsed.Opaque != "" {
		return place{}, false
	}
	if strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.ForceQuery || strings.Contains(text, "#") {
		return place{}, false
	}
	ports := map[string]string{"https": "443", "http": "80"}
	port, known := ports[parsed.Scheme]
	if !known {
		return place{}, false
	}
	if given := parsed.Port(); given != "" {
		port = given
	}
	return place{parsed.Scheme, strings.ToLower(parsed.Hostname()), port}, true
}
