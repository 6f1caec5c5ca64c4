"""Why one source did not serve, and whether it may when it is asked again."""


class Refused(Exception):
    """This source cannot serve; the next one is asked.

    Attributes:
        heals: whether the same source may serve a little later.
        after_seconds: for how long it asks to be left alone.
    """

    def __init__(self, reason: str, *, heals: bool = False, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.heals = heals
        self.after_seconds = after_seconds
