package experiments

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// PanicError is a panic turned into an error: graph code reports mistakes by panicking, and a trial that
// panics must not take the other trials of a sweep with it.
type PanicError struct {
	Value any
	stack []byte
}

// Error is the panic's first line; a graph error carries its own trace after it.
func (e *PanicError) Error() string {
	line, _, _ := strings.Cut(fmt.Sprint(e.Value), "\n")
	return "internal error: " + line
}

// Trace is everything known about the panic, for -v.
func (e *PanicError) Trace() string { return fmt.Sprintf("%+v\n%s", e.Value, e.stack) }

// Unwrap gives the error that was panicked with, if it was one.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Guard calls f and returns a panic inside it as a *PanicError.
func Guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{Value: r, stack: debug.Stack()}
		}
	}()
	return f()
}
