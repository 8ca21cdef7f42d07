"""In which dtype each part of the engine computes, and which of torch's modes it must not know of."""
