"""Worlds: the processes in which an episode's tools live, so that nothing a tool does ends more than one attempt.

toolbox.py    the tools of one episode: JSON in, bounded text out (in whichever process they are)
host.py       process of its own: imports the user's files once and forks a world for whoever asks
environments.py  what the host imports for an environment's tools
world.py      the loop of a forked world
pool.py       in the run's process: opens worlds for episodes, calls tools, kills what hangs
"""
