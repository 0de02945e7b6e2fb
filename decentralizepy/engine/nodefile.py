"""The file of one node in a checkpoint: its row, and all that its next iteration depends on.

A safetensors file, so that anybody can look into it and nothing in it is ever executed. Tensors
have the path of their place in the node's state as names; what is no tensor is JSON in the header.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from decentralizepy.engine.seat import Seat
from decentralizepy.errors import RunError, nearest
from decentralizepy.kept import State, Steps, UnfitError, flatten, steps, unflatten
from decentralizepy.messages.message import Message
from decentralizepy.runfolder import write_atomic
from decentralizepy.scenario.simulation import Busy
from decentralizepy.training.optimizers import NodeOptimizer

_META: Final = "decentralizepy"


def save(
    path: Path, seat: Seat, optimizer: NodeOptimizer, t: int, elapsed: float,
    ports: Sequence[Busy] = (),
) -> int:  # fmt: skip
    """Write the node as it is after iteration ``t`` (0-based): aside, synced, renamed.

    ``ports`` are its simulated ones that are still busy. Returns the CRC-32 of the file.
    """
    learner = seat.learner
    state = {
        "row": seat.rows["x"],
        "rows": {name: row for name, row in seat.rows.items() if name != "x"},
        "node": _state(seat, t),
        "mail": _mail(seat.mailbox.waiting()) if seat.node.asynchronous else {},
        "unwanted": seat.mailbox.unwanted(),
        "optimizer": optimizer.export(learner.optimizer),
        "learner": learner.kept(),
        "traffic": asdict(seat.traffic),
        "seconds": asdict(seat.seconds),
        "elapsed": elapsed,
        "ports": [list(one) for one in ports],
        "iteration": t + 1,
        "uid": seat.uid,
        "ended": seat.ended,
    }
    try:
        return _write(path, *flatten(state))
    except UnfitError as error:
        raise RunError(
            f"node {seat.uid} cannot be saved after iteration {t + 1}: "
            f"{_place(error.path, seat)} {error}"
        ) from error


def _state(seat: Seat, t: int) -> State:
    """What the node and its method keep; a name in ``kept`` that is no attribute is told."""
    try:
        return seat.node.state()
    except AttributeError as error:
        owner, name = error.obj, error.name
        if not (owner is seat.node or owner is seat.node.sharing) or name not in owner.kept:
            raise
        kind = type(owner).__name__
        raise RunError(
            f"node {seat.uid} cannot be saved after iteration {t + 1}: {kind}.kept names "
            f"{name!r}, and the {kind} has no such attribute{nearest(name, vars(owner))}; set it "
            "in __init__ or setup"
        ) from error


def _place(path: Steps, seat: Seat) -> str:
    """Where a value stands, as a user knows it: ``Mine.memory['a']``."""
    if path[:2] == ("learner", "memory"):
        return "step.memory" + "".join(f"[{key!r:.40}]" for key in path[2:])
    of_method = path[:2] == ("node", "sharing")
    owner = type(seat.node.sharing if of_method else seat.node)
    keys = path[1:] if path[:1] == ("node",) else path
    if keys[:1] in (("kept",), ("sharing",)):
        keys = keys[1:]
    if keys and keys[0] in owner.kept:
        name, keys = f"{owner.__name__}.{keys[0]}", keys[1:]
    else:
        name = f"{owner.__name__}.state()"
    return name + "".join(f"[{key!r:.40}]" for key in keys)


def _mail(messages: list[Message]) -> State:
    """Messages that wait, in the order in which they came."""
    return {
        str(i): {
            "sender": message.sender,
            "round": list(message.round),
            "meta": {"json": json.dumps(message.meta)},
            "names": list(message.tensors),
            "tensors": {str(j): tensor for j, tensor in enumerate(message.tensors.values())},
        }
        for i, message in enumerate(messages)
    }


def _messages(mail: State) -> list[Message]:
    """What `_mail` was given."""
    found = []
    for i in range(len(mail)):
        one = mail[str(i)]
        tensors = {name: one["tensors"][str(j)] for j, name in enumerate(one["names"])}
        t, k = one["round"]
        found.append(Message(tensors, json.loads(one["meta"]["json"]), one["sender"], (t, k)))
    return found


def _write(path: Path, tensors: dict[str, Tensor], rest: State) -> int:
    from safetensors.torch import save as to_bytes

    try:
        data = to_bytes(_apart(tensors), {_META: json.dumps(rest)})
    except Exception:
        for name, tensor in tensors.items():
            _try_alone(name, tensor)
        raise
    try:
        write_atomic(path, data)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; earlier checkpoints are whole"
        ) from error
    return zlib.crc32(data)


def _try_alone(name: str, tensor: Tensor) -> None:
    """Raise `UnfitError` if it is this tensor that no file can hold."""
    from safetensors.torch import save as to_bytes

    try:
        to_bytes(_apart({name: tensor}))
    except Exception as error:
        why = f"is a tensor that a file does not hold: {error!s:.200}"
        raise UnfitError(steps(name), why) from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory of their own, as the format has them: a row may be in the mail too."""
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        here = tensor.cpu().resolve_conj().resolve_neg().contiguous()  # as it reads
        memory = here.untyped_storage().data_ptr()
        found[name] = here.clone() if memory in seen else here
        seen.add(memory)
    return found


