"""Hand-written kernels for QLoRA on Gemma with manual backpropagation.

One noun a module. Every operation exists three times: `reference_x` in plain torch (any device, fp64 too), `triton_x`
(CUDA, or the CPU under TRITON_INTERPRET=1) and `x`, which takes the kernel for CUDA tensors and the reference for all
others. No autograd anywhere: a backward is a function of its own. Activations are row-major [tokens, hidden], AltUp's
streams [streams, tokens, hidden], queries [tokens, heads, head_dim]. Outputs go into `out=` buffers where given; a
buffer may have any row stride, its last dimension is contiguous. Everything is computed in fp32 and rounded once, when
it is stored.
"""
