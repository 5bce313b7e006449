"""A replica that holds queries and says nothing: stopped, swapping or cut off, its connection still open.

A ranking changes nothing, so a query may be sent to a second replica and the first answer taken.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SilenceRule:
    """floor_s: silence of less is never suspicious (a load holds the interpreter for as long).
    factor: how many times its usual time a replica may take."""

    floor_s: float = 0.25
    factor: float = 8.0

    def silent_since_s(self, sent_s: float, heard_s: float) -> float:
        """When a replica's silence about a query began: a word about any other breaks it, because a
        worker answers in batches and is alive as long as it answers."""
        return max(sent_s, heard_s)

    def is_silent(self, sent_s: float, heard_s: float, usual_s: float, now_s: float) -> bool:
        """Whether the replica has said nothing for suspiciously long.

        sent_s: when the oldest outstanding query was sent. heard_s: when anything came from the
        replica. usual_s: how long an answer usually takes, 0 if not known.
        """
        return now_s - self.silent_since_s(sent_s, heard_s) >= max(self.floor_s, self.factor * usual_s)

    def send_again(
        self, sent_s: float, heard_s: float, usual_s: float, deadline_s: float, now_s: float, tries: int
    ) -> bool:
        """Whether to send a query to another replica as well.

        Only once (tries counts those sent so far), and only if another can be expected to answer
        before the deadline: what a fleet has no time for is not made busier by it.
        """
        return tries == 1 and self.is_silent(sent_s, heard_s, usual_s, now_s) and now_s + usual_s < deadline_s
