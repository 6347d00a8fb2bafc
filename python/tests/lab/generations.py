"""HOST's two generations in the lab, side by side as NixOS has them in its store.

``/run/current-system`` is the first; ``specialisation/next`` is the second, whose programs are the
first's with one more migration (``checks/common/next_schema.py``). Either one's
``bin/switch-to-configuration test`` goes there: see :mod:`flashpods_dev.lab.switch`.
"""

from __future__ import annotations

from pathlib import Path

from netlab import CHECKOUT

from flashpods_dev.lab import switch

PLACE = "opt/generations"
NAMES = {"first": "host", "next": "next"}  # generation → its directory in lab/rendered
PROGRAMS = {"first": "/opt/flashpods/bin", "next": "/opt/flashpods-next/bin"}
CURRENT = f"L /run/current-system - - - - /{PLACE}/first\n"
SITE = "/opt/flashpods-next/site"
# Python runs this file as it starts.
CUSTOMIZE = """\
from pathlib import Path

from flashpods.adapters.sqlite import migrations

exec(Path(__file__).with_name("next_schema.py").read_text(), vars(migrations))
"""


def write(layer: Path, product: Path) -> None:
    """Add to HOST's layer what makes generations of what is laid in their places.

    Args:
        layer: HOST's own, with the files of each generation in its place.
        product: the layer with our programs.
    """
    for name in NAMES:
        top = layer / PLACE / name
        _program(top / "bin" / "switch-to-configuration", _switch())
        (top / "sw").mkdir()
        (top / "sw" / "bin").symlink_to(PROGRAMS[name])
    specialisation = layer / PLACE / "first" / "specialisation"
    specialisation.mkdir()
    (specialisation / "next").symlink_to(f"/{PLACE}/next")
    (layer / "etc/tmpfiles.d/lab.conf").write_text(CURRENT)
    _next_programs(layer, product)


def _next_programs(layer: Path, product: Path) -> None:
    site = layer / SITE.lstrip("/")
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(CUSTOMIZE)
    schema = CHECKOUT / "checks" / "common" / "next_schema.py"
    (site / "next_schema.py").write_text(schema.read_text())
    programs = layer / PROGRAMS["next"].lstrip("/")
    programs.mkdir()
    for source in (product / "opt/flashpods/bin").iterdir():
        target = programs / source.name
        if source.read_bytes()[:2] == b"#!":
            _program(target, source.read_text().replace("exec ", f"PYTHONPATH={SITE} exec ", 1))
        else:
            target.symlink_to(f"/opt/flashpods/bin/{source.name}")


def _switch() -> str:
    return f"#!/usr/bin/python3\n{Path(switch.__file__).read_text()}"


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
