"""The command line: one module for each kind of thing that people do. Nothing below imports it."""
