"""The command's settings, from `MISTRAL_BATCH_*` variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from environment import SettingsError, read_settings, setting


@dataclass(frozen=True)
class Settings:
    """Where jobs are made, and where runs are kept."""

    # A table: one row, one line.
    # fmt: off
    url: str = setting("MISTRAL_BATCH_URL", "http://127.0.0.1:8080", "Where `mistral-batch` sends its calls: a gateway, or https://api.mistral.ai")
    token: str = setting("MISTRAL_BATCH_TOKEN", "", "Its token for the gateway, where that wants one, or a key of Mistral's", secret=True)
    home: str = setting("MISTRAL_BATCH_HOME", "", "Folder of its runs; empty: one in the user's data folder")
    # fmt: on

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in `environ` (None: the process's); SettingsError for one that cannot be used."""
        settings = cls(**read_settings(cls, environ))
        if not settings.token.isascii() or not settings.token.isprintable():
            raise SettingsError("MISTRAL_BATCH_TOKEN has characters that no token has")
        return settings
