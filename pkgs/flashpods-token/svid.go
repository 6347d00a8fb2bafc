package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	audience     = "flashpods-token-service"
	retryPause   = 100 * time.Millisecond
	mostMessage  = 200
	mostSVIDSize = 1 << 20 // bytes of an answer of the Workload API
)

// sockets are the two that the launcher mounts into the job.
type sockets struct {
	workloadAPI string // unix:///…
	tokens      string // a path
}

func socketsFrom(getenv func(string) string) (sockets, error) {
	found := sockets{"unix:///run/spire/sockets/agent.sock", "/run/flashpods/token.sock"}
	if given := getenv("SPIFFE_ENDPOINT_SOCKET"); given != "" {
		found.workloadAPI = given
	}
	if given := getenv("FLASHPODS_TOKEN_SOCKET"); given != "" {
		found.tokens = given
	}
	if path, ok := strings.CutPrefix(found.workloadAPI, "unix://"); !ok || !strings.HasPrefix(path, "/") {
		return found, wrong("SPIFFE_ENDPOINT_SOCKET is %q; give unix:// and an absolute path", found.workloadAPI)
	}
	if !strings.HasPrefix(found.tokens, "/") {
		return found, wrong("FLASHPODS_TOKEN_SOCKET is %q; give an absolute path", found.tokens)
	}
	return found, nil
}

// fetchSVID asks until there is one: at the start of a container the agent may not have attested it
// yet, and an agent may be restarting at any time.
func fetchSVID(ctx context.Context, places sockets) (*jwtsvid.SVID, error) {
	var last error
	for {
		svid, err := fetchOnce(ctx, places)
		if err == nil {
			return svid, nil
		}
		if last == nil || ctx.Err() == nil { // the deadline's own error says less than the one before
			last = err
		}
		if hopeless(err) || !pause(ctx) {
			return nil, unattested(because(last))
		}
	}
}

// fetchOnce uses a connection of its own: a connection that failed would wait out its back-off.
func fetchOnce(ctx context.Context, places sockets) (*jwtsvid.SVID, error) {
	client, err := workloadapi.New(ctx,
		workloadapi.WithAddr(places.workloadAPI),
		workloadapi.WithDialOptions(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostSVIDSize))),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
}

// hopeless says that asking again will not help.
func hopeless(err error) bool {
	code := status.Code(err)
	return code == codes.InvalidArgument || code == codes.Unimplemented
}

// because words the last failure, bounded.
func because(err error) string {
	text := strings.ToValidUTF8(status.Convert(err).Message(), "?")
	if len(text) > mostMessage {
		text = strings.ToValidUTF8(text[:mostMessage], "") + "…"
	}
	return fmt.Sprintf("no identity from the SPIFFE Workload API in time; the last answer: %s: %s", status.Code(err), text)
}

// pause waits a little; false when the time is up.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func whoami(ctx context.Context, places sockets, out io.Writer) error {
	svid, err := fetchSVID(ctx, places)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, svid.ID, svid.Expiry.UTC().Format(time.RFC3339))
	return err
}
