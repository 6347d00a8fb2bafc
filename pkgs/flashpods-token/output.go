package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// printEnv prints lines for eval of any POSIX shell.
func printEnv(ctx context.Context, places sockets, out io.Writer) error {
	tokens, err := exchange(ctx, places)
	if err != nil {
		return err
	}
	for _, name := range sorted(tokens) {
		if _, err := fmt.Fprintf(out, "export %s=%s\n", name, quoted(tokens[name])); err != nil {
			return err
		}
	}
	return nil
}

func printOne(ctx context.Context, places sockets, name string, out io.Writer) error {
	tokens, err := exchange(ctx, places)
	if err != nil {
		return err
	}
	value, ok := tokens[name]
	if !ok {
		return &failure{exit: exitNoToken, code: "no_such_token", message: name + " is not granted to this type of job"}
	}
	_, err = fmt.Fprintln(out, value)
	return err
}

// execute replaces this process by the command, which alone gets the tokens.
func execute(ctx context.Context, places sockets, words []string) error {
	path, err := find(words[0])
	if err != nil {
		return err
	}
	tokens, err := exchange(ctx, places)
	if err != nil {
		return err
	}
	err = unix.Exec(path, words, withTokens(os.Environ(), tokens))
	return &failure{exit: exitNotExecutable, code: "not_executable", message: fmt.Sprintf("%s: %v", path, err)}
}

// find looks the command up before any token is asked for.
func find(name string) (string, error) {
	if os.Getenv("PATH") == "" {
		if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
			return "", err
		}
	}
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) {
		return path, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return "", &failure{exit: exitNotExecutable, code: "not_executable", message: name + " is not executable"}
	}
	return "", &failure{exit: exitNotFound, code: "not_found", message: name + " is not found"}
}

// withTokens returns the environment with each token set exactly once.
func withTokens(environment []string, tokens map[string]string) []string {
	var merged []string
	for _, pair := range environment {
		name, _, _ := strings.Cut(pair, "=")
		if _, ours := tokens[name]; !ours {
			merged = append(merged, pair)
		}
	}
	for _, name := range sorted(tokens) {
		merged = append(merged, name+"="+tokens[name])
	}
	return merged
}

func sorted(tokens map[string]string) []string {
	var keys []string
	for key := range tokens {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// quoted makes one word of a POSIX shell of any text.
func quoted(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
