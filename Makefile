# The study in a virtual environment of its own: `make study`, then `make test`.

PYTHON ?= python3
export HF_HUB_OFFLINE ?= 1

.PHONY: study test page lab clean

study: .venv/.stamp
	.venv/bin/xlt run params/quick.yaml --fresh -j 2

test: .venv/.stamp
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

page: .venv/.stamp
	.venv/bin/xlt page

lab: .venv/.stamp
	.venv/bin/jupyter lab notebooks

# Removes what is quick to make again; runs/ and .venv/ stay.
clean:
	rm -rf site build *.egg-info .ruff_cache
	find xltlib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -qq --disable-pip-version-check -r requirements.lock
	.venv/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
