package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
)

const (
	mostAnswer  = 1 << 20 // bytes of the token service's answer
	mostHeaders = 64 << 10
	mostTokens  = 64
	mostValue   = 64 << 10 // bytes of one token
)

var (
	names = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	codeP = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

func validName(name string) bool { return names.MatchString(name) }

// exchange turns the job's identity into its tokens; names that are answered null are left out.
func exchange(ctx context.Context, places sockets) (map[string]string, error) {
	svid, err := fetchSVID(ctx, places)
	if err != nil {
		return nil, err
	}
	var last error
	for {
		tokens, away, err := exchangeOnce(ctx, places.tokens, svid.Marshal())
		if !away {
			return tokens, err
		}
		if last == nil || ctx.Err() == nil { // as in fetchSVID
			last = err
		}
		if !pause(ctx) {
			return nil, last
		}
	}
}

// exchangeOnce asks the token service; away says that it may soon answer: it restarts, or is busy.
func exchangeOnce(ctx context.Context, socket, jwt string) (tokens map[string]string, away bool, err error) {
	unreachable := refused("unreachable", "the token service does not answer in time on "+socket, 0)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://flashpods/tokens", nil)
	if err != nil {
		return nil, false, err
	}
	request.Header.Set("Authorization", "Bearer "+jwt)
	response, err := transport(socket).RoundTrip(request) // it follows no redirect
	if err != nil {
		return nil, true, unreachable
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostAnswer+1))
	if err != nil {
		return nil, true, unreachable
	}
	if status := response.StatusCode; status != http.StatusOK {
		reason := errorCode(body)
		message := fmt.Sprintf("the token service refused: %d %s", status, reason)
		return nil, status == http.StatusServiceUnavailable, refused(reason, message, status)
	}
	tokens, err = readTokens(body)
	return tokens, false, err
}

func transport(socket string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: mostHeaders,
	}
}

// errorCode is the service's own word for its refusal, if it is one.
func errorCode(body []byte) string {
	var problem struct {
		Error string `json:"error"`
	}
	if len(body) > mostAnswer || json.Unmarshal(body, &problem) != nil || !codeP.MatchString(problem.Error) {
		return "unknown"
	}
	return problem.Error
}

// readTokens checks an answer before any of it gets near a shell or an environment.
func readTokens(body []byte) (map[string]string, error) {
	nonsense := func(why string) error {
		return refused("invalid_answer", "the token service's answer can't be used: "+why, http.StatusOK)
	}
	if len(body) > mostAnswer {
		return nil, nonsense(fmt.Sprintf("it is larger than %d bytes", mostAnswer))
	}
	var answer map[string]*string
	if err := json.Unmarshal(body, &answer); err != nil || answer == nil {
		return nil, nonsense("it is not one flat JSON object of strings and nulls")
	}
	if len(answer) > mostTokens {
		return nil, nonsense(fmt.Sprintf("it has more than %d names", mostTokens))
	}
	tokens := map[string]string{}
	for name, value := range answer {
		if !validName(name) {
			return nil, nonsense("a name is not made of capitals, digits and _")
		}
		if value == nil {
			continue
		}
		if len(*value) > mostValue || strings.ContainsRune(*value, 0) {
			return nil, nonsense(fmt.Sprintf("%s holds a NUL or more than %d bytes", name, mostValue))
		}
		tokens[name] = *value
	}
	return tokens, nil
}
