"""What the delivery has done since its process began, for whoever publishes metrics."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Numbers that only grow."""

    inputs_fetched: int = 0
    inputs_failed: int = 0
    uploads_done: int = 0
    uploads_failed: int = 0
    upload_bytes: int = 0
    webhooks_announced: int = 0
    webhooks_delivered: int = 0
    webhook_attempts_failed: int = 0
    webhooks_given_up: int = 0
