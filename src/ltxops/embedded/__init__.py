"""Stand-ins for a GPU and for Hugging Face, for the demo and the tests; imported by nobody else."""
