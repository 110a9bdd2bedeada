# Every target makes the environment it needs first (.environment/install.py says how). What can be given:
#   PYTHON=python3.11   another Python than the system's own, by name or path
#   GPU=1               CUDA's libraries as well
#   ARGS="..."          arguments for the command that a target runs: make test ARGS="tests/data -k tokenizer"
#   SOURCE=DIR FORMULAS=FILE    what make reader learns from: a folder as im2latex-100k comes, and a list of formulas
PYTHON ?=
GPU ?=
ARGS ?=
SOURCE ?= ../shared/im2latex-100k
FORMULAS ?= ../shared/formulas/mined.tsv.gz
BIN := .venv/bin
# Where make reader works.
READER := $${IM2LATEX_HOME:-workspace}/reader

# Uncompiled, every start of TFX takes twenty seconds longer.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help run reader test test-unit test-platforms test-newest check docs audit format faults bench lock clean distclean environment

help: ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: environment ## make data, train, gate and push a model (about 8 minutes on 2 cores)
	@$(BIN)/im2latex run --preset quickstart $(ARGS)

# A line that was stopped goes on where it was.
reader: environment ## make the model that comes with im2latex again (docs/model-card.md; days on 2 cores)
	@$(BIN)/im2latex data import "$(SOURCE)" --spelling im2markup --out "$(READER)/imported"
	@$(BIN)/im2latex data recombine "$(READER)/imported" --out "$(READER)/recombined.tsv.gz" --count 130000
	@$(BIN)/im2latex data draw "$(READER)/imported" "$(READER)/recombined.tsv.gz" "$(FORMULAS)" --out "$(READER)/drawn"
	@$(BIN)/im2latex data import "$(READER)/imported" --add "$(READER)/drawn" --out "$(READER)/all"
	@$(BIN)/im2latex run --preset reader --set name=reader --set data.source="$(READER)/all" $(ARGS)
	@rm -f "$(READER)/weights.npz"
	@$(BIN)/im2latex export --model "$$(ls -d "$(READER)"/../serving/reader/[0-9]* | tail -n 1)" \
	  --format weights --precision float16 --out "$(READER)/weights.npz" --note data="$(SOURCE), $(FORMULAS)"
	@cp "$(READER)/weights.npz" im2latex/reader.npz

test: environment ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

test-unit: environment ## run the unit tests alone
	@$(BIN)/python -m pytest -m "not integration" $(ARGS)

test-platforms: environment ## integration tests: Beam runners, Kubeflow, MariaDB, the container image, tuning, corrections (needs root for the last)
	@$(BIN)/python -m pytest tests/platforms $(ARGS)

test-newest: ## run the tests with TFX 1.21 on Python 3.13 in a Debian 13 root (needs root and debootstrap)
	@.ci/newest make test $(if $(ARGS),,test-platforms) ARGS='$(or $(ARGS),-m "not one_stack")'

check: environment ## static checks: ruff, mypy, and whether the generated pages are up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy . .environment/install.py
	@$(BIN)/python -m pipeline.docs --check

docs: environment ## write the generated pages: docs/reference/cli.md and configuration.md
	@$(BIN)/python -m pipeline.docs

audit: environment ## check the locked packages for known vulnerabilities (SECURITY.md)
	@$(BIN)/python .ci/audit $(ARGS)

format: environment ## format every file
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

faults: environment ## kill 100 runs at random moments and check what they leave (10 to 20 minutes on 2 cores)
	@$(BIN)/python -m tests.faults $(ARGS)

bench: environment ## measure speed and memory
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lock: ## resolve pyproject.toml again, into requirements.lock
	@[ -x $(BIN)/uv ] || command -v uv >/dev/null || $(MAKE) environment
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && cp pyproject.toml "$$folder" && \
	  uv=$$(command -v uv || echo "$(CURDIR)/$(BIN)/uv") && export UV_PYTHON_DOWNLOADS=never && \
	  "$$uv" lock --quiet --project "$$folder" && \
	  "$$uv" export --quiet --project "$$folder" --frozen --all-groups \
	    --format requirements-txt --no-emit-project --no-annotate --no-header --output-file "$$folder/lock" >/dev/null && \
	  ! grep -n '://' "$$folder/lock" && cp "$$folder/lock" requirements.lock
	@echo "requirements.lock is new: make test && make test-newest, then commit it"

clean: ## remove what runs wrote: ./workspace, or IM2LATEX_HOME
	@home=$$(realpath -m "$${IM2LATEX_HOME:-workspace}"); \
	for kept in "$(CURDIR)" "$$HOME"; do case "$$kept/" in "$${home%/}"/*) \
	  echo "IM2LATEX_HOME is $$home, which holds more than runs: remove by hand what you do not need."; exit 1;; \
	esac; done; rm -rf "$$home"

distclean: clean ## clean, and remove the environment and the tools' caches
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

environment:
	@for python in python3 "$(PYTHON)" /usr/bin/python3; do \
	  if "$$python" -c '' 2>/dev/null; then exec "$$python" .environment/install.py --python "$(PYTHON)" $(if $(GPU),--gpu); fi; \
	done; echo "No Python was found: install Python 3.10 to 3.13 (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1
