set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

# Lint, check types and test: the gate
default: lint types test

# Run the tests, those of the extras too; arguments go to pytest
test *args:
    uv run --group extras pytest "$@"

# Run the long proofs: the fault catalogue, real kills and full disks, a browser, Ray and Slurm
proofs *args:
    uv run --group extras pytest tests/proofs "$@"

# Check rules and formatting, changing nothing
lint:
    uv run ruff check .
    uv run ruff format --check .

# Apply what ruff can repair, then format
fix:
    uv run ruff check --fix .
    uv run ruff format .

# Check types, strictly
types:
    uv run mypy

# Check rules, formatting and types of the page's viewer; needs npm, and fetches what it runs
viewer *args:
    npx --yes @biomejs/biome@2.6.8 check "$@" vlsb/reports/html/viewer
    npx --yes -p typescript@7.0.2 tsc --project tsconfig.json

# Build the wheel and start `vlsb --help` from it, away from this checkout and without the dev tools
wheel:
    #!/usr/bin/env bash
    set -euo pipefail
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    uv build --wheel --out-dir "$folder"
    cd "$folder"
    uv run --isolated --no-project --with ./*.whl vlsb --help

# Run the main job on the embedded demo: no key, no download
demo:
    uv run vlsb demo

# Run the tests of every fault in the catalogue; the last line counts those that are covered
faults *args:
    uv run python -m tests.proofs.faults.report "$@"

# Kill real runs with SIGKILL and resume them, 200 kills or as many as asked for: nothing may be lost
crash kills="200" *args:
    uv run python -m tests.proofs.crash.harness "$@"

# Kill runs by batch with SIGKILL at their awaits, 200 times or as often as asked for: no answer may be paid twice
batch-crash kills="200" *args:
    uv run --group extras python -m tests.proofs.crash.batches "$@"

# Run whole evaluations on seeds, in virtual time: 1,000 histories of faults, kills and restarts, or --seed N
simulate *args:
    uv run --group extras python -m tests.simulation "$@"

# Plant defects and see which seed finds each
planted *args:
    uv run --group extras python -m tests.simulation.planted "$@"

# Type commands over runs and a sweep's folder in any order, and compare with a dictionary: 200 orders of each, or as asked
states *args:
    uv run python -W ignore -m tests.simulation.states "$@"

# Build what a crash may leave of small runs, in every order of writes, and resume it: 20,000 states or as many as asked for
crash-orders *args:
    uv run python -m tests.simulation.crash_orders "$@"

# Let every call of the file system fail in small runs, one after the other, and resume them (eight minutes on two cores)
io-errors *args:
    uv run python -m tests.simulation.io_errors "$@"

# Plant small faults in what decides, one at a time, and see which of them the tests notice
mutants *args:
    uv run --group extras --group mutants python -m tests.mutants "$@"

# A matrix of faults, their share and concurrency: every run must end with the fault-free numbers
chaos *args:
    uv run python -m tests.proofs.chaos.matrix "$@"

# Fuzz the parsers that read strangers, so many seconds each (180); prints a table, fails on findings
fuzz *args:
    uv run --with atheris python benchmarks/fuzz/run.py "$@"

# Install both CPU engines and run every family on tiny checkpoints, end to end (about an hour)
engines *args:
    uv run python -m tests.proofs.engines.run "$@"

# Logs of other programs, written by the programs themselves; with --open LOG, one of ours opened by inspect
foreign-logs *args:
    uv run python -m benchmarks.foreign_logs "$@"

# Sweeps on Ray and through submitit; as root and with slurm-wlm and munge installed, on a real Slurm of one node
sweeps *args:
    uv run --group extras pytest -n 0 --durations=0 tests/proofs/sweep "$@"

# Measure against the raw-socket floor, the SDK script and httpx; the tables go into benchmarks/README.md
bench *args:
    uv run --with openai --with httpx2 python -m benchmarks.throughput "$@"
    uv run python -m benchmarks.wall_time
    uv run python -m benchmarks.startup
    uv run python -m benchmarks.scaling
    uv run python -m benchmarks.rate_limits
    uv run --group extras python -m benchmarks.page
    uv run python -m benchmarks.report

# Measure what a sweep adds to its commands, and 1 and 2 nodes, 1, 2 and 4 replicas; needs the extras (twelve minutes)
bench-sweeps *args:
    uv run --group extras python -m benchmarks.sweeps "$@"
    uv run python -m benchmarks.report

# Run inspect_ai and evalscope on the same job, in environments of their own
bench-peers *args:
    uv run python -m benchmarks.peers "$@"
    uv run python -m benchmarks.report

# Simulate how often the intervals contain the true rate; the tables go into benchmarks/intervals.md (ten minutes)
bench-coverage *args:
    uv run python -m benchmarks.coverage "$@"

# Simulate how often intervals of corrected rates contain the true rate; the table goes into benchmarks/errors.md
bench-correction *args:
    uv run --group extras python -m benchmarks.correction "$@"

# Simulate how often the intervals of `vlsb judge --calibrate` contain the true change (five minutes)
bench-calibration *args:
    uv run --group extras python -m benchmarks.calibration "$@"

# Simulate how often comparisons and decisions are wrong; the table goes into benchmarks/errors.md (half an hour)
bench-comparison *args:
    OPENBLAS_NUM_THREADS=1 uv run --group extras python -m benchmarks.comparison "$@"

# Simulate how often `vlsb gate` is wrong, and how many samples planned looks take; the table goes into benchmarks/errors.md (half an hour)
bench-looks *args:
    OPENBLAS_NUM_THREADS=1 uv run --group extras python -m benchmarks.looks "$@"

# Simulate how often the words of comparisons, ranks and forecasts are wrong; the table goes into benchmarks/errors.md (half an hour)
bench-inference *args:
    OPENBLAS_NUM_THREADS=1 uv run --group extras python -m benchmarks.inference "$@"

# Simulate how often plans name what then happens; the table goes into benchmarks/errors.md (five minutes)
bench-plans *args:
    OPENBLAS_NUM_THREADS=1 uv run --group extras python -m benchmarks.plans "$@"

# Simulate how well vlsb leakage finds known causes; the table goes into benchmarks/errors.md (five minutes)
bench-leakage *args:
    OPENBLAS_NUM_THREADS=1 uv run --group extras python -m benchmarks.leakage --replicates 1000 "$@"

# Compare memory forecasts with what cards, recipes and engines say; the table goes into benchmarks/README.md
bench-memory:
    uv run python -m benchmarks.memory

# Put the stored results into benchmarks/README.md
bench-report:
    uv run python -m benchmarks.report
