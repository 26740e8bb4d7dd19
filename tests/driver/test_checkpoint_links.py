"""Links that users keep to checkpoints, such as `latest.weights.h5`."""

from __future__ import annotations

import pickle

import pytest

import cerebro
from cerebro.backends.checksum import with_checksum
from cerebro.driver.decisions import check_checkpoint
from cerebro.errors import ConfigurationError


def test_a_link_that_the_user_names_stands_for_the_file(tmp_path):
    scratch, run = tmp_path / "scratch", tmp_path / "run/models/0/v000001-g1-a1"
    scratch.mkdir()
    run.mkdir(parents=True)
    for name in ("model-7.weights.h5", "model-7.index", "model-7.data-00000-of-00001"):
        (scratch / name).write_bytes(b"content")
    (tmp_path / "latest.weights.h5").symlink_to("scratch/model-7.weights.h5")
    (tmp_path / "latest.index").symlink_to("scratch/model-7.index")

    def leads_to(name):
        return check_checkpoint(str(tmp_path / name), "initial_msts[0]", "keras")

    assert leads_to("latest.weights.h5") == str(scratch / "model-7.weights.h5")
    assert leads_to("latest") == str(scratch / "model-7")
    # What the library makes has no links: those there are somebody else's.
    (run / "model.weights.h5").symlink_to(scratch / "model-7.weights.h5")
    with pytest.raises(ConfigurationError, match="is a link"):
        leads_to(run / "model.weights.h5")
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="is a link"):
        leads_to("latest.weights.h5")
    (tmp_path / "export.json").unlink()
    (tmp_path / "latest.weights.h5").unlink()
    (tmp_path / "latest.weights.h5").symlink_to("gone")
    with pytest.raises(ConfigurationError, match="is a link"):
        leads_to("latest.weights.h5")


def test_a_plain_model_is_loaded_by_a_link_of_ones_own(tmp_path):
    (tmp_path / "model.pickle").write_bytes(with_checksum(pickle.dumps({"weight": 3})))
    (tmp_path / "best.pickle").symlink_to("model.pickle")
    assert cerebro.load_model(tmp_path / "best.pickle", trust_folder=True) == {"weight": 3}
