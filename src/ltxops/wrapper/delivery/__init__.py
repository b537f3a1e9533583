"""What a job of the wrapper brings in and sends out: URL inputs, uploads to S3, webhooks."""
