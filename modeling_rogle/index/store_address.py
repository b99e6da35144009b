"""Addresses of vector stores: which of them may be contacted, and how they are written without their credentials.

An index may come from someone else. A search sends the query's embedding to the store, an update sends embeddings of
images, and a new store is cleared first. So an address that only the index names is not followed.
"""

import os
import re
from pathlib import Path

from modeling_rogle.inference.errors import GalleryError

# Environment variables that name a store of the user's own.
TRUSTED_VARIABLES = ("MILVUS_URI",)
_IN_INDEX = ("faiss", "faiss-ivf", "faiss-hnsw")
_SERVER = re.compile(r"([A-Za-z][\w+.-]*://)(?:.*@)?([^/?#]*)([^?#]*).*", re.DOTALL)
_SECRET = re.compile(r"(\w*(?:pass|pwd|token|secret|key)\w*\s*=\s*)('[^']*'|[^\s&;]+)", re.IGNORECASE)


def resolve_store(uri: str | None) -> str | None:
    """Returns the URI of a store with a local file's path made absolute, because an index is opened from any folder."""
    return os.path.abspath(uri) if uri and uri.endswith(".db") and "://" not in uri else uri


def public_address(uri: str) -> str:
    """Returns the address of a store without user name, password and query parameters.

    This form is written to an index and to messages, and two addresses are equal if their forms are.
    """
    if server := _SERVER.fullmatch(uri):
        return server[1].lower() + server[2].lower() + server[3].rstrip("/")
    return _SECRET.sub(r"\1...", uri.rpartition("@")[2])


def trusted_address(uri: str, path: Path, given: str | None = None) -> str | None:
    """Finds the address to contact for the store that an index names.

    Args:
        uri: the store's URI in the manifest.
        path: the index folder.
        given: the store that the user named (`--store`). Default: none.

    Returns:
        `given` or the value of one of `TRUSTED_VARIABLES`, if it is the same store, with its credentials; `uri` if the
        store lies inside the index; otherwise None.
    """
    for address in (given, *(os.environ.get(name) for name in TRUSTED_VARIABLES)):
        if address and public_address(resolve_store(address) or "") == public_address(uri):
            return address
    if uri in _IN_INDEX:
        return uri
    file = path / "milvus.db" if uri == "milvus" else Path(uri)
    is_file = "://" not in uri and file.name.endswith(".db") and file.is_absolute() or uri == "milvus"
    # A link in the index may lead out of it.
    return uri if is_file and file.resolve().is_relative_to(path.resolve()) else None


def not_contacted(uri: str) -> str:
    """One line about a store that only the index names; it names the flag that the user can add."""
    address, variables = public_address(uri), " or ".join(TRUSTED_VARIABLES)
    return f"store {address}: not contacted, because only the index names it; add --store {address} or set {variables}"


def require_trusted(uri: str, path: Path, given: str | None = None) -> str:
    """As [`trusted_address`], for what cannot be done without the store.

    Raises:
        GalleryError: only the index names the store.
    """
    address = trusted_address(uri, path, given)
    if address is None:
        raise GalleryError(not_contacted(uri))
    return address


__all__ = [
    "TRUSTED_VARIABLES",
    "not_contacted",
    "public_address",
    "require_trusted",
    "resolve_store",
    "trusted_address",
]
