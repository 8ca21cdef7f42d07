"""Generation with a cache of keys and values: the prompt is computed once, then one token of each sequence at a time.

`decoder.Decoder` computes, `cache` holds keys and values, `options` reads what `generate` was asked for. Training knows
nothing of it.
"""
