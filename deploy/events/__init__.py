"""Where events go: the embedded Redis, or a Kafka of the user's own, by `SLUICE_EVENTS_URL`.

confluent-kafka is imported only where Kafka is chosen: a gateway without it starts as fast as ever.
"""
