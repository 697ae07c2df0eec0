"""The weights store: what is in use, what it replaced, and the way back; with files that break on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fg_depth_ros.networks import (
    CheckpointError,
    ModelCard,
    create_model,
    load_checkpoint,
    save_checkpoint,
    weights_store,
)
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.networks.weights_store import CURRENT, StoreError, WeightsStore

MODEL = "depthnet_lite"
SHIPPED = load_checkpoint(weights_path(MODEL))[1].sha256


def small_weights(path: Path, seed: int) -> tuple[Path, str]:
    """A small network's file and its hash."""
    torch.manual_seed(seed)
    network = create_model(MODEL, width=64, height=32, channels=(8, 8, 8, 8))
    return path, save_checkpoint(path, network, ModelCard(MODEL, network.options)).sha256


@pytest.fixture
def two(tmp_path: Path) -> list[tuple[Path, str]]:
    return [small_weights(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2)]


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    return WeightsStore(tmp_path / "store")


def linked(store: WeightsStore) -> str:
    return load_checkpoint(store.folder / MODEL / CURRENT)[1].sha256


def snapshot(store: WeightsStore) -> dict[str, bytes | str]:
    """All files of the store, links as where they lead; not the lock."""
    files = [p for p in store.folder.rglob("*") if not p.is_dir() and p.name != ".lock"]
    return {p.name: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in files}


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"\0" * 64, "cut"])
def test_a_file_that_holds_no_whole_network_changes_nothing(store, two, tmp_path, content) -> None:
    store.promote(two[0][0], {})
    before = snapshot(store)
    bad = tmp_path / "bad.safetensors"
    if content is not None:
        bad.write_bytes(two[1][0].read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        store.promote(bad, {})
    assert snapshot(store) == before


def test_weights_that_do_not_fit_their_network_are_refused(store, tmp_path) -> None:
    network = create_model(MODEL, width=64, height=32, channels=(8, 8, 8, 8))
    save_checkpoint(tmp_path / "odd.safetensors", network, ModelCard(MODEL, {"width": 64, "height": 32}))
    with pytest.raises(CheckpointError, match="does not fit the network 'depthnet_lite'"):
        store.promote(tmp_path / "odd.safetensors", {})
    assert store.history(MODEL) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not a readable history"),
        ('{"schema": "other/1"}', "expected 'fg_depth_weights_history/1'"),
        ('{"schema": "fg_depth_weights_history/1", "entries": [], "current": 0}', "not a readable history"),
    ],
)
def test_a_history_that_cannot_be_read_is_named_with_the_way_out(store, two, text, why) -> None:
    store.promote(two[0][0], {})
    path = store.folder / MODEL / "history.json"
    path.write_text(text)
    for call in (lambda: store.history(MODEL), lambda: store.promote(two[1][0], {}), lambda: store.rollback(MODEL)):
        with pytest.raises(StoreError, match=why) as caught:
            call()
        assert str(path) in str(caught.value) and "start again" in str(caught.value)
    assert path.read_text() == text


def test_there_is_no_way_back_before_the_first_promotion_nor_past_the_first_entry(store, two) -> None:
    with pytest.raises(StoreError, match="nothing was promoted yet"):
        store.rollback(MODEL)
    with pytest.raises(StoreError, match="unknown model 'depthnet_x'; known: .*depthnet_lite"):
        store.rollback("depthnet_x")
    store.promote(two[0][0], {})
    store.rollback(MODEL)
    before = snapshot(store)
    with pytest.raises(StoreError, match=f"{SHIPPED[:12]} is the first entry"):
        store.rollback(MODEL)
    assert snapshot(store) == before


