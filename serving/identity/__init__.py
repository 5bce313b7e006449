"""Who asks, and how much of it: API keys, tokens and quotas, decided in the gateway's memory.

Decisions

- A query costs a SHA-256 and two look-ups (`doorkeeper`): whoever was let in is remembered for some seconds, and
  forgotten at once when the key sheet or the issuer's keys change. No query asks SQL, Redis or an issuer, so all of
  it goes on when the control plane is gone.
- Keys come as a whole sheet from a board in Redis, four looks a second, with a copy on disk (`keys`): who is not on the
  sheet is not known. What is compared is hashes, in constant time.
- A token is checked against the issuer's public keys (`key_sets`), which are fetched on a thread: by period, and once
  for an unknown key id, at most every ten seconds. While the issuer is away its last keys count, for a day. Which
  algorithms there are is decided by the kind of the key, never by the token (`tokens`).
- A quota's tokens are leased in batches for a tenth of a second (`leases`, `registry.quotas`), so that a query spends
  them here. Without Redis a gateway goes on with its share of the quota.
"""
