"""P-VLG, the benchmark. Importing this package makes `datasets.load_dataset("pvlg", ...)` work."""
