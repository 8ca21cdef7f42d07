"""Kernels compiled in another process before the first step launches them."""
