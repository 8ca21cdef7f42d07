"""An agent of one's own at work: its requests are answered by the policy and recorded as token ids.

command.py         `agent.command`: what it names, checked and with a digest
process.py         in the agent's process: the command or the function is run
server.py          the endpoint: HTTP, keys, OpenAI's messages and errors
refusal.py         why a request is not answered
chat.py            a request as it arrives, read and checked
request_tools.py   the tools that a request offers
conversations.py   the conversations of an episode as tokens; what is known of a request already
episode.py         one episode: answers requests within the limits, and becomes a trajectory
recorder.py        all of it together, for a collection
"""
