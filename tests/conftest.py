"""The default run needs no network, no GPU and no download."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a hub id fails at once instead of after retries
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny: a second thread costs more than it gives
