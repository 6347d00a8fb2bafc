// Command flashpods-token is mounted read-only into every job: it proves who the job is (a JWT-SVID
// from the SPIFFE Workload API), exchanges that for the job's tokens, and hands them on.
//
// It needs nothing of the image: no HOME, no /tmp, no account, no certificates.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTimeout = 10 * time.Second
	mostTimeout    = 10 * time.Minute
)

const usage = `flashpods-token: this job's tokens, by this job's identity

  eval "$(flashpods-token env)"              set them in this shell
  flashpods-token exec -- make release       run a command that has them, and no other process
  flashpods-token get GITHUB_TOKEN           print one
  flashpods-token whoami                     print the SPIFFE ID and when it expires
  git clone https://github.com/you/private   git asks by itself: flashpods-token git-credential get
  flashpods-token --timeout 30s get NAME     wait longer than 10s for identity and service together

A name that the job's policy leaves empty (null) is left unset: env and exec skip it, get fails.
exec runs the command in place of itself, so its exit code is the command's.

exit code
  0    done
  1    get: there is no such token for this job
  2    the command line or a variable is wrong
  126  exec: the command can't be executed
  127  exec: the command is not found
  201  spire_attestation_timeout: no identity in time
  202  token_exchange_failed: the token service refused, is away, or answers nonsense
A failure is one line of JSON on standard error: {"error": …, "message": …, "details": {…}}.

environment
  SPIFFE_ENDPOINT_SOCKET   unix:///run/spire/sockets/agent.sock unless set
  FLASHPODS_TOKEN_SOCKET   /run/flashpods/token.sock unless set
  FLASHPODS_GIT_HOSTS      where git may send the token, such as: https://github.com
`

// command is what the arguments ask for.
type command struct {
	verb    string
	words   []string
	timeout time.Duration
}

func main() {
	harden()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run does everything but ending the process; it returns the exit code. With exec it may not return.
func run(arguments []string, in io.Reader, out, complaints io.Writer) int {
	asked, err := parse(arguments)
	if err == nil && asked.verb == "help" {
		fmt.Fprint(out, usage)
		return 0
	}
	if err == nil {
		var places sockets
		if places, err = socketsFrom(os.Getenv); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), asked.timeout)
			defer cancel()
			err = dispatch(ctx, asked, places, in, out)
		}
	}
	if err == nil {
		return 0
	}
	var failed *failure
	if !errors.As(err, &failed) {
		failed = &failure{exit: exitUsage, code: "failed", message: err.Error()}
	}
	fmt.Fprintln(complaints, failed.line())
	return failed.exit
}

func dispatch(ctx context.Context, asked command, places sockets, in io.Reader, out io.Writer) error {
	switch asked.verb {
	case "whoami":
		return whoami(ctx, places, out)
	case "env":
		return printEnv(ctx, places, out)
	case "get":
		return printOne(ctx, places, asked.words[0], out)
	case "exec":
		return execute(ctx, places, asked.words)
	default:
		return gitCredential(ctx, places, asked.words[0], os.Getenv("FLASHPODS_GIT_HOSTS"), in, out)
	}
}

// parse reads the command line; options stand before or after the verb, but before exec's command.
func parse(arguments []string) (command, error) {
	asked := command{timeout: defaultTimeout}
	for len(arguments) > 0 {
		word := arguments[0]
		arguments = arguments[1:]
		switch {
		case word == "--" && asked.verb == "exec":
			asked.words = arguments
			return checked(asked)
		case word == "-h" || word == "--help" || (word == "help" && asked.verb == ""):
			return command{verb: "help"}, nil
		case word == "--timeout" || strings.HasPrefix(word, "--timeout="):
			value, given := strings.CutPrefix(word, "--timeout=")
			if !given {
				if len(arguments) == 0 {
					return asked, wrong("--timeout needs a value, such as 10s")
				}
				value, arguments = arguments[0], arguments[1:]
			}
			timeout, err := duration(value)
			if err != nil {
				return asked, err
			}
			asked.timeout = timeout
		case strings.HasPrefix(word, "-"):
			return asked, wrong("unknown option %q; see flashpods-token --help", word)
		case asked.verb == "":
			asked.verb = word
		case asked.verb == "exec":
			return asked, wrong("write -- before the command: flashpods-token exec -- %s", word)
		default:
			asked.words = append(asked.words, word)
		}
	}
	return checked(asked)
}

// checked refuses an unknown verb and a wrong number of words after it.
func checked(asked command) (command, error) {
	switch asked.verb {
	case "":
		return asked, wrong("no command: env, exec -- CMD…, get NAME, git-credential get or whoami; see --help")
	case "env", "whoami":
		if len(asked.words) > 0 {
			return asked, wrong("%s takes no argument, got %q", asked.verb, asked.words[0])
		}
	case "exec":
		if len(asked.words) == 0 {
			return asked, wrong("exec needs a command: flashpods-token exec -- make release")
		}
	case "get":
		if len(asked.words) != 1 || !validName(asked.words[0]) {
			return asked, wrong("get takes one name of capitals, digits and _, such as GITHUB_TOKEN")
		}
	case "git-credential":
		if len(asked.words) != 1 {
			return asked, wrong("git-credential takes one of get, store, erase; git gives it")
		}
	default:
		return asked, wrong("unknown command %q: env, exec, get, git-credential or whoami", asked.verb)
	}
	return asked, nil
}

// duration reads 10s, 500ms or, without a unit, seconds.
func duration(text string) (time.Duration, error) {
	value, err := time.ParseDuration(text)
	if seconds, e := strconv.ParseFloat(text, 64); e == nil {
		value, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || value <= 0 || value > mostTimeout {
		return 0, wrong("--timeout is %q; give more than 0 and at most 10m, such as 10s", text)
	}
	return value, nil
}
