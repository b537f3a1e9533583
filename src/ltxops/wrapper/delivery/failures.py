"""What a delivery fails with."""

from ltxops.errors import CheckFailed


class DeliveryFailed(CheckFailed):
    """An input could not be fetched or an output not be uploaded; the message is for the job's result."""
