"""`python -m agentloop`: the command line."""

from agentloop.interpreter import put_current_folder_last

put_current_folder_last()

from agentloop.cli import main  # noqa: E402

main()
