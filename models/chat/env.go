package chat

import (
	"sync"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/parser"
)

// now is the clock of strftime_now; tests stop it.
var now = time.Now

// environment is gonja's, with the functions transformers adds and its tojson.
var environment = sync.OnceValue(func() *exec.Environment {
	context := exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables)
	context.Set("strftime_now", func(format string) (string, error) { return strftime(now(), format) })
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSON); err != nil {
		panic(err) // the library has one
	}
	blocks := exec.NewControlStructureSet(map[string]parser.ControlStructureParser{}).Update(builtins.ControlStructures)
	if err := blocks.Register("generation", parseGeneration); err != nil {
		panic(err) // then the library has learnt it
	}
	methods := builtins.Methods
	methods.Str = strMethods()
	return &exec.Environment{
		Context: context, Filters: filters, Tests: builtins.Tests, ControlStructures: blocks, Methods: methods,
	}
})
