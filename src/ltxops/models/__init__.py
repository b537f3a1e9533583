"""The weights a profile needs: read the manifest, fetch, prove, place."""
