// Command rawfetch gets one JWT-SVID and nothing else: what the helper is measured beside.
package main

import (
	"context"
	"log"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err == nil {
		_, err = client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "flashpods-token-service"})
	}
	if err != nil {
		log.Fatal(err)
	}
}
