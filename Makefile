# make train   build the pocket world once, then train on it (two CPU cores, no GPU); WITH="--max_steps 20" adds settings
# make try     after `make train`: sentences before and after training, then translations of your own
# make test    the tests: offline, two processes
# make test-fast    text, guards, audit, config and runs: about a minute
# make coverage     the tests with a table of the lines not run
# make lint    ruff format --check, ruff check, mypy
# make translategemma   the recipe with token credit, on the pocket world and small MetricX and XCOMET twins
# make replies   the recipe for short replies: SFT, then GRPO on a heuristic reward, on a small world of its own
# make preference   the recipe for preference pairs with pictures: GRPO on chosen and rejected answers, Gemma 3 with vision
# make diffusion   the recipe for a masked-diffusion GPT: GRPO against a frozen judge, on a small world of its own
# make smoke   show what the pocket reward scores
# make pocket  only build the pocket models
# make bench   three seeds and a control run: the table in docs/LOG.md
# make curve   put the curve of its seed 0 into the README
# Each first creates .venv from requirements.txt if missing, unfinished or older; tests and lint also install
# requirements-dev.txt.

PYTHON ?= python3.11 python3.12 python3
VENV := .venv
RUN := $(VENV)/bin/python
PARALLEL := -n 2 --dist loadfile
FAST := tests/text tests/guards tests/audit tests/test_config.py tests/runs --ignore tests/runs/test_checkpoints.py \
  --ignore tests/runs/test_faults.py

.PHONY: train try test test-fast coverage lint smoke pocket translategemma replies preference diffusion bench curve clean

train: pocket
	$(RUN) train_grpo_en_ta.py --config configs/pocket.yaml $(WITH)

try: $(VENV)
	$(RUN) -m pocket.show

pocket: $(VENV)
	$(RUN) -m pocket.build

translategemma: pocket
	$(RUN) -m pocket.twins.build
	$(RUN) -m recipes.translategemma.train --config recipes/translategemma/configs/pocket.yaml

replies: $(VENV)/replies
	$(RUN) -m pocket.replies.build
	$(RUN) -m recipes.replies.train --config recipes/replies/configs/pocket.yaml $(WITH)

preference: $(VENV)
	$(RUN) -m pocket.charts.build
	$(RUN) -m recipes.preference.train --config recipes/preference/configs/pocket.yaml $(WITH)

diffusion: $(VENV)
	$(RUN) -m pocket.letters.build
	$(RUN) -m recipes.diffusion.train recipes/diffusion/configs/pocket.yaml $(WITH)

test: $(VENV)/developer
	$(RUN) -m pytest $(PARALLEL)

test-fast: $(VENV)/developer
	$(RUN) -m pytest $(PARALLEL) $(FAST)

coverage: $(VENV)/developer
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/developer
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

smoke: pocket
	$(RUN) smoke_test_rewards.py --config configs/pocket.yaml

bench: pocket
	$(RUN) -m bench.pocket_seeds

$(VENV): $(VENV)/installed

ifneq ($(wildcard $(VENV)/installed),)
ifneq ($(shell $(RUN) -c 'import pip' >/dev/null 2>&1 || echo broken),)
.PHONY: $(VENV)/installed  # its Python was removed or replaced: install again
endif
endif

$(VENV)/installed: requirements.txt
	@for python in $(PYTHON) $(wildcard $(RUN)); do \
	  "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue; \
	  exec "$$python" scripts/install.py $(VENV) $< $@; \
	done; echo "error: Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11 (tried: $(PYTHON))" >&2; exit 2

$(VENV)/developer: requirements-dev.txt $(VENV)/installed
	@$(RUN) scripts/install.py $(VENV) $< $@

$(VENV)/replies: requirements-replies.txt $(VENV)/installed
	@$(RUN) scripts/install.py $(VENV) $< $@

curve:  # the picture in the README: seed 0 of `make bench`
	cp runs/pocket_seeds/seed0/reward_curve.png docs/pocket_curve.png

clean:
	rm -rf $(VENV) .venv-t5 pocket/build bench/build runs