@pytest.mark.parametrize("damage", ["gone", "other", "cut"])
def test_a_way_back_to_damaged_weights_changes_nothing(store, two, damage) -> None:
    for path, _ in two:
        store.promote(path, {})
    kept = store.path(MODEL, store.history(MODEL).previous)
    if damage == "gone":
        kept.unlink()
    elif damage == "other":
        shutil.copyfile(two[1][0], kept)
    else:
        kept.write_bytes(kept.read_bytes()[:-10])
    before = snapshot(store)
    with pytest.raises(StoreError, match="nothing was changed"):
        store.rollback(MODEL)
    assert snapshot(store) == before
    assert linked(store) == two[1][1]


@pytest.mark.parametrize("step", ["copyfile", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_in_use(store, two, monkeypatch, step) -> None:
    store.promote(two[0][0], {})
    before = snapshot(store)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(args[0]))

    monkeypatch.setattr(shutil if step == "copyfile" else weights_store.os, step, full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); free space .*--store"):
        store.promote(two[1][0], {})
    monkeypatch.undo()
    assert snapshot(store) == before
    store.promote(two[1][0], {})  # nothing stands in the way of the next
    assert linked(store) == two[1][1]


# ---- what it is for ------------------------------------------------------------------------------------------------


def test_promotions_and_ways_back_lead_where_they_should(store, two) -> None:
    (first, sha_1), (second, sha_2) = two
    assert store.in_use(MODEL) == weights_path(MODEL)
    assert store.in_use("depthnet_r18") is None
    assert store.models() == []

    model, history = store.promote(first, {"bags": ["a"], "metrics": {"abs_rel": 0.1}})
    assert model == MODEL
    assert [entry.sha256 for entry in history.entries] == [SHIPPED, sha_1]
    assert history.previous.sha256 == SHIPPED
    assert linked(store) == sha_1
    store.promote(second, {})
    assert linked(store) == sha_2
    assert store.in_use(MODEL) == store.path(MODEL, store.history(MODEL).entry)
    assert store.in_use(MODEL).name.startswith(sha_2[:12])
    assert store.models() == [MODEL]

    left, now = store.rollback(MODEL, "too dark")
    assert (left.sha256, now.sha256) == (sha_2, sha_1)
    assert now.record == {"bags": ["a"], "metrics": {"abs_rel": 0.1}}
    assert linked(store) == sha_1
    left, now = store.rollback(MODEL)
    assert (left.sha256, now.sha256) == (sha_1, SHIPPED)
    assert linked(store) == SHIPPED

    # The same once more: a way back from the second now leads to what it replaced this time.
    store.promote(second, {})
    history = store.history(MODEL)
    assert [entry.sha256 for entry in history.entries] == [SHIPPED, sha_1, sha_2, sha_2]
    assert [entry.before for entry in history.entries] == [None, 0, 1, 0]
    assert history.entries[2].left[0]["why"] == "too dark"
    assert store.rollback(MODEL)[1].sha256 == SHIPPED
    assert store.problems(MODEL) == []


def test_a_model_without_shipped_weights_begins_with_the_first_promoted(store, tmp_path) -> None:
    network = create_model("flownet_s", width=0.0625)
    save_checkpoint(tmp_path / "s.safetensors", network, ModelCard("flownet_s", network.options))
    _, history = store.promote(tmp_path / "s.safetensors", {})
    assert len(history.entries) == 1 and history.previous is None
    with pytest.raises(StoreError, match="is the first entry"):
        store.rollback("flownet_s")


def test_weights_in_use_are_promoted_once_and_lost_files_come_back(store, two) -> None:
    store.promote(two[0][0], {})
    store.in_use(MODEL).write_bytes(b"damaged")
    (store.folder / MODEL / CURRENT).unlink()
    assert len(store.problems(MODEL)) == 2
    _, history = store.promote(two[0][0], {})
    assert len(history.entries) == 2
    assert store.problems(MODEL) == []
    assert linked(store) == two[0][1]


@pytest.mark.parametrize("change", ["calibration", "options"])
def test_files_of_the_same_weights_that_compute_something_else_are_told_apart(store, two, tmp_path, change) -> None:
    plain, sha256 = two[0]
    tensors, card = load_checkpoint(plain)
    if change == "calibration":
        other = replace(card, description={"int8": {"ranges": {"head": [0.0, 1.0]}}})
    else:
        other = replace(card, options={**card.options, "focal": 2 * card.options["focal"]})
    network = create_model(MODEL, **other.options)
    network.load_state_dict(tensors)
    assert save_checkpoint(tmp_path / "other.safetensors", network, other).sha256 == sha256

    store.promote(plain, {})
    _, history = store.promote(tmp_path / "other.safetensors", {})
    assert len(history.entries) == 3
    in_use = load_checkpoint(store.in_use(MODEL))[1]
    assert (in_use.options, in_use.description) == (other.options, other.description)
    store.rollback(MODEL)
    assert load_checkpoint(store.in_use(MODEL))[1] == card
    assert store.problems(MODEL) == []
    shutil.copyfile(tmp_path / "other.safetensors", store.in_use(MODEL))
    (problem,) = store.problems(MODEL)
    assert f"holds weights {sha256[:12]}-{other.identity[:8]}, not {sha256[:12]}-{card.identity[:8]}" in problem


def test_the_same_ranges_measured_again_are_no_other_weights(store, tmp_path) -> None:
    network = create_model(MODEL, width=64, height=32, channels=(8, 8, 8, 8))
    for name, seconds in (("first", 0.1), ("again", 0.2)):
        int8 = {"ranges": {"head": [0.0, 1.0]}, "figures": [{"seconds_per_pair": seconds}]}
        save_checkpoint(tmp_path / name, network, ModelCard(MODEL, network.options, description={"int8": int8}))
        _, history = store.promote(tmp_path / name, {})
    assert len(history.entries) == 2


def test_the_link_survives_a_move_of_the_store_and_names_are_whole(store, two, tmp_path) -> None:
    store.promote(two[0][0], {})
    shutil.move(store.folder, tmp_path / "moved")
    moved = WeightsStore(tmp_path / "moved")
    assert linked(moved) == two[0][1]
    assert not list(moved.folder.rglob("*.partial"))
    assert json.loads((moved.folder / MODEL / "history.json").read_text())["schema"] == "fg_depth_weights_history/1"


def test_promotions_at_the_same_time_are_all_remembered(store, tmp_path) -> None:
    files = [small_weights(tmp_path / f"{seed}.safetensors", seed) for seed in range(4)]
    threads = [threading.Thread(target=WeightsStore(store.folder).promote, args=(path, {})) for path, _ in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = store.history(MODEL)
    assert {entry.sha256 for entry in history.entries} == {SHIPPED, *(sha for _, sha in files)}
    assert [entry.before for entry in history.entries] == [None, 0, 1, 2, 3]
    assert linked(store) == history.entry.sha256


def test_only_the_weights_that_were_compared_are_replaced(store, two) -> None:
    shipped, (first, _), (second, sha_2) = load_checkpoint(weights_path(MODEL))[1], *two
    store.promote(second, {}, replaced=shipped)  # in use before the first promotion
    before = snapshot(store)
    for replaced in (shipped, load_checkpoint(first)[1]):
        with pytest.raises(StoreError, match=f"{sha_2[:12]} came into use meanwhile.*compare again"):
            store.promote(first, {}, replaced=replaced)
        assert snapshot(store) == before
    store.promote(first, {}, replaced=load_checkpoint(second)[1])
    assert linked(store) == two[0][1]


def test_the_folder_is_the_one_named_else_the_environments_else_at_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FG_DEPTH_STORE", raising=False)
    assert WeightsStore().folder == tmp_path / ".local/share/fg_depth_ros/weights"
    monkeypatch.setenv("FG_DEPTH_STORE", str(tmp_path / "env"))
    assert WeightsStore().folder == tmp_path / "env"
    assert WeightsStore("~/named").folder == tmp_path / "named"
