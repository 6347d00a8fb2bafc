package fake

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Tokens is a token service that believes every token of its trust domain.
type Tokens struct {
	Status int    // of its answer; 200 if 0
	Body   string // of its answer
	Absent int64  // how many calls are answered with a closed connection first; -1: all

	Calls  atomic.Int64
	Bearer atomic.Value // what the last call showed, string
}

// Serve answers on the listener until the server that it returns is closed.
func (t *Tokens) Serve(listener net.Listener) *http.Server {
	server := &http.Server{Handler: t, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	return server
}

func (t *Tokens) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	calls := t.Calls.Add(1)
	bearer, ok := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
	t.Bearer.Store(bearer)
	if t.Absent < 0 || calls <= t.Absent {
		panic(http.ErrAbortHandler)
	}
	answer.Header().Set("Content-Type", "application/json")
	switch {
	case request.Method != http.MethodGet || request.URL.Path != "/tokens":
		answer.WriteHeader(http.StatusNotFound)
	case !ok || bearer == "":
		answer.WriteHeader(http.StatusBadRequest)
		io.WriteString(answer, `{"error":"missing_authorization","message":"","details":{}}`) //nolint:errcheck
	default:
		if t.Status != 0 {
			answer.WriteHeader(t.Status)
		}
		io.WriteString(answer, t.Body) //nolint:errcheck
	}
}
