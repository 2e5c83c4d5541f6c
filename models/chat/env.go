package chat

import (
	"sync"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// now is the clock of strftime_now; tests stop it.
var now = time.Now

// raisedError is what a template itself refused, such as roles that do not alternate.
type raisedError struct{ message string }

func (e *raisedError) Error() string { return e.message }

// environment is gonja's, with the functions transformers adds and its tojson.
var environment = sync.OnceValue(func() *exec.Environment {
	context := exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables)
	context.Set("raise_exception", func(message string) (string, error) { return "", &raisedError{message} })
	context.Set("strftime_now", func(format string) (string, error) { return strftime(now(), format) })
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSON); err != nil {
		panic(err) // the library has one
	}
	return &exec.Environment{
		Context: context, Filters: filters, Tests: builtins.Tests,
		ControlStructures: builtins.ControlStructures, Methods: builtins.Methods,
	}
})
