# Each target installs what it needs, from a fresh clone on.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo cameras-demo test test-fast test-lowest test-cameras-demo lint types docs wheel

# train three models on drawn pedestrians, compare them, write a page; a second call resumes
demo: $(VENV)/.installed
	$(BIN)/python -m stmn_plugin demo

# drawn videos of three cameras with MOT files, a model that has learned from other drawn persons, and
# the threshold of its distances
cameras-demo: $(VENV)/.installed
	$(BIN)/python tools/make_synthetic.py --footage cameras_demo --preset cameras
	$(BIN)/python tools/main.py --config-file configs/cameras_demo.yaml model.resume auto
	$(BIN)/python tools/main.py --config-file configs/cameras_demo.yaml test.evaluate True \
	    test.verification True model.load_weights log/cameras_demo/model/model-best.pth.tar \
	    data.save_dir log/cameras_demo_test

# a process for each core; the tests of a file share fixtures and stay together; a process that dies
# ends the run, since pytest-xdist 3.8 may wait for ever after it has replaced one
PYTEST_WORDS = -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile
PYTEST = $(BIN)/python -m pytest $(PYTEST_WORDS)

test: $(VENV)/.installed
	$(PYTEST)

SCHEMA = $(BIN)/check-jsonschema --quiet --builtin-schema

# without the runs of whole commands and what else takes more than a second
test-fast: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# the fast tests with the oldest torch, torchvision and numpy that pyproject.toml allows; needs a
# Python that has them, such as PYTHON=python3.11, and as much disk as .venv
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet -e '.[test]' \
	    $$(sed -nE 's/^ +"(torch|torchvision|numpy)>=([0-9.]+)",$$/\1==\2.*/p' pyproject.toml)
	$(VENV)-lowest/bin/python -m pytest $(PYTEST_WORDS) -m "not slow"

# the lines of cameras-demo and the README's third recipe, to a page with the right persons on top
test-cameras-demo: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_cameras_end_to_end.py --whole-demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/[bf]*.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.citation-file-format CITATION.cff

types: $(VENV)/.installed
	$(BIN)/mypy

# the documentation as a site of HTML pages in site/
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# dist/stmn_plugin-VERSION-py3-none-any.whl
wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
