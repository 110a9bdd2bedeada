"""What TFX lacks, each part in a folder of its own."""
