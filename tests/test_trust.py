"""Code is loaded from where only this user, root and the run's own group can have put it."""

from __future__ import annotations

import os

import pytest

from cerebro.errors import UntrustedFolder
from cerebro.results.plain_models import check_model_trusted
from cerebro.trust import check_not_planted, check_place, check_trusted

OTHER = 54321
MINE = 0o755

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def run(tmp_path):
    """A run's folder with a file in it, in a folder of folders."""
    (tmp_path / "runs/exp/models").mkdir(parents=True)
    (tmp_path / "runs/exp/models/weights").touch()
    for path in (tmp_path / "runs", *(tmp_path / "runs").rglob("*")):
        path.chmod(MINE)
    return tmp_path / "runs/exp"


def check(run):
    check_trusted(run, [str(run / "models"), str(run / "models/weights"), str(run / "gone")], "so")


def test_what_is_mine_alone_is_trusted(run):
    check(run)
    check_place(run.parent, "so")
    check_not_planted(run, "so")
    check_place(run.parent / "new/folders", "so")


def test_links_of_ones_own_are_followed(run, tmp_path):
    (tmp_path / "link").symlink_to("runs/../runs/exp")
    check_trusted(tmp_path / "link", [], "so")
    run.parent.chmod(0o777)
    with pytest.raises(UntrustedFolder, match=f"^{run.parent} can be written by everybody .* not"):
        check_trusted(tmp_path / "link", [], "so")


def test_the_folder_above_is_that_of_what_a_link_leads_to(run, tmp_path):
    (tmp_path / "open/inner").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/exp").mkdir()
    (tmp_path / "exp").mkdir()
    (tmp_path / "link").symlink_to("open/inner")
    path = f"{tmp_path}/link/../exp"
    assert os.path.samefile(path, tmp_path / "open/exp")
    for look in (lambda: check_trusted(path, [], "so"), lambda: check_place(path, "so")):
        with pytest.raises(UntrustedFolder, match="open can be written by everybody"):
            look()
    (tmp_path / "exp/model.pickle").write_bytes(b"mine")
    (tmp_path / "open/exp/model.pickle").write_bytes(b"theirs")
    with pytest.raises(UntrustedFolder, match="open can be written by everybody"):
        check_model_trusted(f"{path}/model.pickle", "so")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "link").symlink_to("link")
    check_not_planted(tmp_path / "link", "so")


@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o757), ("", 0o1777), ("models", 0o1777), ("models/weights", 0o666)]
)
def test_what_everybody_may_write_is_refused(run, name, mode):
    (run / name).chmod(mode)
    with pytest.raises(
        UntrustedFolder, match=rf"^{run / name} can be written by everybody .*: so$"
    ):
        check(run)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_above_that_everybody_may_write_has_to_be_sticky(run, mode):
    run.parent.chmod(mode)
    checks = [lambda: check(run), lambda: check_place(run.parent, "so")]
    checks += [lambda: check_place(run.parent / "new/folder", "so")]
    for one in checks:
        if mode == 0o1777:
            one()
            continue
        with pytest.raises(UntrustedFolder, match=f"^{run.parent} can be written by everybody"):
            one()


def test_the_group_of_ones_own_may_write(run):
    for path in (run.parent, run, run / "models"):
        path.chmod(0o2775)
    check(run)
    check_place(run.parent, "so")


@pytest.mark.privileged
@needs_root
@pytest.mark.parametrize("name", ["", "models", "models/weights"])
def test_what_belongs_to_somebody_else_is_refused(run, name):
    os.chown(run / name, OTHER, -1)
    with pytest.raises(UntrustedFolder, match=f"^{run / name} belongs to user {OTHER}.*user 0: so"):
        check(run)


@pytest.mark.privileged
@needs_root
@pytest.mark.parametrize("name", ["", "models", "models/weights"])
def test_what_a_group_may_write_in_which_one_is_not_is_refused(run, name):
    os.chown(run / name, -1, OTHER)
    check(run)
    (run / name).chmod(0o775)
    with pytest.raises(UntrustedFolder, match=f"^{run / name} can be written by group {OTHER}"):
        check(run)


@pytest.mark.privileged
@needs_root
def test_where_a_group_works_together_its_members_files_are_trusted(run):
    run.chmod(0o2775)
    os.chown(run / "models", OTHER, os.getegid())
    os.chown(run / "models/weights", OTHER, os.getegid())
    (run / "models").chmod(0o2775)
    check(run)
    os.chown(run / "models/weights", OTHER, OTHER)
    with pytest.raises(UntrustedFolder, match=f"weights belongs to user {OTHER}"):
        check(run)


@pytest.mark.privileged
@needs_root
@pytest.mark.parametrize("kind", ["folder", "link", "folder above"])
def test_what_lies_in_wait_where_everybody_may_make_folders_is_refused(run, tmp_path, kind):
    tmp_path.chmod(0o1777)
    top = run
    if kind == "link":
        top = tmp_path / "exp"
        top.symlink_to(run)
        os.chown(top, OTHER, OTHER, follow_symlinks=False)
    elif kind == "folder":
        run.parent.chmod(0o1777)
        os.chown(run, OTHER, OTHER)
    else:
        os.chown(run.parent, OTHER, OTHER)
    named = run.parent if kind == "folder above" else top
    for one in (lambda: check_trusted(top, [], "so"), lambda: check_not_planted(top, "so")):
        with pytest.raises(UntrustedFolder, match=f"^{named} belongs .* where everybody may make"):
            one()


@pytest.mark.privileged
@needs_root
def test_the_owner_of_a_sticky_folder_can_swap_what_is_in_it(run):
    run.parent.chmod(0o1777)
    os.chown(run.parent, OTHER, OTHER)
    with pytest.raises(UntrustedFolder, match=f"everybody, and belongs to user {OTHER}"):
        check_place(run.parent, "so")


@pytest.mark.privileged
@needs_root
def test_another_users_folder_that_only_he_could_make_there_is_the_users_choice(run):
    os.chown(run.parent, OTHER, OTHER)  # as where a host's folder is shown to a container
    check(run)
    check_place(run.parent, "so")
