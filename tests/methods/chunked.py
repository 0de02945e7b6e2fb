"""Chunked gossip after Shatter (Biswas et al., PETS 2025): each part goes to other peers."""

from decentralizepy import ANY, Checkpoint, Message, Node, Receive, Report, Send, Train


class Chunked(Node):
    """In round t part p of node i goes to i + 1 + (t + p) mod (n - 1): all hear each part once."""

    needs_graph = False

    def __init__(self, *, chunks: int = 4) -> None:
        self.chunks = chunks

    def program(self):
        size = -(-len(self.x) // self.chunks)
        for t in self.rounds():
            yield Train(t)
            parts = self.x.split(size)
            outgoing = [
                (
                    [(self.uid + 1 + (t + p) % (self.n - 1)) % self.n],
                    Message({"part": part}, {"p": p}),
                )
                for p, part in enumerate(parts)
            ]
            yield Send(outgoing, (t, 0))
            x = self.x.clone()
            for message in (yield Receive(ANY, (t, 0), count=len(parts))):
                p = message.meta["p"]
                x[p * size : (p + 1) * size] = (parts[p] + message["part"]) / 2
            self.x = x
            yield Report(t)
            yield Checkpoint(t)
