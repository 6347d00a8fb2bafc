"""The API token from the user's keyring, where the package ``keyring`` is installed for it.

``pip install 'flashpods[keyring]'``, then ``keyring set flashpods HOST`` (it asks for the token).
"""

from __future__ import annotations

from typing import Final

from flashpods.client.errors import ConfigError

__all__ = ["SERVICE", "find_in_keyring"]

SERVICE: Final = "flashpods"


def find_in_keyring(host: str) -> str | None:
    """Return the token kept for a host; None without the package, a keyring or an entry.

    It may block while the user is asked to unlock the keyring.

    Raises:
        ConfigError: ``missing_token``: the keyring is there and can't be read.
    """
    try:
        import keyring  # noqa: PLC0415 - an extra of the package
        import keyring.errors  # noqa: PLC0415 - likewise
    except ImportError:
        return None
    try:
        return keyring.get_password(SERVICE, host)
    except keyring.errors.NoKeyringError:
        return None
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"cannot read the token of {host} from the keyring ({type(error).__name__}); unlock "
            "it, or name a file in FLASHPODS_API_TOKEN_FILE",
            code="missing_token",
        ) from error
