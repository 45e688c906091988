"""A set of keys for streams: 8 bytes a slot, so that duplicate checks over a million rows stay out of sight."""

from __future__ import annotations

import hashlib
from array import array


class SeenKeys:
    """Open addressing over 64-bit hashes of the keys; two of a million keys collide with a chance below 1e-7."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def add(self, key: str) -> bool:
        """Remember the key; False when it was there before."""
        return self.add_hash(_hash(key))

    def add_hash(self, digest: int) -> bool:
        """The same for a key that is a 64-bit hash already."""
        digest = digest or 1
        position = self._find(self._slots, digest)
        if self._slots[position] == digest:
            return False
        self._slots[position] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def __contains__(self, key: str) -> bool:
        return self.has_hash(_hash(key))

    def has_hash(self, digest: int) -> bool:
        digest = digest or 1
        return self._slots[self._find(self._slots, digest)] == digest

    def __len__(self) -> int:
        return self._count

    @staticmethod
    def _find(slots: array[int], digest: int) -> int:
        mask = len(slots) - 1
        position = digest & mask
        while slots[position] and slots[position] != digest:
            position = (position + 1) & mask
        return position

    def _grow(self) -> None:
        larger = array("Q", bytes(16 * len(self._slots)))
        for digest in self._slots:
            if digest:
                larger[self._find(larger, digest)] = digest
        self._slots = larger


def _hash(key: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
