import json
import subprocess
import sys

import pytest

from normwise.comparison.settings import InputError
from normwise.comparison.storage import RESULTS, Store, read_rows

ROWS = [{"key": "a", "value": 1.5}, {"key": "b", "value": None}]


@pytest.fixture
def folder(tmp_path):
    with Store(tmp_path / "deep" / "out") as store:
        for row in ROWS:
            store.append(row)
    return tmp_path / "deep" / "out"


def test_rows_come_back(folder):
    assert read_rows(folder) == ROWS
    with Store(folder) as store:
        assert store.rows() == {"a": ROWS[0], "b": ROWS[1]}
    assert read_rows(folder / "missing") == []


@pytest.mark.parametrize("torn", [b'{"key": "c", "va', b'{"key": "c", "value": 1}', b"{", b"\xc3"])
def test_a_torn_last_line_is_dropped_and_the_rest_stays(folder, torn):
    with (folder / RESULTS).open("ab") as file:
        file.write(torn)
    assert read_rows(folder) == ROWS
    with Store(folder) as store:
        store.append({"key": "d"})
    assert read_rows(folder) == [*ROWS, {"key": "d"}]


def test_a_file_of_one_torn_line(tmp_path):
    (tmp_path / RESULTS).write_bytes(b'{"key"')
    with Store(tmp_path) as store:
        assert store.rows() == {}


def test_values_that_json_lacks_are_refused_before_anything_is_written(folder):
    with Store(folder) as store, pytest.raises(ValueError, match="Out of range float values"):
        store.append({"key": "c", "value": float("nan")})
    assert read_rows(folder) == ROWS


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "3", '{"no": "key"}'])
def test_a_foreign_line_is_named(folder, line):
    with (folder / RESULTS).open("a") as file:
        file.write(line + "\n")
    with Store(folder) as store, pytest.raises(InputError, match="line 3 is not a result of a run; remove the line"):
        store.rows()


def test_settings_are_replaced_as_a_whole(folder):
    with Store(folder) as store:
        store.write_settings({"a": 1})
        store.write_settings({"b": [2]})
    assert json.loads((folder / "settings.json").read_text()) == {"b": [2]}
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "results.jsonl", "settings.json"]


def test_two_processes_do_not_share_a_folder(folder):
    script = f"""
import pathlib, normwise.comparison.storage as s
for _ in range(2):
    try:
        with s.Store(pathlib.Path({str(folder)!r})):
            print("mine", flush=True)
    except s.InputError as error:
        print(error, flush=True)
        input()
"""
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as other:
        with Store(folder):
            refused = other.stdout.readline()
        taken, _ = other.communicate("now it is free\n", timeout=60)
    assert "Another process is writing to" in refused
    assert "choose another output folder" in refused
    assert (taken, other.returncode) == ("mine\n", 0)


def test_the_lock_is_free_after_an_error(folder):
    with pytest.raises(KeyboardInterrupt), Store(folder):
        raise KeyboardInterrupt
    with Store(folder):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*; choose another"), Store(tmp_path / "file" / "out"):
        pass
