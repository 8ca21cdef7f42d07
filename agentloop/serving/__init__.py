"""vLLM, served rightly: a plugin for Gemma, the child process, a client over one or more endpoints, and the canary.

`plugin`, `gemma3n*`, `adapter_guard`, `lora_cpu` and `door` run inside vLLM's processes and import nothing else of agentloop
but agentloop.door, so that any `vllm serve` profits from an installed agentloop. The other modules never import vLLM: it may
live in another environment, and only its HTTP interface is used.
"""
