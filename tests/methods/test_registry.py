"""A method is had by its name, and the others are not imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coldframe.errors import ConfigError
from coldframe.methods.registry import all_methods, create, method_class


def test_every_name_gives_its_class() -> None:
    assert len(all_methods()) > 20
    for name, cls in all_methods().items():
        assert method_class(name) is cls


@pytest.mark.parametrize("name", ["compose", "base", "icl-", "forms", ""])
def test_a_file_is_no_method(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no method"):
        create(name)


@pytest.mark.slow
def test_the_files_of_others_are_not_loaded() -> None:
    code = """
import sys
from coldframe.methods.registry import create
create("mha-esp")
names = [name for name in sys.modules if name.startswith("coldframe.methods.")]
assert "coldframe.methods.soft_tokens.mha_esp" in names
assert not [name for name in names if name.endswith((".prag", ".pear", ".idpg")) or ".without_model." in name], names
"""
    subprocess.run([sys.executable, "-c", code], check=True)
