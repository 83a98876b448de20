# Everything that a developer or CI does with Signet. `make run` and `make test`
# are all that a new machine needs; both install what is missing.

# A pipe fails with the first of its commands that does: a missed figure, a
# crash found by fuzzing.
SHELL       := bash
.SHELLFLAGS := -o pipefail -c

GO      ?= go
TOOL    := $(GO) tool -modfile=internal/tools/go.mod
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Debian packages: what `make run` needs, and what the tests need besides.
RUN_PACKAGES  := gcc libc6-dev make softhsm2 opensc curl
TEST_PACKAGES := $(RUN_PACKAGES) systemd dbus polkitd iproute2 procps util-linux openssl postgresql acl mariadb-server \
	nginx apache2 haproxy redis-server dovecot-imapd postfix \
	libengine-pkcs11-openssl libnss3 libnss3-tools swtpm tpm2-tools tpm2-abrmd libtss2-tcti-tabrmd0 libtpm2-pkcs11-1 libtpm2-pkcs11-tools

.PHONY: build run test slow lint bench fuzz deps deps-run clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/signet ./cmd/signet-sim
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/signet-hsm

# A whole throwaway host under .run/, until Ctrl-C.
run: deps-run build
	@bin/signet-sim host --dir .run

test: deps build
	SIGNET_NEED_SOFTHSM=1 SIGNET_NEED_SYSTEMD=1 SIGNET_NEED_SERVERS=1 $(GO) test -race -shuffle=on -timeout 14m ./...

# The packages whose tests can kill things often, and do: a hundred times during the
# generation of keys, and at every write of a rotation.
slow: deps build
	SIGNET_SLOW_TESTS=1 SIGNET_NEED_SOFTHSM=1 SIGNET_NEED_SYSTEMD=1 SIGNET_NEED_SERVERS=1 $(GO) test -p 1 -timeout 60m \
	  $$(git grep -l SIGNET_SLOW_TESTS -- '*_test.go' | xargs -n 1 dirname | sort -u | sed 's|^|./|')

# The figures, each as a ratio against a named reference of the same run.
bench: deps build
	@$(GO) test -tags bench -run '^TestFigures' -v -p 1 -timeout 40m $$($(GO) list ./... | grep -v /cmd/) | grep -v -e '^=== ' -e 'no test files' -e 'no tests to run'

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 30s
fuzz:
	@set -e; for f in $$(grep -l '^func Fuzz' $$(git ls-files '*_test.go')); do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
	    echo "$$t in $$(dirname $$f)"; $(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f) | tail -n 1; \
	  done; done

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

# Installs what is missing of PACKAGES, and says nothing when nothing is.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing: $$missing"; \
	  $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

deps:
	$(call install,$(TEST_PACKAGES))

deps-run:
	$(call install,$(RUN_PACKAGES))

clean:
	rm -rf bin dist .run
