"""``./dev check`` finds wrong types in tests and in each conftest.py, under its own path."""

from __future__ import annotations

from pathlib import Path

from flashpods_dev import typecheck

FILES = {
    "pyproject.toml": "[tool.mypy]\nstrict = true\n",
    "src/product/__init__.py": "def half(n: int) -> int:\n    return n // 2\n",
    "tests/conftest.py": "NUMBER: int = 'root'\n",
    "tests/one/conftest.py": "from helper import quarter\n\nquarter('one')\n",
    "tests/one/helper.py": "from product import half\n\n\ndef quarter(n: int) -> int:\n"
    "    return half(half(n))\n",
    "tests/two/conftest.py": "from helper import quarter\n\nquarter(2)\n",
    "tests/two/test_two.py": "import helper\n\n\ndef test_two():\n    helper.quarter('two')\n",
}


def test_each_file_is_checked_and_named(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / "python" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for _ in range(2):  # the links are there the second time
        code, said = typecheck.check(tmp_path / "python", tmp_path / "scratch")
        assert code == 1
        found = sorted(line.split(":", 2)[0] for line in said.splitlines() if ": error: " in line)
        wanted = ["tests/conftest.py", "tests/one/conftest.py", *["tests/two/test_two.py"] * 2]
        assert found == wanted, said
