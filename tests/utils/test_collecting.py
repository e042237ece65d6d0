"""Importing without the garbage collector."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from ml_project_template.utils.collecting import uncollected

# Python 3.12 has left some of its own alone before a program begins.
BEGIN = "import gc; gc.unfreeze()"


def test_nothing_is_collected_inside_and_all_is_as_before_after() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_comes_back_after_an_error_and_stays_off_where_it_was() -> None:
    def fail() -> None:
        with uncollected():
            raise KeyError("no such module")

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("module", "frozen"), [("json", True), ("triton", False)])
def test_what_is_there_is_left_alone_unless_it_complains(module: str, frozen: bool) -> None:
    code = (
        f"{BEGIN}; import sys, types\n"
        "from ml_project_template.utils.collecting import uncollected\n"
        f"sys.modules[{module!r}] = types.ModuleType({module!r})\n"
        "with uncollected():\n    pass\n"
        "print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(frozen)


@pytest.mark.parametrize(("command", "settled"), [("collect_rarely()", True), ("", False)])
def test_what_was_made_so_far_is_left_alone_in_a_command_only(command: str, settled: bool) -> None:
    code = (
        f"{BEGIN}\n"
        "from ml_project_template.utils.collecting import collect_rarely, settle\n"
        f"{command}\n"
        "settle()\n"
        "print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(settled)


@pytest.mark.parametrize(("command", "frozen"), [("collect_rarely()", True), ("", False)])
def test_an_import_is_not_collected_in_and_left_alone_in_a_command(
    command: str, frozen: bool
) -> None:
    code = (
        f"{BEGIN}\n"
        "from ml_project_template.utils.collecting import collect_rarely, importing\n"
        f"{command}\n"
        "with importing():\n    print(gc.isenabled())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", str(frozen)]


def test_the_first_fit_of_a_command_leaves_what_was_imported_alone_and_later_ones_do_not() -> None:
    code = (
        f"{BEGIN}\n"
        "from ml_project_template.utils.collecting import collect_rarely, collecting_as_usual\n"
        "collect_rarely()\n"
        "for _ in range(2):\n"
        "    with collecting_as_usual():\n        print(gc.get_freeze_count() > 0)\n"
        "    gc.unfreeze()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_command_collects_rarely_but_for_its_fit_and_not_at_its_end() -> None:
    code = (
        f"import atexit\n{BEGIN}\n"
        "from ml_project_template.utils.collecting import collect_rarely, collecting_as_usual\n"
        "usual = gc.get_threshold()\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "collect_rarely()\n"
        "rarely = gc.get_threshold()\n"
        "with collecting_as_usual():\n    print(gc.get_threshold() == usual)\n"
        "print(gc.get_threshold() == rarely and rarely[0] > 10 * usual[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
