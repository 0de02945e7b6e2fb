"""Keeps models as their receivers get them, noise included, for attacks on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decentralizepy.engine.records import append_line
from decentralizepy.engine.seat import Seat
from decentralizepy.errors import RunError
from decentralizepy.files import replacing
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.message import Message
from decentralizepy.runfolder import MachineFolder
from decentralizepy.saving import MODELS, Saving
from decentralizepy.training.data import Samples
from decentralizepy.training.sample_losses import flat_state, sample_losses
from decentralizepy.training.trainer import Trainer


class SentModels:
    """Saves what the nodes of one worker send to their first receivers, as `Saving` says.

    ``losses`` are on all of the training set, then on all of the test set. How far a model as sent
    is from the node's own goes into a line of a file of the worker.
    """

    def __init__(
        self,
        saving: Saving,
        folder: MachineFolder,
        me: WorkerId,
        first_uid: int,
        trainer: Trainer,
        parts: Sequence[Samples],
    ) -> None:
        self._saving, self._folder, self._me, self._first = saving, folder, me, first_uid
        self._trainer, self._parts = trainer, parts
        self._saved: dict[int, tuple[int, int]] = {}

    def see(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        """A node is sending a message, stamped; it is kept if it is one of those that are wanted.

        Raises `RunError` if it is no whole model, or if it cannot be written.
        """
        t, k = message.round
        if k or message.asks or not self._saving.due(seat.uid, t):
            return
        done = self._saved.get(seat.uid, (-1, 0))
        done = done if done[0] == t else (t, 0)
        wanted = [uid for uid in uids if uid >= 0][: self._saving.targets - done[1]]
        self._saved[seat.uid] = t, done[1] + len(wanted)
        if not wanted:
            return
        row = self._row(seat, message)
        for target in wanted:
            self._save(seat, target, t + 1, row)

    def _row(self, seat: Seat, message: Message) -> Tensor:
        own = seat.rows.held("x").tensor
        try:
            found = seat.node.sharing.unpack(message, len(own))
        except (AttributeError, KeyError) as error:
            raise RunError(f"{_keys(seat)}: its messages hold no model ({error})") from error
        if not isinstance(found, Tensor) or found.shape != own.shape:
            raise RunError(f"{_keys(seat)}: its messages hold only a part of the model")
        return found.detach()

    def _save(self, seat: Seat, target: int, iteration: int, row: Tensor) -> None:
        rank = seat.uid - self._first
        path = self._folder.sent_model(
            self._me.machine, rank, self._saving.form, iteration, seat.uid, target
        )
        template, counters = self._trainer.template, seat.learner.counters
        if self._saving.form == MODELS:
            values = flat_state(template, row, counters)
        else:
            task, batch = self._trainer.task, self._trainer.eval_batch
            values = sample_losses(template, task, row, self._parts, batch, counters)
        _write(path, values)
        off = distortion(seat.rows.held("x").tensor, row)
        line = {"iteration": iteration, "uid": seat.uid, "target": target, **off}
        append_line(self._folder.sent(self._me.worker), json.dumps(line))


def distortion(own: Tensor, sent: Tensor) -> dict[str, float]:
    """How a model as sent differs from the node's own: ``error`` |s - x| / |x|, ``cosine``, and
    ``snr_db`` 20 log10(|x| / |s - x|)."""
    x, s = own.double(), sent.double()
    norm, off = float(x.norm()), float((s - x).norm())
    both = norm * float(s.norm())
    return {
        "error": off / norm if norm else float("inf"),
        "cosine": float(x @ s) / both if both else 0.0,
        "snr_db": 20 * float(np.log10(norm / off)) if off and norm else float("inf"),
    }


def _keys(seat: Seat) -> str:
    name = type(seat.node.sharing).__name__
    return f"save_models_for_attacks cannot save what node {seat.uid} sends with {name}"


def _write(path: Path, values: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside, aside.open("wb") as out:
            np.save(out, values.to(torch.float32).numpy())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; models of before are whole") from (
            error
        )
