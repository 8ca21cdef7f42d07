"""Settings from their layers: defaults, a profile, agentloop.toml, the environment, the command line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsError

from agentloop import project
from agentloop.errors import SettingError
from agentloop.reading import read_text
from agentloop.settings.sections import Paths
from agentloop.settings.settings import Settings
from agentloop.settings.values import user_path
from agentloop.settings.variables import CONFIG_VARIABLE, ENV_PREFIX, EXPORTED_VARIABLE, OWN_VARIABLES
from agentloop.settings.wording import one_line, shown
from agentloop.settings.words import parse_overrides

PROFILES = Path(__file__).resolve().parents[1] / "profiles"

_INSTEAD = {
    "training.load_in_4bit": 'is called training.quantization now: "nf4" where it was true, "none" where it was false',
    "notify.webhook": "an address is a secret: put it into the environment variable NOTIFY_WEBHOOK (notify.webhook_variable), "
    "or into a file of mode 600 (notify.webhook_file)",
}
"""Settings that are not there, with what there is instead."""


def prepare_libraries() -> None:
    """Set the libraries' variables for a script that imports the engine without any settings of its own.

    A value that is there stays, whoever has set it. Raises SettingError.
    """
    if EXPORTED_VARIABLE in os.environ:
        return  # by whoever started this process
    found = for_the_engine().child_environment()
    os.environ.update({name: found[name] for name in (*found[EXPORTED_VARIABLE].split(","), EXPORTED_VARIABLE) if name})


def load(overrides: Sequence[str] | Mapping[str, Any] = (), *, profile: str | None = None) -> Settings:
    """Return the settings from defaults, a profile, agentloop.toml, the environment and `section.name=value` overrides.

    The later source wins. `profile` names a file of agentloop/profiles. Raises SettingError, in one line that names the
    setting, on an unknown name or a value out of range.
    """
    root = project.root()
    files = [*([_profile_file(profile)] if profile else []), *_config_file(root)]
    values = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return _layered(values, files, root)


def for_the_engine() -> Settings:
    """The settings for a script that uses the engine alone: the project's, or, outside of any, the defaults with caches in
    the user's cache folder. Raises SettingError.
    """
    try:
        return load()
    except project.NoProjectError:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agentloop"
        return _layered({"paths": {"cache": str(cache)}}, [], Path.cwd())


def _layered(values: Mapping[str, Any], files: Sequence[Path], root: Path) -> Settings:
    """The values over the environment over the files, of which later ones win. Relative paths are relative to `root`."""

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):  # the first source wins
            return (init_settings, env_settings, *(_toml(settings_cls, file) for file in reversed(files)))

    _refuse_unknown_variables()
    return _validated(Layered, values, root)


def _profile_file(name: str) -> Path:
    path = PROFILES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise SettingError(f"profile: no profile named {name!r} (there are: {known})")
    return path


def _config_file(root: Path) -> list[Path]:
    named = os.environ.get(CONFIG_VARIABLE)
    if not named:
        path = root / project.FILE
        return [path] if path.exists() else []
    try:
        path = Path(user_path(named))
        there, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        raise SettingError(f"{CONFIG_VARIABLE}: {named[:200]!r}: {error}") from None
    if not there:
        raise SettingError(f"{CONFIG_VARIABLE}: {f'{path} is a folder' if folder else f'no file at {path}'}")
    return [path]


def _toml(settings_cls: type[BaseSettings], path: Path) -> InitSettingsSource:
    text = read_text(path, SettingError)
    try:
        return InitSettingsSource(settings_cls, tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise SettingError(f"{path}: {one_line(str(error)) or 'nested too deeply'}") from None


def _refuse_unknown_variables() -> None:
    # pydantic-settings passes over unknown variables that carry the prefix; a misspelt setting must not go unseen.
    for variable in os.environ:
        name = variable.upper().removeprefix(ENV_PREFIX).lower().partition("__")[0]
        prefixed = variable.upper().startswith(ENV_PREFIX)
        if prefixed and variable not in OWN_VARIABLES and name not in Settings.model_fields:
            raise SettingError(f"{variable}: unknown setting in the environment")


def _validated(layers: type[Settings], values: Mapping[str, Any], root: Path) -> Settings:
    try:
        settings = layers(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        unknown = first["type"] == "extra_forbidden"
        wrong = f"{_complaint(first['msg'])} (got {shown(first['input'])})"
        fault = _INSTEAD.get(name, "unknown setting") if unknown else wrong
        raise SettingError(f"{one_line(name)}: {fault}") from None
    except SettingsError as error:
        raise SettingError(one_line(str(error))) from None
    if settings.agent.max_tokens > settings.serving.max_model_len:
        raise SettingError(
            f"agent.max_tokens: {settings.agent.max_tokens} is more than "
            f"serving.max_model_len = {settings.serving.max_model_len}, beyond which vLLM refuses to read"
        )
    paths = Paths(**{name: root / getattr(settings.paths, name) for name in Paths.model_fields})
    _refuse_data_in_cache(paths)
    return Settings.model_construct(
        **{name: getattr(settings, name) for name in Settings.model_fields} | {"paths": paths}
    )


def _refuse_data_in_cache(paths: Paths) -> None:
    try:
        data, cache = paths.data.resolve(), paths.cache.resolve()
    except (OSError, RuntimeError):  # too long a name, a loop of links: told where the folder is used
        return
    if data.is_relative_to(cache):
        raise SettingError(
            f"paths.data: {paths.data} {'is' if data == cache else 'lies in'} paths.cache, which may be deleted at any time"
        )


def _complaint(message: str) -> str:
    """pydantic's message without its capital letter and the name of its exception."""
    message = one_line(message.removeprefix("Value error, "))
    return message[:1].lower() + message[1:]
