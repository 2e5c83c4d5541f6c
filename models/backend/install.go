package backend

import "errors"

func install(o Options) (string, error) { return "", errors.New("not yet") }
