# Two commands do all the set-up: `make run` serves the API with the sample merchants, `make test` runs every check.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SERVES := $(VENV)/installed-to-serve
STAMP  := $(VENV)/installed-to-test

# The tests start the program some two hundred times; where its compiled files may not be kept, each start compiles it
# anew, which doubles what a start costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-long format lint types imports pytest bench-engine bench-http bench-merchants bench-lists bench-velocity bench-replay bench-access bench-check bench-log bench-service soak schema clean

help:
	@echo "make run              install into .venv, serve the API on http://127.0.0.1:8080 with the sample merchants"
	@echo "make test             format, lint, types, import contracts, tests (what CI runs)"
	@echo "make test-long        the slow checks as well"
	@echo "make format           rewrite the code in its canonical form"
	@echo "make bench-engine     rules only, against other rule engines"
	@echo "make bench-http       whole screenings over HTTP, against a bare FastAPI route"
	@echo "make bench-check      fraudengine check on 1,000 files"
	@echo "make bench-merchants  5,000 merchants: start, memory, reload"
	@echo "make bench-velocity   counters beside 10,000,000 logged screenings (minutes, 11 GB in /tmp)"
	@echo "make bench-replay     10,000,000 transactions against SQL written by hand (minutes, 5 GB in /tmp)"
	@echo "make bench-access     what access and counting add to a screening"
	@echo "make bench-log        GET and searches in a log of 100,000,000 screenings (an hour, 75 GB in /tmp; ROWS=n for fewer)"
	@echo "make bench-service    throughput and latency at half of it, with four counters"
	@echo "make soak             5,000,000 screenings: memory, latency, log size (COUNT=n for fewer)"
	@echo "make bench-lists      run-time lists of 1,000,000 cards and 100,000 networks"

$(SERVES): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $(SERVES)

$(STAMP): $(SERVES)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,data,bench,replay,spark]'
	@touch $(STAMP)

run: $(SERVES)
	@FRAUDENGINE_DEVELOPMENT=1 $(BIN)/fraudengine serve

test: format-check lint types imports pytest

.PHONY: format-check
format-check: $(STAMP)
	$(BIN)/ruff format --check --quiet src tests

format: $(STAMP)
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix --quiet src tests

lint: $(STAMP)
	$(BIN)/ruff check --quiet src tests

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

pytest: $(STAMP)
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not long"

test-long: $(STAMP)
	$(BIN)/pytest -q -n 2 --dist worksteal

bench-engine: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_engine

bench-http: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_http

bench-check: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_check

bench-merchants: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_merchants

bench-velocity: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_velocity

bench-replay: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_replay

bench-access: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_access

bench-lists: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_lists

bench-log: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_log $(ROWS)

bench-service: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_service

soak: $(STAMP)
	$(BIN)/python -m tests.benchmarks.soak $(COUNT)

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
