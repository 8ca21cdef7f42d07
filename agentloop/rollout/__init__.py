"""The agent at work: its prompt format and tool calls, one episode, and a shard of many episodes at once."""
