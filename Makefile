# All work happens in .venv; the command is .venv/bin/causalcine.
PYTHON ?= python3
BIN := .venv/bin
.DELETE_ON_ERROR:
.PHONY: install demo test bench fuzz lint types clean

install: .venv/installed

# torch first: the plain CPU-capable build, before anything else can pull another one
.venv/installed: requirements-dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: install
	mkdir -p output
	$(BIN)/causalcine generate stories/five_shots.json -o output/demo.mp4
	$(BIN)/python -m training.evaluation.cuts output/demo.mp4 --report output/demo.json

# side by side, a core for each worker; then what drives a real ComfyUI, a worker for each version
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/comfyui -n auto --dist worksteal --durations=8
	$(BIN)/python -m pytest tests/comfyui -n auto --dist loadgroup --durations=8

bench: install
	$(BIN)/python -m benchmarks.run

# broken and hostile files of every kind, 10,000 each: hours
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

clean:
	rm -rf .venv output
