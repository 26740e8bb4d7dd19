"""Parts to test with: networks that can be cut, storage that fails, processes to watch."""
