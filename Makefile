# bahi: everything from a fresh clone. Needs python3 (3.11 or newer) with venv and pip, nothing else.

PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --extra embedded --extra dev --extra build pyproject.toml -o requirements.lock

.PHONY: demo run test check prove bench schema format lock clean
.DELETE_ON_ERROR:

demo: $(READY)  ## one trading day on the paper broker, through the real engine
	$(BIN)/bahi demo $(ARGS)

run: $(READY)  ## the engine and its REST application, until Ctrl-C
	$(BIN)/bahi run $(ARGS)

# The tests start hundreds of processes of bahi, each of which would otherwise compile all of it.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)  ## in as many processes as fit the machine, file by file; ARGS="-n 0" in one
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/bahi schema check

prove: $(READY)  ## the long campaign, hours of it; what was broken off goes on where it was
	$(BIN)/bahi prove all --report docs/proof.md $(ARGS)

bench: $(READY)
	$(BIN)/bahi bench $(ARGS)

schema: $(READY)  ## write schemas/ anew
	$(BIN)/bahi schema export

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The lock is made with uv, which only whoever changes a dependency needs.
lock:
	$(LOCK)
	sed -i '1i # Every dependency, extras included, with hashes. Made by `make lock`; not edited by hand.' requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The build backend is in the lock too, so the package itself is installed without fetching anything unpinned.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bahi needs Python 3.11 or newer; name one with PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
