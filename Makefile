# `make demo` and `make test` are all that a fresh machine with Python 3.11 needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# Bytecode is made when a module is first imported: for all of torch it takes longer than the demo.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e
export PYTHONDONTWRITEBYTECODE :=
INSTALLED := $(VENV)/.installed
RUNS := $(VENV)/.runs
DEMO := demo
RESULTS := bench-results

.PHONY: help install demo test test-real lint docs bench bench-env figures acceptance clean

help:
	@echo "make demo       a small tree: pack, verify, stream, compare with ImageFolder"
	@echo "make test       the tests (about three minutes on two cores)"
	@echo "make test-real  the tests that need more: acceptance on small trees, real servers"
	@echo "make lint       ruff, mypy, codespell and zizmor (workflows)"
	@echo "make docs       the documentation as a site, in build/docs; needs no network"
	@echo "make bench      every loader beside ours; TREE=./cinic for your own tree"
	@echo "make bench-env  environments for those that do not install beside this package"
	@echo "make figures    plots, tables and claims of README and docs, from the committed JSON lines"
	@echo "make acceptance what the package promises, on your tree: TREE=./cinic (about an hour)"

install: $(INSTALLED)

# What the demo needs: the package, and what `bench` compares and plots with.
$(RUNS): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) '.[bench]'
	@touch $@

# What the tests need too.
$(INSTALLED): $(RUNS)
	$(PIP) '.[dev]'
	@touch $@

demo: $(RUNS)
	@rm -rf $(DEMO)
	@echo "--- draw a small tree of PNGs, shaped like CINIC-10"
	$(BIN)/python tools/make_demo_tree.py $(DEMO)/cinic --per-class 200
	@echo "--- pack it"
	$(BIN)/cinic-shard pack $(DEMO)/cinic $(DEMO)/shards
	$(BIN)/cinic-shard info $(DEMO)/shards
	@echo "--- verify it: every byte, beside the tree"
	$(BIN)/cinic-shard verify $(DEMO)/shards --against $(DEMO)/cinic
	@echo "--- tar alone gives every file back"
	@mkdir $(DEMO)/unpacked
	for shard in $(DEMO)/shards/*.tar; do \
	  tar xf $$shard -C $(DEMO)/unpacked --exclude=__index__ --exclude='*.cls' || exit 1; done
	diff -r $(DEMO)/cinic $(DEMO)/unpacked
	@echo "--- stream it: the README's training example"
	cd $(DEMO) && $(BIN)/python ../tools/readme_example.py
	@echo "--- make a second copy, of pixels that are mapped into memory, and compare both with ImageFolder"
	$(BIN)/cinic-shard convert $(DEMO)/shards $(DEMO)/raw --encoding raw
	$(BIN)/cinic-shard bench $(DEMO)/cinic $(DEMO)/shards $(DEMO)/raw --plot $(DEMO)/speed.png
	@echo "--- a page about the dataset"
	$(BIN)/cinic-shard report $(DEMO)/shards -o $(DEMO)/report.html
	@echo "--- done; look at $(DEMO)/speed.png and $(DEMO)/report.html"

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not real" -n 2 --dist worksteal

test-real: $(INSTALLED)
	$(BIN)/python -m pytest -m "real and not long" -n 2 --dist loadfile --no-loadscope-reorder -o tmp_path_retention_policy=failed

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet .github

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

# Tables and plots of all that are installed; DOCS=docs rewrites the page itself.
TREE ?= $(RESULTS)/cinic
DOCS ?= $(RESULTS)
bench: $(INSTALLED)
	@mkdir -p $(RESULTS)
	test -e $(TREE) || $(BIN)/python tools/make_demo_tree.py $(TREE) --per-class 1000
	$(BIN)/python -m benchmarks.suite --tree $(TREE) --out $(RESULTS)/suite.jsonl --scratch $(RESULTS) $(BENCH)
	@test -e $(DOCS)/benchmarks.md || cp docs/benchmarks.md $(DOCS)
	$(BIN)/python -m benchmarks.plot $(RESULTS)/suite.jsonl --docs $(DOCS)
	@echo "$(RESULTS)/suite.jsonl, $(DOCS)/benchmarks.md and $(DOCS)/plots"

bench-env: $(INSTALLED)
	$(BIN)/python -m benchmarks.environments

figures: $(INSTALLED)
	$(BIN)/python -m benchmarks.plot docs/plots/benchmarks.jsonl --docs docs --readme README.md
	$(BIN)/python tools/evidence.py docs/evidence.jsonl docs/evidence.md
	$(BIN)/python -m tools.claims docs

# Without TREE on small trees; a JSON line for each test goes to acceptance.jsonl.
acceptance: $(INSTALLED)
	$(BIN)/python -m pytest tests/acceptance -o tmp_path_retention_policy=failed --kills 40 --results acceptance.jsonl \
	  $(if $(filter file,$(origin TREE)),,--tree $(TREE)) $(ACCEPTANCE)

clean:
	rm -rf $(DEMO) $(RESULTS) $(VENV) .bench-envs
