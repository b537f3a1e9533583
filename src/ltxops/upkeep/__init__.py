"""What keeps a host healthy after it was provisioned."""
