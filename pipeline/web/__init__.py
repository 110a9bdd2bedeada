"""The reader in a browser: a folder for any static host (`im2latex export --format web`)."""
