from __future__ import annotations

from pathlib import Path

import pytest

from temper import registry
from temper.errors import RecipeError
from temper.techniques.sft import SFT


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, table in registry.BUILT_IN.items() for n in table])
def test_every_built_in_name_loads(group: str, name: str) -> None:
    assert registry.load(group, name) is not None
    assert name in registry.names(group)


def test_a_built_in_name_is_the_object_of_the_table() -> None:
    assert registry.load("technique", "sft") is SFT


def test_a_dotted_name_loads_any_module() -> None:
    assert registry.load("technique", "temper.techniques.sft:SFT") is SFT
    assert registry.load("technique", "temper.techniques.sft:SFT.__name__") == "SFT"


def test_a_file_is_looked_up_beside_the_recipe_and_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    first = registry.load("technique", "./mine.py:Mine", folder=tmp_path)
    assert first.__name__ == "Mine"
    assert registry.load("technique", "mine.py:Mine", folder=tmp_path) is first


def test_an_installed_package_adds_a_name_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[temper.technique]\ncurriculum = acme_t:Curriculum\n", encoding="utf-8")
    (tmp_path / "acme_t.py").write_text("class Curriculum:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "curriculum" in registry.names("technique")
    assert registry.load("technique", "curriculum").__name__ == "Curriculum"


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    told = r"'stf' is not known; expected one of: cpt, distill, dpo, rft, sft; did you mean 'sft'"
    with pytest.raises(RecipeError, match=told):
        registry.load("technique", "stf")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./gone.py:Mine", "no such file"),
        ("no_such_package.mod:Mine", "no module 'no_such_package'"),
        ("temper.techniques.sft:STF", "has no 'STF'; did you mean 'SFT'"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_broke_off(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        registry.load("technique", name, folder=tmp_path)


def test_a_missing_dependency_of_a_found_module_keeps_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import surely_not_installed\n", encoding="utf-8")
    for _ in range(2):  # a half-imported module must not be found the second time
        with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
            registry.load("technique", "./needy.py:Mine", folder=tmp_path)


def test_hint_ignores_case_and_stays_silent_when_nothing_is_near() -> None:
    assert registry.hint("SHARE", ["share"]) == "did you mean 'share'? "
    assert registry.hint("zzz", ["share"]) == ""
