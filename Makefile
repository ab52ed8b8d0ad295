# What one does with a checkout of kipuka, one word each. `make` alone lists them.
#
#   make run PORT=9443       another port (when run/ is made)
#   make test PYTHON=python3.12
#   make soak SOAK_MINUTES=2

PYTHON ?= python3
PORT ?= 8443
WORKERS ?= 2
SOAK_MINUTES ?= 10

VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest -n $(WORKERS) --dist loadgroup

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export SOAK_MINUTES SOAK_SEED

.PHONY: help run test test-fast check unit soak bench fix docs lock clean run-environment dev-environment headers test-tools

help:
	@echo "make run        a server of your own in run/, and the lines to enrol with"
	@echo "make test       everything that must hold: check, and all tests"
	@echo "make check      format, lint, types, layers, and documents that are out of date"
	@echo "make unit       the tests that start no server"
	@echo "make test-fast  all tests but the slow ones, with the tools that are there"
	@echo "make soak       what takes minutes: a long siege, many crashes (SOAK_MINUTES=10, SOAK_SEED=...)"
	@echo "make bench      what an enrolment costs, against its bare cryptography"
	@echo "make fix        format, and mend what ruff can mend"
	@echo "make docs       write the generated documents again"
	@echo "make headers    what the plugins for Kerberos and LDAP are compiled with (as root)"
	@echo "make lock       pin the requirements again (needs uv)"
	@echo "make clean      remove .venv and caches; run/ stays"

run-environment:
	@$(PYTHON) scripts/environment.py run

dev-environment:
	@$(PYTHON) scripts/environment.py dev

# The plugins for Kerberos and LDAP are compiled. Without a compiler and the headers everything else can be worked on.
headers:
	@$(PYTHON) scripts/environment.py headers

# The clients of the tests, a collector of audit events, a load balancer, what looks at a unit of systemd, an HSM in software, and what a KDC,
# a PostgreSQL and a directory of their own take. `make test` has them all: there a test that misses one fails, elsewhere it is skipped.
test-tools:
	@$(PYTHON) scripts/tools.py curl openssl haproxy rsyslogd pki jdk bouncycastle kinit krb5kdc kadmin.local softhsm2-util systemd-analyze postgres slapd ldapwhoami

run: STARTED := $(shell date +%s.%N)
run: run-environment
	@$(VENV)/python scripts/run.py --port $(PORT) --started $(STARTED)

test: export KIPUKA_TEST_TOOLS := all
test: headers dev-environment test-tools
	@$(MAKE) --no-print-directory check
	$(PYTEST)

test-fast: dev-environment
	$(PYTEST) -m "not soak and not slow and not crash and not kerberos"

unit: dev-environment
	$(PYTEST) -m "not soak and not slow and not crash and not server and not interop and not kerberos" tests/unit plugins

# One after the other: what is measured here must not be disturbed by its neighbours.
soak: dev-environment test-tools
	$(VENV)/python -m pytest -m soak -s

bench: dev-environment
	$(VENV)/python scripts/bench.py

check: headers dev-environment
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/pyright --pythonpath $(VENV)/python
	$(VENV)/lint-imports
	$(VENV)/python scripts/documents.py --check
	$(VENV)/python scripts/config_reference.py --check
	$(VENV)/python scripts/lock.py --check

fix: dev-environment
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

docs: headers dev-environment
	$(VENV)/python scripts/documents.py
	$(VENV)/python scripts/config_reference.py

lock:
	$(VENV)/python scripts/lock.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
