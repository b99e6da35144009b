"""Addresses of vector stores: which of them may be contacted, and how they are written without their credentials.

An index may come from someone else. A search sends the query's embedding to the store, an update sends embeddings of
images, and a new store is cleared first. So an address that only the index names is not followed.
"""

import os
import re

from modeling_rogle.inference.errors import GalleryError

# Environment variables that name a store of the user's own.
TRUSTED_VARIABLES = ("MILVUS_URI", "ROGLE_POSTGRES_URI")
_IN_INDEX = ("faiss-flat", "faiss", "faiss-ivf", "faiss-hnsw")
_SERVER = re.compile(r"([A-Za-z][\w+.-]*://)(?:.*@)?([^/?#]*)([^?#]*).*", re.DOTALL)
_SECRET = re.compile(r"(\w*(?:pass|pwd|token|secret|key)\w*\s*=\s*)('[^']*'|[^\s&;]+)", re.IGNORECASE)


def public_address(uri: str) -> str:
    """Returns the address of a store without user name, password and query parameters.

    This form is written to an index and to messages, and two addresses are equal if their forms are.
    """
    if server := _SERVER.fullmatch(uri):
        return server[1].lower() + server[2].lower() + server[3].rstrip("/")
    return _SECRET.sub(r"\1...", uri.rpartition("@")[2])


def trusted_address(uri: str, given: str | None = None) -> str | None:
    """Finds the address to contact for the store that an index names.

    Args:
        uri: the store's URI in the manifest.
        given: the store that the user named (`--store`). Default: none.

    Returns:
        `given` or the value of one of `TRUSTED_VARIABLES`, if it is the same store, with its credentials; `uri` if the
        store is a file of the index; otherwise None.
    """
    for address in (given, *(os.environ.get(name) for name in TRUSTED_VARIABLES)):
        if address and public_address(address) == public_address(uri):
            return address
    return uri if uri in _IN_INDEX else None


def not_contacted(uri: str) -> str:
    """One line about a store that only the index names; it names the flag that the user can add."""
    address, variables = public_address(uri), " or ".join(TRUSTED_VARIABLES)
    if is_milvus_lite(uri):
        return (
            f"store {address}: files of milvus-lite are no longer supported; name another store with --store, or exact"
        )
    return f"store {address}: not contacted, because only the index names it; add --store {address} or set {variables}"


def is_milvus_lite(uri: str) -> bool:
    """Whether a store is a local file of Milvus, which earlier versions wrote."""
    return uri == "milvus" or (uri.endswith(".db") and "://" not in uri)


def require_trusted(uri: str, given: str | None = None) -> str:
    """As [`trusted_address`], for what cannot be done without the store.

    Raises:
        GalleryError: only the index names the store.
    """
    address = trusted_address(uri, given)
    if address is None:
        raise GalleryError(not_contacted(uri))
    return address


__all__ = [
    "TRUSTED_VARIABLES",
    "is_milvus_lite",
    "not_contacted",
    "public_address",
    "require_trusted",
    "trusted_address",
]
