"""P-VLG, the benchmark. Importing this package registers `datasets.load_dataset("pvlg", ...)`."""

from dataset_pvlg import builder as _builder

_builder.register()
