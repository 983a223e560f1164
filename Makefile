# make setup   a pinned environment in .venv (at once when nothing changed)
# make demo    the main job: make pictures with a known answer, train, evaluate, show where the attention went
# make test    the whole test suite; `make test ARGS="tests/test_docs.py --cov"` for a part of it or for coverage
# make bundles the bundles as MONAI's model zoo takes them, in dist/bundles; and one with the weights of the demo
# make dist    wheel and sdist in dist; `make bare PYTHON=python3.12` uses the wheel in a fresh environment
# make lint, make docs, make clean

VENV := .venv
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.complete

# The pins hold for what is installed and for what builds it, whatever the machine's own pip configuration says.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo bundles dist bare test lint docs clean

setup: $(STAMP)

# Begins from nothing and writes the stamp last, so a setup that was interrupted is done again in full.
# cuCIM comes without its dependencies: they are gigabytes of CUDA libraries that reading slides does not need.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error Python 3.11 or newer was not found; name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) pip install -qq --editable '.[test,docs]'
	$(RUN) pip install -qq --no-deps 'cucim-cu13; sys_platform == "linux"'
	touch $@

demo: setup
	$(RUN) monai_jsma demo

NOTE := These weights are of the synthetic task of the demo, four textures on images of 256 pixels, not of tissue.

bundles: demo
	rm -rf dist/bundles
	$(RUN) monai_jsma pack dist/bundles/pathology_synthetic_attention_classification --config demo \
		--model demo/models/model.pt --metrics demo/eval/metrics.csv --note '$(NOTE)'
	$(RUN) monai_jsma pack dist/bundles/pathology_bach_attention_classification
	$(RUN) monai_jsma pack dist/bundles/pathology_tcga_prad_attention_classification --bundle bundles/tcga_prad

dist: setup
	rm -f dist/*.whl dist/*.tar.gz
	$(RUN) build --outdir dist

# The pins are for Python 3.11: another Python gets what the index has.
bare: dist
	PIP_CONSTRAINT= $(PYTHON) tests/helpers/bare_machine.py dist/*.whl

test: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

docs: setup
	rm -rf docs/_build docs/generated docs/jupyter_execute
	$(RUN) sphinx -W --keep-going --quiet docs docs/_build

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/generated docs/jupyter_execute demo
	rm -rf .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
