"""The streams, the durable and the bucket as data: what they are for and what bounds them.

The words are those of the JetStream API; durations are in nanoseconds there.
"""

from shared.subjects import (
    ALL_DEADLETTERS,
    ALL_EVENTS,
    ALL_INBOX,
    BUCKET_STATE,
    STREAM_DEADLETTERS,
    STREAM_EVENTS,
    STREAM_INBOX,
)

SECOND = 1_000_000_000
MIB = 1 << 20
KV_STREAM = f"KV_{BUCKET_STATE}"
KV_SUBJECT = f"$KV.{BUCKET_STATE}"

DURABLE_RECOVERY = "recovery"
"""The one reader of the inbox."""

MESSAGE_BYTES_MAX = 256 * 1024
"""An event is a few hundred bytes: what is bigger is a mistake or an attack."""

STREAMS: tuple[dict[str, object], ...] = (
    {
        # The log as heard: the log itself is in Postgres, so the oldest may go when space is short.
        "name": STREAM_EVENTS,
        "description": "the event log, published in order by recovery's relay",
        "subjects": [ALL_EVENTS],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": 14 * 86_400 * SECOND,
        "max_bytes": 1024 * MIB,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "duplicate_window": 600 * SECOND,
        "allow_atomic": True,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "num_replicas": 1,
    },
    {
        # Observations and requests are nowhere else yet. A work queue keeps each until recovery has
        # settled it and admits no second reader; when it is full the newest is refused, so its
        # speaker hears of it and tries again, where "old" would drop silently what nobody read.
        "name": STREAM_INBOX,
        "description": "observations and requests on their way to recovery",
        "subjects": [ALL_INBOX],
        "storage": "file",
        "retention": "workqueue",
        "discard": "new",
        "max_bytes": 256 * MIB,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "duplicate_window": 600 * SECOND,
        "deny_delete": True,
        "deny_purge": True,
        "num_replicas": 1,
    },
    {
        # What no service could read, for people to look at. It is said with a reason in a header,
        # so it may be larger here than where it came from.
        "name": STREAM_DEADLETTERS,
        "description": "what could not be read, with the reason: Dumont-Reason",
        "subjects": [ALL_DEADLETTERS],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": 30 * 86_400 * SECOND,
        "max_bytes": 64 * MIB,
        "max_msg_size": 2 * MESSAGE_BYTES_MAX,
        "allow_direct": True,
        "num_replicas": 1,
    },
    {
        # The bucket, exactly as a key-value client would make it.
        "name": KV_STREAM,
        "description": "what health and sync are to do, one key a workspace",
        "subjects": [f"{KV_SUBJECT}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": 64 * MIB,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "duplicate_window": 120 * SECOND,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "num_replicas": 1,
    },
)

CONSUMER: dict[str, object] = {
    "name": DURABLE_RECOVERY,
    "durable_name": DURABLE_RECOVERY,
    "description": "recovery reads the inbox",
    "deliver_policy": "all",
    "ack_policy": "explicit",
    # What a process took and died with goes to its successor after this; twice is harmless.
    "ack_wait": 5 * SECOND,
    "max_deliver": -1,
    "max_ack_pending": 2000,
    "replay_policy": "instant",
    "num_replicas": 1,
}
