"""Files that take their name when they are complete."""

import os

import pytest

from sctag_tools._atomic import is_unfinished, replacing, require_writable_folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_once_it_is_complete(tmp_path):
    target = tmp_path / "result.h5ad"
    with replacing(target) as unfinished:
        unfinished.write_text("new")
        assert unfinished.suffix == ".h5ad"
        assert not target.exists()
        assert all(is_unfinished(name) for name in names_in(tmp_path))
    assert target.read_text() == "new"
    assert names_in(tmp_path) == ["result.h5ad"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_earlier_file_is_there_and_nothing_else(tmp_path, error):
    target = tmp_path / "result.h5ad"
    target.write_text("earlier")

    def write(path):
        path.write_text("half")
        raise error

    with pytest.raises(error), replacing(target) as unfinished:
        write(unfinished)
    assert target.read_text() == "earlier"
    assert names_in(tmp_path) == ["result.h5ad"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    with replacing(tmp_path / "new") as unfinished:
        unfinished.mkdir()
        (unfinished / "part").write_text("a")
    assert (tmp_path / "new" / "part").read_text() == "a"

    def write(path):
        path.mkdir()
        (path / "part").write_text("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "other") as unfinished:
        write(unfinished)
    assert names_in(tmp_path) == ["new"]


def test_links_and_permissions(tmp_path):
    """A link points where it did, another name of the file keeps what it had, and who may read it stays."""
    target, link, other = tmp_path / "kept" / "result.h5ad", tmp_path / "link.h5ad", tmp_path / "input.h5ad"
    target.parent.mkdir()
    target.write_text("earlier")
    target.chmod(0o640)
    link.symlink_to(target)
    os.link(target, other)
    with replacing(link) as unfinished:
        unfinished.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert other.read_text() == "earlier"
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_closed_is_told(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"--out: no file can be written in .*closed.*choose another"):
        require_writable_folder(closed / "result.h5ad", "--out")


def test_a_folder_that_is_not_there_is_told_and_an_open_one_stays_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="--out: no file can be written"):
        require_writable_folder(tmp_path / "none" / "result.h5ad", "--out")
    require_writable_folder(tmp_path / "result.h5ad", "--out")
    assert not names_in(tmp_path)


def test_other_files_of_the_folder_are_left_alone(tmp_path):
    """A pipe in it would never return."""
    (tmp_path / "deep").mkdir()
    os.mkfifo(tmp_path / "deep" / "pipe")
    with replacing(tmp_path / "result.h5ad") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "result.h5ad").read_text() == "new"
