"""The bus: one port, NATS JetStream behind it, and a twin in memory for unit tests."""
