"""What a job of the wrapper brings in and sends out: URL inputs, uploads to S3, webhooks."""

from ltxops.wrapper.delivery.failures import DeliveryFailed
from ltxops.wrapper.delivery.outbox import pending
from ltxops.wrapper.delivery.service import Delivery
from ltxops.wrapper.delivery.settings import DeliverySettings

__all__ = ["Delivery", "DeliveryFailed", "DeliverySettings", "pending"]