def load(path: Path, seat: Seat, optimizer: NodeOptimizer) -> tuple[float, list[Busy]]:
    """Set a node as it was when it was saved; gives the run's seconds then, and its busy ports."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {}).get(_META, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = unflatten(tensors, rest)
        _check(seat, state)
        ports = _ports(state.get("ports", []))
        _set(seat, state, optimizer)
        return float(state["elapsed"]), ports
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is no checkpoint of this experiment: {error}") from error
    except Exception as error:  # what a damaged file holds can be wrong in nearly any way
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"{path} is no checkpoint of this experiment: {what:.300}") from error


def _check(seat: Seat, state: State) -> None:
    """Raise ValueError unless the numbers are such as `save` writes, of this node and row."""
    row = state["row"]
    for one in (row, *state.get("rows", {}).values()):
        if one.shape != seat.rows["x"].shape or one.dtype != seat.rows["x"].dtype:
            raise ValueError(f"its row is {one.dtype} {tuple(one.shape)}")
    if state["uid"] != seat.uid:
        raise ValueError(f"it is of node {state['uid']!r:.20}")
    learner = state["learner"]
    numbers = [learner["steps"], learner["samples"], learner["nan"], state["iteration"]]
    if not all(type(number) is int for number in numbers):
        raise ValueError("a count is no whole number")
    if _forms(seat.learner.renewed(learner)) != _forms(seat.learner.kept()):
        raise ValueError("it has other integer buffers")
    for part in ("traffic", "seconds"):
        if state[part].keys() != asdict(getattr(seat, part)).keys():
            raise ValueError(f"{part} has other entries")
        if not all(type(number) in (int, float) for number in state[part].values()):
            raise ValueError(f"{part}: not all are numbers")


def _forms(learner: State) -> object:
    """What the integer buffers of a node are: a number each, or a tensor of a dtype and shape."""
    buffers = learner.get("buffers", {})
    tensors = {name: (one.dtype, one.shape) for name, one in buffers.items()}
    return [type(one) for one in learner["counters"]], tensors


def _ports(value: Any) -> list[Busy]:
    """What `save` was given; raises ValueError if it is anything else."""
    found = [(port, until) for port, until in value]
    for port, until in found:
        seconds = type(until) is float and math.isfinite(until)
        if not (port is None or type(port) is int) or not seconds:
            raise ValueError("a port is no receiver with seconds")
    return found


def _set(seat: Seat, state: State, optimizer: NodeOptimizer) -> None:
    seat.rows["x"] = state["row"].to(seat.rows["x"].device)
    for name, row in state.get("rows", {}).items():
        seat.rows[name] = row.to(seat.rows["x"].device)
    for message in _messages(state.get("mail", {})):
        seat.mailbox.put(message)
    if unwanted := state.get("unwanted"):
        seat.mailbox.refuse(unwanted)
    seat.ended = state.get("ended", False) is True
    seat.node.load(state["node"], state["iteration"])
    seat.learner.take_back(state["learner"])
    seat.learner.optimizer = optimizer.restore(state.get("optimizer", {}))
    for part in ("traffic", "seconds"):
        for name, value in state[part].items():
            setattr(getattr(seat, part), name, value)
