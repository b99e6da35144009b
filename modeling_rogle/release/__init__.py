"""Releases: the files of a model's repository, their checksums, the upload, and what travels to the Hub beside them."""
