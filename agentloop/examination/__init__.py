"""A task looked at before a night is spent on it: what the model reads, what tools and verifier do, whether there is enough.

part.py       what each of the following says: lines for a person, and what is wrong
opening.py    the prompt that an episode opens with
calls.py      the tools, called as a model would, and the expert's episode
answers.py    the verifier, on right answers and on wrong ones
splits.py     what is trained on and what is held out
night.py      what the gate finds with so many tasks, and what an iteration costs
"""
