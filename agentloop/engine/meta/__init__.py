"""A model on torch's meta device, shapes without weights, and what its steps would need on a card."""
