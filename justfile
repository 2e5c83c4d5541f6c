# Recipes mirror the README; `just` lists them.

default:
    @just --list

# the embedded experiment: a sweep over F, β and the reference, with its table and report
quickstart *args:
    go run ./tools/bpo sweep experiments/quickstart.yaml {{args}}
    go run ./tools/bpo report runs/quickstart

# all tests
test *args:
    go test ./... {{args}}

# what CI refuses: unformatted files, vet, staticcheck
lint:
    test -z "$(gofmt -l . | tee /dev/stderr)"
    go vet ./...
    go tool staticcheck ./...

# speed and memory, against transformers + peft where they are installed
bench *args:
    go run ./tools/bench {{args}}

fmt:
    gofmt -w .

# where paper and related put their runs: just out=elsewhere paper
out := "runs"

# the paper's experiments at the embedded scale, five seeds: frequency, losses, β, references, ensembles
paper *args:
    go run ./tools/bpo sweep experiments/paper/*.yaml --out {{out}} {{args}}
    go run ./tools/bpo report {{out}}/paper-*

# related systems at the embedded scale, three seeds: SAPO, ExPO, MPO, LINVIT, selectors, OAIF, mixed data; all losses (two seeds)
related *args:
    go run ./tools/bpo sweep experiments/related/*.yaml --out {{out}} {{args}}
    go run ./tools/bpo report {{out}}/related-*
