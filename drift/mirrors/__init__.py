"""Mirrored lists: does a version that nobody sees rank as the champion does (`rank_diff`)?

Decisions

- The lists as they would have been shown are compared, position and score; a list that exploration
  changed counts as it was shown. Kendall's tau is of the common items, by their scores, so that a tie is
  no disagreement; what one list lacks is seen by overlap, rank-biased overlap and Fagin's top distance
  (penalty 1/2), all in `drift.rank_agreement`. All are exported; overlap alone has a limit, for it is the one that a
  person can set.
- Score shift is of scores standardised by each version's own profile: another scale is no shift.
- A limit is failed or passed beyond chance, or the verdict is `inconclusive`. Intervals take lists as
  independent, for a mirror event does not name its unit: good enough to guard, too narrow to promote on.
- Two stretches are judged each minute (`windows`): the window, in which a breakdown shows, and all since the plan's
  revision, in which there is enough. A revision is what evidence speaks of, so another one starts anew.
- An event that comes after its window was judged counts in the step: late, but not lost.
- In the drift `monitor`'s process, with a consumer group of its own: it needs the same stream and profiles,
  and the controller, which takes traffic back within seconds, should not share its interpreter with
  minutes of arithmetic. Payloads without mirror events are acknowledged without being taken apart.
- While the evidence store is away rank-diffs wait in the snapshot; the stream is read all the same.
"""
