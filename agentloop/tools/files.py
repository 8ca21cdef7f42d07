"""Tools that read, write and list files of one episode's folder, and reach nothing else."""

from __future__ import annotations

from agentloop.tools.folder import Folder
from agentloop.tools.function import FunctionTool
from agentloop.tools.tool import Tool, ToolError


class FileTool(FunctionTool):
    """A function on an episode's folder, which ends with the episode."""

    def __init__(self, function, folder: Folder) -> None:
        super().__init__(function)
        self._folder = folder

    def close(self) -> None:
        """Remove the folder."""
        self._folder.close()


def file_tools(folder: Folder | None = None) -> list[Tool]:
    """Return the tools `read_file`, `write_file` and `list_files` on a folder, by default one of their own."""
    within = folder or Folder()

    def read_file(path: str) -> str:
        """Text of a file, for example read_file("notes.txt")."""
        try:
            return within.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise ToolError(f"{path[:100]} is no text in UTF-8") from None

    def write_file(path: str, text: str) -> str:
        """Write a text into a file, which is replaced where it is there, for example write_file("notes.txt", "42")."""
        content = text.encode("utf-8")
        within.write(path, content)
        return f"{len(content)} bytes written"

    def list_files(folder: str = ".") -> str:
        """Names of the files in a folder, with their sizes in bytes; folders end with /."""
        return "\n".join(within.listed(folder)) or "no files"

    return [FileTool(function, within) for function in (read_file, write_file, list_files)]
