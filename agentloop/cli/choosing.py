"""Which campaign a command is about: the one that is named, else the only one there is, else the newest."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentloop import project
from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.reading import read_text
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.store.database import Database

_FIELD = "campaign"
_DEFAULT = Settings.model_fields[_FIELD].default


def of_a_campaign(
    database: Database,
    settings: Settings,
    named: str | None,
    *,
    profile: str | None,
    words: Sequence[str] | None,
    otherwise: str | None = None,
    begun: bool = True,
) -> Settings:
    """The settings with the campaign that the command is about.

    `named` is that of --campaign; `profile` and `words` are what `settings` were loaded from. Where nobody names one it is
    `otherwise`, else the newest, and a line on standard error says so where there are several. Raises StoreError for an
    unknown campaign, naming those that exist, SettingError where two are named. Without `begun`, one that only a file or the
    environment names may be still to come: then it is as if nobody had named one.
    """
    from agentloop.store import campaigns

    known = campaigns.names(database)
    chosen = _named(settings, named, profile, words)
    if not begun and chosen not in known and named is None and not said(words):
        chosen = None
    chosen = chosen or otherwise
    if chosen is None:
        chosen = known[0] if known else settings.campaign
        if len(known) > 1:
            print(f"campaign {chosen}, the newest of {len(known)}; --campaign NAME looks at another", file=sys.stderr)
    campaigns.settings_json(database, chosen)  # an unknown campaign is an error
    return settings.model_copy(update={_FIELD: chosen})


def as_it_was_run(database: Database, campaign: str, *, also: str | None = None) -> list[str]:
    """The settings that define a campaign, and its name, as words of the command line: with them it can be measured.

    Those that may change while it lasts are left to the present settings, but for the section `also`. Raises StoreError for an
    unknown campaign.
    """
    from agentloop.store import campaigns

    words = [f"{_FIELD}={campaign}"]
    for name, value in campaigns.settings_json(database, campaign).items():
        in_a_section = isinstance(value, dict)
        for place, each in value.items() if in_a_section else [(None, value)]:
            setting = f"{name}.{place}" if in_a_section else name
            # None is a default that no word can say; a setting of an older version has another name by now
            if each is not None and (campaigns.defines(setting) or name == also) and _is_setting(setting):
                words.append(f"{setting}={each if isinstance(each, str) else _toml(each)}")
    return words


def _named(settings: Settings, named: str | None, profile: str | None, words: Sequence[str] | None) -> str | None:
    """The campaign that somebody has asked for; None where it is only the default."""
    in_words = said(words)
    if named is not None and in_words and named != settings.campaign:
        raise SettingError(f"--campaign: {named}, and campaign={settings.campaign} as well; name one")
    if named is not None:
        return named
    return settings.campaign if in_words or settings.campaign != _DEFAULT or _in_a_layer(profile) else None


def said(words: Sequence[str] | None) -> bool:
    """Return True where one of the words of a command line names the campaign."""
    return any(word.partition("=")[0].strip() == _FIELD for word in words or ())


def _in_a_layer(profile: str | None) -> bool:
    """Whether the environment or a file names the campaign that is the default anyway."""
    variable = f"{configuration.ENV_PREFIX}{_FIELD.upper()}"
    return any(name.upper() == variable for name in os.environ) or any(_FIELD in file for file in _files(profile))


def _files(profile: str | None) -> Iterator[dict[str, Any]]:
    """What the files hold that the settings were read from a moment ago."""
    own = os.environ.get(configuration.CONFIG_VARIABLE)
    paths = [configuration.PROFILES / f"{profile}.toml"] if profile else []
    paths.append(Path(configuration.home_expanded(own)) if own else project.root() / project.FILE)
    for path in paths:
        if path.is_file():
            yield tomllib.loads(read_text(path, SettingError))


def _is_setting(name: str) -> bool:
    section, _, leaf = name.partition(".")
    field = Settings.model_fields.get(section)
    return field is not None and (not leaf or leaf in getattr(field.annotation, "model_fields", ()))


def _toml(value: Any) -> str:
    """A JSON value on one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
