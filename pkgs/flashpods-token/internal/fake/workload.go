// Package fake has a SPIFFE Workload API and a token service that answer as a test wants.
package fake

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Workload is a Workload API that only issues JWT-SVIDs.
type Workload struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	ID       string        // the SPIFFE ID it gives to every caller
	Refusals int64         // how many calls are answered with "no identity issued" first; -1: all
	Fatal    codes.Code    // if set, the answer to every call
	Token    string        // if set, the answer instead of a JWT
	Hang     chan struct{} // if set, calls wait until it is closed
	Arrived  chan struct{} // if set, gets a word from each call, as far as there is room

	Calls atomic.Int64
	Asked atomic.Value // the audience of the last call, []string

	once   sync.Once
	signer jose.Signer
}

// Serve answers on the listener until the server that it returns is stopped.
func (w *Workload) Serve(listener net.Listener) *grpc.Server {
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	return server
}

// FetchJWTSVID issues a token, or does what the fields say.
func (w *Workload) FetchJWTSVID(ctx context.Context, request *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	calls := w.Calls.Add(1)
	w.Asked.Store(request.Audience)
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) == 0 {
		return nil, status.Error(codes.InvalidArgument, "security header missing from request")
	}
	select {
	case w.Arrived <- struct{}{}:
	default:
	}
	if w.Hang != nil {
		select {
		case <-w.Hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if w.Fatal != codes.OK {
		return nil, status.Error(w.Fatal, "as the test wants")
	}
	if w.Refusals < 0 || calls <= w.Refusals {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	token, err := w.issue(request.Audience)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: w.ID, Svid: token}}}, nil
}

func (w *Workload) issue(audience []string) (string, error) {
	if w.Token != "" {
		return w.Token, nil
	}
	var failed error
	w.once.Do(func() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err == nil {
			w.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
				(&jose.SignerOptions{}).WithType("JWT"))
		}
		failed = err
	})
	if failed != nil {
		return "", failed
	}
	now := time.Now()
	claims := jwt.Claims{
		Subject:  w.ID,
		Audience: audience,
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}
	return jwt.Signed(w.signer).Claims(claims).Serialize()
}
