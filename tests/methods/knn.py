"""An overlay of the k nearest nodes by model distance, found by asking random candidates."""

import torch

from decentralizepy import Ask, Checkpoint, Message, Node, Receive, Report, Train


class Nearest(Node):
    asynchronous = True
    kept = ("near",)

    def __init__(self, *, k: int = 3, candidates: int = 3) -> None:
        self.k, self.candidates, self.near = k, candidates, []

    def answer(self, message):
        return Message({"params": self.x})

    def program(self):
        for t in self.rounds():
            yield Train(t)
            others = [uid for uid in range(self.n) if uid != self.uid]
            new = self.generator(t).choice(others, self.candidates, replace=False)
            asked = sorted({*self.near, *(int(uid) for uid in new)})
            yield Ask(asked, Message({}), (t, 0))
            heard = yield Receive(asked, (t, 0))
            heard.sort(key=lambda m: (float(torch.dist(m["params"], self.x)), m.sender))
            chosen = sorted(heard[: self.k], key=lambda m: m.sender)
            self.near = [m.sender for m in chosen]
            self.x = (self.x + sum(m["params"] for m in chosen)) / (len(chosen) + 1)
            yield Report(t)
            yield Checkpoint(t)
