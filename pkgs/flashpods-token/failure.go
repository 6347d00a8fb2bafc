package main

import (
	"encoding/json"
	"fmt"
)

// Exit codes. The last two lie above every code that a shell gives to a signal (128+64), and are
// the ones that make a job's error of their names.
const (
	exitNoToken       = 1
	exitUsage         = 2
	exitNotExecutable = 126
	exitNotFound      = 127
	exitAttestation   = 201
	exitExchange      = 202
)

// failure ends the program: one line for machines, with a sentence for a person in it. Nothing that
// came from the token service but its error code gets into it, so no secret can.
type failure struct {
	exit    int
	code    string
	message string
	details map[string]any
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// line is the failure as JSON, shaped like the API's errors.
func (f *failure) line() string {
	details := f.details
	if details == nil {
		details = map[string]any{}
	}
	text, err := json.Marshal(map[string]any{"error": f.code, "message": f.message, "details": details})
	if err != nil { // details are strings and numbers only
		return `{"error":"` + f.code + `","message":"","details":{}}`
	}
	return string(text)
}

func wrong(format string, arguments ...any) *failure {
	return &failure{exit: exitUsage, code: "usage", message: fmt.Sprintf(format, arguments...)}
}

func unattested(message string) *failure {
	return &failure{exit: exitAttestation, code: "spire_attestation_timeout", message: message}
}

// refused is a failed exchange; reason is the service's error code or one of ours.
func refused(reason, message string, status int) *failure {
	details := map[string]any{"code": reason}
	if status != 0 {
		details["status"] = status
	}
	return &failure{exit: exitExchange, code: "token_exchange_failed", message: message, details: details}
}
