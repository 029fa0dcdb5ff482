# make demo   the main job on made-up patients: phantom -> Zarr cohort -> sweep of six runs -> table, figures, MLflow -> a patient's NIfTI files
# make test   lint, types and tests
# make test-full   what takes minutes: every method through torch.compile, every preset on many ranks in float32, published sizes
# make test-slurm   the launcher on a real Slurm of four nodes on this machine (Debian, root): stood up from Debian's packages, taken down again
# make picture   the README's picture: 1 mm phantoms -> cohort -> one run on two ranks -> a figure; minutes of two free cores
# Each makes its own environment in .venv on first use.

PYTHON ?= python3
VENV ?= .venv
REAL ?= ../shared/data/real
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

DEMO := sweep=lr sweep.name=demo sweep.axes.variant='[simo,mimo,miso_t1c]' sweep.axes.train.lr='[1e-3,3e-3]' \
        method=tcmgan_small train.epochs=6 data.rotate=false cluster=local

# One of the test patients.
PATIENT := Brats18_PHANTOM_021_1

PICTURE := variant=mimo method=unet_small method.depth=4 train.epochs=10 data.store=data/phantom_1mm.zarr data.rotate=false \
           evaluate.figures=5 sweep.name=picture cluster=local

.PHONY: demo picture test test-full test-slurm lint clean

demo: $(INSTALLED)
	$(BIN)/python -m preprocess.phantom spacing=3
	$(BIN)/python -m preprocess.to_zarr
ifneq ($(wildcard $(REAL)),)
	$(BIN)/python -m preprocess.to_zarr source=$(REAL) store=data/real.zarr recipe.spacing=3 split.test=1
	$(BIN)/python slurm/launch.py $(DEMO) data.external.real=data/real.zarr
else
	$(BIN)/python slurm/launch.py $(DEMO)
endif
	rm -rf data/synthesised
	scans=$$(echo data/phantom/*/$(PATIENT))/$(PATIENT); \
	$(BIN)/python -m distsynth.synthesise t1=$${scans}_t1.nii.gz t2=$${scans}_t2.nii.gz run=runs/demo out=data/synthesised

picture: $(INSTALLED)
	$(BIN)/python -m preprocess.phantom out=data/phantom_1mm spacing=1
	$(BIN)/python -m preprocess.to_zarr source=data/phantom_1mm store=data/phantom_1mm.zarr
	$(BIN)/python slurm/launch.py $(PICTURE)
	cp runs/picture/mimo_unet/figures/test_$(PATIENT).png distsynth/evaluation/example.png

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=15

test-full: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m full --durations=0 --ignore=tests/slurm/cluster tests

test-slurm: $(INSTALLED)
	REQUIRE_SLURM=1 $(BIN)/python -m pytest --durations=20 tests/slurm/cluster; status=$$?; tests/slurm/lab.sh down; exit $$status

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[phantom,dev]'
	touch $@

clean:
	rm -rf $(VENV) data runs
