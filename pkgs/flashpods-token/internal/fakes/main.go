// Command fakes serves a fake Workload API and a fake token service, for tests in other languages
// and for the benchmark. It prints "ready" and runs until standard input is closed.
//
//	fakes -directory DIR [-id SPIFFE-ID] [-refuse] [-status N] [-body JSON]
//
// The sockets are DIR/agent.sock and DIR/token.sock, open to everybody.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"

	"flashpods.local/flashpods-token/internal/fake"
)

func main() {
	directory := flag.String("directory", ".", "where the sockets are made")
	id := flag.String("id", "spiffe://flashpods.local/agent", "the SPIFFE ID of every caller")
	refuse := flag.Bool("refuse", false, "the Workload API has no identity for anybody")
	status := flag.Int("status", 0, "of the token service's answers")
	body := flag.String("body", `{"ANTHROPIC_API_KEY":"key","GITHUB_TOKEN":"token"}`, "of the token service's answers")
	flag.Parse()
	workload := &fake.Workload{ID: *id}
	if *refuse {
		workload.Refusals = -1
	}
	workload.Serve(listen(*directory, "agent.sock"))
	(&fake.Tokens{Status: *status, Body: *body}).Serve(listen(*directory, "token.sock"))
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that counts
}

func listen(directory, name string) net.Listener {
	path := filepath.Join(directory, name)
	listener, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		log.Fatal(err)
	}
	return listener
}
