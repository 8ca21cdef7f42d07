"""vLLM as this project uses it: the child process, the policies it serves, a client over one or more endpoints, the canary.

Nothing here imports vLLM, which may live in another environment: only its HTTP interface is used. What runs inside vLLM's
own processes is the plugin, a distribution of its own in vllm_plugin/.
"""
