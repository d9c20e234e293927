# build, test, demo: what most people want. `make test` says in one line what is missing on the machine.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
ROUNDS   ?= 50
ROWS     ?= 5000000
KILLS    ?= 30
SEED     ?= $(shell date +%s)
COUNT    := go run ./internal/testbed/testcount
LINT     := go tool -modfile=tools/go.mod golangci-lint

.PHONY: build test fetch race fuzz lint fmt bench soak demo up down clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o build/walferry ./cmd/walferry

# Everything, under the race detector; then what counts allocations, which the detector adds to, and 100,000 bad requests,
# of which it has sent 2,000.
test: fetch
	$(COUNT) go test -race -timeout 20m ./... -- go test -run 'Alloc|BadRequests' -timeout 5m ./... \
		-- go test -tags failpoints ./internal/failpoint

# Servers and libraries for the tests: says what is missing on the machine.
fetch:
	go run ./internal/testbed/fetch

# The same without the servers' slow parts, for a look in between.
race:
	go test -race -short ./...

# Each fuzz target in turn; `make test` runs their seeds only.
fuzz:
	@for package in $$(go list ./...); do for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; done; done

lint:
	go mod tidy -diff
	go -C tools mod tidy -diff
	$(LINT) run --allow-parallel-runners ./...

fmt:
	$(LINT) fmt ./...

# bench/README.md says what is measured and how.
bench: build fetch
	go test -run '^$$' -bench . -benchmem ./decode ./schema ./sink ./internal/pipeline
	WALFERRY_REGISTRY_SCHEMAS=50000 go test -count=1 -run '^TestManySchemas$$' -v ./cmd/walferry
	go run ./bench

# The crash tests of stream and first copy and the one of flat memory at full length; `make test` has them small. What the first two
# found is in build/soak.md and build/soak-copy.md.
soak: fetch
	WALFERRY_CRASH_ROUNDS=$(ROUNDS) WALFERRY_CRASH_SEED=$(SEED) WALFERRY_MEMORY_FULL=1 \
	WALFERRY_FIRE_ROWS=$(ROWS) WALFERRY_FIRE_ROUNDS=$(KILLS) WALFERRY_FIRE_SEED=$(SEED) \
		$(COUNT) go test -count=1 -timeout 12h -run '^(TestCrash|TestCopyFire|TestFlatMemory)$$' ./cmd/walferry

demo: build
	build/walferry demo

up:
	docker compose up --build --detach --wait

down:
	docker compose down --volumes

clean:
	rm -rf build
