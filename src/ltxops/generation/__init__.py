"""Submit workflows to ComfyUI, follow them, and judge the video that comes back."""
