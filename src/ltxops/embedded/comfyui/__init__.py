"""The embedded ComfyUI engine: ComfyUI's HTTP and WebSocket API with a test pattern in place of a GPU.

It validates graphs as the recorded real one did (`ltxops/embedded/contract`), and everything that it
renders says that it is not LTX-2.
"""
