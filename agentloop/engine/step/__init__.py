"""One training step: the whole computation by hand, recorded as a CUDA graph or not, and the model that it is a step of."""
