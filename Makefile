# `make lab` and `make test` set themselves up in .venv and, for vLLM on a CPU, .venv-vllm; run again, they start at once.
PORT ?= 8888
# Another Python than the one found: make lab PYTHON=/path/to/python3.12
ifndef PYTHON
PYTHON := $(shell for python in .venv/bin/python python3 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
endif
BIN := .venv/bin
# A machine without a display gets no browser; root is let in, as containers run as root.
JUPYTER_FLAGS := $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname)),,--no-browser) \
	$(if $(filter 0,$(shell id -u)),--allow-root)

# One lab alone: make test LAB=05
LABS := $(LAB)
SOLUTIONS := $(if $(LAB),$(wildcard solutions/$(LAB)_*.ipynb),solutions)
# Two processes of one thread each: on two cores that is the quickest, and two of two threads the slowest.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=20

.PHONY: help setup lab check test fast format sandbox lock clean
help:
	@echo "make lab          打开课程：JupyterLab 在 labs/ 上 (JupyterLab on labs/; PORT=8888)"
	@echo "make test         运行 CI 的全部检查 (everything CI holds)"
	@echo "make test LAB=05  只检查一个实验 (one lab alone)"
	@echo "make check        两分钟内的检查：写法、类型、层次、依赖、笔记本 (lint, types, floors, dependencies, notebooks)"
	@echo "make fast         不起服务、不训练的测试 (the tests that start no server and no training)"
	@echo "make format       整理写法 (ruff's format and fixes)"
	@echo "make lock         重新生成版本锁和 environment.yml (the locks and environment.yml)"
	@echo "make clean        删除两个环境和 build/labs (remove both environments and the labs' runs)"

setup:
	@if [ -z "$(PYTHON)" ]; then \
		echo "❌ 没有找到 Python 3.11 或 3.12。请安装一个，例如 conda create -n llm python=3.11，激活后再运行。" >&2; \
		echo "   Found no Python 3.11 or 3.12. Install one, or name it: make lab PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi
	@$(PYTHON) -m lab_utils.setup_environment

# Nothing here asks the network: no news, no look for updates, no extension store.
lab: setup
	@mkdir -p .venv/share/jupyter/lab/settings && echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' > .venv/share/jupyter/lab/settings/overrides.json
	@echo "打开下面 JupyterLab 给出的地址，按 Ctrl-C 结束 (open the URL below; Ctrl-C ends it)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m jupyterlab --port=$(PORT) $(JUPYTER_FLAGS) \
		--ServerApp.root_dir=labs --LabApp.news_url=None --LabApp.extension_manager=readonly \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry lab_utils
	$(BIN)/labs lint $(LABS)
	$(BIN)/labs build --check $(LABS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fast: export LAB_PROFILE := cpu
fast: setup sandbox
	$(PYTEST) -m "not slow" $(if $(COVERAGE),--cov=lab_utils --cov-report=term:skip-covered --cov-report=html:build/coverage)

# The notebooks are compared with outputs of the cpu profile.
test: export LAB_PROFILE := cpu
test: check sandbox
	$(BIN)/labs run --inverted $(LABS)
	$(if $(LAB),,$(PYTEST))
	@mkdir -p build && $(BIN)/python tests/notebooks/sanitize.py . > build/nbval_sanitize.cfg
	LAB_HEADLESS=1 $(PYTEST) --nbval --nbval-sanitize-with build/nbval_sanitize.cfg $(SOLUTIONS)

# What `labs grade` runs students' code in; on Debian and Ubuntu, root gets it here.
sandbox:
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq bubblewrap; } \
		|| { echo "❌ 没有 bubblewrap，请安装后再运行：sudo apt-get install bubblewrap (bubblewrap is missing)" >&2; exit 1; }

# Not through `setup`, which needs the lock that may have been removed.
lock:
	@[ -x $(BIN)/python ] || $(MAKE) setup
	@$(BIN)/python -m pip install --quiet uv==0.13.9
	@$(BIN)/python -m lab_utils.relock

clean:
	rm -rf .venv .venv-vllm build/labs
