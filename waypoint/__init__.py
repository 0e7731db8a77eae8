"""The layer-7 proxy."""
