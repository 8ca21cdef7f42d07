"""A proof: what this machine and this model give a user, measured by one command, in a file that can be compared with others.

Every part runs what a campaign runs: the trainer's child process, vLLM behind the policy server, the canary, the flow.
"""
