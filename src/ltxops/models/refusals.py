"""What a hub's refusal means for the user: one sentence and one class of error."""

from ltxops.errors import AccessDenied, BadInput, LtxopsError, NetworkError

_NOT_FOUND = ("EntryNotFound", "RevisionNotFound")


def explain(
    *, hub: str, repo: str, asked: str, status: int, code: str | None, has_token: bool, attempts: int
) -> LtxopsError:
    """Return the error for an answer that is none. `code` is the hub's X-Error-Code, `asked` the URL."""
    page = f"{hub}/{repo}"
    if code == "GatedRepo":
        token = "the token given has no access" if has_token else "no token was given"
        return AccessDenied(
            f"repository {repo} is gated and {token}; ask for access at {page} and give that account's "
            "token in HF_TOKEN or with --hf-token-file"
        )
    if status in (401, 403):
        token = "refused the token given" if has_token else "wants a token"
        return AccessDenied(
            f"the hub {token} for repository {repo} ({status}), or there is no such repository; check "
            f"it at {page} and the token in HF_TOKEN or --hf-token-file"
        )
    # Without its query: a link may carry a signature there.
    path = asked.split("?", 1)[0]
    if code in _NOT_FOUND or status == 404:
        return BadInput(f"{path} is not on the hub; check models.yaml and its lock against {page}")
    return NetworkError(f"the hub answered {status} to {path} after {attempts} attempts; try again later")


def unreachable(hub: str, attempts: int, reason: str) -> NetworkError:
    """Return the error for a hub that could not be asked."""
    return NetworkError(
        f"the hub {hub} could not be reached in {attempts} attempts ({reason}); check the "
        "network, or give another hub with --hub or HF_ENDPOINT, then run again: what has arrived "
        "is kept"
    )


def offline(hub: str) -> NetworkError:
    """Return the error for a user who forbade the network."""
    return NetworkError(f"the hub {hub} was not asked: HF_HUB_OFFLINE is set; unset it and run again")
