"""What runs inside vLLM's processes: Gemma's models with LoRA adapters, a guard that refuses unfit ones, a door with a key.

Imports nothing of agentloop: any `vllm serve` profits from an installed agentloop-vllm, which is useful alone.
"""
