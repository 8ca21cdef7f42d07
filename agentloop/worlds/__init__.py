"""Worlds: the processes in which an episode's session lives, so that nothing it does ends more than one attempt.

toolbox.py    the tools of one episode: JSON in, bounded text out (in whichever process they are)
stage.py      the session of one episode: its tools, what it says, its outcome
host.py       process of its own: imports the user's files once and forks a world for whoever asks
environments.py  what the host imports where it is asked for environments
world.py      the loop of a forked world
pool.py       in the run's process: opens worlds for episodes, asks them, kills what hangs
"""
