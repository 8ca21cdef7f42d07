"""The adapter: one flat buffer of weights and gradients, and the linears that multiply by base and adapter at once."""
