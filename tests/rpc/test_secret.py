from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from patience import SOON

from cerebro.errors import SecretError
from cerebro.rpc import create_secret, load_secret


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("CEREBRO_SECRET_FILE", raising=False)
    return folder


def write(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_default_is_made_once_and_is_closed_to_others(home: Path) -> None:
    first = load_secret()
    path = home / ".cerebro" / "secret"
    assert first.path == str(path)
    assert len(first.key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["secret"]
    assert load_secret() == first


def test_hosts_that_start_together_agree() -> None:
    barrier = threading.Barrier(8)
    keys = []

    def start() -> None:
        barrier.wait(SOON)
        keys.append(load_secret().key)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_second_maker_takes_the_first_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_secret()
    monkeypatch.setattr("os.path.lexists", lambda path: False)  # it appeared after the look
    assert load_secret() == first
    assert os.listdir(home / ".cerebro") == ["secret"]


def test_argument_before_environment_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    argument = write(tmp_path / "argument", b"a" * 16)
    environment = write(tmp_path / "environment", b"e" * 16)
    monkeypatch.setenv("CEREBRO_SECRET_FILE", environment)
    assert load_secret(argument).key == b"a" * 16
    assert load_secret().key == b"e" * 16
    assert not (home / ".cerebro").exists()


def test_white_space_around_the_key_does_not_count(tmp_path: Path) -> None:
    assert load_secret(write(tmp_path / "s", b" \n" + b"k" * 20 + b"\r\n")).key == b"k" * 20


def test_key_is_not_shown(tmp_path: Path) -> None:
    assert "kkkk" not in repr(load_secret(write(tmp_path / "s", b"k" * 20)))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o666])
def test_open_to_others(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "s", b"k" * 32, mode)
    said = rf"mode {mode:04o}.*chmod 600 {path}.*others may have read or changed it.*make another"
    with pytest.raises(SecretError, match=said):
        load_secret(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_closed_to_others(tmp_path: Path, mode: int) -> None:
    assert load_secret(write(tmp_path / "s", b"k" * 32, mode)).key == b"k" * 32


def test_of_another_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "s", b"k" * 32)
    other = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: other)
    said = (
        rf"belongs to user {other - 1}.*If you have put it there.*chown {other} {path}.*"
        "if not, that user knows it.*make one"
    )
    with pytest.raises(SecretError, match=said):
        load_secret(path)


@pytest.mark.parametrize("content", [b"", b" \n ", b"k" * 15])
def test_too_short(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SecretError, match=r"16 are the least.*urandom"):
        load_secret(write(tmp_path / "s", content))


def test_named_file_that_is_missing_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a b"
    with pytest.raises(SecretError, match=r"does not exist: make one .*'.*a b'.*scp"):
        load_secret(str(path))
    monkeypatch.setenv("CEREBRO_SECRET_FILE", str(path))
    with pytest.raises(SecretError, match="does not exist"):
        load_secret()
    assert not path.exists()


@pytest.mark.processes
def test_the_command_in_the_message_makes_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    with pytest.raises(SecretError) as caught:
        load_secret(str(path))
    command = str(caught.value).split("`")[1]
    assert os.system(command) == 0
    assert len(load_secret(str(path)).key) >= 32


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_no_regular_file(tmp_path: Path, make) -> None:
    path = tmp_path / "thing"
    make(path, 0o600)
    with pytest.raises(SecretError, match="not a regular file"):
        load_secret(str(path))


def test_create(tmp_path: Path) -> None:
    path = tmp_path / "cluster" / "secret"
    secret = create_secret(str(path))
    assert load_secret(str(path)) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SecretError, match="exists already"):
        create_secret(str(path))
    assert create_secret(str(tmp_path / "other")).key != secret.key


def test_no_links_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(SecretError, match=r"cannot be made \(Operation not permitted\)"):
        load_secret()
    assert os.listdir(home / ".cerebro") == []


@pytest.mark.parametrize("problem", ["mode", "missing", "short"])
def test_messages_are_one_line(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "s"
    if problem != "missing":
        write(path, b"k" * (3 if problem == "short" else 32), 0o644 if problem == "mode" else 0o600)
    with pytest.raises(SecretError) as caught:
        load_secret(str(path))
    assert "\n" not in str(caught.value)


# --- no home, and file systems that give files away ----------------------------------------------


def nobody_knows(number: int) -> None:
    raise KeyError(number)


@pytest.mark.parametrize("value", [None, "", "home", "./home"])
def test_without_a_home_folder_nothing_is_made_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", nobody_knows)
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    before = os.listdir(tmp_path)
    named = write(tmp_path / "s", b"k" * 32)
    for path in (None, "~/.cerebro/secret"):
        with pytest.raises(SecretError, match=r"HOME is .*--secret-file.*CEREBRO_SECRET_FILE"):
            load_secret(path)
    with pytest.raises(SecretError, match="HOME is"):
        create_secret("~/x/secret")
    assert load_secret(named).key == b"k" * 32
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "s"])
    assert not os.path.exists("/.cerebro")


def test_of_a_user_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SecretError, match="no home folder of a user 'nobody-at-all'"):
        load_secret("~nobody-at-all/secret")


def test_a_home_folder_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "not" / "mounted"))
    with pytest.raises(SecretError, match=r"home folder .*not/mounted is not there.*--secret-file"):
        load_secret()
    assert not (tmp_path / "not").exists()


def gives_files(monkeypatch: pytest.MonkeyPatch, uid: int, mode: int) -> None:
    """A file system whose new files have this owner and mode."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[stat.ST_MODE] = stat.S_IFREG | mode
        fields[stat.ST_UID] = uid
        return os.stat_result(fields)

    monkeypatch.setattr("os.fstat", fstat)


@pytest.mark.parametrize(
    ("uid", "mode", "said"),
    [
        (65534, 0o600, r"belongs to user 65534.*not to user \d+.*root_squash.*local disk"),
        (os.geteuid(), 0o777, r"does not keep modes.*0777.*local disk"),
    ],
)
def test_a_file_system_that_gives_a_new_secret_away(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, mode: int, said: str
) -> None:
    gives_files(monkeypatch, uid, mode)
    with pytest.raises(SecretError, match=said):
        load_secret()
    assert os.listdir(home) == []
    with pytest.raises(SecretError, match=said):
        create_secret(str(tmp_path / "secret"))
    assert not list(tmp_path.glob("*secret*"))


def test_root_is_told_of_root_squash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "s", b"k" * 32)
    gives_files(monkeypatch, 65534, 0o600)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(SecretError, match=r"belongs to user 65534.*root_squash"):
        load_secret(path)

    def refuse(*args: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(SecretError, match=r"cannot be read.*root_squash"):
        load_secret(path)
    monkeypatch.setattr("os.makedirs", refuse)
    with pytest.raises(SecretError, match=r"cannot be made.*root_squash"):
        load_secret()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SecretError) as caught:
        load_secret()
    assert "root_squash" not in str(caught.value)
