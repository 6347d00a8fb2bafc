"""``flashpods-admin laptop``: what a laptop needs to reach this host, ready to paste."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import (
    EXIT_OK,
    EXIT_USAGE,
    AdminError,
    Command,
    Json,
    SettingsFile,
    execute,
)

if TYPE_CHECKING:
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]

KEY_FILE: Final = Path("/etc/wireguard/private.key")
SECONDS: Final = 10

TEMPLATE: Final = """\
# /etc/wireguard/wg0.conf on the laptop (0600); its own key: wg genkey | tee wg0.key | wg pubkey
# The public one goes into services.flashpods.wireguard.laptops of this host.
[Interface]
PrivateKey = {private}
Address = {laptop}/{bits}

[Peer]
PublicKey = {public}
Endpoint = {endpoint}
AllowedIPs = {host}/{bits}
PersistentKeepalive = 25
"""
PLACEHOLDER: Final = "LAPTOP_PRIVATE_KEY"


def laptop(
    *,
    endpoint: Annotated[
        str,
        typer.Option("--endpoint", metavar="NAME", help="This host's public name or address."),
    ],
    address: Annotated[
        str, typer.Option("--address", help="The laptop's address within WireGuard.")
    ] = "10.0.0.2",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="WireGuard's port.")
    ] = 51820,
    key_file: Annotated[
        Path, typer.Option("--key-file", help="This host's WireGuard private key.")
    ] = KEY_FILE,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Print the laptop's WireGuard file for this host's present key; changes nothing.

    After a new host, or a new key of it: paste it on each laptop, with the laptop's own key in it.
    The host's private key is never shown, and the laptop's never leaves the laptop.
    """
    host = f"[{endpoint}]" if ":" in endpoint else endpoint
    raise typer.Exit(
        execute(
            lambda ui, s: _show(ui, s, f"{host}:{port}", address, key_file),
            as_json=json,
            settings=settings,
        )
    )


def _show(ui: Ui, settings: Settings, endpoint: str, address: str, key_file: Path) -> int:
    try:
        laptop = ip_address(address)
    except ValueError as e:
        raise AdminError(
            f"--address is {address!r:.60}: give an address like 10.0.0.2",
            code="invalid_address",
            exit_code=EXIT_USAGE,
        ) from e
    host = settings.http.host
    public = _public(key_file)
    text = TEMPLATE.format(
        private=PLACEHOLDER,
        laptop=laptop,
        public=public,
        endpoint=endpoint,
        host=host,
        bits=32 if laptop.version == 4 else 128,
    )
    if ui.as_json:
        ui.emit({"public_key": public, "snippet": text, "api": f"{host}:{settings.http.port}"})
        return EXIT_OK
    print(text, end="")  # noqa: T201 - what was asked for
    ui.note(f"then: FLASHPODS_HOST={host} FLASHPODS_PORT={settings.http.port}, and the token")
    return EXIT_OK


def _public(key_file: Path) -> str:
    """Return the public key of a private one, which goes to ``wg pubkey`` by a pipe only.

    Raises:
        AdminError: ``no_wireguard_key``.
    """
    try:
        done = subprocess.run(
            ["wg", "pubkey"],
            input=key_file.read_bytes(),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as e:
        reason = getattr(e, "strerror", None) or "wg pubkey does not take it"
        raise AdminError(
            f"{key_file}: {reason}; the host makes its key when WireGuard first starts",
            code="no_wireguard_key",
        ) from e
    return done.stdout.decode().strip()


COMMAND: Final = Command(
    "laptop",
    laptop,
    (
        "flashpods-admin laptop --endpoint build.example.org",
        "flashpods-admin laptop --endpoint 203.0.113.7 --address 10.0.0.3",
    ),
)
