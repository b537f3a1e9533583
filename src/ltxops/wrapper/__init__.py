"""The API service in front of ComfyUI."""
