"""What quantisation does to a base: measured in a child process, planned module by module, written for others to read."""
