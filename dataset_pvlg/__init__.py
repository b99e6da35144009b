"""P-VLG, the benchmark. Importing this package makes `datasets.load_dataset("pvlg", ...)` work."""

from dataset_pvlg import builder as _builder

_builder.register()
