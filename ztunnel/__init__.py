"""The node proxy: one layer-4 zero-trust tunnel per node."""
